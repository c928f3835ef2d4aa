//! The integration tests, in one binary, on a real Postgres with a real PGMQ.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod architecture;
mod batches;
mod broadcasting;
mod child;
mod codecs;
mod config;
mod database;
mod examples;
mod extremes;
mod failover;
mod faults;
mod handlers;
mod health;
mod history;
mod hooks;
mod inbox;
mod inline;
mod kit;
mod leftovers;
mod locks;
mod macros;
mod macros_ui;
mod newcomer;
mod ordering;
mod outbox;
mod pages;
mod partitions;
mod processes;
mod proxy;
mod publishing;
mod reach;
mod round_trips;
mod routing;
mod schedules;
mod several_engines;
#[path = "../../ezq-pgmq/tests/it/skip.rs"]
mod skip;
mod skipping;
mod stopping;
mod stress;
mod tracing;
mod trials;
mod tx;
mod uncounted;
mod versions;
