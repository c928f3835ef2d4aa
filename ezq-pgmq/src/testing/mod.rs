//! A database for each test: cloned from a template that has PGMQ, dropped when the test succeeds, and
//! kept when it fails.
//!
//! The crate `ezq` builds its `#[ezq::test]` on it. The server is the one that the environment names, or
//! the development Postgres. Its role needs the right to create databases.
//!
//! The name of a test's database follows from the name of the test, so a database that a failed run kept
//! is replaced by the next run. A lock on the server, held as long as the test runs, keeps two runs of one
//! test from sharing it.
//!
//! | to see | open |
//! |---|---|
//! | the database of a test, from the clone to the drop | `database.rs` |
//! | the template | `template.rs` |
//! | what queues keep, for assertions, and retries made due | `records.rs` |
//! | running a test | `run.rs` |

mod database;
mod names;
mod records;
mod run;
mod template;

pub use database::Database;
pub use run::{Outcome, run};
