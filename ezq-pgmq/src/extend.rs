//! Renewing leases: one statement for a batch, which waits for no lock.

use std::collections::HashMap;
use std::time::Duration;

use ezq_core::{ExtendOutcome, QueueName, Receipt};
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;

use crate::claim::micros;
use crate::sql::{self, RECEIPTS};

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
        "WITH wanted AS (SELECT w.id, w.read_ct, w.rel FROM {RECEIPTS}),
         locked AS ({} SKIP LOCKED),
         renewed AS (
           UPDATE {table} q SET vt = clock_timestamp() + $4 * interval '1 us'
           FROM locked l WHERE q.msg_id = l.msg_id AND q.read_ct = l.read_ct
           RETURNING q.msg_id, q.read_ct)
         SELECT w.id, w.read_ct, w.rel,
                EXISTS (SELECT FROM renewed r WHERE r.msg_id = w.id AND r.read_ct = w.read_ct)
                  AS is_renewed,
                EXISTS (SELECT FROM {table} q WHERE q.msg_id = w.id AND q.read_ct = w.read_ct
                        AND q.tableoid::bigint = w.rel) AS stands
         FROM wanted w",
        sql::locked(&table, "", "wanted w")
    );
    let number = |receipt: &Receipt| receipt.message_id().as_number().unwrap_or(-1);
    let read_ct = |receipt: &Receipt| i32::try_from(receipt.token()[0]).unwrap_or(-1);
    let ids: Vec<i64> = receipts.iter().map(number).collect();
    let read_cts: Vec<i32> = receipts.iter().map(read_ct).collect();
    let rels: Vec<i64> = receipts.iter().map(|receipt| receipt.token()[1]).collect();
    let rows = sqlx::query_as::<_, (i64, i32, i64, bool, bool)>(AssertSqlSafe(statement))
        .bind(ids)
        .bind(read_cts)
        .bind(rels)
        .bind(micros(ttl).max(1000))
        .fetch_all(connection)
        .await?;
    let outcomes: HashMap<(i64, i32, i64), ExtendOutcome> = rows
        .into_iter()
        .map(|(id, read_ct, rel, renewed, stands)| {
            let outcome = match (renewed, stands) {
                (true, true) => ExtendOutcome::Extended,
                (false, true) => ExtendOutcome::Busy,
                _ => ExtendOutcome::LeaseLost,
            };
            ((id, read_ct, rel), outcome)
        })
        .collect();
    let outcome = |receipt: &Receipt| {
        let key = (number(receipt), read_ct(receipt), receipt.token()[1]);
        outcomes.get(&key).copied().unwrap_or(ExtendOutcome::LeaseLost)
    };
    Ok(receipts.iter().map(outcome).collect())
}
