//! Renewing leases: one statement for a batch, which waits for no lock.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use ezq_core::engine::{ExtendOutcome, Receipt};
use ezq_core::message::QueueName;
use sqlx::FromRow;
use sqlx::postgres::{PgConnection, PgRow};

use crate::message::receipts::{self, Key, ONLY_LOCKED, RECEIPTS};
use crate::sql;
use crate::sql::leases::{self, Sign};
use crate::sql::units::micros;

/// One outcome for each receipt, in their order.
pub(crate) async fn extend(
    connection: &mut PgConnection,
    queue: &QueueName,
    receipts: &[Receipt],
    ttl: Duration,
    sign: Option<Sign>,
) -> Result<Vec<ExtendOutcome>, sqlx::Error> {
    let table = sql::table(queue);
    let end = leases::end("$5", sign);
    // A locked row may be about to be removed, or belong to the handler's own transaction. It
    // counts as busy, not as lost.
    let statement = format!(
        "WITH wanted AS (SELECT w.id, w.fence, w.rel, w.at FROM {RECEIPTS}),
         locked AS ({}),
         renewed AS (
           UPDATE {table} q SET vt = {end}
           FROM locked l WHERE {ONLY_LOCKED}
           RETURNING l.msg_id, l.fence, l.rel, l.at)
         SELECT w.id, w.fence, w.rel, w.at,
                EXISTS (SELECT FROM renewed r
                        WHERE (r.msg_id, r.fence, r.rel, r.at) = (w.id, w.fence, w.rel, w.at)
                       ) AS is_renewed,
                coalesce((SELECT true FROM {table} q WHERE q.msg_id = w.id AND {}), false) AS stands
         FROM wanted w",
        receipts::locked(&table, "", "wanted w", " SKIP LOCKED"),
        receipts::carries("q", "w.fence", "w.rel", "w.at")
    );

    let keys = receipts.iter().filter_map(receipts::key);
    let query = receipts::with_keys(statement, keys).bind(micros(ttl).max(1000));
    let rows: Vec<(i64, i64, i64, DateTime<Utc>, bool, bool)> = query
        .try_map(|row: PgRow| FromRow::from_row(&row))
        .fetch_all(connection)
        .await?;

    let outcomes: HashMap<Key, ExtendOutcome> = rows
        .into_iter()
        .map(|(id, fence, rel, at, renewed, stands)| {
            let outcome = match (renewed, stands) {
                (true, _) => ExtendOutcome::Extended,
                (false, true) => ExtendOutcome::Busy,
                (false, false) => ExtendOutcome::LeaseLost,
            };
            ((id, fence, rel, at), outcome)
        })
        .collect();

    Ok(receipts
        .iter()
        .map(|receipt| {
            let found = receipts::key(receipt).and_then(|key| outcomes.get(&key).copied());
            found.unwrap_or(ExtendOutcome::LeaseLost)
        })
        .collect())
}
