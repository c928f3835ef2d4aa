//! Looking after a queue: cancelling and rescheduling messages, purging, counting.

use std::time::Duration;

use ezq_core::engine::{Due, QueueStats};
use ezq_core::message::{MessageId, QueueName};
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Row};

use crate::admin::recent::Answer;
use crate::message::receipts;
use crate::sql;
use crate::sql::units::{in_calendar, micros};

/// How many messages one statement of a purge removes.
const STEP: u32 = 10_000;

/// Removes a message that was never delivered.
pub(crate) async fn cancel(
    connection: &mut PgConnection,
    queue: &QueueName,
    id: &MessageId,
) -> Result<bool, sqlx::Error> {
    let table = sql::table(queue);
    // A message that was delivered belongs to its handler, even while it waits for a retry.
    let is_meant = receipts::is_meant("q", "$1", "$2");
    let statement = format!("DELETE FROM {table} q WHERE {is_meant} AND q.read_ct = 0");
    let query = sqlx::query(AssertSqlSafe(statement))
        .bind(id.as_number())
        .bind(id.stored_at());
    let done = query.execute(connection).await?;
    Ok(done.rows_affected() > 0)
}

/// Moves the due time of a message that was never delivered.
pub(crate) async fn reschedule(
    connection: &mut PgConnection,
    queue: &QueueName,
    id: &MessageId,
    due: Due,
) -> Result<bool, sqlx::Error> {
    let table = sql::table(queue);
    let after_us = micros(due.pause());
    let at = due.time().map(in_calendar);

    let is_meant = receipts::is_meant("q", "$1", "$2");
    let statement = format!(
        "UPDATE {table} q
         SET vt = greatest($4, clock_timestamp() + $3 * interval '1 us')
         WHERE {is_meant} AND q.read_ct = 0"
    );

    let done = sqlx::query(AssertSqlSafe(statement))
        .bind(id.as_number())
        .bind(id.stored_at())
        .bind(after_us)
        .bind(at)
        .execute(connection)
        .await?;
    Ok(done.rows_affected() > 0)
}

/// The highest message number in the queue.
pub(crate) async fn last(
    connection: &mut PgConnection,
    queue: &QueueName,
) -> Result<Option<i64>, sqlx::Error> {
    let statement = format!("SELECT max(msg_id) FROM {}", sql::table(queue));
    sqlx::query_scalar(AssertSqlSafe(statement))
        .fetch_one(connection)
        .await
}

/// Removes the next messages behind a number, up to another one. Returns how many, and the last of
/// them if there may be more. Rows are locked in the order of their ids, as by every other
/// statement.
pub(crate) async fn purge(
    connection: &mut PgConnection,
    queue: &QueueName,
    after: i64,
    last: i64,
) -> Result<(u64, Option<i64>), sqlx::Error> {
    let table = sql::table(queue);
    let statement = format!(
        "WITH locked AS (
           SELECT msg_id FROM {table} WHERE msg_id > $1 AND msg_id <= $2
           ORDER BY msg_id LIMIT {STEP} FOR UPDATE),
         gone AS (
           DELETE FROM {table} q USING locked l WHERE q.msg_id = l.msg_id RETURNING q.msg_id)
         SELECT count(*), max(msg_id) FROM gone"
    );

    let query = sqlx::query_as(AssertSqlSafe(statement))
        .bind(after)
        .bind(last);
    let (count, next): (i64, Option<i64>) = query.fetch_one(connection).await?;
    Ok((u64::try_from(count).unwrap_or(0), next))
}

/// The size of a queue's table and its partitions, in bytes.
fn size(table: &str) -> String {
    let tables = sql::tables_of(table);
    format!("(SELECT sum(pg_relation_size(p.oid))::bigint FROM ({tables}) p)")
}

/// For how long the oldest due message has been due. It is the first entry of the index on `vt`; those of
/// removed messages, which stand before it until they are vacuumed, are passed.
pub(crate) async fn lag(
    connection: &mut PgConnection,
    queue: &QueueName,
) -> Result<Answer<Option<Duration>>, sqlx::Error> {
    let table = sql::table(queue);
    let bytes = size(&table);
    let due = sql::bounded("vt");
    let statement = format!(
        "SELECT (SELECT floor(1000000 * extract(epoch FROM statement_timestamp() - {due}))::bigint
                 FROM {table} WHERE vt <= statement_timestamp() ORDER BY vt LIMIT 1) AS oldest_us,
                {bytes} AS bytes"
    );
    // A cached plan may date from when the table was empty: this one is made for each call.
    let row = sqlx::query(AssertSqlSafe(statement))
        .persistent(false)
        .fetch_one(connection)
        .await?;
    Ok(Answer {
        value: oldest(&row)?,
        bytes: row.try_get("bytes")?,
    })
}

/// For how long the oldest due message has been due, as a row tells.
fn oldest(row: &PgRow) -> Result<Option<Duration>, sqlx::Error> {
    let oldest: Option<i64> = row.try_get("oldest_us")?;
    Ok(oldest.map(|us| Duration::from_micros(u64::try_from(us).unwrap_or(0))))
}

/// Counts exactly, which reads the whole queue.
pub(crate) async fn stats(
    connection: &mut PgConnection,
    queue: &QueueName,
) -> Result<Answer<QueueStats>, sqlx::Error> {
    let table = sql::table(queue);
    let bytes = size(&table);
    let statement = format!(
        "SELECT count(*) FILTER (WHERE vt <= statement_timestamp()) AS ready,
                count(*) FILTER (WHERE vt > statement_timestamp() AND read_ct > 0) AS in_progress,
                count(*) FILTER (WHERE vt > statement_timestamp() AND read_ct = 0) AS scheduled,
                (SELECT count(*) FROM {}) AS dead, {bytes} AS bytes,
                floor(1000000 * extract(epoch FROM statement_timestamp() -
                  min({}) FILTER (WHERE vt <= statement_timestamp())))::bigint AS oldest_us
         FROM {table}",
        sql::dead_table(queue),
        sql::bounded("vt"),
    );

    let row = sqlx::query(AssertSqlSafe(statement))
        .fetch_one(connection)
        .await?;
    let count = |column: &str| -> Result<u64, sqlx::Error> {
        let count: i64 = row.try_get(column)?;
        Ok(u64::try_from(count).unwrap_or(0))
    };

    let mut stats = QueueStats::default();
    stats.ready = count("ready")?;
    stats.in_progress = count("in_progress")?;
    stats.scheduled = count("scheduled")?;
    stats.dead = count("dead")?;
    stats.oldest_ready = oldest(&row)?;
    Ok(Answer {
        value: stats,
        bytes: row.try_get("bytes")?,
    })
}
