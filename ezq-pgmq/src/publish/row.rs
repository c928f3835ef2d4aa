//! A message as a row to be inserted, and the columns that a batch binds.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use ezq_core::Result;
use ezq_core::engine::{Dedupe, Due, Outgoing};
use ezq_core::message::QueueName;
use ezq_core::message::headers::Headers;
use sqlx::postgres::PgArguments;
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, Postgres};

use crate::message::encoding::Encoding;
use crate::message::storable;
use crate::sql::units::{in_calendar, micros};

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
    /// Converts a message.
    ///
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

    /// Whether it has an ordering key.
    pub(crate) fn is_keyed(&self) -> bool {
        self.keyed
    }

    pub(crate) fn body(&self) -> &str {
        &self.body
    }

    pub(crate) fn headers(&self) -> Option<&str> {
        self.headers.as_deref()
    }

    /// When it is due, in microseconds of Unix time, as [`DUE`] has it.
    pub(crate) fn due_us(&self, now_us: i64, place: i64, twin: i64) -> i64 {
        match self.at.map(|at| at.timestamp_micros()) {
            Some(at_us) if at_us > now_us => at_us.saturating_add(twin),
            _ => now_us.saturating_add(self.after_us).saturating_add(place),
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.body.len() + self.headers.as_ref().map_or(0, String::len)
    }
}

/// The delay in microseconds, or the time from which the message is due.
pub(crate) fn due(due: Due) -> (i64, Option<DateTime<Utc>>) {
    (micros(due.pause()), due.time().map(in_calendar))
}

/// The headers of a message as the table stores them, if the database can store all of the message.
pub(crate) fn checked(message: &Outgoing, encoding: Encoding) -> Result<Option<String>> {
    storable(
        &message.body,
        &message.headers,
        message.dedupe.as_ref(),
        encoding,
    )
}

/// The headers as the table stores them, if the database can store them, the body and the dedupe
/// key.
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

/// The rows of one queue, each with its index among the messages.
pub(crate) type QueueRows = (QueueName, Vec<(usize, Row)>);

/// Rows by queue, in their order, each with its index among the messages.
#[derive(Default)]
pub(crate) struct ByQueue(Vec<QueueRows>);

impl ByQueue {
    pub(crate) fn push(&mut self, queue: QueueName, index: usize, row: Row) {
        match self.0.iter_mut().find(|(name, _)| *name == queue) {
            Some((_, rows)) => rows.push((index, row)),
            None => self.0.push((queue, vec![(index, row)])),
        }
    }

    /// The queues in the order of their names. Transactions that take dedupe keys in several queues
    /// take them in one order.
    pub(crate) fn into_inner(mut self) -> Vec<QueueRows> {
        self.0.sort_by(|(one, _), (other, _)| one.cmp(other));
        self.0
    }
}

/// When a row is due: not before now, and after the earlier rows of its batch.
pub(crate) const DUE: &str =
    "CASE WHEN m.at > base.now THEN m.at + m.twin::float8 * interval '1 us'
                     ELSE base.now + (m.after_us + m.place - 1)::float8 * interval '1 us' END";

/// Binds rows column by column: `$1` to `$5`.
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

/// How many earlier rows are due at exactly the same time. Each later one is due a microsecond after
/// them.
pub(crate) fn twins(rows: &[Row]) -> Vec<i64> {
    let mut seen: HashMap<i64, i64> = HashMap::new();
    rows.iter()
        .map(|row| {
            let Some(at) = row.at else { return 0 };
            let count = seen.entry(at.timestamp_micros()).or_default();
            *count += 1;
            *count - 1
        })
        .collect()
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
