//! Ingests: the messages of a broker, stored as events of a queue.
//!
//! Begin at [`App::ingest`](crate::app::App::ingest). An [`Ingest`] runs or is spawned as a consumer is, and
//! is seen in [`App::health`](crate::app::App::health). Handlers, retries, dead letters and replays treat
//! its events as any other.
//!
//! # What is promised
//!
//! - **Once.** Each message of the broker becomes one row: the position of its partition moves in the
//!   transaction that stores it.
//! - **No gap.** After every failure, and whenever a partition comes, reading goes on behind the stored
//!   position. Two ingests of one source at once change nothing of that.
//! - **No message blocks others.** What cannot be stored as an event becomes a dead letter of the queue,
//!   which keeps the body as it was.
//! - **A database or broker that is away** is ridden out. The broker keeps its messages meanwhile.
//!
//! # Source files
//!
//! | to see | open |
//! |---|---|
//! | the options of an ingest, and how it begins | `builder.rs` |
//! | its handle | `handle.rs` |
//! | its loop, and what it does after a failure | `run.rs` |
//! | reading partitions: where they go on, and what is stored of them | `partitions.rs` |
//! | a message that becomes an event, or a dead letter | `convert.rs` |

mod builder;
mod convert;
mod handle;
mod partitions;
mod run;
#[cfg(test)]
mod tests;

pub use crate::observe::ingest::{IngestReport, IngestState};
pub use builder::Ingest;
pub use handle::IngestHandle;
