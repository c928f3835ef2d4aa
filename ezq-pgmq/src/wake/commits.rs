//! Callers' transactions that published here and may not have ended yet.
//!
//! A caller's transaction never notifies: NOTIFY would make commits wait for each other, would fail
//! one when the server's queue of notifications is full, and forbids `PREPARE TRANSACTION`. So the
//! process remembers which transaction stored something where, asks from outside what became of it,
//! and announces what was committed. A transaction that is prepared is open until it is committed.
//!
//! All of this is a hint: it is bounded in number and in age, and consumers poll.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use ezq_core::QueueName;
use sqlx::postgres::PgConnection;
use tokio::time::Instant;

/// How many open transactions are watched. Past that, consumers find the newest by polling.
const CAPACITY: usize = 4096;
/// For how long a transaction is watched.
const LONGEST: Duration = Duration::from_secs(600);
/// Most commits follow the publish at once.
const FIRST_PAUSE: Duration = Duration::from_millis(2);
const SHORTEST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Those that have ended. A snapshot tells: of a transaction that is not in it nothing may be known
/// to this server, such as after a fail-over.
const ENDED: &str = "
    SELECT w.writer,
           pg_xact_status(w.writer::text::xid8) IS DISTINCT FROM 'aborted' AS is_committed
    FROM unnest($1::bigint[]) AS w(writer)
    WHERE pg_visible_in_snapshot(w.writer::text::xid8, pg_current_snapshot())";

/// The id of a transaction, by `pg_current_xact_id()`.
pub(crate) type Writer = i64;

/// The expression of the transaction that runs a statement.
pub(crate) const WRITER: &str = "pg_catalog.pg_current_xact_id()::text::bigint";

/// The open transactions, with the queues in which they stored something.
#[derive(Debug, Default)]
pub(crate) struct Commits {
    open: HashMap<Writer, OpenTransaction>,
}

#[derive(Debug)]
struct OpenTransaction {
    queues: HashSet<QueueName>,
    since: Instant,
    next_look: Instant,
}

impl Commits {
    /// Watches a transaction that stored something in a queue.
    pub(crate) fn watch(&mut self, writer: Writer, queue: &QueueName, now: Instant) {
        if self.open.len() >= CAPACITY && !self.open.contains_key(&writer) {
            return;
        }
        let first = || OpenTransaction {
            queues: HashSet::new(),
            since: now,
            next_look: now + FIRST_PAUSE,
        };
        self.open
            .entry(writer)
            .or_insert_with(first)
            .queues
            .insert(queue.clone());
    }

    /// When to look next, if anything is watched.
    pub(crate) fn next_look(&self) -> Option<Instant> {
        self.open.values().map(|open| open.next_look).min()
    }

    /// Those to ask about now, and to ask about again after a quarter of their age. Those that are
    /// too old are forgotten.
    pub(crate) fn take_due(&mut self, now: Instant) -> Vec<Writer> {
        self.open.retain(|_, open| now - open.since < LONGEST);
        let mut due = Vec::new();
        for (writer, open) in &mut self.open {
            if open.next_look <= now {
                let pause = ((now - open.since) / 4).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
                open.next_look = now + pause;
                due.push(*writer);
            }
        }
        due
    }

    /// All of them.
    pub(crate) fn all(&self) -> Vec<Writer> {
        self.open.keys().copied().collect()
    }

    /// A transaction ended: it is watched no longer. The queues in which it stored something.
    pub(crate) fn ended(&mut self, writer: Writer) -> HashSet<QueueName> {
        self.open
            .remove(&writer)
            .map(|open| open.queues)
            .unwrap_or_default()
    }
}

/// Which of these have ended, and whether each was committed.
pub(crate) async fn ended(
    connection: &mut PgConnection,
    writers: &[Writer],
) -> Result<Vec<(Writer, bool)>, sqlx::Error> {
    sqlx::query_as(ENDED)
        .bind(writers)
        .fetch_all(connection)
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue() -> QueueName {
        QueueName::new("q").unwrap()
    }

    #[test]
    fn looks_less_often_the_longer_a_transaction_is_open_and_gives_up() {
        let mut commits = Commits::default();
        let began = Instant::now();
        commits.watch(1, &queue(), began);
        let (mut looks, mut longest, mut last) = (0, Duration::ZERO, began);
        while let Some(next) = commits.next_look() {
            looks += commits.take_due(next).len();
            longest = longest.max(next - last);
            last = next;
        }
        assert_eq!(longest, LONGEST_PAUSE);
        assert!((600..700).contains(&looks), "{looks}");
        assert!(last - began <= LONGEST + LONGEST_PAUSE);
    }

    #[test]
    fn watches_a_bounded_number_each_once() {
        let mut commits = Commits::default();
        let now = Instant::now();
        for writer in (0..).take(2 * CAPACITY) {
            commits.watch(writer, &queue(), now);
            commits.watch(writer, &queue(), now);
        }
        assert_eq!(commits.all().len(), CAPACITY);
        assert_eq!(commits.ended(0), HashSet::from([queue()]));
        assert!(commits.ended(0).is_empty());
    }
}
