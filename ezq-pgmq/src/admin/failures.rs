//! What a queue's handlers fail of: alike errors are counted by the database, so few rows are sent.
//!
//! The newest dead letters are found by the primary key, and what waits for another attempt by the index on
//! `vt`.

use chrono::{DateTime, Utc};
use ezq_core::engine::{Failure, Failures};
use ezq_core::message::{HandlerName, QueueName};
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Row as _};

use crate::admin::browse::by_index;
use crate::error;
use crate::message::{encoding, receipts};
use crate::sql;

/// Groups the rows `f` of a subquery with the columns `id`, `enqueued_at`, `handler`, `error` and `at`.
///
/// Errors that differ in digits from 1 to 9 only have one [key](ezq_core::engine::FailureKey). Most errors
/// that name an event differ in digits only, so few groups are sent. The newest row stands for its group.
fn grouped(rows: &str) -> String {
    format!(
        "WITH f AS MATERIALIZED ({rows}),
              g AS (SELECT f.handler, count(*) AS count, min(f.at) AS first_at, max(f.at) AS last_at,
                      max(f.id) AS id
                    FROM f WHERE f.error IS NOT NULL
                    GROUP BY f.handler, translate(f.error, '23456789', '11111111'))
         SELECT f.handler, f.error, g.count, g.first_at, g.last_at, f.id AS msg_id, f.enqueued_at
         FROM g JOIN f ON f.id = g.id AND f.handler IS NOT DISTINCT FROM g.handler"
    )
}

/// The failures of a queue, over so many dead letters and messages.
pub(crate) async fn failures(
    connection: &mut PgConnection,
    queue: &QueueName,
    scan: usize,
) -> Result<Failures, sqlx::Error> {
    let scan = i64::try_from(scan).unwrap_or(i64::MAX);
    let mut found = Vec::new();
    let mut is_complete = true;
    for part in [Part::Dead, Part::Retrying] {
        let statement = part.statement(queue);
        // A cached plan may date from when the table was empty: this one is made for each call.
        let query = sqlx::query(AssertSqlSafe(statement)).persistent(false);
        match by_index(connection, query.bind(scan)).await {
            Ok(rows) => {
                for row in &rows {
                    found.push(failure(row, part)?);
                }
                is_complete &= !part.has_more(&mut *connection, queue, scan).await?;
            }
            // The server cannot send one of the texts.
            Err(failure) if error::is_data(&failure) => is_complete = false,
            Err(failure) => return Err(failure),
        }
    }
    Ok(Failures::new(found, is_complete))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Dead,
    Retrying,
}

impl Part {
    fn statement(self, queue: &QueueName) -> String {
        match self {
            Self::Dead => dead(queue),
            Self::Retrying => retrying(queue),
        }
    }

    /// Whether there is more than was looked at.
    async fn has_more(
        self,
        connection: &mut PgConnection,
        queue: &QueueName,
        scan: i64,
    ) -> Result<bool, sqlx::Error> {
        let behind = match self {
            Self::Dead => format!("{} q ORDER BY q.msg_id", sql::dead_table(queue)),
            Self::Retrying => {
                let table = sql::table(queue);
                format!("{table} q WHERE q.vt > statement_timestamp() ORDER BY q.vt")
            }
        };
        let statement = format!("SELECT EXISTS (SELECT FROM {behind} OFFSET $1 LIMIT 1)");
        let query = sqlx::query(AssertSqlSafe(statement)).persistent(false);
        let rows = by_index(connection, query.bind(scan)).await?;
        rows.first().map_or(Ok(false), |row| row.try_get(0))
    }
}

/// The failures of the newest dead letters: the reasons of their deaths.
fn dead(queue: &QueueName) -> String {
    let table = sql::dead_table(queue);
    let at = sql::bounded("d.enqueued_at");
    grouped(&format!(
        "SELECT d.msg_id AS id, {at} AS enqueued_at,
           d.headers #>> '{{ezq-dead,reason,handler}}' COLLATE \"C\" AS handler,
           d.headers #>> '{{ezq-dead,reason,error}}' COLLATE \"C\" AS error,
           d.headers #>> '{{ezq-dead,died_at}}' COLLATE \"C\" AS at
         FROM (SELECT d.msg_id, d.enqueued_at, d.headers FROM {table} d
               ORDER BY d.msg_id DESC LIMIT $1) d"
    ))
}

/// The failures of messages that wait for another attempt: the newest errors of the handlers that are to
/// run again.
fn retrying(queue: &QueueName) -> String {
    let table = sql::table(queue);
    let at = sql::bounded("q.enqueued_at");
    let returned = sql::returned("q.headers");
    grouped(&format!(
        "SELECT q.msg_id AS id, {at} AS enqueued_at,
           substr(h.key, length('ezq-h:') + 1) COLLATE \"C\" AS handler,
           h.value #>> '{{errors,-1,error}}' COLLATE \"C\" AS error,
           h.value #>> '{{errors,-1,at}}' COLLATE \"C\" AS at
         FROM (SELECT q.msg_id, q.read_ct, q.enqueued_at, q.headers FROM {table} q
               WHERE q.vt > statement_timestamp() ORDER BY q.vt, q.msg_id LIMIT $1) q
         CROSS JOIN LATERAL jsonb_each(CASE jsonb_typeof(q.headers)
           WHEN 'object' THEN q.headers ELSE '{{}}'::jsonb END) h
         WHERE q.read_ct > 0 AND {returned} >= q.read_ct
           AND starts_with(h.key, 'ezq-h:') AND h.value ->> 'state'::text = 'retry'"
    ))
}

fn failure(row: &PgRow, part: Part) -> Result<Failure, sqlx::Error> {
    let handler: Option<&str> = row.try_get("handler")?;
    let handler = handler.map(|name| HandlerName::from(&*encoding::original(name)));
    let error: String = row.try_get("error")?;
    let count: i64 = row.try_get("count")?;
    let example = receipts::message_id(row)?;
    let stored_at: DateTime<Utc> = row.try_get("enqueued_at")?;

    // Anyone may write headers, so a time that is none counts as that of the newest message.
    let time = |column: &str| -> Result<DateTime<Utc>, sqlx::Error> {
        let text: Option<&str> = row.try_get(column)?;
        Ok(text.and_then(|text| text.parse().ok()).unwrap_or(stored_at))
    };
    let failure = Failure::new(
        handler,
        error,
        part == Part::Dead,
        time("last_at")?,
        example,
    );
    let count = u64::try_from(count).unwrap_or(0);
    Ok(failure.since(count, time("first_at")?))
}
