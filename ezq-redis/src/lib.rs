#![doc = include_str!("../README.md")]

mod error;
mod sink;

pub use sink::RedisSink;
