//! Queues with rows that another session has locked, and whether settling waits for them.
//!
//! The first statement that meets such a row waits for it, since most locks are short. Once it has
//! waited in vain, further statements of the queue skip locked rows for a while. Settlements of
//! these rows fail for now, and all others are settled at once.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ezq_core::message::QueueName;
use ezq_core::{Error, ErrorKind};

/// For how long locked rows of a queue are skipped.
const PASSED: Duration = Duration::from_secs(10);

/// What a statement does about a row that another session has locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    ForLocks,
    Not,
}

impl Wait {
    /// The clause after `FOR UPDATE`.
    pub(super) fn sql(self) -> &'static str {
        match self {
            Self::ForLocks => "",
            Self::Not => " SKIP LOCKED",
        }
    }
}

/// The queues whose rows were locked recently.
#[derive(Debug, Default)]
pub(crate) struct LockedRows(Mutex<HashMap<QueueName, Seen>>);

#[derive(Debug)]
struct Seen {
    at: Instant,
    /// What was known about the lock then.
    error: Error,
}

impl LockedRows {
    /// Whether to wait for locked rows of a queue.
    pub(super) fn wait(&self, queue: &QueueName) -> Wait {
        let is_recent = self
            .seen()
            .get(queue)
            .is_some_and(|seen| seen.at.elapsed() < PASSED);
        if is_recent { Wait::Not } else { Wait::ForLocks }
    }

    /// Records that a statement waited in vain.
    pub(super) fn record(&self, queue: &QueueName, error: &Error) {
        let seen = Seen {
            at: Instant::now(),
            error: error.without_source(),
        };
        self.seen().insert(queue.clone(), seen);
    }

    /// The error for a row that is still locked.
    pub(super) fn still_locked(&self, queue: &QueueName) -> Error {
        let mut all = self.seen();
        let Some(seen) = all.get_mut(queue) else {
            return Error::new(
                ErrorKind::Transient,
                "another session has the message locked",
            );
        };
        seen.at = Instant::now();
        seen.error.without_source()
    }

    fn seen(&self) -> MutexGuard<'_, HashMap<QueueName, Seen>> {
        // Only a memory of who waits for what. A panic leaves its entries whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
