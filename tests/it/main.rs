//! The integration tests, in one binary, on a real Postgres with a real PGMQ.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod handlers;
mod kit;
mod macros;
mod macros_ui;
mod publishing;
mod stopping;
