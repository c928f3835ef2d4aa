//! What a consumer did, and why it stopped.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::engine::Settle;

/// Why a consumer stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StopReason {
    /// It met an `End`.
    End,
    /// It met an `Interrupt`.
    Interrupt,
    /// A cancellation token that it was given fired.
    Token,
    /// Its handle said so.
    Handle,
    /// A signal said so.
    Signal,
    /// There was nothing left to do, and it was to stop then.
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

/// How many events came to what.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Counts {
    /// Done and acknowledged.
    pub handled: u64,
    /// Put off to another attempt.
    pub retried: u64,
    /// Moved to the dead letters.
    pub dead_lettered: u64,
    /// Cancelled while their handlers ran, and given back.
    pub cancelled: u64,
    /// Given back before a handler ran.
    pub returned: u64,
    /// Lost to another worker, or left to it.
    pub lost: u64,
}

/// What became of one delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tally {
    Handled,
    Retried,
    DeadLettered,
    Cancelled,
    Returned,
    Lost,
    /// A control event, which counts as nothing.
    Control,
}

impl Tally {
    /// What a settlement is counted as.
    pub(crate) fn of(settle: &Settle) -> Self {
        match settle {
            Settle::Ack { .. } => Self::Handled,
            Settle::DeadLetter { .. } => Self::DeadLettered,
            Settle::Retry { .. } => Self::Retried,
            Settle::Release => Self::Returned,
        }
    }
}

/// [`Counts`] that grow while a consumer runs.
#[derive(Debug, Default)]
pub(crate) struct Counters([AtomicU64; 7]);

impl Counters {
    pub(crate) fn add(&self, tally: Tally) {
        self.0[tally as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn counts(&self) -> Counts {
        let count = |tally: Tally| self.0[tally as usize].load(Ordering::Relaxed);
        Counts {
            handled: count(Tally::Handled),
            retried: count(Tally::Retried),
            dead_lettered: count(Tally::DeadLettered),
            cancelled: count(Tally::Cancelled),
            returned: count(Tally::Returned),
            lost: count(Tally::Lost),
        }
    }
}

/// What a consumer did until it stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// Why it stopped.
    pub reason: StopReason,
    /// What it did.
    pub counts: Counts,
    /// How long it ran.
    pub elapsed: Duration,
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
