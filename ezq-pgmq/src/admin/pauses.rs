//! Pausing and resuming: a row of `ezq.controls` for each, what was put aside for a paused handler, and
//! the search for control events in a paused queue.
//!
//! The statement that writes a row also notifies. It takes the database-wide lock of NOTIFY at its
//! commit, which is right for something that rare.

use chrono::{DateTime, Utc};
use ezq_core::engine::TypeSearch;
use ezq_core::message::{MessageId, QueueName};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Row as _};

use crate::message::receipts;
use crate::sql;
use crate::wake::orders::CHANNEL;

/// How many messages one statement makes due.
const STEP: i64 = 1000;
/// How many messages one search reads.
const READ: i64 = 10_000;
/// How many message numbers a search reads again: a transaction may commit after one that drew a later
/// number.
const AGAIN: i64 = 1000;
/// Control events are small. A larger body is not read, which may mean to fetch and decompress it.
const LARGEST: u32 = 4096;

/// What a row is about: the queue, and the handler or an empty text.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row<'a> {
    pub(crate) queue: &'a QueueName,
    pub(crate) handler: &'a str,
}

/// Pauses something, records it and notifies. Returns whether it was not paused before.
pub(crate) async fn pause(
    connection: &mut PgConnection,
    row: Row<'_>,
    by: &str,
    reason: Option<&str>,
) -> Result<bool, sqlx::Error> {
    // A row that is locked is waited for: of two at once, one pauses.
    let statement = "
        WITH paused AS (
          INSERT INTO ezq.controls AS c (queue, handler, paused_at, paused_by, reason)
          VALUES ($1, $2, clock_timestamp(), $3, $4)
          ON CONFLICT (queue, handler) DO UPDATE
          SET paused_at = excluded.paused_at, paused_by = excluded.paused_by, reason = excluded.reason
          WHERE c.paused_at IS NULL
          RETURNING c.queue),
        recorded AS (
          INSERT INTO ezq.audit (at, by, reason, action, queue, handler)
          SELECT clock_timestamp(), $3, $4, 'pause', queue, nullif($2, '') FROM paused)
        SELECT pg_notify($5, queue) FROM paused";
    let query = sqlx::query(statement)
        .bind(row.queue.as_str())
        .bind(row.handler)
        .bind(by)
        .bind(reason)
        .bind(CHANNEL);
    Ok(query.fetch_optional(connection).await?.is_some())
}

/// Ends a pause, records it and notifies. Returns whether there was one.
pub(crate) async fn resume(
    connection: &mut PgConnection,
    row: Row<'_>,
    by: &str,
) -> Result<bool, sqlx::Error> {
    let statement = "
        WITH resumed AS (
          DELETE FROM ezq.controls
          WHERE queue = $1 AND handler = $2 AND paused_at IS NOT NULL
          RETURNING queue),
        recorded AS (
          INSERT INTO ezq.audit (at, by, action, queue, handler)
          SELECT clock_timestamp(), $4, 'resume', queue, nullif($2, '') FROM resumed)
        SELECT pg_notify($3, queue) FROM resumed";
    let query = sqlx::query(statement)
        .bind(row.queue.as_str())
        .bind(row.handler)
        .bind(CHANNEL)
        .bind(by);
    Ok(query.fetch_optional(connection).await?.is_some())
}

/// Makes the next messages due that are put aside for a handler. Returns how many there were; zero if none
/// is left, or all that are left are locked: they are just being claimed or settled.
///
/// The handler's mark has the number of the delivery at which the message was put aside. One that was
/// handed out since has a higher `read_ct`, and belongs to whoever has it. The messages are found by the
/// index on `vt` among those that are not due, and locked in the order of their ids. All of a step get
/// one due time, so that they are handled in that order.
pub(crate) async fn release_held(
    connection: &mut PgConnection,
    queue: &QueueName,
    mark: &str,
) -> Result<u64, sqlx::Error> {
    let table = sql::table(queue);
    let is_held = "q.vt > statement_timestamp() \
                   AND q.headers -> $1::text ->> 'held'::text = q.read_ct::text";
    let statement = format!(
        "WITH found AS MATERIALIZED (
           SELECT q.msg_id FROM {table} q WHERE {is_held} ORDER BY q.vt LIMIT {STEP}),
         held AS (
           SELECT q.msg_id FROM {table} q
           WHERE q.msg_id = ANY (ARRAY(SELECT f.msg_id FROM found f)) AND {is_held}
           ORDER BY q.msg_id FOR UPDATE SKIP LOCKED)
         UPDATE {table} q SET vt = statement_timestamp() FROM held h
         WHERE q.msg_id = h.msg_id AND q.msg_id = ANY (ARRAY(SELECT f.msg_id FROM found f))"
    );
    let query = sqlx::query(AssertSqlSafe(statement)).bind(mark);
    Ok(query.execute(connection).await?.rows_affected())
}

/// Reads the numbers behind those that a search has read, and looks again at what it found.
pub(crate) async fn search(
    connection: &mut PgConnection,
    queue: &QueueName,
    types: &[&str],
    mut so_far: TypeSearch,
) -> Result<TypeSearch, sqlx::Error> {
    let read = read_on(&mut *connection, queue, types, &so_far).await?;
    let found = so_far.found.iter().filter_map(MessageId::as_number);
    let mut found: Vec<i64> = found.chain(read.found).collect();
    found.sort_unstable();
    found.dedup();

    so_far.has_more = read.count >= READ;
    so_far.reached = read.reached.map(MessageId::Number).or(so_far.reached);
    (so_far.found, so_far.due) = (Vec::new(), Vec::new());
    if !found.is_empty() {
        look_again(connection, queue, &found, &mut so_far).await?;
    }
    Ok(so_far)
}

/// What one step of a search read.
struct Read {
    count: i64,
    reached: Option<i64>,
    found: Vec<i64>,
}

async fn read_on(
    connection: &mut PgConnection,
    queue: &QueueName,
    types: &[&str],
    so_far: &TypeSearch,
) -> Result<Read, sqlx::Error> {
    let table = sql::table(queue);
    let reached = so_far.reached.as_ref().and_then(MessageId::as_number);
    let (after, first) = match reached {
        Some(reached) => (reached.saturating_sub(AGAIN), "$1".to_owned()),
        // The search begins: at the newest messages.
        None => {
            let newest = format!("greatest($1, (SELECT max(n.msg_id) FROM {table} n) - {READ})");
            (i64::MIN, newest)
        }
    };

    // The size of a stored value is known without reading it. A header may hold the type in its place.
    let body = format!(
        "CASE WHEN pg_column_size(q.message) <= {LARGEST} THEN q.message ELSE '{{}}'::jsonb END"
    );
    let event_type = sql::event_type(&format!("({body})"), "q.headers");
    let statement = format!(
        "SELECT count(*), max(r.msg_id) AS reached,
                coalesce(array_agg(r.msg_id) FILTER (WHERE r.is_one), '{{}}') AS found
         FROM (SELECT q.msg_id, {event_type} = ANY ($2::text[]) AS is_one
               FROM {table} q WHERE q.msg_id > {first} ORDER BY q.msg_id LIMIT {READ}) r"
    );
    let row = sqlx::query(AssertSqlSafe(statement))
        .bind(after)
        .bind(types)
        .fetch_one(connection)
        .await?;
    Ok(Read {
        count: row.try_get(0)?,
        reached: row.try_get("reached")?,
        found: row.try_get("found")?,
    })
}

/// Which of the messages are still there, and which are due.
async fn look_again(
    connection: &mut PgConnection,
    queue: &QueueName,
    found: &[i64],
    so_far: &mut TypeSearch,
) -> Result<(), sqlx::Error> {
    let statement = format!(
        "SELECT q.msg_id, {} AS enqueued_at, q.vt <= statement_timestamp() AS is_due
         FROM {} q WHERE q.msg_id = ANY ($1) ORDER BY q.vt, q.msg_id",
        sql::bounded("q.enqueued_at"),
        sql::table(queue)
    );
    let rows = sqlx::query(AssertSqlSafe(statement))
        .bind(found)
        .fetch_all(connection)
        .await?;

    for row in &rows {
        let stored_at: DateTime<Utc> = row.try_get("enqueued_at")?;
        let id = receipts::dated(row.try_get("msg_id")?, stored_at);
        if row.try_get("is_due")? {
            so_far.due.push(id.clone());
        }
        so_far.found.push(id);
    }
    Ok(())
}
