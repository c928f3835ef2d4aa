//! Settling a message that waits, by its id: it is leased for one settlement, due or not.
//!
//! The lease is refused while a worker has the message. It voids earlier receipts as any delivery does,
//! so a worker that comes back late settles nothing.

use std::time::Duration;

use tracing::info;

use crate::engine::{CancelOrder, Delivery, Engine, LeaseRequest, Receipt, Settle, SettleOutcome};
use crate::error::{Error, Result, error_chain};
use crate::logging::warn;
use crate::message::message_id::MessageId;
use crate::message::queue_name::QueueName;
use crate::message::settlement::Progress;
use crate::observe::notices::Notices;

/// How long a message is leased. Long enough for one settlement.
const LEASE: Duration = Duration::from_secs(30);

/// Leases one message and settles it, and tells listeners. Returns false if there is no such message.
/// One that cannot be settled is put back with the due time that it had.
///
/// # Errors
/// [`ErrorKind::LeaseLost`](crate::ErrorKind::LeaseLost) while a worker has it.
pub(crate) async fn settle_waiting(
    engine: &dyn Engine,
    notices: &Notices,
    queue: &QueueName,
    id: &MessageId,
    settle: impl FnOnce(&Delivery) -> Settle,
) -> Result<bool> {
    let Some(delivery) = engine.lease_by_id(queue, id, LEASE).await? else {
        return Ok(false);
    };

    let settle = settle(&delivery);
    let receipt = &delivery.receipt;
    let settled = engine.settle(queue, vec![(receipt.clone(), settle.clone())]);
    let failure = match settled.await {
        Ok(mut outcomes) => match outcomes.pop() {
            Some(SettleOutcome::Done) => None,
            Some(SettleOutcome::Failed { error, .. }) => Some(error),
            // The lease ended before this settlement, and a worker took the message.
            Some(SettleOutcome::LeaseLost) | None => return Err(LeaseRequest::held(queue, id)),
        },
        Err(error) => Some(error),
    };
    if let Some(error) = failure {
        put_back(engine, queue, receipt).await;
        return Err(error);
    }

    notices.settled_by_hand(queue, &delivery, &settle);
    Ok(true)
}

/// Cancels a message that waits. Returns false if there is no such message.
///
/// # Errors
/// As [`settle_waiting`].
pub(crate) async fn cancel_waiting(
    engine: &dyn Engine,
    notices: &Notices,
    queue: &QueueName,
    id: &MessageId,
    order: &CancelOrder,
) -> Result<bool> {
    let is_cancelled = settle_waiting(engine, notices, queue, id, |delivery| {
        // The lease just taken is no delivery to a worker.
        order.settle(Progress::default(), delivery.deliveries.saturating_sub(1))
    })
    .await?;
    if is_cancelled {
        let CancelOrder { what, by, reason } = order;
        info!(%queue, message_id = %id, ?what, by, reason, "a waiting event is cancelled");
    }
    Ok(is_cancelled)
}

/// Gives a lease back.
async fn put_back(engine: &dyn Engine, queue: &QueueName, receipt: &Receipt) {
    let released = engine
        .settle(queue, vec![(receipt.clone(), Settle::Release)])
        .await;
    let failure: Option<Error> = match released.map(|mut outcomes| outcomes.pop()) {
        Ok(Some(SettleOutcome::Failed { error, .. })) | Err(error) => Some(error),
        // Whoever has the message now, it is not this lease that keeps it.
        Ok(Some(SettleOutcome::Done | SettleOutcome::LeaseLost) | None) => None,
    };

    if let Some(error) = failure {
        let message_id = receipt.message_id();
        warn!(
            %queue, %message_id, error = error_chain(&error),
            "the event could not be put back: it is delivered within half a minute, due or not"
        );
    }
}
