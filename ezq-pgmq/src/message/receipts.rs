//! Receipts on PGMQ: what identifies one delivery, and how statements compare it.
//!
//! Number, counters and table are not enough. After a fail-over to a lagging replica, and after a
//! crash of an unlogged queue, the sequence issues numbers again. A new message may then have the
//! number, the table and the first `read_ct` of one that is gone. The time at which it was stored
//! tells them apart.

use chrono::{DateTime, Utc};
use ezq_core::Result;
use ezq_core::engine::{Death, Receipt, Token};
use ezq_core::message::MessageId;
use ezq_core::message::headers::{Headers, REDRIVEN};
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, Postgres, Row as _};

use crate::sql;

/// The engine's name in logs and errors.
pub(crate) const ENGINE: &str = "pgmq";

/// The key of a receipt: message number, counters, table, and when the message was stored.
pub(crate) type Key = (i64, i64, i64, DateTime<Utc>);

/// The token of a delivery: the counters of its row as [`fence`] has them, the oid of the queue's
/// table, and when the message became due. The due time is no part of the key: a release puts the
/// message back to it.
pub(crate) fn token(fence: i64, rel: i64, due: DateTime<Utc>) -> Token {
    Token::from_words([fence, rel, due.timestamp_micros()])
}

/// The key of a receipt, and when its message became due.
///
/// # Errors
/// [`InvalidReceipt`](ezq_core::ErrorKind::InvalidReceipt) if another engine made it.
pub(crate) fn read(receipt: &Receipt) -> Result<(Key, DateTime<Utc>)> {
    parts(receipt).ok_or_else(|| receipt.foreign_to(ENGINE))
}

/// The key of a receipt; `None` if another engine made it.
pub(crate) fn key(receipt: &Receipt) -> Option<Key> {
    parts(receipt).map(|(key, _due)| key)
}

fn parts(receipt: &Receipt) -> Option<(Key, DateTime<Utc>)> {
    let [fence, rel, due_us] = receipt.token().words()?;
    let id = receipt.message_id();
    let key = (id.as_number()?, fence, rel, id.stored_at()?);
    Some((key, DateTime::from_timestamp_micros(due_us)?))
}

/// Keys column by column, in the order of the parameters of [`RECEIPTS`].
#[derive(Default)]
struct Columns {
    ids: Vec<i64>,
    fences: Vec<i64>,
    rels: Vec<i64>,
    times: Vec<DateTime<Utc>>,
}

impl Extend<Key> for Columns {
    fn extend<T: IntoIterator<Item = Key>>(&mut self, keys: T) {
        for (id, fence, rel, at) in keys {
            self.ids.push(id);
            self.fences.push(fence);
            self.rels.push(rel);
            self.times.push(at);
        }
    }
}

impl FromIterator<Key> for Columns {
    fn from_iter<T: IntoIterator<Item = Key>>(keys: T) -> Self {
        let mut columns = Self::default();
        columns.extend(keys);
        columns
    }
}

/// A statement with the keys of receipts bound column by column: `$1` to `$4` of [`RECEIPTS`].
pub(crate) fn with_keys<'q>(
    statement: String,
    keys: impl Iterator<Item = Key>,
) -> Query<'q, Postgres, PgArguments> {
    let Columns {
        ids,
        fences,
        rels,
        times,
    } = keys.collect();
    sqlx::query(AssertSqlSafe(statement))
        .bind(ids)
        .bind(fences)
        .bind(rels)
        .bind(times)
}

/// The parameters `$1` to `$4` that [`with_keys`] binds, as a table `w`.
pub(crate) const RECEIPTS: &str = "unnest($1::bigint[], $2::bigint[], $3::bigint[], \
                                   $4::timestamptz[]) AS w(id, fence, rel, at)";

/// The rows that still match the receipts' keys, locked in the order of their ids. `from` is a
/// table expression `w` with the columns of [`RECEIPTS`]. A row that was waited for is checked
/// again as it is then.
///
/// Each row is looked up by its key, whatever the planner estimates: a subquery that locks is not
/// merged into a join, and a nested loop keeps the order of the ids.
pub(crate) fn locked(table: &str, columns: &str, from: &str, wait: &str) -> String {
    let carries = carries("q", "w.fence", "w.rel", "w.at");
    format!(
        "SELECT w.id AS msg_id, w.fence, w.rel, w.at{columns} \
         FROM (SELECT w.* FROM {from} ORDER BY w.id) w CROSS JOIN LATERAL ( \
           SELECT 1 FROM {table} q WHERE q.msg_id = w.id AND {carries} FOR UPDATE{wait}) q"
    )
}

/// Limits a statement to the rows of the CTE `locked`, whatever the planner estimates.
pub(crate) const ONLY_LOCKED: &str =
    "q.msg_id = l.msg_id AND q.msg_id = ANY (ARRAY(SELECT msg_id FROM locked))";

/// A row with the right number matches the rest of a key. A row that was leased when its queue was
/// partitioned anew lists the tables in which it was, so that its receipt stays valid.
pub(crate) fn carries(row: &str, fence: &str, rel: &str, at: &str) -> String {
    let stored_at = sql::bounded(&format!("{row}.enqueued_at"));
    format!(
        "{} = {fence} AND {stored_at} = {at} AND ({row}.tableoid::bigint = {rel} \
         OR ({row}.headers -> 'ezq-moved'::text) @> pg_catalog.to_jsonb({rel}::bigint))",
        self::fence(row)
    )
}

/// The counters of a row: the read count, which each delivery raises, and in the upper half the
/// number of returns, which each retry and release raises. So a receipt is void once the message is
/// delivered again, and once the receipt itself was used.
pub(crate) fn fence(row: &str) -> String {
    let returned = sql::returned(&format!("{row}.headers"));
    format!("({row}.read_ct + ({returned} << 32))")
}

/// A row is the message that an id names. An id without a time names whichever message has its
/// number.
pub(crate) fn is_meant(row: &str, number: &str, at: &str) -> String {
    let stored_at = sql::bounded(&format!("{row}.enqueued_at"));
    format!("{row}.msg_id = {number} AND {stored_at} = coalesce({at}, {stored_at})")
}

/// The id in the columns `msg_id` and `enqueued_at`.
pub(crate) fn message_id(row: &PgRow) -> Result<MessageId, sqlx::Error> {
    Ok(dated(row.try_get("msg_id")?, row.try_get("enqueued_at")?))
}

/// When a message was first stored, if it was redriven since. Its row has the time of the redrive.
pub(crate) fn first_stored(headers: &Headers) -> Option<DateTime<Utc>> {
    Death::read(headers.value(REDRIVEN)?).enqueued_at
}

/// The id that a dead letter had in its queue.
pub(crate) fn original(death: &Death) -> Option<MessageId> {
    let id = death.message_id.as_ref()?;
    Some(match (id.as_number(), death.enqueued_at) {
        (Some(number), Some(stored_at)) => dated(number, stored_at),
        _ => id.clone(),
    })
}

/// The id of the message with this number that was stored at this time.
pub(crate) fn dated(number: i64, stored_at: DateTime<Utc>) -> MessageId {
    MessageId::Dated { number, stored_at }
}
