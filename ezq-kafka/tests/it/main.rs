//! The sink and the source against real brokers and librdkafka's own, which the tests start, stop and make fail.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod conforming;
mod connecting;
mod failing;
mod ingesting;
mod reading;
mod records;
mod relaying;
mod sending;
mod server;
mod soak;
mod workers;
