//! Tests of the dashboard: each on a database of its own, by requests and by a real browser.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod access;
mod acting;
mod audited;
mod browser;
mod counting;
mod operations;
mod outages;
mod pages;
mod screens;
mod server;
mod shop;
// Packages do not have tests, so one file serves both crates.
#[path = "../../../ezq-pgmq/tests/it/skip.rs"]
mod skip;
mod stage;
