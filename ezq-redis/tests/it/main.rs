//! The sink and the source against a real server, which the tests start, kill and start again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod conforming;
mod ingesting;
mod reading;
mod relaying;
mod sending;
mod server;
mod soak;
mod workers;
