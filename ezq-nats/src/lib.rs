#![doc = include_str!("../README.md")]

#[cfg(not(feature = "tls-rustls-ring"))]
compile_error!(
    "turn on the feature `tls-rustls-ring` of ezq-nats: the NATS client cannot do without"
);

mod binding;
mod config;
mod connection;
mod engine;
mod error;
mod sink;

pub use binding::ContentMode;
pub use config::NatsConfig;
pub use engine::{JetStreamBuilder, JetStreamEngine};
pub use sink::NatsSink;
