#![doc = include_str!("../README.md")]

mod connection;
mod context;
mod error;
mod producer;
mod record;
mod sending;
mod sink;

pub use sink::KafkaSink;
