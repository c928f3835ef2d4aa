//! Leasing one message by its id, due or not, so that an operator can settle it.

use chrono::{DateTime, Utc};
use ezq_core::engine::{CopyState, Delivery};
use ezq_core::message::MessageId;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _, Row as _};

use crate::claim::{self, Claim};
use crate::message::{headers, receipts};
use crate::sql::{self, BEGIN};

/// The result of a claim by id.
pub(crate) enum Claimed {
    Leased(Box<Delivery>),
    /// A worker has a lease on it.
    Held,
    Absent,
}

/// Leases the message with an id, unless a worker has it. The row is read under a lock: only its
/// headers tell a lease from a retry, and they are read here.
pub(crate) async fn run(
    connection: &mut PgConnection,
    claim: &Claim,
    id: &MessageId,
) -> Result<Claimed, sqlx::Error> {
    let mut tx = connection.begin_with(BEGIN).await?;
    let claimed = look_and_lease(&mut tx, claim, id).await;
    if matches!(claimed, Ok(Claimed::Leased(_))) {
        tx.commit().await?;
    } else {
        // A dropped transaction ends with the next use of the connection, and would lock the row
        // until then.
        tx.rollback().await?;
    }
    claimed
}

async fn look_and_lease(
    connection: &mut PgConnection,
    claim: &Claim,
    id: &MessageId,
) -> Result<Claimed, sqlx::Error> {
    let table = &claim.table;
    let is_meant = receipts::is_meant("q", "$1", "$2");
    let due = sql::bounded("q.vt");
    let look = format!(
        "SELECT {due} AS due, q.read_ct, q.headers::text AS headers, clock_timestamp() AS now
         FROM {table} q WHERE {is_meant} FOR UPDATE"
    );
    let lease = format!(
        "WITH picked AS (SELECT q.msg_id, q.vt FROM {table} q WHERE {is_meant}) {}",
        claim.update()
    );

    let query = sqlx::query(AssertSqlSafe(look))
        .bind(id.as_number())
        .bind(id.stored_at());
    let Some(row) = query.fetch_optional(&mut *connection).await? else {
        return Ok(Claimed::Absent);
    };

    let due: DateTime<Utc> = row.try_get("due")?;
    let now: DateTime<Utc> = row.try_get("now")?;
    let deliveries = u32::try_from(row.try_get::<i32, _>("read_ct")?).unwrap_or(0);
    let state = CopyState::of(
        due,
        deliveries,
        &headers::read(row.try_get("headers")?),
        now,
    );

    // Leasing it would void the worker's receipt.
    if matches!(state, CopyState::Leased { .. }) {
        return Ok(Claimed::Held);
    }

    let query = sqlx::query(AssertSqlSafe(lease))
        .bind(id.as_number())
        .bind(id.stored_at());
    let row = query.bind(claim.ttl_us).fetch_one(connection).await?;
    Ok(Claimed::Leased(Box::new(claim::delivery(&row)?)))
}
