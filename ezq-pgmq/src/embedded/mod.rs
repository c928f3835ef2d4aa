//! A development Postgres, started by the process itself.
//!
//! Its binaries are those of an installed Postgres. Where none is installed, one is fetched once, and
//! kept in the user's cache.
//!
//! For examples and tests only: its data lives in a temporary folder and, unless asked otherwise,
//! is not synced to disk. It listens on a Unix socket in that folder and nowhere else. Of this
//! process's environment it gets `PATH` and `LD_LIBRARY_PATH` only.
//!
//! A shell that reads a pipe from this process owns the server. When the process ends, however it
//! ends, the pipe closes, and the shell stops the server and removes the folder. If the shell was
//! killed as well, the next start by the same user does so.
//!
//! Invariant: no server and no folder outlives the process and its shell by more than a few seconds.

mod account;
mod command;
mod discovery;
mod error;
mod fetch;
mod files;
pub(crate) mod flag;
mod folder;
mod leftovers;
mod processes;
mod programs;
mod server;
mod start;
mod watchdog;

pub use server::{EmbeddedBuilder, EmbeddedPostgres};
