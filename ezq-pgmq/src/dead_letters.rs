//! Dead letters: they stand in a PGMQ queue of their own, `<queue>_dlq`, where any client sees them.

use chrono::{DateTime, Utc};
use ezq_core::engine::{DeadLetter, Death};
use ezq_core::headers::{DEAD, Headers};
use ezq_core::{MessageId, QueueName};
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Row};

use crate::{claim, sql};

const COLUMNS: &str = "msg_id, enqueued_at, message::text AS body, headers::text AS headers";

/// When the dead letter `g` was first stored. Anyone may write headers: what is no time is none, and
/// fails no redrive. The second form is a time without a fraction.
const FIRST_STORED: &str = r#"(coalesce(
    jsonb_path_query_first_tz(g.headers, '$."ezq-dead"."enqueued_at".datetime("YYYY-MM-DD\"T\"HH24:MI:SS.USTZH:TZM")', silent => true),
    jsonb_path_query_first_tz(g.headers, '$."ezq-dead"."enqueued_at".datetime("YYYY-MM-DD\"T\"HH24:MI:SSTZH:TZM")', silent => true)
  ) #>> '{}')::timestamptz"#;

/// The oldest ones after an id, at most `limit`.
pub(crate) async fn list(
    connection: &mut PgConnection,
    queue: &QueueName,
    after: Option<&MessageId>,
    limit: usize,
) -> Result<Vec<DeadLetter>, sqlx::Error> {
    let statement = format!(
        "SELECT {COLUMNS} FROM {} WHERE msg_id > $1 ORDER BY msg_id LIMIT $2",
        sql::dead_table(queue)
    );
    let rows = sqlx::query(AssertSqlSafe(statement))
        .bind(after.and_then(MessageId::as_number).unwrap_or(0))
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all(connection)
        .await?;
    rows.iter().map(dead_letter).collect()
}

/// One of them.
pub(crate) async fn find(
    connection: &mut PgConnection,
    queue: &QueueName,
    id: &MessageId,
) -> Result<Option<DeadLetter>, sqlx::Error> {
    let statement = format!("SELECT {COLUMNS} FROM {} WHERE msg_id = $1", sql::dead_table(queue));
    let row = sqlx::query(AssertSqlSafe(statement))
        .bind(id.as_number())
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(dead_letter).transpose()
}

/// Moves them back in one step, in the order of their ids: what a handler finished stays finished,
/// the rest starts anew. What they had died of goes along, with the id and time they had first.
pub(crate) async fn redrive(
    connection: &mut PgConnection,
    queue: &QueueName,
    ids: &[MessageId],
) -> Result<Vec<MessageId>, sqlx::Error> {
    let table = sql::table(queue);
    let dead = sql::dead_table(queue);
    let had_died = "CASE jsonb_typeof(g.headers -> 'ezq-dead') WHEN 'object' THEN
        jsonb_build_object('ezq-redriven', g.headers -> 'ezq-dead' || jsonb_strip_nulls(
          jsonb_build_object('id', g.headers #> '{ezq-redriven,id}',
                             'enqueued_at', g.headers #> '{ezq-redriven,enqueued_at}')))
        ELSE '{}' END";
    let statement = format!(
        "WITH locked AS (
           SELECT msg_id FROM {dead} WHERE msg_id = ANY ($1) ORDER BY msg_id FOR UPDATE),
         gone AS (
           DELETE FROM {dead} d USING locked l WHERE d.msg_id = l.msg_id
           RETURNING d.msg_id, d.enqueued_at, d.message, d.headers),
         back AS (
           INSERT INTO {table} (vt, enqueued_at, message, headers)
           SELECT clock_timestamp(), coalesce({FIRST_STORED}, g.enqueued_at), g.message,
             CASE jsonb_typeof(g.headers) WHEN 'object' THEN nullif((
               SELECT coalesce(jsonb_object_agg(key, value), '{{}}') FROM jsonb_each(g.headers)
               WHERE key NOT IN ('ezq-dead', 'ezq-returned', 'ezq-redriven')
                 AND (NOT starts_with(key, 'ezq-h:') OR value ->> 'state' = 'done')
             ) || {had_died}, '{{}}') ELSE g.headers END
           FROM gone g ORDER BY g.msg_id)
         SELECT msg_id FROM gone ORDER BY msg_id"
    );
    removed(statement, ids, connection).await
}

/// Removes them for good.
pub(crate) async fn discard(
    connection: &mut PgConnection,
    queue: &QueueName,
    ids: &[MessageId],
) -> Result<Vec<MessageId>, sqlx::Error> {
    let dead = sql::dead_table(queue);
    let statement = format!(
        "WITH locked AS (
           SELECT msg_id FROM {dead} WHERE msg_id = ANY ($1) ORDER BY msg_id FOR UPDATE),
         gone AS (
           DELETE FROM {dead} d USING locked l WHERE d.msg_id = l.msg_id RETURNING d.msg_id)
         SELECT msg_id FROM gone ORDER BY msg_id"
    );
    removed(statement, ids, connection).await
}

/// Runs a statement on ids (`$1`) that answers with those it removed.
async fn removed(
    statement: String,
    ids: &[MessageId],
    connection: &mut PgConnection,
) -> Result<Vec<MessageId>, sqlx::Error> {
    let numbers: Vec<i64> = ids.iter().filter_map(MessageId::as_number).collect();
    let removed: Vec<i64> =
        sqlx::query_scalar(AssertSqlSafe(statement)).bind(numbers).fetch_all(connection).await?;
    Ok(removed.into_iter().map(MessageId::Number).collect())
}

fn dead_letter(row: &PgRow) -> Result<DeadLetter, sqlx::Error> {
    let headers = claim::headers(row.try_get("headers")?);
    let stored_at: DateTime<Utc> = row.try_get("enqueued_at")?;
    let death = headers.value(DEAD).map(Death::read).unwrap_or_default();
    Ok(DeadLetter {
        id: MessageId::Number(row.try_get("msg_id")?),
        original_id: death.message_id,
        reason: death.reason,
        body: row.try_get::<Option<String>, _>("body")?.unwrap_or_else(|| "null".to_owned()),
        enqueued_at: death.enqueued_at.unwrap_or(stored_at),
        died_at: death.died_at.unwrap_or(stored_at),
        headers: without_reason(headers),
    })
}

// The reason has a field of its own.
fn without_reason(headers: Headers) -> Headers {
    let mut entries = headers.as_object().clone();
    if entries.remove(DEAD).is_none() {
        return headers;
    }
    Headers::from_value(entries.into())
}
