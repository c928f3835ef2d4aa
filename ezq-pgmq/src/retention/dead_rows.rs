//! Dead rows of queue tables: how many this process has left, and how many the server counts.
//!
//! The server is asked only about queues of which this process has left many. So an idle engine asks nothing.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ezq_core::message::QueueName;
use sqlx::Row as _;
use sqlx::postgres::{PgConnection, PgRow};
use tokio::sync::Notify;

use crate::sql::in_pgmq;

/// The server is asked about a queue after this process has left so many dead rows in it: those of 5,000
/// events, each of which is updated once and then deleted.
const ASKED_AFTER: usize = 10_000;
/// From so many dead rows on, a table is vacuumed. They are about 3 MB of it, which a vacuum of a short queue
/// reads in milliseconds.
const LEAST: i64 = 10_000;
/// And from a fifth of its live rows on, as by default for autovacuum. A vacuum reads the indexes whole, those
/// of a long queue for few dead rows as for many.
const SHARE: i64 = 5;

/// What the server counts of the tables of queues, and whether this role may vacuum them. The table of a
/// partitioned queue has no rows of its own: its partitions are listed.
///
/// From Postgres 17 on a role without the table may have the right `MAINTAIN`, which older ones do not know.
const TABLES: &str = "
    SELECT q.name AS queue, c.relname::text AS name,
           pg_stat_get_dead_tuples(c.oid) AS dead, pg_stat_get_live_tuples(c.oid) AS live,
           pg_has_role(d.datdba, 'USAGE')
             OR CASE WHEN current_setting('server_version_num')::int < 170000
                     THEN pg_has_role(c.relowner, 'USAGE')
                     ELSE has_table_privilege(c.oid, 'MAINTAIN') END AS may_vacuum
    FROM unnest($1::text[]) AS q (name)
    JOIN pg_catalog.pg_class t ON t.relname = 'q_' || q.name AND t.relnamespace = to_regnamespace('pgmq')
    JOIN pg_catalog.pg_class c ON c.relkind = 'r'
      AND (c.oid = t.oid
           OR c.oid IN (SELECT i.inhrelid FROM pg_catalog.pg_inherits i WHERE i.inhparent = t.oid))
    JOIN pg_catalog.pg_database d ON d.datname = current_database()";

/// Counts the dead rows that this process leaves.
#[derive(Default)]
pub(crate) struct DeadRows {
    counts: Mutex<HashMap<QueueName, usize>>,
    /// The server is to be asked about a queue.
    due: Notify,
}

impl DeadRows {
    /// Adds what a call has left. Answers whether the server is to be asked about the queue.
    pub(crate) fn add(&self, queue: &QueueName, rows: usize) -> bool {
        let mut counts = self.counts();
        let count = match counts.get_mut(queue) {
            Some(count) => count,
            // The processes of a fleet begin anywhere, so that they do not all ask at once.
            None => counts
                .entry(queue.clone())
                .or_insert_with(|| rand::random_range(0..ASKED_AFTER / 2)),
        };
        *count = count.saturating_add(rows);

        let is_due = *count >= ASKED_AFTER;
        if is_due {
            self.due.notify_one();
        }
        is_due
    }

    /// Waits until the server is to be asked about a queue.
    pub(super) async fn wait(&self) {
        self.due.notified().await;
    }

    /// Takes the queues about which the server is to be asked.
    pub(super) fn take(&self) -> Vec<QueueName> {
        let mut counts = self.counts();
        let due = counts.extract_if(|_, count| *count >= ASKED_AFTER);
        due.map(|(queue, _)| queue).collect()
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<QueueName, usize>> {
        // A number is changed whole.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the server counts of one table.
#[derive(Debug, Clone)]
pub(super) struct Table {
    pub(super) queue: QueueName,
    name: String,
    pub(super) dead: i64,
    live: i64,
    pub(super) may_vacuum: bool,
}

impl Table {
    /// Its name in statements, and the key of what is known of it.
    pub(super) fn place(&self) -> String {
        in_pgmq(&self.name)
    }

    /// Whether it has so many dead rows that a vacuum pays.
    pub(super) fn is_worth_it(&self) -> bool {
        self.dead >= LEAST.max(self.live / SHARE)
    }

    fn read(row: &PgRow) -> Result<Option<Self>, sqlx::Error> {
        let Ok(queue) = QueueName::new(row.try_get("queue")?) else {
            return Ok(None);
        };
        Ok(Some(Self {
            queue,
            name: row.try_get("name")?,
            dead: row.try_get("dead")?,
            live: row.try_get("live")?,
            may_vacuum: row.try_get("may_vacuum")?,
        }))
    }
}

/// The tables of queues. A queue that is gone has none.
pub(super) async fn tables(
    connection: &mut PgConnection,
    queues: &[QueueName],
) -> Result<Vec<Table>, sqlx::Error> {
    let names: Vec<&str> = queues.iter().map(QueueName::as_str).collect();
    let rows = sqlx::query(TABLES)
        .bind(names)
        .fetch_all(connection)
        .await?;
    rows.iter()
        .filter_map(|row| Table::read(row).transpose())
        .collect()
}

/// How often a table was vacuumed by a command, and the dead rows that the server counts in it.
pub(super) async fn after_vacuums(
    connection: &mut PgConnection,
    table: &Table,
) -> Result<(i64, i64), sqlx::Error> {
    let statement = "
        SELECT coalesce(pg_stat_get_vacuum_count(to_regclass($1)), 0),
               coalesce(pg_stat_get_dead_tuples(to_regclass($1)), 0)";
    sqlx::query_as(statement)
        .bind(table.place())
        .fetch_one(connection)
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(dead: i64, live: i64) -> Table {
        Table {
            queue: QueueName::default(),
            name: "q_orders".into(),
            dead,
            live,
            may_vacuum: true,
        }
    }

    #[test]
    fn a_short_queue_is_worth_a_vacuum_from_a_number_on_and_a_long_one_from_a_share() {
        assert!(!table(9_999, 0).is_worth_it());
        assert!(table(10_000, 0).is_worth_it());
        assert!(!table(19_999, 100_000).is_worth_it());
        assert!(table(20_000, 100_000).is_worth_it());
    }

    #[test]
    fn the_server_is_asked_about_a_queue_once_enough_rows_died_in_it() {
        let rows = DeadRows::default();
        let busy = QueueName::new("busy").unwrap();
        let quiet = QueueName::new("quiet").unwrap();
        assert!(!rows.add(&quiet, 1));
        while !rows.add(&busy, 100) {}

        assert_eq!(rows.take(), std::slice::from_ref(&busy));
        assert_eq!(rows.take(), []);
        assert!(!rows.add(&busy, 1), "it is counted anew");
    }
}
