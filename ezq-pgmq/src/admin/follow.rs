//! Reading a queue by the numbers of its messages, by the primary key.

use ezq_core::engine::EventCopy;
use ezq_core::message::QueueName;
use sqlx::AssertSqlSafe;
use sqlx::postgres::{PgConnection, PgRow};

use crate::admin::copies::copy;
use crate::error;
use crate::sql;

/// The messages with numbers behind `after`, without those in `except`: the lowest `limit` of them.
pub(crate) async fn numbered_after(
    connection: &mut PgConnection,
    queue: &QueueName,
    (after, except): (i64, &[i64]),
    limit: usize,
) -> Result<Vec<EventCopy>, sqlx::Error> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let read = async |connection: &mut PgConnection, reads| -> Result<Vec<PgRow>, sqlx::Error> {
        sqlx::query(AssertSqlSafe(statement(queue, reads)))
            // A cached plan may date from when the table was empty.
            .persistent(false)
            .bind(after)
            .bind(except)
            .bind(limit)
            .fetch_all(connection)
            .await
    };
    let rows = match read(&mut *connection, true).await {
        // The server cannot send one of the rows: all come without body, headers and type.
        Err(failure) if error::is_data(&failure) => read(connection, false).await,
        rows => rows,
    }?;
    rows.iter().map(|row| copy(queue, row)).collect()
}

fn statement(queue: &QueueName, reads: bool) -> String {
    let table = sql::table(queue);
    let at = sql::bounded("q.vt");
    let enqueued_at = sql::bounded("q.enqueued_at");
    let event_type = sql::event_type("q.message", "q.headers");
    let read = match reads {
        true => format!(
            "{event_type} AS event_type, q.headers::text AS headers, q.message::text AS body"
        ),
        false => "NULL::text AS event_type, NULL::text AS headers, NULL::text AS body".to_owned(),
    };
    format!(
        "SELECT 'q' AS place, q.msg_id, q.read_ct, {enqueued_at} AS enqueued_at, {at} AS at, {read},
                statement_timestamp() AS now
         FROM {table} q WHERE q.msg_id > $1 AND q.msg_id NOT IN (SELECT pg_catalog.unnest($2::bigint[]))
         ORDER BY q.msg_id LIMIT $3"
    )
}
