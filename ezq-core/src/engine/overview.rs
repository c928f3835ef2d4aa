//! An overview of queues: how much each holds, counted cheaply.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::error::Result;
use crate::message::queue_name::QueueName;

/// A number that is counted up to a limit only, so that it costs the same however large it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Count {
    /// The number, or the limit if there are more.
    pub value: u64,
    /// Whether there are more.
    pub is_capped: bool,
}

impl Count {
    /// What was counted until the count exceeded `cap`.
    ///
    /// ```
    /// use ezq_core::engine::Count;
    ///
    /// assert_eq!(Count::up_to(9_512, 10_000).to_string(), "9,512");
    /// assert_eq!(Count::up_to(10_001, 10_000).to_string(), "10,000+");
    /// ```
    #[must_use]
    pub fn up_to(counted: u64, cap: u64) -> Self {
        Self {
            value: counted.min(cap),
            is_capped: counted > cap,
        }
    }

    /// Whether there is nothing.
    #[must_use]
    pub fn is_zero(self) -> bool {
        self.value == 0 && !self.is_capped
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.value.to_string();
        let mut grouped = String::with_capacity(digits.len() + digits.len() / 3 + 1);
        for (index, digit) in digits.chars().enumerate() {
            if index > 0 && (digits.len() - index).is_multiple_of(3) {
                grouped.push(',');
            }
            grouped.push(digit);
        }
        if self.is_capped {
            grouped.push('+');
        }
        f.pad(&grouped)
    }
}

/// How much a queue holds, by state.
///
/// Of the messages that are not due, an engine counts the first ones only. If there are more, the
/// counts of `leased`, `retrying` and `scheduled` are all capped.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueCounts {
    /// When this was counted, by the engine's clock.
    pub at: DateTime<Utc>,
    /// Messages that can be leased now.
    pub ready: Count,
    /// Messages that a worker has. A message whose worker died counts until its lease ends.
    pub leased: Count,
    /// Messages that were delivered and wait for another attempt.
    pub retrying: Count,
    /// Messages that were never delivered and are not due yet.
    pub scheduled: Count,
    /// Dead letters.
    pub dead: Count,
    /// How long the oldest message that can be leased has been due; `None` if there is none.
    pub oldest_ready: Option<Duration>,
    /// How many partitions the queue has: tables over which its messages are spread. 1 if it is one.
    pub partitions: u32,
    /// How many messages were stored and removed so far, if the engine knows.
    pub totals: Option<QueueTotals>,
    /// Whether this client lacks the right to change or remove messages of the queue.
    pub is_read_only: bool,
}

impl QueueCounts {
    /// The counts of an empty queue. An engine sets the fields that differ.
    #[must_use]
    pub fn new(at: DateTime<Utc>) -> Self {
        Self {
            at,
            ready: Count::default(),
            leased: Count::default(),
            retrying: Count::default(),
            scheduled: Count::default(),
            dead: Count::default(),
            oldest_ready: None,
            partitions: 1,
            totals: None,
            is_read_only: false,
        }
    }
}

/// Counters of a queue that only rise, since some time in the past. Two of them make a rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueTotals {
    /// Messages that were stored.
    pub stored: u64,
    /// Messages that left the queue: handled, dead, cancelled or purged.
    pub removed: u64,
}

impl QueueTotals {
    /// So many messages were stored, and so many removed.
    #[must_use]
    pub fn new(stored: u64, removed: u64) -> Self {
        Self { stored, removed }
    }
}

/// The overview of an engine that can list its queues and count them cheaply.
#[async_trait]
pub trait QueueOverview: Send + Sync {
    /// The names of all queues, sorted. Places for dead letters are not among them.
    ///
    /// # Errors
    /// When the store could not be read.
    async fn queues(&self) -> Result<Vec<QueueName>>;

    /// Counts what queues hold, each number up to `cap`, and answers for each queue by itself: `None` if it
    /// does not exist, and an error if it cannot be read, such as one that somebody has locked. The cost is
    /// bounded by the cap, not by what the queues hold.
    ///
    /// # Errors
    /// When the store could not be asked at all.
    async fn counts(
        &self,
        queues: &[QueueName],
        cap: u64,
    ) -> Result<Vec<Result<Option<QueueCounts>>>>;

    /// For how long the oldest snapshot or prepared transaction of the store has been held, as far as
    /// the role may see; `None` if there is none, or if the store has no such thing. While it lasts,
    /// nothing that was deleted since can be cleaned up.
    ///
    /// # Errors
    /// When the store could not be asked.
    async fn oldest_snapshot(&self) -> Result<Option<Duration>> {
        Ok(None)
    }

    /// Makes this process the one that samples the gauges, for as long as it keeps the answer; `None`
    /// while another process does.
    ///
    /// # Errors
    /// When the store could not be asked.
    async fn elect_sampler(&self) -> Result<Option<Box<dyn Sampler>>>;
}

/// That this process samples the gauges, and no other of the store.
#[async_trait]
pub trait Sampler: Send {
    /// Makes sure that it still does.
    ///
    /// # Errors
    /// When it does not, or that is not known: the store may have given the part to another process.
    async fn confirm(&mut self) -> Result<()>;
}
