//! The audit trail: rows of `ezq.audit`, written by the transaction whose doing they tell of.

use chrono::{DateTime, Utc};
use ezq_core::engine::{
    AuditAction, AuditEntry, AuditPage, AuditRequest, EventRef, EventState, Operation, PageCursor,
    Signature,
};
use ezq_core::message::{HandlerName, MessageId, QueueName};
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{QueryBuilder, Row as _};

use crate::message::encoding::{Encoding, from_json, original};
use crate::message::receipts;
use crate::sql::units::in_calendar;

/// What is written of one act.
pub(crate) struct Act<'a> {
    pub(crate) action: AuditAction,
    pub(crate) queue: &'a QueueName,
    pub(crate) target: Option<&'a QueueName>,
    pub(crate) signature: &'a Signature,
}

/// Writes that something was done to events: a row for each.
pub(crate) async fn of_events(
    connection: &mut PgConnection,
    act: &Act<'_>,
    events: &[&EventRef],
    encoding: Encoding,
) -> Result<(), sqlx::Error> {
    let ids: Vec<Option<i64>> = events.iter().map(|event| event.id().as_number()).collect();
    let times: Vec<Option<DateTime<Utc>>> =
        events.iter().map(|event| event.id().stored_at()).collect();
    let is_dead: Vec<bool> = events
        .iter()
        .map(|event| matches!(event, EventRef::Dead(_)))
        .collect();
    let statement = "
        INSERT INTO ezq.audit
          (at, by, reason, action, queue, target, message_id, stored_at, is_dead, count)
        SELECT clock_timestamp(), $1, $2, $3, $4, $5, e.id, e.at, e.is_dead, 1
        FROM unnest($6::bigint[], $7::timestamptz[], $8::boolean[]) AS e(id, at, is_dead)";
    sqlx::query(statement)
        .bind(encoding.name(&act.signature.by))
        .bind(reason(act.signature, encoding))
        .bind(act.action.name())
        .bind(act.queue.as_str())
        .bind(act.target.map(QueueName::as_str))
        .bind(ids)
        .bind(times)
        .bind(is_dead)
        .execute(connection)
        .await
        .map(drop)
}

/// Writes what became of an operation.
pub(crate) async fn of_operation(
    connection: &mut PgConnection,
    action: AuditAction,
    operation: &Operation,
    signature: &Signature,
    count: Option<u64>,
    encoding: Encoding,
) -> Result<(), sqlx::Error> {
    // The database sets the time.
    let at = DateTime::UNIX_EPOCH;
    let mut entry = AuditEntry::of_operation(at, signature.clone(), action, operation);
    entry.count = count;
    write(connection, &entry, encoding).await.map(drop)
}

/// Writes an entry, with the time of now, and returns its number.
pub(crate) async fn write(
    connection: &mut PgConnection,
    entry: &AuditEntry,
    encoding: Encoding,
) -> Result<i64, sqlx::Error> {
    let statement = "
        INSERT INTO ezq.audit
          (at, by, reason, action, queue, handler, schedule, application, subject, target, message_id,
           stored_at, is_dead, operation, state, filter, count)
        VALUES (clock_timestamp(), $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14,
                $15::text::jsonb, $16)
        RETURNING id";
    let signature = &entry.signature;
    let name = |name: &str| encoding.name(name).into_owned();
    let event = entry.event.as_ref();
    let state = entry.selection.as_ref().map(|(state, _)| state.to_string());
    let filter = entry.selection.as_ref();
    sqlx::query_scalar(statement)
        .bind(name(&signature.by))
        .bind(reason(signature, encoding))
        .bind(entry.action.name())
        .bind(entry.queue.as_ref().map(QueueName::as_str))
        .bind(entry.handler.as_ref().map(|handler| name(handler.as_str())))
        .bind(entry.schedule.as_deref().map(name))
        .bind(entry.application.as_deref().map(name))
        .bind(entry.subject.as_deref().map(name))
        .bind(entry.target.as_ref().map(QueueName::as_str))
        .bind(event.and_then(|event| event.id().as_number()))
        .bind(event.and_then(|event| event.id().stored_at()))
        .bind(event.map(|event| matches!(event, EventRef::Dead(_))))
        .bind(entry.operation.as_deref())
        .bind(state)
        .bind(filter.map(|(_, filter)| encoding.json(filter)))
        .bind(
            entry
                .count
                .map(|count| i64::try_from(count).unwrap_or(i64::MAX)),
        )
        .fetch_one(connection)
        .await
}

/// Whether the role may not write the trail, or may not make it where there is none yet. Neither can a
/// session that takes no writes, such as one on a standby.
pub(crate) async fn is_read_only(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let statement = "
        SELECT current_setting('transaction_read_only')::boolean OR NOT CASE
                 WHEN a.oid IS NOT NULL
                 THEN has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(a.oid, 'INSERT')
                 WHEN n.oid IS NOT NULL THEN has_schema_privilege(n.oid, 'CREATE')
                 ELSE has_database_privilege(current_database(), 'CREATE') END
        FROM (VALUES (1)) AS one(row)
        LEFT JOIN pg_catalog.pg_namespace n ON n.nspname = 'ezq'
        LEFT JOIN pg_catalog.pg_class a ON a.relnamespace = n.oid AND a.relname = 'audit'";
    sqlx::query_scalar(statement).fetch_one(connection).await
}

/// Sets the count of an entry. One of nothing is removed.
pub(crate) async fn count(
    connection: &mut PgConnection,
    id: i64,
    count: u64,
) -> Result<(), sqlx::Error> {
    let statement = match count {
        0 => "DELETE FROM ezq.audit WHERE id = $1 AND $2::bigint = 0",
        _ => "UPDATE ezq.audit SET count = $2 WHERE id = $1",
    };
    sqlx::query(statement)
        .bind(id)
        .bind(i64::try_from(count).unwrap_or(i64::MAX))
        .execute(connection)
        .await
        .map(drop)
}

/// A reason as it is stored.
pub(crate) fn reason(signature: &Signature, encoding: Encoding) -> Option<String> {
    let reason = signature.reason.as_deref();
    reason.map(|reason| encoding.text(reason).into_owned())
}

/// Where a page of the trail begins.
///
/// # Errors
/// The cursor is none of this engine's.
pub(crate) fn place(request: &AuditRequest) -> ezq_core::Result<i64> {
    match &request.after {
        None => Ok(i64::MAX),
        Some(cursor) => cursor.as_str().parse().map_err(|_| cursor.refused()),
    }
}

/// Reads a page of the trail, before a place.
pub(crate) async fn page(
    connection: &mut PgConnection,
    request: &AuditRequest,
    before: i64,
    encoding: Encoding,
) -> Result<AuditPage, sqlx::Error> {
    let limit = request.limit.max(1);
    // Reading migrates nothing, so the newest columns may be absent.
    let mut query = QueryBuilder::new(
        "SELECT id, at, by, reason, action, queue, handler,
                to_jsonb(a) ->> 'schedule'::text AS schedule,
                to_jsonb(a) ->> 'application'::text AS application,
                to_jsonb(a) ->> 'subject'::text AS subject,
                target, message_id, stored_at, is_dead, operation, state, filter::text AS filter, count
         FROM ezq.audit a WHERE id < ",
    );
    query.push_bind(before);
    // Only what is asked for is a condition, so that an index on it serves a page of a long trail.
    if let Some(queue) = &request.queue {
        query.push(" AND queue = ").push_bind(queue.as_str());
    }
    if let Some(by) = &request.by {
        let by = encoding.name(by).into_owned();
        query.push(" AND by = ").push_bind(by);
    }
    if let Some(action) = request.action {
        query.push(" AND action = ").push_bind(action.name());
    }
    if let Some(since) = request.since {
        query.push(" AND at >= ").push_bind(in_calendar(since));
    }
    if let Some(until) = request.until {
        query.push(" AND at < ").push_bind(in_calendar(until));
    }
    let asked = i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1);
    query.push(" ORDER BY id DESC LIMIT ").push_bind(asked);
    let mut rows = query.build().fetch_all(connection).await?;

    let has_more = rows.len() > limit;
    rows.truncate(limit);
    let last: Option<i64> = rows.last().map(|row| row.try_get("id")).transpose()?;
    let mut entries = Vec::with_capacity(rows.len());
    for row in &rows {
        // What a newer ezq wrote, and this one does not know, is left out.
        entries.extend(entry(row)?);
    }
    let next = last.filter(|_| has_more);
    Ok(AuditPage::new(
        entries,
        next.map(|id| PageCursor::new(id.to_string())),
    ))
}

fn entry(row: &PgRow) -> Result<Option<AuditEntry>, sqlx::Error> {
    let text = |column: &str| row.try_get::<Option<String>, _>(column);
    let name = |column: &str| -> Result<Option<String>, sqlx::Error> {
        Ok(text(column)?.map(|written| original(&written).into_owned()))
    };
    let Some(action) = text("action")?.and_then(|name| name.parse::<AuditAction>().ok()) else {
        return Ok(None);
    };

    let signature = Signature::new(name("by")?.unwrap_or_default()).reason(text("reason")?);
    let queue = |column: &str| -> Result<Option<QueueName>, sqlx::Error> {
        Ok(text(column)?.and_then(|name| QueueName::new(&name).ok()))
    };
    let mut entry = AuditEntry::new(row.try_get("at")?, signature, action, queue("queue")?);
    entry.handler = name("handler")?.as_deref().map(HandlerName::from);
    entry.schedule = name("schedule")?;
    entry.application = name("application")?;
    entry.subject = name("subject")?;
    entry.target = queue("target")?;
    entry.operation = text("operation")?;
    entry.count = row
        .try_get::<Option<i64>, _>("count")?
        .and_then(|count| u64::try_from(count).ok());

    let stored_at: Option<DateTime<Utc>> = row.try_get("stored_at")?;
    if let Some(number) = row.try_get::<Option<i64>, _>("message_id")? {
        let id = match stored_at {
            Some(stored_at) => receipts::dated(number, stored_at),
            None => MessageId::Number(number),
        };
        entry.event = Some(match row.try_get::<Option<bool>, _>("is_dead")? {
            Some(true) => EventRef::Dead(id),
            _ => EventRef::Waiting(id),
        });
    }

    let state = text("state")?.and_then(|state| state.parse::<EventState>().ok());
    let filter = text("filter")?.and_then(|filter| from_json(&filter));
    entry.selection = state.zip(filter);
    Ok(Some(entry))
}
