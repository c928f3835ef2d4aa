//! The trail: a line for each event that was handled and deleted, where a queue keeps one. The
//! statement that deletes the message writes the line.

use chrono::{DateTime, Utc};
use ezq_core::engine::{CopyState, EventCopy};
use ezq_core::message::QueueName;
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Row as _};

use crate::message::{headers, receipts};
use crate::sql::units::micros;
use crate::{error, sql};
use std::time::Duration;

/// The trail's table.
pub(crate) const TABLE: &str = "ezq.trail";

/// Records the rows of `gone`. An event in the flat form has the id of its place: queue and number.
pub(crate) fn record(queue: &QueueName) -> String {
    let is_control = sql::is_control("message");
    let event_type = sql::event_type("message", "headers");
    let beside = sql::ID_BESIDE;

    format!(
        "INSERT INTO ezq.trail
           (queue, message_id, event_id, event_type, published_at, deliveries, headers, ended_at)
         SELECT '{queue}', msg_id,
           coalesce(CASE WHEN {beside} THEN headers ->> 'ce-id'::text
                         WHEN message ? 'specversion'::text THEN message ->> 'id'::text END,
                    coalesce(headers #>> '{{ezq-replay,queue}}'::text[], '{queue}') || ':' ||
                    coalesce(headers #>> '{{ezq-replay,id}}'::text[], msg_id::text)),
           {event_type}, enqueued_at, read_ct, headers, pg_catalog.clock_timestamp()
         FROM gone WHERE NOT {is_control} ORDER BY msg_id"
    )
}

/// Whether the role may read the trail; no row where there is no trail.
const READABLE: &str = "
    SELECT pg_catalog.has_schema_privilege(relnamespace, 'USAGE') AND pg_catalog.has_table_privilege(oid, 'SELECT')
    FROM pg_catalog.pg_class
    WHERE relname = 'trail' AND relnamespace = pg_catalog.to_regnamespace('ezq')";

/// What the trail holds of an event; `None` if it may not be read. If the server cannot send a
/// line, lines come without type and headers, which is noted in `unread`.
pub(crate) async fn read(
    connection: &mut PgConnection,
    event_id: &str,
    queue: Option<&QueueName>,
    unread: &mut Vec<String>,
) -> Result<Option<Vec<EventCopy>>, sqlx::Error> {
    let is_readable: Option<bool> = sqlx::query_scalar(READABLE)
        .fetch_optional(&mut *connection)
        .await?;
    match is_readable {
        None => return Ok(Some(Vec::new())),
        Some(false) => return Ok(None),
        Some(true) => {}
    }

    let lines = async |connection: &mut PgConnection, columns: &str| {
        let statement = format!(
            "SELECT queue, message_id, published_at, deliveries, ended_at, {columns}
             FROM ezq.trail WHERE event_id = $1 AND ($2::text IS NULL OR queue = $2)"
        );
        let query = sqlx::query(AssertSqlSafe(statement)).bind(event_id);
        query
            .bind(queue.map(QueueName::as_str))
            .fetch_all(connection)
            .await
    };

    let rows = match lines(connection, "event_type, headers::text AS headers").await {
        Err(failure) if error::is_data(&failure) => {
            let rows = lines(
                connection,
                "NULL::text AS event_type, NULL::text AS headers",
            )
            .await?;
            let count = rows.len();
            unread.push(format!("types and headers of {count} lines of the trail: the server cannot send one of them"));
            rows
        }
        rows => rows?,
    };

    rows.iter().map(copy).collect::<Result<_, _>>().map(Some)
}

fn copy(row: &PgRow) -> Result<EventCopy, sqlx::Error> {
    let queue = QueueName::new(row.try_get("queue")?);
    let queue = queue.map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
    let headers = headers::read(row.try_get("headers")?);
    let published_at = row.try_get("published_at")?;
    let id = receipts::dated(row.try_get("message_id")?, published_at);
    let at: DateTime<Utc> = row.try_get("ended_at")?;
    let state = CopyState::Handled { at };
    let copy = EventCopy::new(&queue, id, published_at, &headers, state);
    let deliveries: i32 = row.try_get("deliveries")?;
    let deliveries = u32::try_from(deliveries).unwrap_or(0);

    let event_type: Option<String> = row.try_get("event_type")?;
    Ok(copy.event_type(event_type).deliveries(deliveries))
}

/// Removes the oldest expired lines of a queue, at most `limit`. Returns how many. Lines that
/// another session is removing are skipped.
pub(crate) async fn expire(
    connection: &mut PgConnection,
    queue: &QueueName,
    keep: Duration,
    limit: u64,
) -> Result<u64, sqlx::Error> {
    let done = sqlx::query(
        "DELETE FROM ezq.trail WHERE ctid = ANY (ARRAY(
           SELECT ctid FROM ezq.trail
           WHERE queue = $1 AND ended_at < pg_catalog.statement_timestamp() - $2 * interval '1 us'
           ORDER BY ended_at LIMIT $3 FOR UPDATE SKIP LOCKED))",
    )
    .bind(queue.as_str())
    .bind(micros(keep))
    .bind(i64::try_from(limit).unwrap_or(i64::MAX))
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}
