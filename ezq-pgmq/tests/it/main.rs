//! The PGMQ engine against a real Postgres, the development one that each run starts.
//!
//! Nothing here depends on a configured database, and nothing is skipped without one.

// Clippy allows these in `#[test]` functions, but not in helpers of tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[cfg(not(feature = "embedded"))]
#[test]
fn needs_the_development_database() {
    panic!("run `cargo test --workspace`, or add `--features ezq-pgmq/embedded`");
}

#[cfg(feature = "embedded")]
mod archiving;
#[cfg(feature = "embedded")]
mod bloat;
#[cfg(feature = "embedded")]
mod broadcasting;
#[cfg(feature = "embedded")]
mod cancelling;
mod capture;
#[cfg(feature = "embedded")]
mod capture_rights;
#[cfg(feature = "embedded")]
mod captured_values;
#[cfg(feature = "embedded")]
mod claiming;
#[cfg(feature = "embedded")]
mod conformance;
#[cfg(feature = "embedded")]
mod connecting;
mod copying;
#[cfg(feature = "embedded")]
mod dead_letters;
#[cfg(feature = "embedded")]
mod dedupe;
#[cfg(feature = "embedded")]
mod doctor;
mod doctor_rare;
#[cfg(feature = "embedded")]
mod dropped;
#[cfg(feature = "embedded")]
mod dropping;
#[cfg(feature = "embedded")]
mod embedded;
#[cfg(feature = "embedded")]
mod encodings;
#[cfg(all(feature = "embedded", target_os = "linux"))]
mod failures;
#[cfg(feature = "embedded")]
mod faults;
mod fetching;
#[cfg(feature = "embedded")]
mod following;
#[cfg(feature = "embedded")]
mod grouping;
#[cfg(feature = "embedded")]
mod history;
#[cfg(feature = "embedded")]
mod idle_looks;
#[cfg(feature = "embedded")]
mod installing;
#[cfg(feature = "embedded")]
mod keys;
#[cfg(feature = "embedded")]
mod keys_cost;
#[cfg(feature = "embedded")]
mod locks;
#[cfg(feature = "embedded")]
mod model;
#[cfg(feature = "embedded")]
mod names;
#[cfg(feature = "embedded")]
mod oldest_pgmq;
#[cfg(feature = "embedded")]
mod operations;
#[cfg(feature = "embedded")]
mod partitions;
#[cfg(feature = "embedded")]
mod partitions_refused;
mod pausing;
#[cfg(feature = "embedded")]
mod plans;
#[cfg(feature = "embedded")]
mod poolers;
#[cfg(feature = "embedded")]
mod publishing;
#[cfg(feature = "embedded")]
mod replay;
#[cfg(feature = "embedded")]
mod restored;
#[cfg(feature = "embedded")]
mod sampling;
mod schedules;
#[cfg(feature = "embedded")]
mod schema;
#[cfg(feature = "embedded")]
mod search_path;
#[cfg(feature = "embedded")]
mod settling;
#[cfg(feature = "embedded")]
mod skip;
#[cfg(feature = "embedded")]
mod support;
#[cfg(feature = "embedded")]
mod sweeping;
#[cfg(feature = "embedded")]
mod takeover;
#[cfg(feature = "embedded")]
mod trail;
#[cfg(feature = "embedded")]
mod unsendable;
#[cfg(feature = "embedded")]
mod unstorable;
mod unusual;
#[cfg(feature = "embedded")]
mod waking;
#[cfg(feature = "embedded")]
mod walking;
