#![doc = include_str!("../README.md")]
//!
//! # Source files
//!
//! | to see | open |
//! |---|---|
//! | the router and its options | `dashboard.rs` |
//! | who may look and act | `access.rs`, `rights.rs` |
//! | headers, and writes from other sites | `guard.rs` |
//! | how figures are read once for all viewers | `watched/`, `sample.rs`, `board.rs` |
//! | what stands around every page | `frame.rs`, `failure.rs`, `notes.rs`, `assets.rs` |
//! | how payloads are shown | `payload.rs` |
//! | the screens | `screens/`, and `templates/` beside the sources |
//! | actions on many dead letters | `runs.rs` |

mod access;
mod assets;
mod board;
mod dashboard;
mod failure;
mod frame;
mod guard;
mod notes;
mod payload;
mod rights;
mod runs;
mod sample;
mod screens;
mod spark;
mod text;
mod watched;

pub use access::{Access, Grant};
pub use dashboard::Dashboard;
pub use payload::Payload;

/// Compiles the programs of the guide.
#[cfg(doctest)]
#[doc = include_str!("../../docs/dashboard.md")]
mod guide {}
