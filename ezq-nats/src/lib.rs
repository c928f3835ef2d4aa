#![doc = include_str!("../README.md")]

#[cfg(not(feature = "tls-rustls-ring"))]
compile_error!(
    "turn on the feature `tls-rustls-ring` of ezq-nats: the NATS client cannot do without"
);

mod ack_subject;
mod binding;
mod config;
mod connection;
mod engine;
mod error;
mod request;
mod sink;
mod source;

pub use binding::ContentMode;
pub use config::NatsConfig;
pub use engine::{JetStreamBuilder, JetStreamEngine};
pub use sink::NatsSink;
pub use source::NatsSource;
