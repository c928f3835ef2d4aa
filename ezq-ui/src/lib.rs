#![doc = include_str!("../README.md")]
//!
//! # Source files
//!
//! | to see | open |
//! |---|---|
//! | the router and its options | `dashboard.rs` |
//! | who may look and act | `access.rs`, `rights.rs` |
//! | headers, writes from other sites, foreign names of this one | `guard.rs`, `hosts.rs` |
//! | a server of its own, its link, tokens, passwords and sessions | `server/` |
//! | how figures are read once for all viewers | `watched/`, `sample.rs`, `board.rs` |
//! | what stands around every page | `frame.rs`, `failure.rs`, `notes.rs`, `assets.rs` |
//! | how payloads are shown | `payload.rs` |
//! | the screens | `screens/`, and `templates/` beside the sources |
//! | who takes the steps of operations | `driver.rs` |
//! | what can be done to all events that match | `verb.rs`, `screens/bulk.rs` |

mod access;
mod assets;
mod board;
mod dashboard;
mod driver;
mod failure;
mod frame;
mod guard;
mod hosts;
mod notes;
mod payload;
mod rights;
mod sample;
mod screens;
mod server;
mod spark;
mod text;
mod verb;
mod watched;

pub use access::{Access, Grant};
pub use dashboard::Dashboard;
pub use payload::Payload;
pub use server::{BoundServer, Secret, Server, ServerError, ServerErrorKind};

/// Compiles the programs of the guide.
#[cfg(doctest)]
#[doc = include_str!("../../docs/dashboard.md")]
mod guide {}
