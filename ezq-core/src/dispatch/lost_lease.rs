//! What follows when a lease is lost while a handler's transaction commits.
//!
//! The fence finds it: the receipt is no longer that of the newest delivery, so the store rolls the
//! transaction back. Nothing of the run has taken effect, and no attempt is counted.
//!
//! - A delivery by itself: its other handlers are cancelled, since another worker may have it. Nothing
//!   that they do could be settled.
//! - One delivery of a batch: the store does not say which. So none is cancelled, and each event of the
//!   batch runs again alone. The one whose lease is lost then meets its own fence.
//!
//! A lease that is lost at another time is found by the task that renews it, see `consumer::leases`.

use crate::delivery::received::Received;
use crate::dispatch::run_outcome::RunOutcome;

/// The outcome of a run on these deliveries, of which the commit found one lost.
pub(super) fn while_committing<'a>(
    mut deliveries: impl ExactSizeIterator<Item = &'a Received>,
) -> RunOutcome {
    if deliveries.len() == 1
        && let Some(received) = deliveries.next()
    {
        received.lease.cancel().cancel();
    }
    RunOutcome::Cancelled
}
