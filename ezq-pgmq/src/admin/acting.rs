//! Acting on messages and dead letters by their ids: discarding, redriving, retrying, moving.
//!
//! Messages are locked in the order of their ids and read under the lock: only their headers tell a
//! lease from a retry. What a worker has is left alone. The caller's transaction makes one step of it.

use chrono::{DateTime, Utc};
use ezq_core::engine::{
    ActOutcome, CopyState, EventAction, EventCopy, EventRef, EventState, Selection,
};
use ezq_core::message::{MessageId, QueueName};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Row as _};

use crate::admin::copies::copy;
use crate::admin::{dead_letters, selection};
use crate::message::receipts;
use crate::sql;

/// What a statement does about a row that another session has locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Locked {
    WaitedFor,
    PassedOver,
}

/// Acts on events of a queue. Returns an outcome for each, in their order.
pub(crate) async fn run(
    connection: &mut PgConnection,
    queue: &QueueName,
    action: &EventAction,
    events: &[EventRef],
) -> Result<Vec<ActOutcome>, sqlx::Error> {
    let ids = |is_dead: bool| -> Vec<MessageId> {
        let meant = events
            .iter()
            .filter(|event| matches!(event, EventRef::Dead(_)) == is_dead);
        meant.map(|event| event.id().clone()).collect()
    };

    // A role may have the rights for one kind of events only.
    let letters = match ids(true) {
        none if none.is_empty() => Vec::new(),
        ids => dead(&mut *connection, queue, action, &ids).await?,
    };
    let table = sql::table(queue);
    let found = match ids(false) {
        none if none.is_empty() => Vec::new(),
        ids => look(&mut *connection, queue, &table, &ids, Locked::WaitedFor).await?,
    };
    let free = found
        .iter()
        .filter(|(_, copy, _)| !matches!(copy.state, CopyState::Leased { .. }));
    let free: Vec<MessageId> = free.map(|(id, ..)| id.clone()).collect();
    if !free.is_empty() {
        live(connection, queue, action, &free).await?;
    }

    let outcomes = events.iter().map(|event| match event {
        EventRef::Dead(id) if letters.iter().any(|letter| is_same(letter, id)) => ActOutcome::Done,
        EventRef::Waiting(id) => {
            let mut ids = found.iter().map(|(id, ..)| id);
            match ids.find(|found| is_same(found, id)) {
                Some(found) if free.contains(found) => ActOutcome::Done,
                Some(_) => ActOutcome::Leased,
                None => ActOutcome::Missing,
            }
        }
        _ => ActOutcome::Missing,
    });
    Ok(outcomes.collect())
}

/// Does what [`run`] and a step do, to no event: it fails as they would where the role lacks a right.
pub(crate) async fn rehearse(
    connection: &mut PgConnection,
    action: &EventAction,
    selection: &Selection,
) -> Result<(), sqlx::Error> {
    let queue = &selection.queue;
    let table = selection::table(selection);
    look(&mut *connection, queue, &table, &[], Locked::WaitedFor).await?;
    match selection.state {
        EventState::Dead => dead(connection, queue, action, &[]).await.map(drop),
        _ => live(connection, queue, action, &[]).await,
    }
}

/// Whether an id that was found is the one that was asked for, which may have no time.
fn is_same(found: &MessageId, asked: &MessageId) -> bool {
    found.as_number() == asked.as_number()
        && (asked.stored_at().is_none() || found.stored_at() == asked.stored_at())
}

/// A row that is locked: its id, what it holds, and when it was read.
pub(crate) type Found = (MessageId, EventCopy, DateTime<Utc>);

/// Locks the rows of a queue or its dead letters with these ids, as far as they exist, in the order of
/// their ids.
pub(crate) async fn look(
    connection: &mut PgConnection,
    queue: &QueueName,
    table: &str,
    ids: &[MessageId],
    locked: Locked,
) -> Result<Vec<Found>, sqlx::Error> {
    let is_meant = receipts::is_meant("q", "w.id", "w.at");
    let stored_at = sql::bounded("q.enqueued_at");
    let due = sql::bounded("q.vt");
    let wait = match locked {
        Locked::WaitedFor => "",
        Locked::PassedOver => " SKIP LOCKED",
    };
    let statement = format!(
        "SELECT 'q' AS place, q.*, clock_timestamp() AS now
         FROM (SELECT * FROM unnest($1::bigint[], $2::timestamptz[]) AS w(id, at) ORDER BY id) w
         CROSS JOIN LATERAL (
           SELECT q.msg_id, {stored_at} AS enqueued_at, {due} AS at, q.read_ct,
                  NULL::text AS event_type, NULL::text AS body, q.headers::text AS headers
           FROM {table} q WHERE {is_meant} FOR UPDATE{wait}) q"
    );
    let (numbers, times) = columns(ids);
    let rows = sqlx::query(AssertSqlSafe(statement))
        .bind(numbers)
        .bind(times)
        .fetch_all(connection)
        .await?;
    rows.iter()
        .map(|row| {
            Ok((
                receipts::message_id(row)?,
                copy(queue, row)?,
                row.try_get("now")?,
            ))
        })
        .collect()
}

fn columns(ids: &[MessageId]) -> (Vec<i64>, Vec<Option<DateTime<Utc>>>) {
    let numbered = ids
        .iter()
        .filter_map(|id| Some((id.as_number()?, id.stored_at())));
    numbered.unzip()
}

/// Acts on messages that the transaction has locked.
pub(crate) async fn live(
    connection: &mut PgConnection,
    queue: &QueueName,
    action: &EventAction,
    ids: &[MessageId],
) -> Result<(), sqlx::Error> {
    let statement = match action {
        EventAction::RetryNow => retry_now(queue),
        EventAction::Move { to } => move_to(queue, to),
        _ => format!(
            "DELETE FROM {} q WHERE q.msg_id = ANY ($1::bigint[])",
            sql::table(queue)
        ),
    };
    let (mut numbers, _) = columns(ids);
    numbers.sort_unstable();
    sqlx::query(AssertSqlSafe(statement))
        .bind(numbers)
        .execute(connection)
        .await
        .map(drop)
}

/// Makes messages due that are not, and ends the pauses of their handlers.
fn retry_now(queue: &QueueName) -> String {
    let table = sql::table(queue);
    format!(
        "UPDATE {table} q
         SET vt = least(q.vt, clock_timestamp()),
             headers = CASE jsonb_typeof(q.headers) WHEN 'object' THEN (
               SELECT coalesce(jsonb_object_agg(h.key,
                 CASE WHEN starts_with(h.key, 'ezq-h:') AND h.value ->> 'state' = 'retry'
                   THEN h.value - 'due'::text ELSE h.value END), '{{}}')
               FROM jsonb_each(q.headers) h) ELSE q.headers END
         WHERE q.msg_id = ANY ($1::bigint[])"
    )
}

/// Moves messages to the end of another queue. A message that was delivered before is due there at once;
/// one that was not keeps its due time.
fn move_to(queue: &QueueName, to: &QueueName) -> String {
    let table = sql::table(queue);
    let target = sql::table(to);
    let object = sql::headers_object("g.headers");
    let kept_id = dead_letters::kept_id(queue, "g", "g.msg_id");
    format!(
        "WITH gone AS (
           DELETE FROM {table} q WHERE q.msg_id = ANY ($1::bigint[])
           RETURNING q.msg_id, q.vt, q.read_ct, q.message, q.headers)
         INSERT INTO {target} (vt, message, headers)
         SELECT CASE WHEN g.read_ct = 0 THEN greatest(g.vt, clock_timestamp())
                  ELSE clock_timestamp() END,
                g.message,
                (SELECT coalesce(jsonb_object_agg(h.key, h.value), '{{}}')
                 FROM jsonb_each({object}) h
                 WHERE h.key <> 'ezq-returned'
                   AND (NOT starts_with(h.key, 'ezq-h:') OR h.value ->> 'state' = 'done'))
                || {kept_id}
         FROM gone g ORDER BY g.msg_id"
    )
}

/// Acts on dead letters, and returns the ids of those that it was done to.
pub(crate) async fn dead(
    connection: &mut PgConnection,
    queue: &QueueName,
    action: &EventAction,
    ids: &[MessageId],
) -> Result<Vec<MessageId>, sqlx::Error> {
    match action {
        EventAction::Redrive => dead_letters::redrive(connection, queue, queue, ids).await,
        EventAction::Move { to } => dead_letters::redrive(connection, queue, to, ids).await,
        _ => dead_letters::discard(connection, queue, ids).await,
    }
}
