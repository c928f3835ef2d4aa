//! The table of schedules: one row each. The statement that publishes a schedule's event also moves
//! its row on.
//!
//! Every statement that changes a row names the state that it expects. So if several processes fire
//! one tick, one of them succeeds. Times are the server's.

use chrono::{DateTime, Utc};
use ezq_core::engine::{Advance, KeptSchedules, Outgoing, Registration, ScheduleRow};
use ezq_core::message::MessageId;
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Row};

use crate::message::{encoding, receipts};
use crate::sql;

/// A row that was seen more recently is not written again.
const SEEN: &str = "interval '20 s'";

pub(crate) async fn look(
    connection: &mut PgConnection,
    names: &[String],
    definitions: &[String],
) -> Result<KeptSchedules, sqlx::Error> {
    // A locked row was just seen by another process: nobody waits for it.
    let seen = format!(
        "WITH mine AS (
           SELECT s.name FROM ezq.schedules s
           JOIN unnest($1::text[], $2::text[]) AS m(name, definition) USING (name, definition)
           WHERE s.seen_at < clock_timestamp() - {SEEN}
           ORDER BY s.name FOR UPDATE OF s SKIP LOCKED),
         seen AS (
           UPDATE ezq.schedules s SET seen_at = clock_timestamp() FROM mine
           WHERE s.name = mine.name)"
    );

    let statement = format!(
        "{} SELECT base.now, s.name, s.application, s.definition, s.next_at, s.last_tick, s.fired_at,
                s.paused_at, s.resumed_at, s.seen_at, s.event IS NOT NULL AS has_event
         FROM (SELECT clock_timestamp() AS now OFFSET 0) base
         LEFT JOIN ezq.schedules s ON true ORDER BY s.name",
        if names.is_empty() { "" } else { &seen }
    );
    let mut query = sqlx::query(AssertSqlSafe(statement));
    if !names.is_empty() {
        query = query.bind(names).bind(definitions);
    }

    let found = query.fetch_all(connection).await?;
    let mut now = None;
    let mut rows = Vec::with_capacity(found.len());

    for row in &found {
        now = Some(row.try_get("now")?);
        rows.extend(schedule(row)?);
    }

    Ok(KeptSchedules::new(
        now.ok_or(sqlx::Error::RowNotFound)?,
        rows,
    ))
}

/// The time by the server's clock.
pub(crate) async fn now(connection: &mut PgConnection) -> Result<DateTime<Utc>, sqlx::Error> {
    sqlx::query_scalar("SELECT clock_timestamp()")
        .fetch_one(connection)
        .await
}

fn schedule(row: &PgRow) -> Result<Option<ScheduleRow>, sqlx::Error> {
    let Some(name) = row.try_get::<Option<&str>, _>("name")? else {
        return Ok(None);
    };

    let given = |written| encoding::original(written).into_owned();
    let name = given(name);
    let application = given(row.try_get("application")?);
    let definition = given(row.try_get("definition")?);
    let registered = Registration::new(&name, &application, &definition, row.try_get("next_at")?);

    let mut kept = ScheduleRow::new(registered, row.try_get("seen_at")?);
    kept.last_tick = row.try_get("last_tick")?;
    kept.fired_at = row.try_get("fired_at")?;
    kept.paused_at = row.try_get("paused_at")?;
    kept.resumed_at = row.try_get("resumed_at")?;
    kept.has_event = row.try_get("has_event")?;
    Ok(Some(kept))
}

pub(crate) async fn register(
    connection: &mut PgConnection,
    new: Registration<'_>,
    instead_of: Option<&str>,
) -> Result<bool, sqlx::Error> {
    // Both are conditional: of processes that register at once, one succeeds.
    let statement = match instead_of {
        None => {
            "INSERT INTO ezq.schedules (name, application, definition, next_at, seen_at)
             VALUES ($1, $2, $3, $4, clock_timestamp())
             ON CONFLICT (name) DO NOTHING"
        }
        Some(_) => {
            "UPDATE ezq.schedules
             SET application = $2, definition = $3, next_at = $4, seen_at = clock_timestamp(),
                 event = NULL
             WHERE name = $1 AND definition = $5"
        }
    };

    let mut query = sqlx::query(statement)
        .bind(new.name)
        .bind(new.application)
        .bind(new.definition)
        .bind(new.next_at);
    if let Some(old) = instead_of {
        query = query.bind(old);
    }

    Ok(query.execute(connection).await?.rows_affected() > 0)
}

pub(crate) async fn store_event(
    connection: &mut PgConnection,
    name: &str,
    definition: &str,
    event: Option<&str>,
) -> Result<(), sqlx::Error> {
    // Every process of an application stores it when it begins, and as a rule it is there.
    let statement = "\
        UPDATE ezq.schedules SET event = $3
        WHERE name = $1 AND definition = $2 AND event IS DISTINCT FROM $3";
    let query = sqlx::query(statement)
        .bind(name)
        .bind(definition)
        .bind(event);
    query.execute(connection).await?;
    Ok(())
}

pub(crate) async fn stored_event(
    connection: &mut PgConnection,
    name: &str,
) -> Result<Option<String>, sqlx::Error> {
    let statement = "SELECT event FROM ezq.schedules WHERE name = $1";
    let stored: Option<Option<String>> = sqlx::query_scalar(statement)
        .bind(name)
        .fetch_optional(connection)
        .await?;
    Ok(stored
        .flatten()
        .map(|event| encoding::original(&event).into_owned()))
}

/// Moves a row on, if it is in the state that the tick expects. `$2` to `$5` are NULL where the
/// schedule is fired by hand.
const MOVE: &str = "\
    UPDATE ezq.schedules
    SET next_at = coalesce($5::timestamptz, next_at),
        last_tick = coalesce($4::timestamptz, last_tick),
        fired_at = clock_timestamp(),
        seen_at = CASE WHEN $5::timestamptz IS NULL THEN seen_at ELSE clock_timestamp() END
    WHERE name = $1
      AND ($2::text IS NULL
           OR definition = $2 AND next_at = $3::timestamptz AND next_at <= clock_timestamp()
              AND paused_at IS NULL)
    RETURNING name";

/// Moves a row on and stores its message in one statement. Returns the message's id if it did.
pub(crate) async fn fire(
    connection: &mut PgConnection,
    name: &str,
    tick: Option<Advance<'_>>,
    message: &Outgoing,
    headers: Option<&str>,
) -> Result<Option<MessageId>, sqlx::Error> {
    let statement = format!(
        "WITH moved AS ({MOVE})
         INSERT INTO {} (vt, message, headers)
         SELECT clock_timestamp(), $6::text::jsonb, $7::text::jsonb FROM moved
         RETURNING msg_id, {} AS enqueued_at",
        sql::table(&message.queue),
        sql::bounded("enqueued_at")
    );
    let stored = sqlx::query(AssertSqlSafe(statement))
        .bind(name)
        .bind(tick.map(|tick| tick.definition))
        .bind(tick.map(|tick| tick.from))
        .bind(tick.map(|tick| tick.due))
        .bind(tick.map(|tick| tick.to))
        .bind(&*message.body)
        .bind(headers)
        .fetch_optional(connection)
        .await?;
    stored.as_ref().map(receipts::message_id).transpose()
}

/// Moves a row on without publishing. Returns whether it did.
pub(crate) async fn leave_out(
    connection: &mut PgConnection,
    name: &str,
    tick: Advance<'_>,
) -> Result<bool, sqlx::Error> {
    let statement = "\
        UPDATE ezq.schedules SET next_at = $4, seen_at = clock_timestamp()
        WHERE name = $1 AND definition = $2 AND next_at = $3 AND next_at <= clock_timestamp()
          AND paused_at IS NULL";
    let query = sqlx::query(statement)
        .bind(name)
        .bind(tick.definition)
        .bind(tick.from);
    Ok(query
        .bind(tick.to)
        .execute(connection)
        .await?
        .rows_affected()
        > 0)
}

pub(crate) async fn pause(
    connection: &mut PgConnection,
    name: &str,
    pause: bool,
) -> Result<bool, sqlx::Error> {
    let statement = if pause {
        "UPDATE ezq.schedules SET paused_at = coalesce(paused_at, clock_timestamp()) WHERE name = $1"
    } else {
        "UPDATE ezq.schedules
         SET resumed_at = CASE WHEN paused_at IS NULL THEN resumed_at ELSE clock_timestamp() END,
             paused_at = NULL
         WHERE name = $1"
    };

    let done = sqlx::query(statement)
        .bind(name)
        .execute(connection)
        .await?;
    Ok(done.rows_affected() > 0)
}

pub(crate) async fn remove(connection: &mut PgConnection, name: &str) -> Result<bool, sqlx::Error> {
    let statement = "DELETE FROM ezq.schedules WHERE name = $1";
    Ok(sqlx::query(statement)
        .bind(name)
        .execute(connection)
        .await?
        .rows_affected()
        > 0)
}
