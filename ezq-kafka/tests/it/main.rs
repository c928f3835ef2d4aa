//! The sink against real brokers and librdkafka's own, which the tests start, stop and make fail.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod connecting;
mod failing;
mod reading;
mod records;
mod relaying;
mod sending;
mod server;
