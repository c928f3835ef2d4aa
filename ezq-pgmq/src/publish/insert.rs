//! Inserting messages: one statement for each queue and batch, with an outcome for each message.
//!
//! The rows of a batch get strictly increasing `vt`, so that they are claimed in their order.

use ezq_core::Result;
use ezq_core::engine::PublishOutcome;
use ezq_core::message::QueueName;
use sqlx::Row as _;
use sqlx::postgres::{PgConnection, PgRow};

use crate::connection::stop::mark;
use crate::message::receipts;
use crate::publish::dedupe;
use crate::publish::row::{DUE, Row, with_columns};
use crate::sql;
use crate::wake::commits::{WRITER, Writer};

/// Inserts rows of one queue in one statement. Returns an outcome for each, in their order; none is
/// [`PublishOutcome::Failed`].
pub(crate) async fn insert(
    connection: &mut PgConnection,
    queue: &QueueName,
    rows: &[Row],
) -> Result<Vec<PublishOutcome>, sqlx::Error> {
    insert_with(connection, queue, rows, "")
        .await
        .map(|(outcomes, _)| outcomes)
}

/// The same in a caller's transaction, and the id of that transaction.
pub(crate) async fn insert_in(
    connection: &mut PgConnection,
    queue: &QueueName,
    rows: &[Row],
) -> Result<(Vec<PublishOutcome>, Option<Writer>), sqlx::Error> {
    let writer = format!(", {WRITER} AS writer");
    let (outcomes, stored) = insert_with(connection, queue, rows, &writer).await?;
    let writer = stored
        .first()
        .map(|row| row.try_get("writer"))
        .transpose()?;
    Ok((outcomes, writer))
}

/// The same, returning more columns.
async fn insert_with(
    connection: &mut PgConnection,
    queue: &QueueName,
    rows: &[Row],
    columns: &str,
) -> Result<(Vec<PublishOutcome>, Vec<PgRow>), sqlx::Error> {
    if rows.iter().any(|row| row.dedupe.is_some()) {
        let stored = dedupe::insert(connection, queue, rows, columns).await?;
        let outcomes = stored
            .iter()
            .map(dedupe::outcome)
            .collect::<Result<_, _>>()?;
        return Ok((outcomes, stored));
    }

    let statement = format!(
        "{}INSERT INTO {} (vt, message, headers)
         SELECT {DUE},
                m.body::jsonb, m.headers::jsonb
         FROM (SELECT pg_catalog.clock_timestamp() AS now OFFSET 0) base,
              unnest($1::text[], $2::text[], $3::bigint[], $4::timestamptz[], $5::bigint[])
                WITH ORDINALITY AS m(body, headers, after_us, at, twin, place)
         ORDER BY m.place
         RETURNING msg_id, {} AS enqueued_at{columns}",
        mark(Some(queue)),
        sql::table(queue),
        sql::bounded("enqueued_at")
    );
    let stored = with_columns(statement, rows).fetch_all(connection).await?;
    let outcomes = stored
        .iter()
        .map(|row| Ok(PublishOutcome::Stored(receipts::message_id(row)?)))
        .collect::<Result<_, sqlx::Error>>()?;

    Ok((outcomes, stored))
}
