//! Watching callers' transactions that published here, until they end.
//!
//! A caller's transaction never notifies: NOTIFY makes commits wait for each other, fails a commit
//! when the server's queue of notifications is full, and forbids `PREPARE TRANSACTION`. Instead,
//! the process remembers which transaction stored something where, asks from outside what became of
//! it, and announces what was committed. A prepared transaction is open until it is committed.
//!
//! All of this is a hint, limited in number and age: consumers poll as well.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use ezq_core::message::QueueName;
use sqlx::postgres::PgConnection;
use tokio::time::Instant;

/// How many open transactions are watched. Beyond that, consumers find the newest ones by polling.
const CAPACITY: usize = 4096;
/// For how long a transaction is watched.
const LONGEST: Duration = Duration::from_secs(600);
/// Most commits follow the publish at once.
const FIRST_PAUSE: Duration = Duration::from_millis(2);
const SHORTEST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The transactions that have ended. A transaction that is not in the snapshot may be unknown to
/// this server, as after a fail-over.
const ENDED: &str = "
    SELECT w.writer,
           pg_xact_status(w.writer::text::xid8) IS DISTINCT FROM 'aborted' AS is_committed
    FROM unnest($1::bigint[]) AS w(writer)
    WHERE pg_visible_in_snapshot(w.writer::text::xid8, pg_current_snapshot())";

/// The id of a transaction, from `pg_current_xact_id()`.
pub(crate) type Writer = i64;

/// The expression for the id of the current transaction.
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

        let open = self.open.entry(writer).or_insert_with(|| OpenTransaction {
            queues: HashSet::new(),
            since: now,
            next_look: now + FIRST_PAUSE,
        });
        open.queues.insert(queue.clone());
    }

    /// When to ask next, if any transaction is watched.
    pub(crate) fn next_look(&self) -> Option<Instant> {
        self.open.values().map(|open| open.next_look).min()
    }

    /// The transactions to ask about now. They are asked about again after a quarter of their age;
    /// those that are too old are forgotten.
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

    /// All watched transactions.
    pub(crate) fn all(&self) -> Vec<Writer> {
        self.open.keys().copied().collect()
    }

    /// Stops watching a transaction that ended. Returns the queues in which it stored something.
    pub(crate) fn ended(&mut self, writer: Writer) -> HashSet<QueueName> {
        self.open
            .remove(&writer)
            .map(|open| open.queues)
            .unwrap_or_default()
    }
}

/// The transactions that have ended, and whether each was committed.
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
        let mut looks = 0;
        let mut longest = Duration::ZERO;
        let mut last = began;
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
