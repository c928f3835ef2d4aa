//! Blocked ordering keys, found by the message that blocks them: one that is leased, waits for a
//! retry, or is delayed.

use chrono::{DateTime, Utc};
use ezq_core::engine::{BlockedKey, Blocker, CopyState};
use ezq_core::message::QueueName;
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Row};

use crate::message::{headers, receipts};
use crate::sql;
use crate::sql::keys::{hash, held_until, is_keyed};

/// The blocked keys of a queue, at most `limit`.
///
/// A message that blocks its key is not due. So only such messages are read, by the index on `vt`,
/// and nothing of keys that are free. Each costs three index probes; each key that is found costs a
/// count of the messages behind.
pub(crate) async fn list(
    connection: &mut PgConnection,
    queue: &QueueName,
    limit: usize,
) -> Result<Vec<BlockedKey>, sqlx::Error> {
    let query = sqlx::query(AssertSqlSafe(statement(queue)));
    let rows = query
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all(connection)
        .await?;
    rows.iter().map(blocked).collect()
}

/// A message that is not due stands for its key in one of two cases:
/// - it is the key's first message
/// - the first message is due, and this is the first of the key's messages that the claim takes for
///   leased
///
/// Scalar subqueries are run row by row. A join might read the whole table.
fn statement(queue: &QueueName) -> String {
    let table = sql::table(queue);
    let d = hash("d");
    let h = hash("h");
    let b = hash("b");
    let l = hash("l");
    let keyed_d = is_keyed("d");
    let keyed_h = is_keyed("h");
    let keyed_b = is_keyed("b");
    let keyed_l = is_keyed("l");
    let returned_d = sql::returned("d.headers");
    let returned_l = sql::returned("l.headers");
    let due = sql::bounded("h.vt");
    let stored_at = sql::bounded("h.enqueued_at");
    let behind = format!("FROM {table} b WHERE {keyed_b} AND {b} = d.key AND b.msg_id > h.msg_id");

    let held = format!(
        "FROM {table} l WHERE {keyed_l} AND {l} = d.key AND l.read_ct > 0
           AND {} > statement_timestamp() AND {returned_l} < l.read_ct",
        held_until("l.")
    );
    let until = sql::bounded("l.vt");
    let held_count = "l.read_ct";

    format!(
        "SELECT h.name, h.msg_id, {stored_at} AS enqueued_at, {due} AS due, h.read_ct > 0 AS was_read,
                statement_timestamp() AS now,
                ARRAY(SELECT {until} {held} ORDER BY l.msg_id) AS held_until,
                ARRAY(SELECT {held_count} {held} ORDER BY l.msg_id) AS held_count,
                ARRAY(SELECT l.headers::text {held} ORDER BY l.msg_id) AS held_headers,
                (SELECT count(*) {behind}) AS waiting
         FROM (SELECT {d} AS key, d.msg_id, d.read_ct > 0 AND {returned_d} < d.read_ct AS is_held
               FROM {table} d WHERE d.vt > statement_timestamp() AND {keyed_d}
               ORDER BY d.vt OFFSET 0) d
         CROSS JOIN LATERAL (
           SELECT h.headers ->> 'x-pgmq-group' AS name, h.msg_id, h.enqueued_at, h.vt, h.read_ct
           FROM {table} h WHERE {keyed_h} AND {h} = d.key
           ORDER BY {h}, h.msg_id LIMIT 1 OFFSET 0) h
         WHERE (d.msg_id = h.msg_id
                OR d.is_held AND h.vt <= statement_timestamp()
                   AND d.msg_id = (SELECT min(l.msg_id) {held}))
           AND (SELECT b.msg_id {behind} ORDER BY {b}, b.msg_id LIMIT 1) IS NOT NULL
         LIMIT $1"
    )
}

fn blocked(row: &PgRow) -> Result<BlockedKey, sqlx::Error> {
    let due: DateTime<Utc> = row.try_get("due")?;
    let now: DateTime<Utc> = row.try_get("now")?;
    let held: Vec<DateTime<Utc>> = row.try_get("held_until")?;
    let (blocker, until) = match leased_until(row, &held, now)? {
        Some(end) => (Blocker::Leased, end),
        // The claim cannot tell a message that waits for its retry from a leased one.
        None if due <= now => (Blocker::Retry, held.into_iter().max().unwrap_or(due)),
        None if row.try_get("was_read")? => (Blocker::Retry, due),
        None => (Blocker::Delayed, due),
    };

    let key: String = row.try_get("name")?;
    let head = receipts::message_id(row)?;
    let waiting: i64 = row.try_get("waiting")?;

    Ok(BlockedKey::new(
        key,
        head,
        blocker,
        until,
        u64::try_from(waiting).unwrap_or(0),
    ))
}

/// The end of the last lease on a message of the key. The counts that the claim reads do not tell a
/// lease from a retry once a delivery of the message ended in a crash. The handlers' marks do.
fn leased_until(
    row: &PgRow,
    held: &[DateTime<Utc>],
    now: DateTime<Utc>,
) -> Result<Option<DateTime<Utc>>, sqlx::Error> {
    let counts: Vec<i32> = row.try_get("held_count")?;
    let headers: Vec<String> = row.try_get("held_headers")?;
    let mut end = None;
    for ((until, count), headers) in held.iter().zip(counts).zip(headers) {
        let deliveries = u32::try_from(count).unwrap_or(0);
        let state = CopyState::of(*until, deliveries, &headers::read(Some(headers)), now);
        if matches!(state, CopyState::Leased { .. }) {
            end = end.max(Some(*until));
        }
    }
    Ok(end)
}
