//! Commits a handler's transaction: the events it publishes, the marks or acknowledgements of what
//! it handled, and the receipts that fence them, in one step.
//!
//! A single event is committed as a batch of one. What handles an event that was never leased
//! (an inline dispatch, or a batch that its own transaction claimed) commits with no fence.
//!
//! A lost lease is only reported here; [`lost_lease`] has what follows.
//!
//! Invariant: notices tell of an event only after its commit.
//!
//! [`lost_lease`]: crate::dispatch::lost_lease
//!
//! # The transaction of a handler
//!
//! A handler that takes `Tx` has a transaction that ezq begins before it and finishes after it.
//! Finishing sends, in this order:
//!
//! 1. the events that the handler published and returned,
//! 2. the handler's mark on the message, or the acknowledgement if no other handler is left, under
//!    the fence of the receipt,
//! 3. the commit.
//!
//! Handlers of one delivery finish one at a time, so exactly one of them is the last. The events of
//! handlers without `Tx` that were done before go out with it. The lease leaves the renewals before
//! such a commit.
//!
//! # What counts as an attempt
//!
//! - An error that leaves open whether the transaction committed is no attempt, and no mark is
//!   written for it: the message's own headers tell at the next delivery.
//! - It is counted all the same, on the message, under the name `ezq::store`. The pauses grow to
//!   ten minutes. At `max_deliveries` the message becomes a dead letter with the reason
//!   `store_failed`.
//! - What the handler itself left in the transaction to fail (`SET TRANSACTION READ ONLY`, a
//!   deferred trigger that the commit runs, its own message removed) is a failed attempt of the
//!   handler.

use futures_util::future::join_all;
use tokio_util::sync::CancellationToken;

use crate::delivery::received::Received;
use crate::engine::{Finished, Outgoing, SettleOutcome, UnitOfWork};
use crate::error::Error;
use crate::message::settlement::Progress;
use crate::publish::services::Services;

/// A delivery whose receipt fences the commit.
pub(crate) struct Fenced<'a> {
    pub(crate) received: &'a Received,
    /// The handler's mark; `None` acknowledges the delivery, since no other handler is left.
    pub(crate) mark: Option<Progress>,
}

/// Why a transaction was not committed.
pub(crate) enum CommitError {
    /// A cancellation came before the commit was sent.
    Cancelled,
    /// The fence found that a receipt is no longer valid, or that the transaction had ended.
    LeaseLost,
    /// The engine failed. Where the error leaves it open, the commit may have taken place.
    Failed(Error),
}

/// Commits a transaction, fenced by the receipts of the deliveries that it finishes.
///
/// `cancelled` rolls it back if it fires before the commit is sent. Once sent, only the fence
/// decides.
pub(crate) async fn commit(
    services: &Services,
    unit: Box<dyn UnitOfWork>,
    fenced: &mut [Fenced<'_>],
    outgoing: Vec<Outgoing>,
    cancelled: Option<&CancellationToken>,
) -> Result<(), CommitError> {
    wait_for_leases(fenced).await;

    if cancelled.is_some_and(CancellationToken::is_cancelled) {
        unit.abandon().await;
        return Err(CommitError::Cancelled);
    }

    // Out of the renewals before the commit: one that came after it would find no message, and
    // would take the lease for lost.
    let acknowledged = fenced.iter().filter(|fenced| fenced.mark.is_none());
    acknowledged.for_each(|fenced| fenced.received.lease.set_settling(true));

    let finished = fenced.iter_mut().map(|fenced| Finished {
        receipt: fenced.received.newest_receipt(),
        mark: fenced.mark.take(),
    });
    let finished = finished.collect();
    let told = services.notices.copy_if_heard(&outgoing);

    let outcome = unit.finish(finished, outgoing).await;
    if !matches!(outcome, Ok(SettleOutcome::Done)) {
        // The deliveries stay leased, so their renewals go on. One with a mark was never taken out
        // of the renewals, and nobody else does that while its handler commits.
        fenced
            .iter()
            .for_each(|fenced| fenced.received.lease.set_settling(false));
    }

    match outcome {
        Ok(SettleOutcome::Done) => {
            services.notices.went_out(&told);
            Ok(())
        }
        Ok(SettleOutcome::LeaseLost) => Err(CommitError::LeaseLost),
        Ok(SettleOutcome::Failed { error, .. }) | Err(error) => Err(CommitError::Failed(error)),
    }
}

/// Waits until the leases are renewed, where they have run out. All wait at once, so the time limit
/// of one holds for all.
async fn wait_for_leases(fenced: &[Fenced<'_>]) {
    match fenced {
        [] => {}
        // The common case allocates nothing.
        [one] => one.received.lease.revived().await,
        several => {
            join_all(several.iter().map(|one| one.received.lease.revived())).await;
        }
    }
}
