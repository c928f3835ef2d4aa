//! Where the claims of a queue go on. What was handled stays in the index until it is vacuumed, for as
//! long as anyone's transaction is open, and every claim that begins at the very front walks past it.
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
/// So many times as long as a look from the very front took passes until the next.
const SHARE: u32 = 10;

/// Of a queue of which the last look from the very front took long.
#[derive(Debug, Clone, Copy)]
struct Front {
    /// Where the last claim ended, if it was full and another slow one was before it.
    ended: Option<DateTime<Utc>>,
    /// From when on a claim begins at the very front.
    until: Instant,
}

#[derive(Debug, Default)]
pub(crate) struct Fronts(Mutex<HashMap<QueueName, Front>>);

/// A claim as it went.
pub(crate) struct Went {
    /// Where it began.
    pub(crate) from: Option<DateTime<Utc>>,
    /// Where it ended, if it found as many as it asked for.
    pub(crate) ended: Option<DateTime<Utc>>,
    pub(crate) took: Duration,
    pub(crate) count: usize,
}

impl Fronts {
    /// When what the next claim looks at is due at the earliest; `None` for the very front.
    pub(crate) fn of(&self, queue: &QueueName) -> Option<DateTime<Utc>> {
        let front = self.fronts().get(queue).copied();
        front
            .filter(|front| Instant::now() < front.until)
            .and_then(|front| front.ended)
    }

    pub(crate) fn keep(&self, queue: &QueueName, went: &Went) {
        let mut fronts = self.fronts();
        if went.from.is_some() {
            if let Some(front) = fronts.get_mut(queue) {
                front.ended = went.ended;
            }
            return;
        }
        let count = u32::try_from(went.count).unwrap_or(u32::MAX);
        if went.took < QUICK.max(EACH.saturating_mul(count)) {
            fronts.remove(queue);
            return;
        }
        let ended = went.ended.filter(|_| fronts.contains_key(queue));
        let until = Instant::now() + went.took.saturating_mul(SHARE);
        fronts.insert(queue.clone(), Front { ended, until });
    }

    /// The next claim begins at the very front: something is given back to where it was.
    pub(crate) fn forget(&self, queue: &QueueName) {
        self.fronts().remove(queue);
    }

    fn fronts(&self) -> std::sync::MutexGuard<'_, HashMap<QueueName, Front>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
