//! Reading what is to be cancelled.

use chrono::{DateTime, Utc};
use ezq_core::engine::{Cancel, CancelOrder, Cancellation};
use ezq_core::message::QueueName;
use sqlx::Row as _;
use sqlx::postgres::{PgConnection, PgRow};

use crate::message::{encoding, receipts};

/// The oldest first. Those of an earlier day are over.
const READ: &str = "
    SELECT c.queue, c.message_id, c.stored_at, c.is_discarded, c.asked_by, c.reason, c.asked_at
    FROM ezq.cancellations c
    WHERE c.asked_at > statement_timestamp() - interval '1 day'
    ORDER BY c.asked_at, c.queue, c.message_id LIMIT 10000";

/// What is to be cancelled in each queue.
pub(super) async fn all(
    connection: &mut PgConnection,
) -> Result<Vec<(QueueName, Cancellation)>, sqlx::Error> {
    let rows = sqlx::query(READ).fetch_all(connection).await?;
    // Another client may have written a name that no queue can have.
    let all = rows
        .iter()
        .map(cancellation)
        .collect::<Result<Vec<_>, _>>()?;
    Ok(all.into_iter().flatten().collect())
}

fn cancellation(row: &PgRow) -> Result<Option<(QueueName, Cancellation)>, sqlx::Error> {
    let Ok(queue) = QueueName::new(row.try_get("queue")?) else {
        return Ok(None);
    };
    let stored_at: DateTime<Utc> = row.try_get("stored_at")?;
    let id = receipts::dated(row.try_get("message_id")?, stored_at);

    let what = match row.try_get("is_discarded")? {
        true => Cancel::Discard,
        false => Cancel::Dead,
    };
    let by: &str = row.try_get("asked_by")?;
    let reason: Option<&str> = row.try_get("reason")?;
    let reason = reason.map(|reason| encoding::original(reason).into_owned());
    let order = CancelOrder::new(what, encoding::original(by)).reason(reason);
    let asked = Cancellation::new(id, order, row.try_get("asked_at")?);
    Ok(Some((queue, asked)))
}
