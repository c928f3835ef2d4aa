//! Dead letters. They are kept in a PGMQ queue of their own, `<queue>_dlq`, which any client can
//! read.

use chrono::{DateTime, Utc};
use ezq_core::engine::{DeadLetter, Death};
use ezq_core::message::headers::{DEAD, Headers};
use ezq_core::message::{MessageId, QueueName};
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Row};

use crate::message::headers;
use crate::message::receipts::{self, first_stored};
use crate::{error, sql};

/// The oldest dead letters behind an id, at most `limit`.
pub(crate) async fn list(
    connection: &mut PgConnection,
    queue: &QueueName,
    after: Option<&MessageId>,
    limit: usize,
) -> Result<Vec<DeadLetter>, sqlx::Error> {
    let statement = format!(
        "SELECT {} FROM {} g WHERE g.msg_id > $1 ORDER BY g.msg_id LIMIT $2",
        columns(),
        sql::dead_table(queue)
    );
    let after = after.and_then(MessageId::as_number).unwrap_or(0);
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let query = sqlx::query(AssertSqlSafe(statement))
        .bind(after)
        .bind(limit);

    // One letter that the server cannot send fails the whole list.
    match query.fetch_all(&mut *connection).await {
        Ok(rows) => rows.iter().map(dead_letter).collect(),
        Err(failure) if error::is_data(&failure) => {
            list_singly(connection, queue, after, limit).await
        }
        Err(failure) => Err(failure),
    }
}

/// The same, one by one, where the server cannot send one of them. That one comes without body and
/// headers.
async fn list_singly(
    connection: &mut PgConnection,
    queue: &QueueName,
    after: i64,
    limit: i64,
) -> Result<Vec<DeadLetter>, sqlx::Error> {
    let dead = sql::dead_table(queue);
    let ids = format!("SELECT msg_id FROM {dead} WHERE msg_id > $1 ORDER BY msg_id LIMIT $2");
    let ids = sqlx::query_scalar::<_, i64>(AssertSqlSafe(ids))
        .bind(after)
        .bind(limit);
    let mut letters = Vec::new();
    for id in ids.fetch_all(&mut *connection).await? {
        letters.extend(find(connection, queue, &MessageId::Number(id)).await?);
    }
    Ok(letters)
}

/// The columns that are read of a dead letter `g`.
fn columns() -> String {
    let stored_at = sql::bounded("g.enqueued_at");
    format!(
        "g.msg_id, {stored_at} AS enqueued_at, g.message::text AS body, g.headers::text AS headers"
    )
}

/// One dead letter.
pub(crate) async fn find(
    connection: &mut PgConnection,
    queue: &QueueName,
    id: &MessageId,
) -> Result<Option<DeadLetter>, sqlx::Error> {
    let dead = sql::dead_table(queue);
    let is_meant = receipts::is_meant("g", "$1", "$2");
    let stored_at = sql::bounded("g.enqueued_at");

    // Where the server cannot send the letter, what ezq wrote about its death is still read.
    let unread = format!(
        "g.msg_id, {stored_at} AS enqueued_at, NULL::text AS body,
         jsonb_build_object('ezq-dead', g.headers -> 'ezq-dead')::text AS headers"
    );
    let mut failure = None;
    for columns in [columns(), unread] {
        let statement = format!("SELECT {columns} FROM {dead} g WHERE {is_meant}");
        let query = sqlx::query(AssertSqlSafe(statement))
            .bind(id.as_number())
            .bind(id.stored_at());
        match query.fetch_optional(&mut *connection).await {
            Ok(row) => return row.as_ref().map(dead_letter).transpose(),
            Err(refused) if error::is_data(&refused) => failure = Some(refused),
            Err(other) => return Err(other),
        }
    }

    failure.map_or(Ok(None), Err)
}

/// Moves dead letters back, or to another queue, in one statement, in the order of their ids. Marks of handlers that
/// finished stay; all other progress starts again. The cause of death goes along, with the id and
/// time that the message had first.
///
/// `enqueued_at` becomes the time of the redrive. With the number it identifies the message; the
/// time of first storage may belong to another message as well.
pub(crate) async fn redrive(
    connection: &mut PgConnection,
    queue: &QueueName,
    to: &QueueName,
    ids: &[MessageId],
) -> Result<Vec<MessageId>, sqlx::Error> {
    let table = sql::table(to);
    let kept_id = match to == queue {
        true => "'{}'::jsonb".to_owned(),
        false => kept_id(queue, "g", "g.headers #> '{ezq-dead,id}'"),
    };
    let gone = gone(queue);
    let first_stored = sql::first_stored("g", DEAD);
    let had_died = format!(
        "jsonb_build_object('ezq-redriven',
           CASE jsonb_typeof(g.headers -> 'ezq-dead') WHEN 'object' THEN g.headers -> 'ezq-dead'
             ELSE '{{}}' END
           || jsonb_build_object('enqueued_at', {first_stored})
           || jsonb_strip_nulls(jsonb_build_object(
                'id', g.headers #> '{{ezq-redriven,id}}',
                'enqueued_at', g.headers #> '{{ezq-redriven,enqueued_at}}')))"
    );

    let statement = format!(
        "WITH {gone},
         back AS (
           INSERT INTO {table} (vt, enqueued_at, message, headers)
           SELECT clock_timestamp(), clock_timestamp(), g.message,
             CASE jsonb_typeof(g.headers) WHEN 'object' THEN (
               SELECT coalesce(jsonb_object_agg(key, value), '{{}}') FROM jsonb_each(g.headers)
               WHERE key NOT IN ('ezq-dead', 'ezq-returned', 'ezq-redriven')
                 AND (NOT starts_with(key, 'ezq-h:') OR value ->> 'state' = 'done')
             ) || {had_died} || {kept_id} ELSE g.headers END
           FROM gone g ORDER BY g.msg_id)
         SELECT msg_id, letter_stored_at AS enqueued_at FROM gone ORDER BY msg_id"
    );
    removed(statement, ids, connection).await
}

/// What a message must keep in its headers so that its event has the same id in another queue: its place,
/// if that is the only id.
pub(crate) fn kept_id(queue: &QueueName, row: &str, id: &str) -> String {
    format!(
        "CASE WHEN {row}.headers ? 'ezq-replay'::text OR {row}.headers ? 'ce-id'::text
                OR {row}.message ? 'specversion'::text
           THEN '{{}}'::jsonb
         WHEN {row}.message ? '_type'::text
           THEN jsonb_build_object('ezq-replay', jsonb_build_object('queue', '{queue}', 'id', {id}))
         WHEN {row}.headers ? 'ce-type'::text
           THEN jsonb_build_object('ce-id', concat('{queue}:', {id}))
         ELSE '{{}}'::jsonb END"
    )
}

/// Removes dead letters for good.
pub(crate) async fn discard(
    connection: &mut PgConnection,
    queue: &QueueName,
    ids: &[MessageId],
) -> Result<Vec<MessageId>, sqlx::Error> {
    let statement = format!(
        "WITH {} SELECT msg_id, letter_stored_at AS enqueued_at FROM gone ORDER BY msg_id",
        gone(queue)
    );
    removed(statement, ids, connection).await
}

/// The CTE `gone`: the dead letters that ids (`$1`, with their times `$2`) name, removed in the
/// order of their ids.
fn gone(queue: &QueueName) -> String {
    let dead = sql::dead_table(queue);
    let is_meant = receipts::is_meant("d", "w.id", "w.at");
    let stored_at = sql::bounded("d.enqueued_at");

    format!(
        "locked AS (
           SELECT d.msg_id
           FROM (SELECT * FROM unnest($1::bigint[], $2::timestamptz[]) AS w(id, at) ORDER BY id) w
           CROSS JOIN LATERAL (SELECT d.msg_id FROM {dead} d WHERE {is_meant} FOR UPDATE) d),
         gone AS (
           DELETE FROM {dead} d USING locked l
           WHERE d.msg_id = l.msg_id AND d.msg_id = ANY (ARRAY(SELECT msg_id FROM locked))
           RETURNING d.msg_id, d.enqueued_at, {stored_at} AS letter_stored_at, d.message, d.headers)"
    )
}

/// Runs a statement on ids that returns those that it removed.
async fn removed(
    statement: String,
    ids: &[MessageId],
    connection: &mut PgConnection,
) -> Result<Vec<MessageId>, sqlx::Error> {
    let numbered = || ids.iter().filter(|id| id.as_number().is_some());
    let numbers: Vec<Option<i64>> = numbered().map(MessageId::as_number).collect();
    let times: Vec<Option<DateTime<Utc>>> = numbered().map(MessageId::stored_at).collect();
    let query = sqlx::query(AssertSqlSafe(statement))
        .bind(numbers)
        .bind(times);

    query
        .fetch_all(connection)
        .await?
        .iter()
        .map(receipts::message_id)
        .collect()
}

fn dead_letter(row: &PgRow) -> Result<DeadLetter, sqlx::Error> {
    let headers = headers::read(row.try_get("headers")?);
    let stored_at: DateTime<Utc> = row.try_get("enqueued_at")?;
    let death = headers.value(DEAD).map(Death::read).unwrap_or_default();

    let id = receipts::message_id(row)?;
    let body = row
        .try_get::<Option<String>, _>("body")?
        .unwrap_or_else(|| "null".to_owned());
    let enqueued_at = first_stored(&headers).or(death.enqueued_at);
    let died_at = death.died_at.unwrap_or(stored_at);

    let mut letter = DeadLetter::new(id, body, without_reason(headers), died_at);
    letter.original_id = receipts::original(&death);
    letter.reason = death.reason;
    letter.enqueued_at = enqueued_at.unwrap_or(stored_at);
    Ok(letter)
}

// The reason has a field of its own.
fn without_reason(headers: Headers) -> Headers {
    let mut entries = headers.as_object().clone();
    if entries.remove(DEAD).is_none() {
        return headers;
    }
    Headers::from_value(entries.into())
}
