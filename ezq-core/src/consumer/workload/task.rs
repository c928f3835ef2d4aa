//! The pipeline of one delivery: dispatch it, then hand its settlement on.

use std::pin::pin;
use std::sync::Arc;

use crate::consumer::cancel_orders::in_place_of;
use crate::consumer::scope::RunScope;
use crate::consumer::settle::refusal::give_up;
use crate::consumer::settle::settlement::{PendingSettlement, SettledDelivery};
use crate::delivery::lane_guard::LaneGuard;
use crate::delivery::received::Received;
use crate::dispatch::admission::StartGuard;
use crate::dispatch::in_place::guard_start;
use crate::dispatch::work::Work;
use crate::engine::{Receipt, Settle};
use crate::error::{Error, error_chain};
use crate::logging::warn;
use crate::observe::report::Disposition;
use crate::text::bounded;

/// Handles one delivery. The guard `start` is dropped by the first poll.
pub(crate) async fn handle(scope: Arc<RunScope>, mut work: Work, start: StartGuard) {
    let unsettled = Unsettled::of(&scope, &work.received);
    let mut start = Some(start);
    let Some(mut settle) = ({
        let dispatched = pin!(scope.app.dispatcher.dispatch(&work));
        guard_start(&mut start, dispatched).await
    }) else {
        settled_by_handler(&scope, &work.received, work.lane.as_mut());
        return unsettled.book();
    };

    let received = &work.received;
    if !received.lease.is_held() {
        unsettled.book();
        return scope.counters.add(Disposition::Lost);
    }

    // Whatever the handlers returned: an operator does not want the event handled.
    if let Some(order) = scope.cancel_orders.of(received.receipt.message_id()) {
        settle = in_place_of(settle, &order, received.deliveries);
    }

    // Asked before anything else is awaited: a later cancellation did not end the handlers.
    let was_cancelled = received.lease.is_cancelled();
    if let Err(error) = scope
        .app
        .publish_elsewhere(&received.queue, &mut settle)
        .await
    {
        settle = settle_unpublished(&scope, &work, settle, &error);
    }

    let disposition = disposition(&settle, was_cancelled);
    unsettled.book();
    let lane = hand_on(work.lane.take(), &settle);
    let delivery = SettledDelivery::Handled(work.received);
    scope.settle(PendingSettlement {
        lane,
        ..PendingSettlement::new(delivery, settle, disposition)
    });
}

/// Hands on the settlement of a delivery that was handled in a relay's batch. No events go out with it.
pub(super) fn hand_on_settlement(
    scope: &RunScope,
    received: &Arc<Received>,
    unsettled: Unsettled<'_>,
    settle: Option<Settle>,
) {
    let Some(mut settle) = settle else {
        settled_by_handler(scope, received, None);
        return unsettled.book();
    };
    if !received.lease.is_held() {
        unsettled.book();
        return scope.counters.add(Disposition::Lost);
    }
    // As above.
    if let Some(order) = scope.cancel_orders.of(received.receipt.message_id()) {
        settle = in_place_of(settle, &order, received.deliveries);
    }

    let disposition = disposition(&settle, received.lease.is_cancelled());
    unsettled.book();
    let delivery = SettledDelivery::Handled(Arc::clone(received));
    scope.settle(PendingSettlement::new(delivery, settle, disposition));
}

/// How a settlement counts.
fn disposition(settle: &Settle, was_cancelled: bool) -> Disposition {
    match Disposition::of(settle) {
        Disposition::Retried | Disposition::Returned if was_cancelled => Disposition::Cancelled,
        disposition => disposition,
    }
}

/// Books a delivery that a handler's transaction has settled.
fn settled_by_handler(scope: &RunScope, received: &Received, lane: Option<&mut LaneGuard>) {
    if let Some(lane) = lane {
        lane.pass();
    }
    scope.app.services.notices.handled(received);
    scope.leases.release(&received.receipt);
    scope.counters.add(Disposition::Handled);
}

/// The settlement of a delivery whose events for another engine could not be published.
fn settle_unpublished(scope: &RunScope, work: &Work, settle: Settle, error: &Error) -> Settle {
    let queue = &work.received.queue;
    let message_id = work.received.receipt.message_id();
    let why = error_chain(error);

    if error.is_transient() {
        warn!(%queue, %message_id, error = why, "the handler's events could not be published: its \
                                                 own event will be delivered again");
        // No mark of this delivery is kept: the handlers whose events these are run again.
        let why = bounded(&why);
        return scope
            .app
            .dispatcher
            .store_failed(work, Settle::Release, why);
    }

    // Events for this engine do not go out either, so their handlers must run again.
    let progress = settle.into_progress().without_done();
    let why = format!("its events cannot be published: {why}");
    give_up(queue, message_id, progress, &why)
}

/// Decides when the next delivery of the same key starts:
///
/// - at once after a plain acknowledgement, which only a lost lease can undo;
/// - after the settlement where the store may refuse that;
/// - not at all if this delivery comes again: dropping the guard ends the lane.
fn hand_on(mut lane: Option<LaneGuard>, settle: &Settle) -> Option<LaneGuard> {
    match settle {
        Settle::Ack { outgoing } if outgoing.is_empty() => {
            if let Some(lane) = &mut lane {
                lane.pass();
            }
            lane
        }
        Settle::Ack { .. } | Settle::DeadLetter { .. } | Settle::Discard => lane,
        Settle::Retry { .. } | Settle::Release => None,
    }
}

/// A delivery without a settlement. If its task panics or is left behind, it counts as lost and
/// comes again when its lease ends.
pub(super) struct Unsettled<'a> {
    scope: &'a RunScope,
    receipt: &'a Receipt,
    /// It is settled, or its settlement is handed on.
    is_booked: bool,
}

impl<'a> Unsettled<'a> {
    pub(super) fn of(scope: &'a RunScope, received: &'a Received) -> Self {
        Self {
            scope,
            receipt: &received.receipt,
            is_booked: false,
        }
    }

    /// Ends the guard: the delivery is settled, or its settlement is handed on.
    fn book(mut self) {
        self.is_booked = true;
    }
}

impl Drop for Unsettled<'_> {
    fn drop(&mut self) {
        if !self.is_booked && self.scope.leases.release(self.receipt) {
            self.scope.counters.add(Disposition::Lost);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_future<A, B, C, R: Future>(_: impl FnOnce(A, B, C) -> R) -> usize {
        size_of::<R>()
    }

    #[test]
    fn what_runs_a_delivery_takes_little_room() {
        // One is allocated for each event, and moved there.
        let size = size_of_future(handle);
        assert!(
            size <= 1032,
            "{size} bytes: is a future passed by value, or a rare one in no box?"
        );
    }
}
