//! Claiming from a queue with ordering keys that has no indexes for them: they are being built, or
//! nobody may build them.
//!
//! The claim for queues without keys would, for each message of a hot key, search all messages
//! before it. This claim reads the messages that are due first, one window at a time. For each key
//! in the window it checks once whether an earlier message is in the queue, or one is leased. So it
//! claims one message of a key at a time, and scans the queue for it: slow, but it makes progress.
//! If a window has nothing to claim, the search continues in the next ones for a while, and the
//! next claim resumes there.
//!
//! With or without indexes, this is also how a queue is claimed in the order of places: behind a
//! given place, without passing over a message.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use ezq_core::message::QueueName;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Row};

use crate::claim::{Batch, Claim};
use crate::sql::keys::{hash, is_keyed, leased};

/// How many of the messages that are due first one window has.
const WINDOW: i64 = 1000;
/// For how long one claim searches from window to window.
const SEARCH: Duration = Duration::from_secs(2);

/// A place among due messages: a time, as the server writes it, and an id.
type Place = (String, i64);

/// Queues that have keys and no indexes. The value is where the next claim resumes, behind the
/// first window.
#[derive(Debug, Default)]
pub(crate) struct Unindexed(Mutex<HashMap<QueueName, Option<Place>>>);

/// The result of one window.
struct Window {
    batch: Batch,
    /// The window's last place, if more follows.
    next: Option<Place>,
    has_keys: bool,
}

impl Unindexed {
    pub(crate) fn has(&self, queue: &QueueName) -> bool {
        self.places().contains_key(queue)
    }

    /// The queue has keys.
    pub(crate) fn add(&self, queue: &QueueName) {
        self.places().entry(queue.clone()).or_default();
    }

    pub(crate) fn remove(&self, queue: &QueueName) {
        self.places().remove(queue);
    }

    /// Claims from the first window that has something to claim.
    pub(crate) async fn claim(
        &self,
        connection: &mut PgConnection,
        queue: &QueueName,
        claim: &Claim,
    ) -> Result<Batch, sqlx::Error> {
        let began = Instant::now();
        // The first window comes first each time: settling its messages frees the next ones of
        // their keys.
        let front = claim.look_at_window(connection, None, false).await?;
        if !front.has_keys {
            // There are no keys left, or the queue was slow for another reason.
            self.remove(queue);
        }

        if !front.batch.claimed.is_empty() {
            return Ok(front.batch);
        }

        let went_on = self.places().get(queue).cloned().flatten();
        // It passes the windows between the first and that place.
        let is_partial = went_on.is_some();
        let mut next = front.next.map(|place| went_on.unwrap_or(place));
        loop {
            let Some(place) = next else {
                self.keep(queue, None);
                let next_due = claim.next_unindexed(connection).await?;
                return Ok(Batch {
                    next_due,
                    is_partial,
                    ..Batch::default()
                });
            };

            let looked = claim
                .look_at_window(connection, Some(&place), false)
                .await?;
            self.keep(queue, looked.next.clone());
            if !looked.batch.claimed.is_empty() {
                return Ok(looked.batch);
            }

            if began.elapsed() > SEARCH {
                return Ok(Batch {
                    next_due: Some(Duration::ZERO),
                    is_partial: true,
                    ..Batch::default()
                });
            }

            next = looked.next;
        }
    }

    fn keep(&self, queue: &QueueName, place: Option<Place>) {
        if let Some(kept) = self.places().get_mut(queue) {
            *kept = place;
        }
    }

    fn places(&self) -> MutexGuard<'_, HashMap<QueueName, Option<Place>>> {
        // Positions are hints: a walk from the beginning corrects them.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Claim {
    /// Claims behind a place, in the order of places, from the first window that has something to
    /// claim.
    pub(crate) async fn run_in_order(
        &self,
        connection: &mut PgConnection,
        after: (Option<DateTime<Utc>>, i64),
        is_indexed: bool,
    ) -> Result<Batch, sqlx::Error> {
        let (due, id) = after;
        let due = due.map_or_else(|| "-infinity".to_owned(), |due| due.to_rfc3339());
        let mut place = (due, id);

        loop {
            let looked = self
                .look_at_window(connection, Some(&place), is_indexed)
                .await?;
            if !looked.batch.claimed.is_empty() {
                return Ok(looked.batch);
            }

            match looked.next {
                Some(next) => place = next,
                None => {
                    let next_due = self.next_unindexed(connection).await?;
                    return Ok(Batch {
                        next_due,
                        ..Batch::default()
                    });
                }
            }
        }
    }

    /// Claims from the window behind a place.
    async fn look_at_window(
        &self,
        connection: &mut PgConnection,
        from: Option<&Place>,
        is_indexed: bool,
    ) -> Result<Window, sqlx::Error> {
        let query = sqlx::query(AssertSqlSafe(self.window_statement(is_indexed)))
            .bind(self.grace_us)
            .bind(self.max)
            .bind(self.ttl_us)
            .bind(from.map(|(vt, _)| vt.clone()))
            .bind(from.map_or(i64::MIN, |(_, id)| *id));
        let rows = self.bind_before(query).fetch_all(connection).await?;
        let mut looked = Window {
            batch: Batch::default(),
            next: None,
            has_keys: false,
        };

        for row in &rows {
            looked.has_keys = row.try_get("has_keys")?;
            if row.try_get("is_full")? {
                looked.next = Some((row.try_get("last_vt")?, row.try_get("last_id")?));
            }
            if row.try_get::<Option<i64>, _>("msg_id")?.is_some() {
                looked.batch.push(row)?;
            }
        }

        looked.batch.sort();
        Ok(looked)
    }

    /// The claim of one window. It answers with at least one row, which tells how far it read.
    ///
    /// `$1` is the grace after a restart, `$2` the most messages, `$3` the lease. `$4` and `$5` are
    /// the place behind which it starts, followed by the position before which to claim.
    fn window_statement(&self, is_indexed: bool) -> String {
        let table = &self.table;
        let rested = self.rested("c");
        let before = self.before_condition("c", 6);
        let key = hash("c");
        let keyed = is_keyed("e");
        let key_of_other = hash("e");
        let leased = leased(table, "f.key", is_indexed, "");
        let update = self.update();
        let from = "coalesce($4::text::timestamptz, '-infinity')";

        // Only rows up to the due time of the window's last row are sorted.
        let window = format!(
            "FROM {table} c WHERE c.vt <= statement_timestamp()
                 AND c.vt >= {from} AND (c.vt, c.msg_id) > ({from}, $5){before}"
        );
        // The index over keys has a key's first message first.
        let is_first = if is_indexed {
            format!(
                "f.msg_id = (SELECT e.msg_id FROM {table} e WHERE {keyed} AND {key_of_other} = f.key
                             ORDER BY {key_of_other}, e.msg_id LIMIT 1)"
            )
        } else {
            format!(
                "NOT EXISTS (SELECT FROM {table} e WHERE {keyed} AND {key_of_other} = f.key
                             AND e.msg_id < f.msg_id)"
            )
        };

        format!(
            "WITH due AS MATERIALIZED (
               SELECT c.msg_id, c.vt, {key} AS key, {rested} AS is_rested {window}
                 AND c.vt <= coalesce((SELECT c.vt {window} ORDER BY c.vt LIMIT 1 OFFSET {WINDOW} - 1), 'infinity')
               ORDER BY c.vt, c.msg_id LIMIT {WINDOW}),
             first AS MATERIALIZED (
               SELECT key, min(msg_id) AS msg_id FROM due WHERE key IS NOT NULL GROUP BY key),
             heads AS MATERIALIZED (
               SELECT f.msg_id FROM first f
               WHERE {is_first} AND NOT {leased}),
             free AS (
               SELECT d.msg_id, d.vt FROM due d
               WHERE d.is_rested
                 AND (d.key IS NULL OR d.msg_id IN (SELECT h.msg_id FROM heads h))
               ORDER BY d.vt, d.msg_id LIMIT $2),
             picked AS (
               SELECT f.msg_id, f.vt FROM free f CROSS JOIN LATERAL (
                 SELECT FROM {table} q WHERE q.msg_id = f.msg_id AND q.vt IS NOT DISTINCT FROM f.vt
                 FOR UPDATE SKIP LOCKED) l),
             claimed AS ({update})
             SELECT s.*, c.* FROM (
               SELECT count(*) = {WINDOW} AS is_full, count(key) > 0 AS has_keys,
                      (SELECT d.vt::text FROM due d ORDER BY d.vt DESC, d.msg_id DESC LIMIT 1) AS last_vt,
                      (SELECT d.msg_id FROM due d ORDER BY d.vt DESC, d.msg_id DESC LIMIT 1) AS last_id
               FROM due) s LEFT JOIN claimed c ON true"
        )
    }

    /// How long until the next message is due, or the next lease ends.
    async fn next_unindexed(
        &self,
        connection: &mut PgConnection,
    ) -> Result<Option<Duration>, sqlx::Error> {
        let statement = format!(
            "SELECT ceil(1000000 * extract(epoch FROM
               least(min(c.vt), statement_timestamp() + interval '1 year') - statement_timestamp()))::bigint
             FROM {} c WHERE c.vt > statement_timestamp()",
            self.table
        );
        let wait: Option<i64> = sqlx::query_scalar(AssertSqlSafe(statement))
            .fetch_one(connection)
            .await?;
        Ok(wait.map(|us| Duration::from_micros(u64::try_from(us).unwrap_or(0))))
    }
}
