//! The consumer against an engine that fails on command, in paused time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod attributes;
mod background;
mod backoffs;
mod blocking;
mod cancelling;
mod consumer;
mod engines;
mod events;
mod extractors;
mod failing;
mod faulty;
mod fixtures;
mod idle_looks;
mod interrupts;
mod keys;
mod kit;
mod layers;
mod leases;
mod limits;
mod logs;
mod many_types;
mod modules;
mod options;
mod outages;
mod overview;
mod parameters;
mod pauses;
mod presence;
mod queue_names;
mod refusals;
mod relays;
mod run_all;
mod schedule_names;
mod schedules;
#[cfg(unix)]
mod starvation;
mod stops;
mod stored_events;
mod uncounted;
