#![doc = include_str!("../README.md")]

mod connect;
mod error;
mod sink;
mod source;

pub use sink::RedisSink;
pub use source::RedisSource;
