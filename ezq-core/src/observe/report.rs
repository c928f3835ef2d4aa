//! What a consumer did, and why it stopped.

use std::collections::BTreeMap;
use std::fmt;
use std::iter::Sum;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::engine::Settle;
use crate::message::queue_name::QueueName;
use crate::observe::metrics::DeliveryMetrics;

/// Why a consumer stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StopReason {
    /// It met an `End` event.
    End,
    /// It met an `Interrupt` event.
    Interrupt,
    /// A cancellation token that it was given fired.
    Token,
    /// Its handle stopped or interrupted it.
    Handle,
    /// The process got SIGINT or SIGTERM.
    Signal,
    /// Nothing was left to do, and the consumer ran [until
    /// idle](crate::consumer::Consumer::until_idle).
    Idle,
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::End => "End",
            Self::Interrupt => "Interrupt",
            Self::Token => "a cancellation token",
            Self::Handle => "its handle",
            Self::Signal => "a signal",
            Self::Idle => "an empty queue",
        })
    }
}

/// How many deliveries ended in which way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Counts {
    /// Acknowledged: all handlers are done.
    pub handled: u64,
    /// Put off to another attempt.
    pub retried: u64,
    /// Moved to the dead letters.
    pub dead_lettered: u64,
    /// Cancelled while their handlers ran and given back, or discarded because an operator cancelled
    /// them.
    pub cancelled: u64,
    /// Given back before a handler ran.
    pub returned: u64,
    /// Lost to another worker, or left unsettled: they come again when their leases end.
    pub lost: u64,
}

/// How one delivery ended, for the [`Counters`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Disposition {
    Handled,
    Retried,
    DeadLettered,
    Cancelled,
    Returned,
    Lost,
    /// A control event: no count of the report includes it.
    Control,
}

/// The labels of the dispositions in metrics, by their discriminants. A control event has none: it stops
/// a consumer, and is nothing that was to be handled.
const LABELS: [&str; 6] = [
    "handled",
    "retried",
    "dead_lettered",
    "cancelled",
    "returned",
    "lost",
];

impl Disposition {
    /// The disposition of a delivery with this settlement.
    pub(crate) fn of(settle: &Settle) -> Self {
        match settle {
            Settle::Ack { .. } => Self::Handled,
            Settle::DeadLetter { .. } => Self::DeadLettered,
            // No handler ran.
            Settle::Retry { progress, .. } if progress.is_only_held() => Self::Returned,
            Settle::Retry { .. } => Self::Retried,
            Settle::Discard => Self::Cancelled,
            Settle::Release => Self::Returned,
        }
    }
}

/// [`Counts`] that grow while a consumer runs: one for each [`Disposition`], by its discriminant.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    counts: [AtomicU64; 7],
    metrics: DeliveryMetrics,
}

impl Counters {
    /// The counters of a consumer of this queue.
    pub(crate) fn of(queue: &QueueName) -> Self {
        Self {
            counts: Default::default(),
            metrics: DeliveryMetrics::of(queue, &LABELS),
        }
    }

    pub(crate) fn add(&self, disposition: Disposition) {
        // Counts are read on their own. Nothing else is ordered by them.
        self.counts[disposition as usize].fetch_add(1, Ordering::Relaxed);
        self.metrics.add(disposition as usize);
    }

    pub(crate) fn counts(&self) -> Counts {
        Counts {
            handled: self.count(Disposition::Handled),
            retried: self.count(Disposition::Retried),
            dead_lettered: self.count(Disposition::DeadLettered),
            cancelled: self.count(Disposition::Cancelled),
            returned: self.count(Disposition::Returned),
            lost: self.count(Disposition::Lost),
        }
    }

    fn count(&self, disposition: Disposition) -> u64 {
        self.counts[disposition as usize].load(Ordering::Relaxed)
    }
}

/// What a consumer did until it stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// Why it stopped.
    pub reason: StopReason,
    /// What became of the deliveries it had.
    pub counts: Counts,
    /// How long it ran.
    pub elapsed: Duration,
}

/// What the consumers of all queues of a program did until all were stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReportOfAll {
    /// The report of each queue's consumer.
    pub queues: BTreeMap<QueueName, Report>,
    /// What became of the deliveries of all of them.
    pub counts: Counts,
    /// How long the last of them ran.
    pub elapsed: Duration,
}

impl ReportOfAll {
    pub(crate) fn new(queues: BTreeMap<QueueName, Report>, elapsed: Duration) -> Self {
        Self {
            counts: queues.values().map(|report| report.counts).sum(),
            queues,
            elapsed,
        }
    }
}

impl Sum for Counts {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, one| Self {
            handled: sum.handled.saturating_add(one.handled),
            retried: sum.retried.saturating_add(one.retried),
            dead_lettered: sum.dead_lettered.saturating_add(one.dead_lettered),
            cancelled: sum.cancelled.saturating_add(one.cancelled),
            returned: sum.returned.saturating_add(one.returned),
            lost: sum.lost.saturating_add(one.lost),
        })
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} handled, {} retried, {} dead-lettered, {} cancelled, {} returned",
            self.handled, self.retried, self.dead_lettered, self.cancelled, self.returned
        )?;
        if self.lost > 0 {
            write!(f, ", {} lost", self.lost)?;
        }
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            reason,
            counts,
            elapsed,
        } = self;
        write!(f, "stopped by {reason} after {elapsed:.1?}: {counts}")
    }
}

/// All counts on the first line, then a line for each queue.
impl fmt::Display for ReportOfAll {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            queues,
            counts,
            elapsed,
        } = self;
        write!(
            f,
            "{} queues, stopped after {elapsed:.1?}: {counts}",
            queues.len()
        )?;
        for (queue, report) in queues {
            write!(f, "\n`{queue}` {report}")?;
        }
        Ok(())
    }
}
