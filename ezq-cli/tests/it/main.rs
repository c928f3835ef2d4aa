//! Tests of the program `ezq`: each runs it as a user does, on a database of the test's own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod audited;
mod browsing;
mod bulk;
mod cases;
mod dashboard;
mod dead_letters;
mod doctor;
mod emptying;
mod events;
mod faults;
mod frame;
mod others;
mod own_events;
mod page;
mod partitioning;
mod program;
mod queues;
// Packages do not have tests, so one file serves several crates.
#[path = "../../../ezq-pgmq/tests/it/skip.rs"]
mod skip;
