//! Storing many messages by `COPY` in binary format.
//!
//! `COPY` inserts rows page by page, and reads them while they are still being sent. It returns nothing, so
//! the ids come first, from the table's own sequence, with the time from which the due times count.
//!
//! Fast path. Benchmark case: `publish_bulk` (docs/performance.md).
//!
//! Format: <https://www.postgresql.org/docs/current/sql-copy.html>, section "Binary Format".

use chrono::{DateTime, Utc};
use ezq_core::engine::PublishOutcome;
use ezq_core::message::QueueName;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _, Row as _};

use crate::connection::stop::mark;
use crate::error;
use crate::message::receipts;
use crate::publish::row::{Row, twins};
use crate::sql;

/// From how many rows on copying is faster. It takes five round trips, and an insert takes one.
pub(crate) const LEAST: usize = 500;
/// How many bytes are sent at once. The server stores them while the next ones are written.
const CHUNK: usize = 64 * 1024;

/// The signature, no flags, no extension.
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
const TRAILER: i16 = -1;
const COLUMNS: &str = "msg_id, enqueued_at, vt, message, headers";
const COLUMN_COUNT: i16 = 5;
/// The only version of `jsonb` in binary form. The rest is its text.
const JSONB_VERSION: u8 = 1;
/// What counts as the time 0, in microseconds of Unix time: 2000-01-01.
const EPOCH_US: i64 = 946_684_800_000_000;

/// Ids of new rows, and the time at which they were taken.
struct Ids {
    now: DateTime<Utc>,
    ids: Vec<i64>,
}

/// Stores rows of one queue, none of which has a dedupe key, all or nothing. Returns an outcome for each, in
/// their order; none is [`PublishOutcome::Failed`].
///
/// Returns `None`, and has stored nothing, where only an insert is possible: the role may not use the
/// sequence, or policies guard the rows.
///
/// # Cancel safety
/// A connection on which this was dropped cannot be used again.
pub(crate) async fn copy(
    connection: &mut PgConnection,
    queue: &QueueName,
    rows: &[Row],
) -> Result<Option<Vec<PublishOutcome>>, sqlx::Error> {
    // The transaction holds on to the sequence. Else the queue could be dropped and created again after the
    // ids were taken, and its new sequence would come to them once more.
    let mut tx = connection.begin().await?;
    let copied = async {
        let Some(taken) = take_ids(&mut tx, queue, rows.len()).await? else {
            return Ok(None);
        };
        send(&mut tx, queue, rows, &taken).await?;
        Ok(Some(taken))
    };
    let taken = match copied.await {
        Err(failure) if error::is_permission(&failure) || error::is_unsupported(&failure) => {
            tracing::debug!(%failure, %queue, "messages are inserted, because they cannot be copied");
            None
        }
        copied => copied?,
    };
    let Some(taken) = taken else {
        tx.rollback().await?;
        return Ok(None);
    };
    tx.commit().await?;

    let ids = taken
        .ids
        .into_iter()
        .map(|id| receipts::dated(id, taken.now));
    Ok(Some(ids.map(PublishOutcome::Stored).collect()))
}

/// Takes ids from the sequence of the queue's table, if it has one.
async fn take_ids(
    connection: &mut PgConnection,
    queue: &QueueName,
    count: usize,
) -> Result<Option<Ids>, sqlx::Error> {
    let statement = format!(
        "{}SELECT pg_catalog.clock_timestamp() AS now,
                ARRAY(SELECT pg_catalog.nextval(own.sequence)
                      FROM pg_catalog.generate_series(1, $2)) AS ids
         FROM (SELECT pg_catalog.pg_get_serial_sequence($1, 'msg_id')::regclass AS sequence OFFSET 0) own
         WHERE own.sequence IS NOT NULL",
        mark(Some(queue))
    );
    let row = sqlx::query(AssertSqlSafe(statement))
        .bind(sql::table(queue))
        .bind(i64::try_from(count).unwrap_or(i64::MAX))
        .fetch_optional(connection)
        .await?;
    let Some(row) = row else { return Ok(None) };
    let ids: Vec<i64> = row.try_get("ids")?;
    let now = row.try_get("now")?;
    Ok((ids.len() == count).then_some(Ids { now, ids }))
}

async fn send(
    connection: &mut PgConnection,
    queue: &QueueName,
    rows: &[Row],
    Ids { now, ids }: &Ids,
) -> Result<(), sqlx::Error> {
    let statement = format!(
        "{}COPY {} ({COLUMNS}) FROM STDIN (FORMAT binary)",
        mark(Some(queue)),
        sql::table(queue)
    );
    let mut copy = connection.copy_in_raw(&statement).await?;

    let now_us = now.timestamp_micros();
    let mut chunk = Vec::with_capacity(CHUNK);
    chunk.extend_from_slice(HEADER);
    for (place, ((row, id), twin)) in (0..).zip(rows.iter().zip(ids).zip(twins(rows))) {
        let due_us = row.due_us(now_us, place, twin);
        chunk.extend_from_slice(&COLUMN_COUNT.to_be_bytes());
        number(&mut chunk, *id);
        number(&mut chunk, now_us - EPOCH_US);
        number(&mut chunk, due_us.saturating_sub(EPOCH_US));
        json(&mut chunk, Some(row.body()))?;
        json(&mut chunk, row.headers())?;
        if chunk.len() >= CHUNK {
            copy.send(&*chunk).await?;
            chunk.clear();
        }
    }
    chunk.extend_from_slice(&TRAILER.to_be_bytes());
    copy.send(&*chunk).await?;

    copy.finish().await.map(|_| ())
}

/// Writes a number of 64 bits, or a time as its microseconds.
fn number(chunk: &mut Vec<u8>, number: i64) {
    chunk.extend_from_slice(&8_i32.to_be_bytes());
    chunk.extend_from_slice(&number.to_be_bytes());
}

/// Writes a value of the type `jsonb`.
fn json(chunk: &mut Vec<u8>, text: Option<&str>) -> Result<(), sqlx::Error> {
    let Some(text) = text else {
        // The length of a null.
        chunk.extend_from_slice(&(-1_i32).to_be_bytes());
        return Ok(());
    };
    let bytes = i32::try_from(text.len() + 1).map_err(|error| sqlx::Error::Encode(error.into()))?;
    chunk.extend_from_slice(&bytes.to_be_bytes());
    chunk.push(JSONB_VERSION);
    chunk.extend_from_slice(text.as_bytes());
    Ok(())
}
