//! How far a replay has come.

use chrono::{DateTime, Utc};
use ezq_core::message::QueueName;

/// The progress of a replay.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReplayProgress {
    /// Its name.
    pub name: String,
    /// The queue whose archive it reads.
    pub queue: QueueName,
    /// The queue that gets the copies.
    pub target: QueueName,
    /// How many events were replayed, by all runs under this name.
    pub handed_over: u64,
    /// Whether it is finished.
    pub is_finished: bool,
    /// When it began, by the database's clock.
    pub began_at: DateTime<Utc>,
    /// When it last made progress.
    pub moved_at: DateTime<Utc>,
}
