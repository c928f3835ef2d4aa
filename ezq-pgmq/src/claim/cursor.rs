//! Where the claims of a queue go on. What was handled stays in the index until it is vacuumed, for as
//! long as anyone's transaction is open, and every claim that begins at the very cursor walks past it.
//!
//! Once that takes long, time and again, a claim begins where the last full one ended. What is due
//! earlier all the same, because its transaction committed late or another process gave it back, is
//! found by the next that begins at the very front: as soon as one is not full, and often enough that
//! these cost about a tenth of the time while all are full.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use ezq_core::QueueName;

/// What a claim takes at most, wherever little is in its way.
const QUICK: Duration = Duration::from_millis(10);
/// What it takes for each message beside.
const EACH: Duration = Duration::from_micros(30);
/// So many times as long as a look from the very cursor took passes until the next.
const SHARE: u32 = 10;

/// Of a queue of which the last look from the very cursor took long.
#[derive(Debug, Clone, Copy)]
struct Cursor {
    /// Where the last claim ended, if it was full and another slow one was before it.
    ended: Option<DateTime<Utc>>,
    /// From when on a claim begins at the very cursor.
    until: Instant,
}

#[derive(Debug, Default)]
pub(crate) struct ClaimCursors(Mutex<HashMap<QueueName, Cursor>>);

/// A claim as it run.
pub(crate) struct ClaimRun {
    /// Where it began.
    pub(crate) from: Option<DateTime<Utc>>,
    /// Where it ended, if it found as many as it asked for.
    pub(crate) ended: Option<DateTime<Utc>>,
    pub(crate) took: Duration,
    pub(crate) count: usize,
}

impl ClaimCursors {
    /// When what the next claim looks at is due at the earliest; `None` for the very front.
    pub(crate) fn start(&self, queue: &QueueName) -> Option<DateTime<Utc>> {
        let cursor = self.cursors().get(queue).copied();
        cursor
            .filter(|cursor| Instant::now() < cursor.until)
            .and_then(|cursor| cursor.ended)
    }

    pub(crate) fn record(&self, queue: &QueueName, run: &ClaimRun) {
        let mut cursors = self.cursors();
        if run.from.is_some() {
            if let Some(cursor) = cursors.get_mut(queue) {
                cursor.ended = run.ended;
            }
            return;
        }
        let count = u32::try_from(run.count).unwrap_or(u32::MAX);
        if run.took < QUICK.max(EACH.saturating_mul(count)) {
            cursors.remove(queue);
            return;
        }
        let ended = run.ended.filter(|_| cursors.contains_key(queue));
        let until = Instant::now() + run.took.saturating_mul(SHARE);
        cursors.insert(queue.clone(), Cursor { ended, until });
    }

    /// The next claim begins at the very front: something is given back to where it was.
    pub(crate) fn forget(&self, queue: &QueueName) {
        self.cursors().remove(queue);
    }

    fn cursors(&self) -> std::sync::MutexGuard<'_, HashMap<QueueName, Cursor>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
