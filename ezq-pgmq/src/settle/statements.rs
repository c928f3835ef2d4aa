//! The statements that settle: acknowledge, put back, dead-letter ([`bury`]). Each is fenced by the
//! receipts' keys and returns the keys that it matched.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use ezq_core::message::QueueName;
use sqlx::postgres::{PgArguments, PgConnection, PgRow};
use sqlx::query::Query;
use sqlx::{FromRow, Postgres};

use super::locked::Wait;
use super::settlement::{Kind, Settlement};
use crate::message::receipts::{Key, ONLY_LOCKED, RECEIPTS, carries, fence, locked, with_keys};
use crate::retention::removal::Removal;
use crate::sql;

type Done = Result<HashSet<Key>, sqlx::Error>;

/// The keys that a statement returns.
async fn keys(query: Query<'_, Postgres, PgArguments>, connection: &mut PgConnection) -> Done {
    let keys = query.try_map(|row: PgRow| Key::from_row(&row));
    Ok(keys.fetch_all(connection).await?.into_iter().collect())
}

/// The rows that still match their receipts, locked or not.
pub(super) async fn standing(
    connection: &mut PgConnection,
    queue: &QueueName,
    receipts: impl Iterator<Item = Key>,
) -> Done {
    let table = sql::table(queue);
    let carries = carries("q", "w.fence", "w.rel", "w.at");
    let statement = format!(
        "SELECT w.id, w.fence, w.rel, w.at FROM {RECEIPTS} JOIN {table} q ON q.msg_id = w.id
         WHERE {carries}"
    );
    keys(with_keys(statement, receipts), connection).await
}

/// Locks what still matches its receipt.
pub(super) async fn lock(
    connection: &mut PgConnection,
    queue: &QueueName,
    items: &[&Settlement],
    wait: Wait,
) -> Done {
    let statement = locked(&sql::table(queue), "", RECEIPTS, wait.sql());
    keys(
        with_keys(statement, items.iter().map(|item| item.key())),
        connection,
    )
    .await
}

/// How an acknowledgement comes by its locks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Locking {
    /// It locks its messages one after another, in the order of their ids.
    InOrder(Wait),
    /// The messages are locked already, or stand in one table, which is read in the order of the ids.
    OnTheWay,
}

impl Locking {
    /// What it does about messages that somebody else has locked.
    pub(super) fn wait(self) -> Wait {
        match self {
            Self::InOrder(wait) => wait,
            Self::OnTheWay => Wait::ForLocks,
        }
    }
}

/// Removes acknowledged messages.
pub(super) async fn acknowledge(
    connection: &mut PgConnection,
    queue: &QueueName,
    removal: Removal,
    receipts: &[Key],
    locking: Locking,
) -> Done {
    let mut sorted = receipts.to_vec();
    // `delete` looks keys up by binary search.
    sorted.sort_unstable();
    // Two deliveries of one message may be in one batch. Only one of them is still valid.
    let is_unique = sorted.windows(2).all(|pair| pair[0].0 != pair[1].0);
    let is_bare = removal == Removal::Delete && locking == Locking::OnTheWay;
    let statement = if is_bare && is_unique {
        delete(queue)
    } else {
        removal.acknowledge(queue, RECEIPTS, locking.wait().sql())
    };
    keys(with_keys(statement, sorted.into_iter()), connection).await
}

/// Deletes what still matches its receipt, in one pass over the index. It takes its keys in order:
/// the ids (`$1`) must be sorted and unique. Of several partitions it passes over one index after another, and
/// so out of the order of the ids.
fn delete(queue: &QueueName) -> String {
    let table = sql::table(queue);
    let fence = fence("q");
    let stored_at = sql::bounded("q.enqueued_at");

    // The element of a column at the place of the row's id among the ids.
    let of_row = |column: &str| format!("({column})[width_bucket(q.msg_id, $1)]");
    let rel = of_row("$3::bigint[]");
    let carries = carries(
        "q",
        &of_row("$2::bigint[]"),
        &rel,
        &of_row("$4::timestamptz[]"),
    );

    // The table is that of the receipt, in which the row may have been when it was leased.
    format!(
        "DELETE FROM {table} q WHERE q.msg_id = ANY ($1::bigint[]) AND {carries}
         RETURNING q.msg_id, {fence}, {rel}, {stored_at}"
    )
}

/// Makes messages readable again, with their marks merged in. `read_ct` stays; the count of returns
/// voids the receipt.
pub(super) async fn put_back(
    connection: &mut PgConnection,
    queue: &QueueName,
    items: &[&Settlement],
    wait: Wait,
) -> Done {
    let table = sql::table(queue);
    let locked = locked(
        &table,
        ", w.after_us, w.due, w.marks, w.covers",
        "unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::timestamptz[], $5::bigint[], \
         $6::timestamptz[], $7::text[], $8::bigint[]) \
         AS w(id, fence, rel, at, after_us, due, marks, covers)",
        wait.sql(),
    );
    let object = sql::headers_object("q.headers");
    let returned = sql::returned_once_more("q.headers", "l.covers");
    let statement = format!(
        "WITH locked AS ({locked})
         UPDATE {table} q
         SET vt = coalesce(l.due, clock_timestamp() + l.after_us * interval '1 us'),
             headers = ({object}) || l.marks::jsonb || {returned}
         FROM locked l
         WHERE {ONLY_LOCKED}
         RETURNING l.msg_id, l.fence, l.rel, l.at"
    );

    let (afters, dues): (Vec<Option<i64>>, Vec<Option<DateTime<Utc>>>) = items
        .iter()
        .map(|item| match item.kind {
            Kind::Return { after_us, due, .. } => (after_us, due),
            Kind::Ack | Kind::Discard | Kind::Dead { .. } => (Some(0), None),
        })
        .unzip();
    let marks: Vec<&str> = items.iter().map(|item| item.marks()).collect();
    let covers: Vec<i64> = items
        .iter()
        .map(|item| item.receipt.covers().into())
        .collect();
    let query = with_keys(statement, items.iter().map(|item| item.key()))
        .bind(afters)
        .bind(dues)
        .bind(marks)
        .bind(covers);

    keys(query, connection).await
}

/// Moves messages to the dead letters, with their marks and the reason.
pub(super) async fn bury(
    connection: &mut PgConnection,
    queue: &QueueName,
    items: &[&Settlement],
) -> Done {
    let table = sql::table(queue);
    let dead = sql::dead_table(queue);
    let locked = locked(
        &table,
        ", w.marks",
        "unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::timestamptz[], $5::text[]) \
         AS w(id, fence, rel, at, marks)",
        "",
    );
    let object = sql::headers_object("g.headers");
    let statement = format!(
        "WITH locked AS ({locked}),
         gone AS (
           DELETE FROM {table} q USING locked l
           WHERE {ONLY_LOCKED}
           RETURNING q.msg_id, l.fence, l.rel, l.at, q.read_ct, q.enqueued_at, q.message, q.headers,
                     l.marks::jsonb AS marks),
         buried AS (
           INSERT INTO {dead} (vt, message, headers)
           SELECT clock_timestamp(), g.message,
                  ({object}) || g.marks || jsonb_build_object('ezq-dead',
                    (g.marks -> 'ezq-dead') || jsonb_build_object(
                      'id', g.msg_id, 'deliveries', g.read_ct,
                      'enqueued_at', g.enqueued_at, 'died_at', clock_timestamp()))
           FROM gone g ORDER BY g.msg_id)
         SELECT msg_id, fence, rel, at FROM gone"
    );
    let marks: Vec<&str> = items.iter().map(|item| item.marks()).collect();
    let query = with_keys(statement, items.iter().map(|item| item.key())).bind(marks);

    keys(query, connection).await
}
