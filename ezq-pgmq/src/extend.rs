//! Renewing leases: one statement for a batch, which waits for no lock.

use std::collections::HashMap;
use std::time::Duration;

use ezq_core::{ExtendOutcome, QueueName, Receipt};
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;

use crate::claim::micros;
use crate::sql::{self, ONLY_LOCKED, RECEIPTS};

/// One outcome for each receipt, in their order.
pub(crate) async fn extend(
    connection: &mut PgConnection,
    queue: &QueueName,
    receipts: &[Receipt],
    ttl: Duration,
) -> Result<Vec<ExtendOutcome>, sqlx::Error> {
    let table = sql::table(queue);
    // A row locked by another may be on its way out, or be its handler's own: busy, not lost.
    let statement = format!(
        "WITH wanted AS (SELECT w.id, w.fence, w.rel FROM {RECEIPTS}),
         locked AS ({}),
         renewed AS (
           UPDATE {table} q SET vt = clock_timestamp() + $4 * interval '1 us'
           FROM locked l WHERE {ONLY_LOCKED}
           RETURNING l.msg_id, l.fence, l.rel)
         SELECT w.id, w.fence, w.rel,
                EXISTS (SELECT FROM renewed r
                        WHERE (r.msg_id, r.fence, r.rel) = (w.id, w.fence, w.rel)) AS is_renewed,
                coalesce((SELECT true FROM {table} q WHERE q.msg_id = w.id AND {} = w.fence
                          AND q.tableoid::bigint = w.rel), false) AS stands
         FROM wanted w",
        sql::locked(&table, "", "wanted w", " SKIP LOCKED"),
        sql::fence("q")
    );
    let key = |receipt: &Receipt| {
        let [fence, rel, _] = receipt.token();
        (receipt.message_id().as_number().unwrap_or(-1), fence, rel)
    };
    let ids: Vec<i64> = receipts.iter().map(|receipt| key(receipt).0).collect();
    let fences: Vec<i64> = receipts.iter().map(|receipt| key(receipt).1).collect();
    let rels: Vec<i64> = receipts.iter().map(|receipt| key(receipt).2).collect();
    let rows = sqlx::query_as::<_, (i64, i64, i64, bool, bool)>(AssertSqlSafe(statement))
        .bind(ids)
        .bind(fences)
        .bind(rels)
        .bind(micros(ttl).max(1000))
        .fetch_all(connection)
        .await?;
    let outcomes: HashMap<(i64, i64, i64), ExtendOutcome> = rows
        .into_iter()
        .map(|(id, fence, rel, renewed, stands)| {
            let outcome = match (renewed, stands) {
                (true, _) => ExtendOutcome::Extended,
                (false, true) => ExtendOutcome::Busy,
                (false, false) => ExtendOutcome::LeaseLost,
            };
            ((id, fence, rel), outcome)
        })
        .collect();
    let outcome = |receipt: &Receipt| {
        let found = outcomes.get(&key(receipt)).copied();
        found.unwrap_or(ExtendOutcome::LeaseLost)
    };
    Ok(receipts.iter().map(outcome).collect())
}
