//! The task of one delivery: dispatch it, then hand its settlement on.

use std::pin::pin;
use std::sync::Arc;

use tokio::time::Instant;

use crate::consumer::leases::Leases;
use crate::consumer::run::Item;
use crate::consumer::settle::outbox::Outbox;
use crate::consumer::settle::{Settling, give_up};
use crate::consumer::workload::lanes::Turn;
use crate::delivery::received::Received;
use crate::dispatch::slots::Begins;
use crate::engine::{Receipt, Settle};
use crate::error::error_chain;
use crate::logging::{error, warn};
use crate::observe::report::{Counters, Tally};
use crate::shared::Shared;
use crate::text::bounded;

/// Handles one delivery, which begins with the first poll.
pub(crate) async fn handle(
    app: Arc<Shared>,
    leases: Arc<Leases>,
    settler: Arc<Outbox>,
    counters: Arc<Counters>,
    mut item: Item,
    begins: Begins,
) {
    let receipt = item.receipt.clone();
    let mut hold = Hold {
        leases: Arc::clone(&leases),
        counters: Arc::clone(&counters),
        receipt,
        is_booked: false,
    };
    let dispatched = {
        let dispatched = pin!(app.dispatcher.dispatch(&item.work));
        Begins::with(begins, dispatched).await
    };
    let Some(mut settle) = dispatched else {
        // A handler's transaction has settled it.
        if let Some(turn) = &mut item.turn {
            turn.pass();
        }
        app.services.notices.handled(&item.work.received);
        hold.is_booked = true;
        leases.release(&item.receipt);
        return counters.add(Tally::Handled);
    };
    if !leases.holds(&item.receipt) {
        hold.is_booked = true;
        return counters.add(Tally::Lost);
    }
    let cancelled = item.work.received.lease.cancel().is_cancelled();
    let queue = &item.work.received.queue;
    if let Err(error) = app.publish_elsewhere(queue, &mut settle).await {
        let (message_id, why) = (item.receipt.message_id(), error_chain(&error));
        settle = if error.is_transient() {
            warn!(%queue, %message_id, error = why, "its events could not be published: it comes again");
            // No mark of this delivery is kept: the handlers whose events these are run again.
            app.dispatcher
                .hindered(&item.work, Settle::Release, bounded(&why))
        } else {
            // Events for this engine do not go out either, so their handlers must run again.
            let progress = settle.into_progress().without_done();
            give_up(
                queue,
                message_id,
                progress,
                &format!("its events cannot be published: {why}"),
            )
        };
    }
    let tally = match Tally::of(&settle) {
        Tally::Retried | Tally::Returned if cancelled => Tally::Cancelled,
        tally => tally,
    };
    hold.is_booked = true;
    let turn = hand_on(item.turn.take(), &settle);
    let received = Some(Arc::clone(&item.work.received));
    send(&settler, (item.receipt, turn), (received, settle), tally);
}

/// What becomes of a delivery's turn. The next of its key starts at once where nothing but a lost
/// lease can keep the message; where more can, once it is settled; and not where it comes again.
fn hand_on(mut turn: Option<Turn>, settle: &Settle) -> Option<Turn> {
    match settle {
        Settle::Ack { outgoing } if outgoing.is_empty() => {
            if let Some(turn) = &mut turn {
                turn.pass();
            }
            turn
        }
        Settle::Ack { .. } | Settle::DeadLetter { .. } => turn,
        Settle::Retry { .. } | Settle::Release => None,
    }
}

/// A delivery whose task may panic or be left behind: then it is lost here, and comes again when its
/// lease ends.
struct Hold {
    leases: Arc<Leases>,
    counters: Arc<Counters>,
    receipt: Receipt,
    /// It is settled, or its settlement is handed on.
    is_booked: bool,
}

impl Drop for Hold {
    fn drop(&mut self) {
        if !self.is_booked && self.leases.release(&self.receipt) {
            self.counters.add(Tally::Lost);
        }
    }
}

/// Hands a settlement on, with the turn of a delivery that is done with.
pub(crate) fn send(
    settler: &Outbox,
    (receipt, turn): (Receipt, Option<Turn>),
    (received, settle): (Option<Arc<Received>>, Settle),
    tally: Tally,
) {
    let since = Instant::now();
    let settling = Settling {
        receipt,
        received,
        settle,
        tally,
        since,
        turn,
        unanswered: false,
        tried_as: None,
        doubt: None,
    };
    if !settler.send(settling) {
        error!("the settling task is gone: the event will come again");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_future<A, B, C, D, E, F, R: Future>(_: impl FnOnce(A, B, C, D, E, F) -> R) -> usize {
        size_of::<R>()
    }

    #[test]
    fn what_runs_a_delivery_takes_little_room() {
        // One is allocated for each event, and moved there.
        let size = size_of_future(handle);
        assert!(
            size <= 4096,
            "{size} bytes: is a future passed by value, or a rare one in no box?"
        );
    }
}
