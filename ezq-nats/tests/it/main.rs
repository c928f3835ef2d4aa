//! The crate against real servers, which the tests start, kill and start again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "../../../tests/brokers/certificates.rs"]
mod certificates;
mod cluster;
mod conformance;
mod conforming;
mod connecting;
mod faults;
mod ingesting;
mod log;
#[path = "../../../tests/brokers/processes.rs"]
mod processes;
mod proxy;
mod reading;
mod relaying;
mod sending;
mod server;
mod soak;
mod tls;
mod users;
mod workers;
