//! Polling for captured changes: one process finds them for a whole database.
//!
//! A trigger does not notify, since it runs in a writer's transaction. Instead, one of the
//! processes that consume a queue with captures polls for commits. It is the one that holds the
//! queue's advisory lock, and it polls on the connection that listens. One statement polls all
//! these queues. It reads no table: it asks for the server's snapshot, and for the last id that
//! each queue drew. Other processes are notified as of any event.
//!
//! An id is drawn before its transaction commits, so the row may become visible later. The
//! transactions that ran when the id was drawn are remembered until they end; only then the queue
//! is quiet again. So the next poll sees a commit, however long its transaction took.

use std::collections::{HashMap, HashSet};
use std::str::FromStr;
use std::time::Duration;

use ezq_core::message::QueueName;
use tokio::time::Instant;

/// The time between two polls.
const PAUSE: Duration = Duration::from_millis(50);

/// Which transactions run and which have ended, by `pg_current_snapshot()`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Snapshot {
    /// Transactions from this one on had not ended.
    next: u64,
    /// Earlier ones that had not ended either.
    running: Vec<u64>,
}

impl FromStr for Snapshot {
    type Err = &'static str;

    /// Parses `xmin:xmax:running,running`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let unreadable = "no snapshot";
        let mut parts = text.split(':').skip(1);
        let next = parts
            .next()
            .and_then(|text| text.parse().ok())
            .ok_or(unreadable)?;
        let running = parts
            .next()
            .unwrap_or_default()
            .split(',')
            .filter(|text| !text.is_empty());
        let running = running.map(|text| text.parse().map_err(|_| unreadable));

        Ok(Self {
            next,
            running: running.collect::<Result<_, _>>()?,
        })
    }
}

impl Snapshot {
    fn is_running(&self, writer: u64) -> bool {
        writer >= self.next || self.running.contains(&writer)
    }

    /// Whether any transaction ended between another snapshot and this one.
    fn ended_any_since(&self, before: &Self) -> bool {
        self.next > before.next
            || before
                .running
                .iter()
                .any(|writer| !self.is_running(*writer))
    }
}

/// A queue that is polled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FedQueue {
    pub(crate) queue: QueueName,
    /// The oid of the sequence of its ids.
    pub(crate) ids: i64,
    /// The key of its advisory lock, which this session holds.
    pub(crate) lock: i64,
}

/// What earlier polls found of a queue.
#[derive(Debug, Default)]
struct QueueState {
    /// The last id, if one was ever drawn.
    last: Option<i64>,
    /// An id was drawn before the last poll, perhaps by a transaction that began after its
    /// snapshot.
    moved: bool,
    /// Transactions that ran when an id was drawn, and still run.
    writers: Vec<u64>,
}

impl QueueState {
    /// Whether something may have been committed here between two polls.
    fn poll(&mut self, last: Option<i64>, before: &Snapshot, now: &Snapshot) -> bool {
        let moved = last != self.last;
        let by_anyone = moved || self.moved;

        let committed = match by_anyone {
            true => now.ended_any_since(before),
            false => self.writers.iter().any(|writer| !now.is_running(*writer)),
        };

        match by_anyone {
            true => self.writers.clone_from(&now.running),
            false => self.writers.retain(|writer| now.is_running(*writer)),
        }

        (self.last, self.moved) = (last, moved);
        committed
    }
}

/// The queues that this session polls, and what it found.
#[derive(Debug, Default)]
pub(crate) struct CapturePoll {
    fed: Vec<FedQueue>,
    seen: HashMap<i64, QueueState>,
    before: Option<Snapshot>,
    next: Option<Instant>,
    /// Tables that inherit from or to a captured one, and were logged.
    uncovered: HashSet<String>,
}

impl CapturePoll {
    /// Logs each pair of tables once of which one is captured and the other inherits.
    pub(crate) fn warn_uncovered(&mut self, tables: Vec<String>) {
        for tables in tables {
            if self.uncovered.insert(tables.clone()) {
                ezq_core::private::warn!(
                    tables,
                    "a captured table is part of an inheritance: rows of the other table are not \
                     captured"
                );
            }
        }
    }

    /// When to poll next; `None` if no queue is to be polled.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.next
    }

    /// The queues that are polled.
    pub(crate) fn fed(&self) -> &[FedQueue] {
        &self.fed
    }

    /// Sets the queues to be polled. Returns those that are new: they may hold something that
    /// nobody saw.
    pub(crate) fn set(&mut self, fed: Vec<FedQueue>) -> Vec<QueueName> {
        let new = fed
            .iter()
            .filter(|fed| !self.seen.contains_key(&fed.ids))
            .map(|fed| fed.queue.clone())
            .collect();
        self.seen
            .retain(|ids, _| fed.iter().any(|fed| fed.ids == *ids));
        self.fed = fed;
        self.next = match self.fed.is_empty() {
            true => None,
            false => self.next.or(Some(Instant::now())),
        };

        new
    }

    /// Stops polling until the queues are set again.
    pub(crate) fn pause(&mut self) {
        self.next = None;
    }

    /// The sequences to be read.
    pub(crate) fn ids(&self) -> Vec<i64> {
        self.fed.iter().map(|fed| fed.ids).collect()
    }

    /// The queues in which something may have been committed since the last poll.
    pub(crate) fn poll(&mut self, now: Snapshot, last: &[Option<i64>]) -> Vec<QueueName> {
        self.next = Some(Instant::now() + PAUSE);
        let before = self.before.replace(now.clone());
        let mut woken = Vec::new();

        for (fed, last) in self.fed.iter().zip(last) {
            match (self.seen.get_mut(&fed.ids), &before) {
                (Some(seen), Some(before)) => {
                    if seen.poll(*last, before, &now) {
                        woken.push(fed.queue.clone());
                    }
                }
                // The first poll: any running transaction may be about to commit something here.
                _ => {
                    let writers = now.running.clone();
                    self.seen.insert(
                        fed.ids,
                        QueueState {
                            last: *last,
                            moved: true,
                            writers,
                        },
                    );
                    woken.push(fed.queue.clone());
                }
            }
        }

        woken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Polls one queue: the answer of each poll, and whether it wakes.
    fn looks(told: &[(&str, i64, bool)]) {
        let mut poll = CapturePoll::default();
        let queue = QueueName::new("q").unwrap();
        poll.set(vec![FedQueue {
            queue,
            ids: 7,
            lock: 1,
        }]);
        // The first poll wakes, and the second one settles what it began with.
        poll.poll("5:5:".parse().unwrap(), &[Some(0)]);
        assert!(poll.poll("5:5:".parse().unwrap(), &[Some(0)]).is_empty());
        for (n, (snapshot, last, wakes)) in told.iter().enumerate() {
            let woken = poll.poll(snapshot.parse().unwrap(), &[Some(*last)]);
            assert_eq!(!woken.is_empty(), *wakes, "look {n}");
        }
    }

    #[test]
    fn a_row_that_was_committed_between_two_looks_wakes_once() {
        looks(&[("6:6:", 1, true), ("6:6:", 1, false), ("6:6:", 1, false)]);
    }

    #[test]
    fn a_transaction_that_was_open_when_it_drew_an_id_wakes_when_it_ends() {
        looks(&[
            ("5:6:5", 1, true),
            ("5:6:5", 1, false),
            ("5:6:5", 1, false),
            ("6:6:", 1, true),
        ]);
    }

    #[test]
    fn a_later_row_that_is_committed_first_hides_no_earlier_one() {
        looks(&[
            ("5:5:", 1, false),
            ("5:7:5", 2, true),
            ("5:7:5", 2, false),
            ("7:7:", 2, true),
            ("7:7:", 2, false),
        ]);
    }

    #[test]
    fn an_id_that_was_drawn_after_the_snapshot_is_not_missed() {
        looks(&[
            ("5:5:", 1, false),
            ("5:6:5", 1, true),
            ("5:6:5", 1, false),
            ("6:6:", 1, true),
        ]);
    }

    #[test]
    fn what_others_do_wakes_nobody() {
        looks(&[
            ("5:9:5", 0, false),
            ("9:12:9,10", 0, false),
            ("12:12:", 0, false),
        ]);
    }

    #[test]
    fn without_a_queue_there_is_no_look() {
        let mut poll = CapturePoll::default();
        assert_eq!(poll.next(), None);
        let fed = FedQueue {
            queue: QueueName::new("q").unwrap(),
            ids: 7,
            lock: 1,
        };
        assert_eq!(poll.set(vec![fed.clone()]).len(), 1);
        assert!(poll.next().is_some());
        poll.set(Vec::new());
        assert_eq!(poll.next(), None);
    }
}
