//! The contract between ezq and a message broker: [`Sink`] for events that leave, and what they carry.
//!
//! A broker is no [engine](crate::engine): nothing is leased from it and nothing is settled in it. A
//! [`Relay`](crate::relay::Relay) moves the events of a queue to a sink.

mod outbound;
mod sink;

pub use outbound::Outbound;
pub use sink::{SendOutcome, Sink, SinkCapabilities};
