#![doc = include_str!("../README.md")]

mod connection;
mod consumer;
mod context;
mod error;
mod group;
mod producer;
mod record;
mod sending;
mod sink;
mod source;

pub use sink::KafkaSink;
pub use source::KafkaSource;
