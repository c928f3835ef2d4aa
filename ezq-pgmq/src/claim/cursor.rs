//! Claim cursors: where the next claim of a queue starts to read the index on `vt`.
//!
//! Handled rows stay in the index until they are vacuumed. While any transaction in the database is
//! open they cannot be, and every claim from the front of the index walks past all of them. Once a few
//! such scans in a row were slow, claims start at the cursor instead:
//!
//! - After a full claim it is where that claim ended.
//! - After another one, nothing that was due is left, and it is [`NEAR`] before that claim.
//!
//! A row may still become due before the cursor: its transaction committed late, or another process
//! gave it back. Claims that reach further back find it: one by [`FAR`], and one from the front. Each
//! kind has a share of the time, so that it is rarer, the more it costs.
//!
//! Fast path. Benchmark case: `bloat`, which publishes and consumes events while another session
//! holds a snapshot.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use ezq_core::message::QueueName;

/// A scan from the front is slow if it takes longer than this, and than [`EACH`] for each message.
const QUICK: Duration = Duration::from_millis(10);
/// How long a scan may take for each message that it claims.
const EACH: Duration = Duration::from_micros(30);
/// How far before a claim that left nothing the next one starts: most transactions are shorter.
const NEAR: TimeDelta = TimeDelta::seconds(1);
/// How much further back some claims reach.
const FAR: TimeDelta = TimeDelta::seconds(10);
/// After a claim that reached back and took t, the next one of its kind waits so many times t.
const FAR_PAUSES: u32 = 20;
const FRONT_PAUSES: u32 = 100;
/// What is due before the cursor is found after so long, and the time of one claim.
const LONGEST: Duration = Duration::from_secs(10);

/// One slow scan may be chance: only so many in a row leave a place to start at.
const SLOW_SCANS: u32 = 3;

/// The cursor of a queue whose last scan from the front was slow.
#[derive(Debug, Clone, Copy)]
struct Cursor {
    /// Where claims start, once enough scans were slow.
    at: Option<DateTime<Utc>>,
    /// How many scans from the front in a row were slow.
    slow: u32,
    /// When the next claim is to reach far back.
    far: Instant,
    /// When the next one is to start at the front.
    front: Instant,
}

/// The cursors of all queues that have one.
#[derive(Debug, Default)]
pub(crate) struct ClaimCursors(Mutex<HashMap<QueueName, Cursor>>);

/// Where a claim starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    Front,
    /// Further back than the cursor, at this time.
    Far(DateTime<Utc>),
    Cursor(DateTime<Utc>),
}

impl Start {
    /// The earliest due time that the claim sees; `None` if it sees all.
    pub(crate) fn due(self) -> Option<DateTime<Utc>> {
        match self {
            Self::Front => None,
            Self::Far(at) | Self::Cursor(at) => Some(at),
        }
    }
}

/// What one claim did.
pub(crate) struct ClaimRun {
    pub(crate) start: Start,
    /// Where it ended, if it was full: it found as many messages as it asked for.
    pub(crate) ended: Option<DateTime<Utc>>,
    /// When it was made, by the database's clock or a little earlier, unless it left something.
    pub(crate) made_at: Option<DateTime<Utc>>,
    pub(crate) took: Duration,
    pub(crate) count: usize,
}

impl ClaimCursors {
    /// Where the next claim starts.
    pub(crate) fn start(&self, queue: &QueueName) -> Start {
        let now = Instant::now();
        let cursor = self.cursors().get(queue).copied();
        let Some(cursor) = cursor.filter(|cursor| now < cursor.front) else {
            return Start::Front;
        };

        match cursor.at {
            None => Start::Front,
            Some(at) if now < cursor.far => Start::Cursor(at),
            Some(at) => Start::Far(at.checked_sub_signed(FAR).unwrap_or(at)),
        }
    }

    /// Whether claims of the queue start elsewhere than at the front.
    pub(crate) fn has(&self, queue: &QueueName) -> bool {
        let cursor = self.cursors().get(queue).copied();
        cursor.is_some_and(|cursor| cursor.at.is_some())
    }

    /// After how long the next claim starts at the front, if others do not.
    pub(crate) fn front_in(&self, queue: &QueueName) -> Option<Duration> {
        let front = self.cursors().get(queue)?.front;
        Some(front.saturating_duration_since(Instant::now()))
    }

    /// Moves the cursor to where a claim ended.
    pub(crate) fn record(&self, queue: &QueueName, run: &ClaimRun) {
        let mut cursors = self.cursors();
        let now = Instant::now();
        let ended = run
            .ended
            .or(run.made_at.and_then(|at| at.checked_sub_signed(NEAR)));
        let pause = |times: u32| now + run.took.saturating_mul(times).min(LONGEST);

        if run.start != Start::Front {
            // It says nothing about the front.
            if let Some(cursor) = cursors.get_mut(queue) {
                cursor.at = ended.max(cursor.at);
                if matches!(run.start, Start::Far(_)) {
                    cursor.far = pause(FAR_PAUSES);
                }
            }
            return;
        }

        let count = u32::try_from(run.count).unwrap_or(u32::MAX);
        if run.took < QUICK.max(EACH.saturating_mul(count)) {
            cursors.remove(queue);
            return;
        }

        let slow = cursors
            .get(queue)
            .map_or(1, |cursor| cursor.slow.saturating_add(1));
        let cursor = Cursor {
            at: ended.filter(|_| slow >= SLOW_SCANS),
            slow,
            far: pause(FAR_PAUSES),
            front: pause(FRONT_PAUSES),
        };
        cursors.insert(queue.clone(), cursor);
    }

    /// Has the next claim start at the front: a message is back in its old place, since it was released or
    /// the transaction that claimed it was rolled back.
    pub(crate) fn forget(&self, queue: &QueueName) {
        self.cursors().remove(queue);
    }

    fn cursors(&self) -> MutexGuard<'_, HashMap<QueueName, Cursor>> {
        // Cursors are hints: the next scan from the front corrects them.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(start: Start, took: Duration) -> ClaimRun {
        ClaimRun {
            start,
            ended: None,
            made_at: Some(DateTime::UNIX_EPOCH + TimeDelta::seconds(60)),
            took,
            count: 0,
        }
    }

    #[test]
    fn only_several_slow_scans_in_a_row_leave_a_place_to_start_at() {
        let queue = QueueName::new("orders").unwrap();
        let cursors = ClaimCursors::default();
        for took in [QUICK, QUICK, Duration::ZERO, QUICK, QUICK] {
            cursors.record(&queue, &run(Start::Front, took));
            assert!(!cursors.has(&queue));
            assert_eq!(cursors.start(&queue), Start::Front);
        }

        cursors.record(&queue, &run(Start::Front, LONGEST));
        assert!(cursors.has(&queue));
        let at = DateTime::UNIX_EPOCH + TimeDelta::seconds(59);
        assert_eq!(cursors.start(&queue), Start::Cursor(at));

        // It never goes back, but to the front.
        let mut earlier = run(Start::Cursor(at), QUICK);
        earlier.made_at = Some(DateTime::UNIX_EPOCH);
        cursors.record(&queue, &earlier);
        assert_eq!(cursors.start(&queue), Start::Cursor(at));
        cursors.forget(&queue);
        assert_eq!(cursors.start(&queue), Start::Front);
    }

    #[test]
    fn a_claim_that_reaches_back_is_due_after_a_share_of_the_time() {
        let queue = QueueName::new("orders").unwrap();
        let cursors = ClaimCursors::default();
        for _ in 0..SLOW_SCANS {
            cursors.record(&queue, &run(Start::Front, LONGEST));
        }
        let Start::Cursor(at) = cursors.start(&queue) else {
            panic!("no cursor");
        };

        cursors.record(&queue, &run(Start::Far(at - FAR), Duration::ZERO));
        assert_eq!(cursors.start(&queue), Start::Far(at - FAR));
        cursors.record(&queue, &run(Start::Far(at - FAR), LONGEST));
        assert_eq!(cursors.start(&queue), Start::Cursor(at));
        assert!(cursors.front_in(&queue).unwrap() <= LONGEST);
    }
}
