//! Idempotent publishing: messages with dedupe keys, and the removal of ended keys.
//!
//! One statement takes the keys in `ezq.dedupe` (queue, key), and inserts each message whose key it
//! got. It waits for a key that another transaction is taking, so of several publishers with one
//! key only one stores. A statement takes its keys in the order of queue and key, so that two
//! batches never deadlock. A key is free once its window has ended by the database's clock.
//!
//! The transaction that creates a queue removes the keys of an earlier queue of its name. The
//! column with the table's oid is written for older processes and means nothing: a dump and restore
//! changes it. A message with a key is stored at the time at which the key is taken, so number and
//! time are the id of the first message, also after a broadcast. The statement for messages without
//! a key has no part of this.

use std::sync::Arc;

use ezq_core::engine::{Dedupe, Original, PublishOutcome};
use ezq_core::error::error_chain;
use ezq_core::message::QueueName;
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Row as _};

use crate::connection::dedicated::{Dedicated, call};
use crate::connection::stop::mark;
use crate::message::receipts;
use crate::publish::Row;
use crate::publish::row::{self, DUE};
use crate::sql::units::micros;
use crate::{error, sql};

/// How many keys one statement removes.
pub(crate) const SWEEP: u64 = 1000;

/// The key had ended when the new message was published.
const FREE: &str = "d.free_at <= excluded.taken_at";

/// Inserts rows of one queue, some of which have keys. Returns one row for each, in their order,
/// for [`outcome`] to read, with the columns `more`.
///
/// Ids are drawn before the insert, so that a key's row can name its message; ids of duplicates
/// stay unused. A message is stored with the time at which its key is taken: number and time are
/// its id. A key that is still held is written back unchanged. Only so does Postgres return the row
/// as it is now, even if another transaction wrote it after this statement began.
///
/// `queue_table` is for processes of older versions, which take a key of another table for free.
/// After a restore the table has another oid, and the key still holds.
pub(crate) async fn insert(
    connection: &mut PgConnection,
    queue: &QueueName,
    rows: &[Row],
    more: &str,
) -> Result<Vec<PgRow>, sqlx::Error> {
    let table = sql::table(queue);
    // Each column keeps its value unless the key has ended.
    let columns = ["message_id", "event_id", "taken_at", "free_at"];
    let keep_or_take = columns.map(|column| {
        format!("{column} = CASE WHEN {FREE} THEN excluded.{column} ELSE d.{column} END")
    });
    let keep_or_take = keep_or_take.join(", ");
    let statement = format!(
        "{}WITH base AS MATERIALIZED (
           SELECT pg_catalog.clock_timestamp() AS now, '{table}'::regclass::oid AS queue_table,
                  pg_catalog.pg_get_serial_sequence('{table}', 'msg_id')::regclass AS ids),
         message AS MATERIALIZED (
           SELECT m.*, pg_catalog.nextval(base.ids) AS id
           FROM base, unnest($1::text[], $2::text[], $3::bigint[], $4::timestamptz[], $5::bigint[],
                             $6::text[], $7::bigint[], $8::text[])
                WITH ORDINALITY AS m(body, headers, after_us, at, twin, key, window_us, event_id,
                                     place)),
         taken AS (
           INSERT INTO ezq.dedupe AS d
             (queue, key, queue_table, message_id, event_id, taken_at, free_at)
           SELECT $9, m.key, base.queue_table, m.id, m.event_id, base.now,
                  base.now + m.window_us::float8 * interval '1 us'
           FROM base,
                (SELECT DISTINCT ON (m.key COLLATE \"C\") m.* FROM message m WHERE m.key IS NOT NULL
                 ORDER BY m.key COLLATE \"C\", m.place) m
           ORDER BY m.key COLLATE \"C\"
           ON CONFLICT (queue, key) DO UPDATE
             SET queue_table = excluded.queue_table, {keep_or_take}
           RETURNING d.key, d.message_id, d.event_id, d.taken_at),
         stored AS (
           INSERT INTO {table} (msg_id, vt, enqueued_at, message, headers) OVERRIDING SYSTEM VALUE
           SELECT m.id, {DUE}, base.now, m.body::jsonb, m.headers::jsonb
           FROM base, message m LEFT JOIN taken ON taken.key = m.key
           WHERE m.key IS NULL OR (taken.message_id, taken.taken_at) = (m.id, base.now)
           ORDER BY m.place)
         SELECT m.id AS msg_id, base.now AS enqueued_at,
                taken.message_id AS original, taken.taken_at, taken.event_id{more}
         FROM base, message m LEFT JOIN taken ON taken.key = m.key
         ORDER BY m.place",
        mark(Some(queue))
    );
    let each = || rows.iter().map(|row| row.dedupe.as_ref());
    let keys: Vec<Option<&str>> = each().map(|key| key.map(Dedupe::key)).collect();

    let windows: Vec<Option<i64>> = each()
        .map(|key| key.map(|key| micros(key.window())))
        .collect();
    let events: Vec<Option<&str>> = each().map(|key| key.map(Dedupe::event_id)).collect();
    let query = row::with_columns(statement, rows)
        .bind(keys)
        .bind(windows)
        .bind(events);
    query.bind(queue.as_str()).fetch_all(connection).await
}

/// What became of a message.
pub(crate) fn outcome(row: &PgRow) -> Result<PublishOutcome, sqlx::Error> {
    let id = receipts::message_id(row)?;
    let Some(original) = row.try_get("original")? else {
        return Ok(PublishOutcome::Stored(id));
    };

    let message_id = receipts::dated(original, row.try_get("taken_at")?);
    if message_id == id {
        return Ok(PublishOutcome::Stored(id));
    }

    let event_id: &str = row.try_get("event_id")?;
    let original = Original::new(message_id, event_id);

    Ok(PublishOutcome::Duplicate(Some(original)))
}

/// Removes at most [`SWEEP`] ended keys and returns how many. Call it until it removes fewer. Keys
/// that are being taken are skipped.
pub(crate) async fn sweep(connection: &mut PgConnection) -> Result<u64, sqlx::Error> {
    let statement = format!(
        "DELETE FROM ezq.dedupe
         WHERE ctid = ANY (ARRAY(
           SELECT ctid FROM ezq.dedupe WHERE free_at <= pg_catalog.statement_timestamp()
           ORDER BY free_at LIMIT {SWEEP} FOR UPDATE SKIP LOCKED))"
    );
    let done = sqlx::query(AssertSqlSafe(statement))
        .execute(connection)
        .await?;
    Ok(done.rows_affected())
}

/// Removes all ended keys, a statement at a time. Others get the connection between two statements.
pub(crate) async fn sweep_all(control: Arc<Dedicated>) {
    loop {
        let removed = call!(control, |connection| sweep(connection))
            .and_then(|removed| removed.map_err(|failure| error::of(failure, control.place())));
        match removed {
            Ok(removed) if removed < SWEEP => return,
            Ok(_) => {}
            Err(failure) => {
                let error = error_chain(&failure);
                return ezq_core::private::warn!(error, "cannot remove dedupe keys that ended");
            }
        }
    }
}
