//! The fenced statements; each answers with what it settled.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use ezq_core::QueueName;
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;

use super::item::{Item, Key, Kind};
use crate::sql::{self, ONLY_LOCKED, RECEIPTS};

type Done = Result<HashSet<Key>, sqlx::Error>;

/// What the receipts of several messages say, column by column.
struct Tokens {
    ids: Vec<i64>,
    fences: Vec<i64>,
    rels: Vec<i64>,
}

impl Tokens {
    fn of(items: &[&Item]) -> Self {
        Self {
            ids: items.iter().map(|item| item.id).collect(),
            fences: items.iter().map(|item| item.fence).collect(),
            rels: items.iter().map(|item| item.rel).collect(),
        }
    }
}

/// Locks what still carries its receipt.
pub(super) async fn lock(
    connection: &mut PgConnection,
    queue: &QueueName,
    items: &[&Item],
) -> Done {
    let statement = sql::locked(&sql::table(queue), "", RECEIPTS, "");
    let tokens = Tokens::of(items);
    let keys = sqlx::query_as::<_, Key>(AssertSqlSafe(statement))
        .bind(tokens.ids)
        .bind(tokens.fences)
        .bind(tokens.rels)
        .fetch_all(connection)
        .await?;
    Ok(keys.into_iter().collect())
}

/// Removes acknowledged messages.
pub(super) async fn acknowledge(
    connection: &mut PgConnection,
    queue: &QueueName,
    items: &[&Item],
) -> Done {
    let table = sql::table(queue);
    let locked = sql::locked(&table, "", RECEIPTS, "");
    let statement = format!(
        "WITH locked AS ({locked})
         DELETE FROM {table} q USING locked l
         WHERE {ONLY_LOCKED}
         RETURNING l.msg_id, l.fence, l.rel"
    );
    let tokens = Tokens::of(items);
    let keys = sqlx::query_as::<_, Key>(AssertSqlSafe(statement))
        .bind(tokens.ids)
        .bind(tokens.fences)
        .bind(tokens.rels)
        .fetch_all(connection)
        .await?;
    Ok(keys.into_iter().collect())
}

/// Makes messages readable again, with their marks merged in. `read_ct` stays, and the count of
/// returns voids the receipt.
pub(super) async fn put_back(
    connection: &mut PgConnection,
    queue: &QueueName,
    items: &[&Item],
) -> Done {
    let table = sql::table(queue);
    let locked = sql::locked(
        &table,
        ", w.after_us, w.due, w.marks",
        "unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::timestamptz[], \
         $6::text[]) AS w(id, fence, rel, after_us, due, marks)",
        "",
    );
    let object = sql::headers_object("q.headers");
    let returned = sql::returned_once_more("q.headers");
    let statement = format!(
        "WITH locked AS ({locked})
         UPDATE {table} q
         SET vt = coalesce(l.due, clock_timestamp() + l.after_us * interval '1 us'),
             headers = ({object}) || l.marks::jsonb || {returned}
         FROM locked l
         WHERE {ONLY_LOCKED}
         RETURNING l.msg_id, l.fence, l.rel"
    );
    let column = |item: &&Item| match item.kind {
        Kind::Return { after_us, due, .. } => (after_us, due),
        Kind::Ack | Kind::Dead { .. } => (Some(0), None),
    };
    let (afters, dues): (Vec<Option<i64>>, Vec<Option<DateTime<Utc>>>) =
        items.iter().map(column).unzip();
    let marks: Vec<&str> = items.iter().map(|item| item.marks()).collect();
    let tokens = Tokens::of(items);
    let keys = sqlx::query_as::<_, Key>(AssertSqlSafe(statement))
        .bind(tokens.ids)
        .bind(tokens.fences)
        .bind(tokens.rels)
        .bind(afters)
        .bind(dues)
        .bind(marks)
        .fetch_all(connection)
        .await?;
    Ok(keys.into_iter().collect())
}

/// Moves messages to the dead letters, with their marks and the reason.
pub(super) async fn bury(
    connection: &mut PgConnection,
    queue: &QueueName,
    items: &[&Item],
) -> Done {
    let table = sql::table(queue);
    let dead = sql::dead_table(queue);
    let locked = sql::locked(
        &table,
        ", w.marks",
        "unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::text[]) AS w(id, fence, rel, marks)",
        "",
    );
    let object = sql::headers_object("g.headers");
    let statement = format!(
        "WITH locked AS ({locked}),
         gone AS (
           DELETE FROM {table} q USING locked l
           WHERE {ONLY_LOCKED}
           RETURNING q.msg_id, l.fence, l.rel, q.read_ct, q.enqueued_at, q.message, q.headers,
                     l.marks::jsonb AS marks),
         buried AS (
           INSERT INTO {dead} (vt, message, headers)
           SELECT clock_timestamp(), g.message,
                  ({object}) || g.marks || jsonb_build_object('ezq-dead',
                    (g.marks -> 'ezq-dead') || jsonb_build_object(
                      'id', g.msg_id, 'deliveries', g.read_ct,
                      'enqueued_at', g.enqueued_at, 'died_at', clock_timestamp()))
           FROM gone g ORDER BY g.msg_id)
         SELECT msg_id, fence, rel FROM gone"
    );
    let marks: Vec<&str> = items.iter().map(|item| item.marks()).collect();
    let tokens = Tokens::of(items);
    let keys = sqlx::query_as::<_, Key>(AssertSqlSafe(statement))
        .bind(tokens.ids)
        .bind(tokens.fences)
        .bind(tokens.rels)
        .bind(marks)
        .fetch_all(connection)
        .await?;
    Ok(keys.into_iter().collect())
}
