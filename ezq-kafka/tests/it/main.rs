//! The sink and the source against real brokers and librdkafka's own, which the tests start, stop and make fail.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

// Without the feature a gate lets all pass, and counts their bytes.
#[cfg_attr(not(feature = "tls"), expect(dead_code))]
#[path = "../../../tests/brokers/certificates.rs"]
mod certificates;
mod compressing;
mod conforming;
mod connecting;
mod failing;
#[cfg_attr(not(feature = "tls"), expect(dead_code))]
mod gate;
mod ingesting;
#[path = "../../../tests/brokers/processes.rs"]
mod processes;
mod reading;
mod records;
mod relaying;
mod sending;
mod server;
mod soak;
#[cfg(feature = "tls")]
mod tls;
mod transactions;
mod workers;
