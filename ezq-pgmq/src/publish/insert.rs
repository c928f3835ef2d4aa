//! Storing messages: one insert per queue and batch, with an outcome for each message.
//!
//! Rows of one batch get strictly increasing `vt`, so that they are claimed in their order. When a
//! batch fails for what one message holds, it is cut in halves until that message stands alone.

use chrono::{DateTime, Utc};
use ezq_core::engine::Dedupe;
use ezq_core::headers::Headers;
use ezq_core::{Due, Error, Outgoing, PublishOutcome, QueueName, Result};
use sqlx::postgres::{PgArguments, PgConnection, PgRow};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, Postgres, Row as _};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::claim::{in_calendar, micros};
use crate::config::Place;
use crate::connection::dedicated::limit;
use crate::connection::pool::Lender;
use crate::connection::stop::{Stopper, mark};
use crate::message::encoding::Encoding;
use crate::message::{receipts, storable};
use crate::publish::dedupe;
use crate::wake::commits::{WRITER, Writer};
use crate::{error, sql};

/// The most bytes that one statement carries, unless one message alone is larger.
const STATEMENT_BYTES: usize = 32 * 1024 * 1024;

/// How often a deadlock or serialisation failure is answered by the same statement again.
pub(crate) const CONFLICT_TRIES: u32 = 5;

/// A message in the database's units.
#[derive(Clone)]
pub(crate) struct Row {
    body: String,
    headers: Option<String>,
    after_us: i64,
    at: Option<DateTime<Utc>>,
    pub(crate) dedupe: Option<Dedupe>,
    keyed: bool,
}

impl Row {
    /// # Errors
    /// The message cannot be stored.
    pub(crate) fn new(message: Outgoing, encoding: Encoding) -> Result<Self> {
        let headers = checked(&message, encoding)?;
        let (after_us, at) = due(message.due);
        let keyed = message.headers.key().is_some();
        Ok(Self {
            body: message.body,
            headers,
            after_us,
            at,
            dedupe: message.dedupe,
            keyed,
        })
    }

    /// It has an ordering key.
    pub(crate) fn is_keyed(&self) -> bool {
        self.keyed
    }

    pub(crate) fn bytes(&self) -> usize {
        self.body.len() + self.headers.as_ref().map_or(0, String::len)
    }
}

/// How long after now, or from when.
pub(crate) fn due(due: Due) -> (i64, Option<DateTime<Utc>>) {
    match due {
        Due::Now => (0, None),
        Due::After(pause) => (micros(pause), None),
        Due::At(time) => (0, Some(in_calendar(time))),
    }
}

/// The headers of a message as the table keeps them, if the database can keep all of it.
pub(crate) fn checked(message: &Outgoing, encoding: Encoding) -> Result<Option<String>> {
    storable(
        &message.body,
        &message.headers,
        message.dedupe.as_ref(),
        encoding,
    )
}

/// The headers as the table keeps them, if the database can keep them, the body and the dedupe key.
pub(crate) fn storable(
    body: &str,
    headers: &Headers,
    dedupe: Option<&Dedupe>,
    encoding: Encoding,
) -> Result<Option<String>> {
    storable::check(body, encoding)?;
    if let Some(dedupe) = dedupe {
        storable::check_dedupe(dedupe, encoding)?;
    }
    if headers.is_empty() {
        return Ok(None);
    }
    let headers = serde_json::Value::Object(headers.as_object().clone()).to_string();
    storable::check(&headers, encoding)?;
    Ok(Some(headers))
}

/// Rows by the queue they go to, in their order, each with its place among the messages.
#[derive(Default)]
pub(crate) struct ByQueue(Vec<(QueueName, Vec<(usize, Row)>)>);

impl ByQueue {
    pub(crate) fn push(&mut self, queue: QueueName, index: usize, row: Row) {
        match self.0.iter_mut().find(|(name, _)| *name == queue) {
            Some((_, rows)) => rows.push((index, row)),
            None => self.0.push((queue, vec![(index, row)])),
        }
    }

    /// In the order of the queues' names: a transaction that takes keys in several queues takes them
    /// in the order in which every other does.
    pub(crate) fn into_inner(mut self) -> Vec<(QueueName, Vec<(usize, Row)>)> {
        self.0.sort_by(|(one, _), (other, _)| one.cmp(other));
        self.0
    }
}

/// When a row is due: no earlier than now, and after those of its batch that stand before it.
pub(crate) const DUE: &str =
    "CASE WHEN m.at > base.now THEN m.at + m.twin::float8 * interval '1 us'
                     ELSE base.now + (m.after_us + m.place - 1)::float8 * interval '1 us' END";

/// Inserts rows of one queue in one statement; an outcome each, in their order, none of them
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

/// The same in a caller's transaction, and which one it is.
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

/// The same with more columns to be returned.
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
    let outcome = |row: &PgRow| Ok(PublishOutcome::Stored(receipts::message_id(row)?));
    let outcomes = stored
        .iter()
        .map(outcome)
        .collect::<Result<_, sqlx::Error>>()?;
    Ok((outcomes, stored))
}

/// A statement with rows bound, column by column: `$1` to `$5`.
pub(crate) fn with_columns<'q>(
    statement: String,
    rows: &[Row],
) -> Query<'q, Postgres, PgArguments> {
    let bodies: Vec<&str> = rows.iter().map(|row| row.body.as_str()).collect();
    let headers: Vec<Option<&str>> = rows.iter().map(|row| row.headers.as_deref()).collect();
    let afters: Vec<i64> = rows.iter().map(|row| row.after_us).collect();
    let times: Vec<Option<DateTime<Utc>>> = rows.iter().map(|row| row.at).collect();
    let query = sqlx::query(AssertSqlSafe(statement))
        .bind(bodies)
        .bind(headers);
    query.bind(afters).bind(times).bind(twins(rows))
}

// How many earlier rows want the very same time: each later one stands a microsecond after them.
fn twins(rows: &[Row]) -> Vec<i64> {
    let mut seen: HashMap<i64, i64> = HashMap::new();
    let twin = |row: &Row| {
        let Some(at) = row.at else { return 0 };
        let count = seen.entry(at.timestamp_micros()).or_default();
        *count += 1;
        *count - 1
    };
    rows.iter().map(twin).collect()
}

/// Stores rows of one queue through the pool; an outcome each, in their order.
pub(crate) async fn store(
    lender: &Arc<Lender>,
    place: &Place,
    stopper: &Stopper,
    queue: &QueueName,
    rows: &[Row],
) -> Vec<PublishOutcome> {
    let mut outcomes = Vec::with_capacity(rows.len());
    // Parts still to be stored, the next one last.
    let mut parts: Vec<&[Row]> = vec![rows];
    let mut conflicts = 0;
    while let Some(part) = parts.pop() {
        let bytes: usize = part.iter().map(Row::bytes).sum();
        if part.len() > 1 && bytes > STATEMENT_BYTES {
            halve(part, &mut parts);
            continue;
        }
        let stored = async {
            let mut connection = limit(stopper.patience, lender.acquire()).await?;
            let insertion = async {
                let stored = insert(&mut connection, queue, part).await;
                connection.end(stored)
            };
            stopper.limit(&mark(Some(queue)), insertion).await
        };
        match stored.await {
            Ok(stored) => outcomes.extend(stored),
            // Of rows with keys alone: another transaction was taking one of them.
            Err(failure) if error::is_conflict(&failure) && conflicts < CONFLICT_TRIES => {
                conflicts += 1;
                tokio::time::sleep(Duration::from_millis(5 << conflicts)).await;
                parts.push(part);
            }
            Err(failure) if error::is_data(&failure) => {
                if part.len() > 1 {
                    halve(part, &mut parts);
                } else {
                    let refused = storable::refused_with(failure, "its body or headers");
                    outcomes.push(PublishOutcome::Failed(refused));
                }
            }
            Err(failure) => {
                let failure = error::on_queue(failure, queue, place);
                let rest = part.len() + parts.iter().map(|part| part.len()).sum::<usize>();
                let again: Vec<Error> = (1..rest).map(|_| failure.without_source()).collect();
                outcomes.push(PublishOutcome::Failed(failure));
                outcomes.extend(again.into_iter().map(PublishOutcome::Failed));
                break;
            }
        }
    }
    outcomes
}

fn halve<'a>(part: &'a [Row], parts: &mut Vec<&'a [Row]>) {
    let (first, second) = part.split_at(part.len() / 2);
    parts.push(second);
    parts.push(first);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_twins_apart() {
        let at = |micros: Option<i64>| Row {
            body: String::new(),
            headers: None,
            after_us: 0,
            at: micros.and_then(DateTime::from_timestamp_micros),
            dedupe: None,
            keyed: false,
        };
        let rows = [at(Some(5)), at(None), at(Some(5)), at(Some(6)), at(Some(5))];
        assert_eq!(twins(&rows), [0, 0, 1, 0, 2]);
    }
}
