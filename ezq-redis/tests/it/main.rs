//! The sink and the source against a real server, which the tests start, kill and start again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[cfg(feature = "tls-rustls-ring")]
#[path = "../../../tests/brokers/certificates.rs"]
mod certificates;
mod conforming;
mod ingesting;
#[path = "../../../tests/brokers/processes.rs"]
mod processes;
mod reading;
mod relaying;
mod sending;
mod server;
mod soak;
#[cfg(feature = "tls-rustls-ring")]
mod tls;
mod workers;
