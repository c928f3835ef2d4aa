//! Cancellations: a row of `ezq.cancellations` for each message that a worker is to cancel.
//!
//! The statement that writes a row also notifies. It takes the database-wide lock of NOTIFY at its
//! commit, which is right for something that rare.

use chrono::{DateTime, Utc};
use ezq_core::engine::{AuditAction, Cancel, CancelOrder, Death};
use ezq_core::message::headers::DEAD;
use ezq_core::message::{MessageId, QueueName};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Row as _};

use crate::message::encoding::Encoding;
use crate::message::{headers, receipts};
use crate::sql;
use crate::wake::orders::CHANNEL;

/// How many of the newest dead letters are looked at.
const LETTERS: u32 = 10_000;

/// Stores an order for a message of a queue, records it, and notifies. False if there is no such message.
pub(crate) async fn ask(
    connection: &mut PgConnection,
    queue: &QueueName,
    id: &MessageId,
    order: &CancelOrder,
    encoding: Encoding,
) -> Result<bool, sqlx::Error> {
    let forget = "DELETE FROM ezq.cancellations
                  WHERE asked_at <= statement_timestamp() - interval '1 day'";
    sqlx::query(forget).execute(&mut *connection).await?;

    let stored_at = sql::bounded("q.enqueued_at");
    let is_meant = receipts::is_meant("q", "$2", "$3");
    let statement = format!(
        "WITH asked AS (
           INSERT INTO ezq.cancellations AS c
             (queue, message_id, stored_at, is_discarded, asked_by, reason, asked_at)
           SELECT $1, q.msg_id, {stored_at}, $4, $5, $6, clock_timestamp()
           FROM {} q WHERE {is_meant}
           ON CONFLICT (queue, message_id, stored_at) DO UPDATE
           SET is_discarded = excluded.is_discarded, asked_by = excluded.asked_by,
               reason = excluded.reason, asked_at = excluded.asked_at
           RETURNING c.queue, c.message_id, c.stored_at),
         recorded AS (
           INSERT INTO ezq.audit
             (at, by, reason, action, queue, message_id, stored_at, is_dead, count)
           SELECT clock_timestamp(), $5, $6, $8, queue, message_id, stored_at, false, 1
           FROM asked)
         SELECT pg_notify($7, queue) FROM asked",
        sql::table(queue)
    );
    let reason = order.reason.as_deref();
    let query = sqlx::query(AssertSqlSafe(statement))
        .bind(queue.as_str())
        .bind(id.as_number())
        .bind(id.stored_at())
        .bind(order.what == Cancel::Discard)
        .bind(encoding.name(&order.by).into_owned())
        .bind(reason.map(|reason| encoding.text(reason).into_owned()))
        .bind(CHANNEL)
        .bind(AuditAction::from(order.what).name());
    Ok(query.fetch_optional(connection).await?.is_some())
}

/// Removes the orders for messages.
pub(crate) async fn finish(
    connection: &mut PgConnection,
    queue: &QueueName,
    ids: &[MessageId],
) -> Result<(), sqlx::Error> {
    let numbered = ids
        .iter()
        .filter_map(|id| Some((id.as_number()?, id.stored_at())));
    let (numbers, times): (Vec<i64>, Vec<Option<DateTime<Utc>>>) = numbered.unzip();
    let statement = "
        DELETE FROM ezq.cancellations c
        USING unnest($2::bigint[], $3::timestamptz[]) AS w(id, at)
        WHERE c.queue = $1 AND c.message_id = w.id AND c.stored_at = coalesce(w.at, c.stored_at)";
    let query = sqlx::query(statement)
        .bind(queue.as_str())
        .bind(numbers)
        .bind(times);
    query.execute(connection).await?;
    Ok(())
}

/// The dead letter that a message has become, among the newest.
pub(crate) async fn letter_of(
    connection: &mut PgConnection,
    queue: &QueueName,
    id: &MessageId,
) -> Result<Option<MessageId>, sqlx::Error> {
    let statement = format!(
        "SELECT d.msg_id, {} AS enqueued_at, d.headers::text AS headers
         FROM (SELECT d.msg_id, d.enqueued_at, d.headers FROM {} d
               ORDER BY d.msg_id DESC LIMIT {LETTERS}) d
         WHERE d.headers #>> '{{ezq-dead,id}}' = $1::bigint::text
         ORDER BY d.msg_id DESC LIMIT 100",
        sql::bounded("d.enqueued_at"),
        sql::dead_table(queue)
    );
    let rows = sqlx::query(AssertSqlSafe(statement))
        .bind(id.as_number())
        .fetch_all(connection)
        .await?;

    for row in &rows {
        let headers = headers::read(row.try_get("headers")?);
        let death = headers.value(DEAD).map(Death::read).unwrap_or_default();
        let stored_at = receipts::original(&death).and_then(|original| original.stored_at());
        // An id without a time names whichever message had its number.
        if id.stored_at().is_none() || id.stored_at() == stored_at {
            return receipts::message_id(row).map(Some);
        }
    }
    Ok(None)
}
