//! The core of ezq: events, handlers, dispatch, publishing, consuming, and the contract of engines.
//!
//! Applications depend on the crate `ezq`, which re-exports the modules below. Depend on this crate to
//! write an engine: begin at [`engine`].
//!
//! The root has the error types, which nearly every signature names. Any other name is in the module
//! of its topic.
//!
//! # Features
//! `metrics` turns on the module `observe::metrics`: measurements, for the exporter that a program
//! installs. It is off by default.
//!
//! # Source files
//!
//! A module is a folder of the same name. Its `mod.rs` re-exports what is public, and the files beside
//! it are private modules, except [`message::headers`]. The folders `delivery`, `dispatch` and `shared`
//! are private: what a user meets of them is re-exported by a folder that stands above, as
//! [`InlineReport`](app::InlineReport) is by [`app`].

pub mod admin;
pub mod app;
pub mod broker;
mod clock;
pub mod codec;
pub mod config;
pub mod consumer;
mod delivery;
mod dispatch;
pub mod engine;
pub mod error;
pub mod event;
pub mod handler;
pub mod ingest;
#[doc(hidden)]
pub mod logging;
pub mod memory;
pub mod message;
pub mod observe;
#[doc(hidden)]
pub mod private;
pub mod publish;
pub mod relay;
mod runtime;
pub mod schedule;
mod shared;
pub mod testing;
mod text;

// Of other crates, what is in the public interface: docs/stability.md lists it.
pub use async_trait::async_trait;
pub use {chrono, serde_json};

pub use error::{Error, ErrorKind, Result};
