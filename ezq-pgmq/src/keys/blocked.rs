//! Keys that wait, found by looking at the first message of each.

use chrono::{DateTime, Utc};
use ezq_core::{BlockedKey, Blocker, QueueName};
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Row};

use super::{hash, held_until, is_keyed};
use crate::{receipts, sql};

/// The blocked keys of a queue, at most so many. One index probe for each key until they are found,
/// and a count of what waits behind each of them.
pub(crate) async fn list(
    connection: &mut PgConnection,
    queue: &QueueName,
    limit: usize,
) -> Result<Vec<BlockedKey>, sqlx::Error> {
    let table = sql::table(queue);
    let (h, l, b) = (hash("h"), hash("l"), hash("b"));
    let (keyed_h, keyed_l, keyed_b) = (is_keyed("h"), is_keyed("l"), is_keyed("b"));
    let (returned, time) = (sql::returned("l.headers"), held_until("l."));
    let head = |condition: &str| {
        format!(
            "SELECT f.*, f.holds_up AND (f.leased IS NOT NULL OR f.vt > statement_timestamp()) AS blocks
             FROM (SELECT {h} AS key, h.headers ->> 'x-pgmq-group' AS name, h.msg_id, h.enqueued_at, h.vt,
                          h.read_ct,
                          (SELECT max(l.vt) FROM {table} l
                           WHERE {keyed_l} AND {l} = {h} AND l.read_ct > {returned}
                             AND l.read_ct > 0 AND {time} > statement_timestamp()) AS leased,
                          EXISTS (SELECT FROM {table} b
                                  WHERE {keyed_b} AND {b} = {h} AND b.msg_id > h.msg_id) AS holds_up
                   FROM {table} h WHERE {keyed_h}{condition}
                   ORDER BY {h}, h.msg_id LIMIT 1 OFFSET 0) f"
        )
    };
    let (first, next) = (head(""), head(&format!(" AND {h} > w.key")));
    let until = sql::bounded("coalesce(w.leased, w.vt)");
    let stored_at = sql::bounded("w.enqueued_at");
    let statement = format!(
        "WITH RECURSIVE walk AS (
           SELECT n.*, n.blocks::int::bigint AS found FROM ({first}) n
           UNION ALL
           SELECT n.*, w.found + n.blocks::int FROM walk w CROSS JOIN LATERAL ({next}) n
           WHERE w.found < $1)
         SELECT w.name, w.msg_id, {stored_at} AS enqueued_at, w.read_ct > 0 AS was_read, w.leased IS NOT NULL AS is_leased,
                {until} AS until,
                (SELECT count(*) FROM {table} b
                 WHERE {keyed_b} AND {b} = w.key AND b.msg_id > w.msg_id) AS waiting
         FROM walk w WHERE w.blocks LIMIT $1"
    );
    let query = sqlx::query(AssertSqlSafe(statement));
    let rows = query.bind(i64::try_from(limit).unwrap_or(i64::MAX)).fetch_all(connection).await?;
    rows.iter().map(blocked).collect()
}

fn blocked(row: &PgRow) -> Result<BlockedKey, sqlx::Error> {
    let blocker = if row.try_get("is_leased")? {
        Blocker::Leased
    } else if row.try_get("was_read")? {
        Blocker::Retry
    } else {
        Blocker::Delayed
    };
    let key: String = row.try_get("name")?;
    let head = receipts::message_id(row)?;
    let until: DateTime<Utc> = row.try_get("until")?;
    let waiting: i64 = row.try_get("waiting")?;
    Ok(BlockedKey::new(key, head, blocker, until, u64::try_from(waiting).unwrap_or(0)))
}
