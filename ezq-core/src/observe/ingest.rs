//! The state of an ingest, and what it did.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::error::{Error, Result, error_chain};
use crate::message::queue_name::QueueName;
use crate::observe::report::StopReason;

/// How far an ingest is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum IngestState {
    /// It has read nothing yet.
    Starting,
    /// Another ingest of the source works, and this one takes over when that ends.
    Waiting,
    /// It reads the source.
    Running,
    /// It was stopped.
    Stopped,
    /// It failed for good, with this error.
    Failed(Arc<str>),
}

impl fmt::Display for IngestState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Starting => f.write_str("starting"),
            Self::Waiting => f.write_str("waiting for another one to end"),
            Self::Running => f.write_str("running"),
            Self::Stopped => f.write_str("stopped"),
            Self::Failed(error) => write!(f, "failed: {error}"),
        }
    }
}

/// What an ingest did until it stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct IngestReport {
    /// Why it stopped.
    pub reason: StopReason,
    /// How many messages it stored as events.
    pub stored: u64,
    /// How many it stored as dead letters.
    pub dead_lettered: u64,
    /// How long it ran.
    pub elapsed: Duration,
}

impl fmt::Display for IngestReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            reason,
            stored,
            dead_lettered,
            elapsed,
        } = self;
        write!(
            f,
            "stopped by {reason} after {elapsed:.1?}: {stored} stored, {dead_lettered} dead-lettered"
        )
    }
}

/// What others see of an ingest while it runs.
#[derive(Debug)]
pub(crate) struct IngestStatus {
    pub(crate) source: String,
    pub(crate) queue: Option<QueueName>,
    state: Mutex<IngestState>,
    failure: Mutex<Option<String>>,
    stored: AtomicU64,
    dead_lettered: AtomicU64,
}

/// The present value of a field. No lock here is held for longer than one read or write.
fn lock<T>(field: &Mutex<T>) -> MutexGuard<'_, T> {
    field.lock().unwrap_or_else(PoisonError::into_inner)
}

impl IngestStatus {
    pub(crate) fn new(source: &str, queue: Option<&QueueName>) -> Self {
        Self {
            source: source.to_owned(),
            queue: queue.cloned(),
            state: Mutex::new(IngestState::Starting),
            failure: Mutex::default(),
            stored: AtomicU64::new(0),
            dead_lettered: AtomicU64::new(0),
        }
    }

    pub(crate) fn state(&self) -> IngestState {
        lock(&self.state).clone()
    }

    pub(crate) fn set_state(&self, state: IngestState) {
        *lock(&self.state) = state;
    }

    pub(crate) fn failure(&self) -> Option<String> {
        lock(&self.failure).clone()
    }

    /// Notes what fails just now. Returns whether something else, or nothing, did before.
    pub(crate) fn fails(&self, error: &Error) -> bool {
        let text = error_chain(error);
        let mut failure = lock(&self.failure);
        // The same failure again is no news for the log.
        let is_new = failure.as_ref() != Some(&text);
        *failure = Some(text);
        is_new
    }

    /// Notes that it works. Returns whether something failed before.
    pub(crate) fn works(&self) -> bool {
        lock(&self.failure).take().is_some()
    }

    /// Counts messages. Counts are read on their own, and nothing is ordered by them.
    pub(crate) fn took_in(&self, stored: u64, dead_lettered: u64) {
        self.stored.fetch_add(stored, Ordering::Relaxed);
        self.dead_lettered
            .fetch_add(dead_lettered, Ordering::Relaxed);
    }

    pub(crate) fn stored(&self) -> u64 {
        self.stored.load(Ordering::Relaxed)
    }

    pub(crate) fn dead_lettered(&self) -> u64 {
        self.dead_lettered.load(Ordering::Relaxed)
    }

    pub(crate) fn ended(&self, result: &Result<IngestReport>) {
        self.set_state(match result {
            Ok(_) => IngestState::Stopped,
            Err(error) => IngestState::Failed(error_chain(error).into()),
        });
    }
}

/// Marks an ingest as failed when its future is dropped before it ended.
pub(crate) struct IngestGuard(pub(crate) Arc<IngestStatus>);

impl Drop for IngestGuard {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        if !matches!(*state, IngestState::Stopped | IngestState::Failed(_)) {
            *state = IngestState::Failed("its future was dropped".into());
        }
    }
}
