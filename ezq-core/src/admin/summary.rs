//! What one queue holds, as an operator sees it, and how fast it moves.

use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::engine::{Count, Pause, QueueCounts, QueueTotals};
use crate::error::Error;
use crate::message::queue_name::QueueName;

/// What one queue holds. Get it by [`Queues::list`](crate::admin::Queues::list) or
/// [`Queues::get`](crate::admin::Queues::get).
///
/// Counts stop at [`COUNT_CAP`]: `10,000+`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueSummary {
    /// The queue.
    pub queue: QueueName,
    /// When this was counted, by the engine's clock.
    pub at: DateTime<Utc>,
    /// Events that can be handled now, or could if nothing was paused.
    pub ready: Count,
    /// Events that a worker has.
    pub leased: Count,
    /// Events that wait for another attempt, or for a paused handler.
    pub retrying: Count,
    /// Events that are due later and were never delivered.
    pub scheduled: Count,
    /// Dead letters.
    pub dead: Count,
    /// How long the oldest event that can be handled has waited. `None` if there is none: what is due
    /// later does not count, and nothing does while the queue is paused.
    pub oldest_claimable: Option<Duration>,
    /// Its pauses, and those of its handlers.
    pub pauses: Vec<Pause>,
    /// Whether the database lets this application only look at the events: its role may not change or
    /// remove them. See also [`Audit::is_read_only`](crate::admin::Audit::is_read_only).
    pub is_read_only: bool,
    /// How many partitions it has: tables over which its events are spread. 1 if it is one.
    pub partitions: u32,
    totals: Option<QueueTotals>,
}

/// What every queue holds, as far as it can be read. Get it by
/// [`Queues::list`](crate::admin::Queues::list).
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct QueueList {
    /// The queues that were read, sorted by name.
    pub queues: Vec<QueueSummary>,
    /// The queues that are there and could not be read, sorted by name.
    pub unreadable: Vec<UnreadableQueue>,
}

/// A queue that could not be read: somebody has locked it, or the role lacks a right.
#[derive(Debug)]
#[non_exhaustive]
pub struct UnreadableQueue {
    /// The queue.
    pub queue: QueueName,
    /// Why it could not be read.
    pub error: Error,
}

impl UnreadableQueue {
    /// A queue, and why it could not be read.
    #[must_use]
    pub fn new(queue: QueueName, error: Error) -> Self {
        Self { queue, error }
    }
}

/// How far a number is counted.
pub const COUNT_CAP: u64 = 10_000;

/// How fast a queue moved between two looks.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct QueueRates {
    /// Events that were published, a second.
    pub stored: f64,
    /// Events that left the queue, a second: handled, dead, cancelled or purged.
    pub removed: f64,
}

impl QueueSummary {
    pub(super) fn new(queue: QueueName, counts: QueueCounts, pauses: Vec<Pause>) -> Self {
        let is_paused = pauses.iter().any(|pause| pause.target.handler.is_none());
        Self {
            queue,
            at: counts.at,
            ready: counts.ready,
            leased: counts.leased,
            retrying: counts.retrying,
            scheduled: counts.scheduled,
            dead: counts.dead,
            oldest_claimable: counts.oldest_ready.filter(|_| !is_paused),
            pauses,
            is_read_only: counts.is_read_only,
            partitions: counts.partitions,
            totals: counts.totals,
        }
    }

    /// Whether the whole queue is paused.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.pauses
            .iter()
            .any(|pause| pause.target.handler.is_none())
    }

    /// How fast the queue moved since an earlier look at it. `None` if that is not known: no time has
    /// passed, the looks are of different queues, or the store began to count anew.
    ///
    /// On PGMQ the server's statistics count, which are about a second late.
    #[must_use]
    pub fn rates_since(&self, earlier: &Self) -> Option<QueueRates> {
        let seconds = (self.at - earlier.at).to_std().ok()?.as_secs_f64();
        if seconds <= 0.0 || self.queue != earlier.queue {
            return None;
        }

        let now = self.totals?;
        let before = earlier.totals?;
        let rate = |now: u64, before: u64| now.checked_sub(before).map(|n| per(n, seconds));
        Some(QueueRates {
            stored: rate(now.stored, before.stored)?,
            removed: rate(now.removed, before.removed)?,
        })
    }
}

// Rates are for people: what a float rounds off is not seen.
#[allow(clippy::cast_precision_loss)]
fn per(count: u64, seconds: f64) -> f64 {
    count as f64 / seconds
}
