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
mod faults;
mod handlers;
mod health;
mod history;
mod hooks;
mod inbox;
mod inline;
mod kit;
mod leftovers;
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
mod routing;
mod schedules;
mod several_engines;
mod stopping;
mod stress;
mod tracing;
mod trials;
mod tx;
