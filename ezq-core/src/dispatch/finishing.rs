//! Handlers of one delivery that have transactions finish one at a time: only so does the last one
//! know that it is the last, and settles the delivery in its own transaction.

use std::sync::Arc;

use tokio::sync::Mutex;

use crate::delivery::received::Received;
use crate::dispatch::attempt::{Ran, hindered};
use crate::dispatch::dispatcher::done;
use crate::engine::{Finished, Outgoing, SettleOutcome, UnitOfWork};
use crate::handler::Handler;
use crate::handler::outcome::Action;
use crate::message::settlement::{HandlerState, Progress};
use crate::publish::services::Services;

/// How far the handlers of one delivery are.
pub(crate) struct Finishing<'a> {
    received: &'a Received,
    services: &'a Services,
    known: &'a Progress,
    turn: Mutex<Turn>,
}

struct Turn {
    /// Handlers that are not done.
    open: usize,
    /// Events of the done ones that no transaction published.
    outgoing: Vec<Outgoing>,
}

impl<'a> Finishing<'a> {
    /// For the handlers of a delivery, if one of them has a transaction.
    pub(crate) fn of(
        handlers: &[Arc<Handler>],
        received: &'a Received,
        services: &'a Services,
        known: &'a Progress,
    ) -> Option<Self> {
        if handlers.iter().all(|handler| handler.transactions == 0) {
            return None;
        }
        let is_done = |handler: &&Arc<Handler>| {
            known
                .0
                .get(&handler.name)
                .is_some_and(|mark| mark.state == HandlerState::Done)
        };
        let open = handlers.len() - handlers.iter().filter(is_done).count();
        let turn = Mutex::new(Turn {
            open,
            outgoing: Vec::new(),
        });
        Some(Self {
            received,
            services,
            known,
            turn,
        })
    }

    /// Finishes a handler's transaction, if it succeeded and has one.
    pub(crate) async fn finish(&self, handler: &Handler, ran: Ran) -> Ran {
        if matches!(ran, Ran::Marked) {
            // In a transaction of its batch.
            let mut turn = self.turn.lock().await;
            turn.open = turn.open.saturating_sub(1);
        }
        let Ran::Done(outgoing, unit) = ran else {
            return ran;
        };
        let mut turn = self.turn.lock().await;
        let Some(unit) = unit else {
            turn.open = turn.open.saturating_sub(1);
            turn.outgoing.extend(outgoing.iter().cloned());
            return Ran::Done(outgoing, None);
        };
        let lease = &self.received.lease;
        lease.revived().await;
        if lease.cancel().is_cancelled() {
            unit.abandon().await;
            return Ran::Cancelled;
        }
        let here = |event: &Outgoing| {
            self.services
                .engines
                .same(&self.received.queue, &event.queue)
        };
        let last = turn.open == 1 && turn.outgoing.iter().all(here);
        if last {
            let earlier = std::mem::take(&mut turn.outgoing);
            lease.set_settling(true);
            let ran = self
                .commit(handler, unit, true, [earlier, outgoing].concat())
                .await;
            lease.set_settling(matches!(ran, Ran::Settled));
            return ran;
        }
        let ran = self.commit(handler, unit, false, outgoing).await;
        if matches!(ran, Ran::Marked) {
            turn.open = turn.open.saturating_sub(1);
        }
        ran
    }

    async fn commit(
        &self,
        handler: &Handler,
        unit: Box<dyn UnitOfWork>,
        last: bool,
        outgoing: Vec<Outgoing>,
    ) -> Ran {
        let mark = done(self.known.0.get(&handler.name));
        let mark = (!last).then(|| Progress([(handler.name.clone(), mark)].into()));
        let finished = Finished {
            receipt: self.received.newest_receipt(),
            mark,
        };
        let notices = &self.services.notices;
        let told = if notices.are_heard() {
            outgoing.clone()
        } else {
            Vec::new()
        };
        match unit.finish(vec![finished], outgoing).await {
            Ok(SettleOutcome::Done) => {
                notices.went_out(&told);
                if last { Ran::Settled } else { Ran::Marked }
            }
            Ok(SettleOutcome::LeaseLost) => {
                self.received.lease.cancel().cancel();
                Ran::Cancelled
            }
            Ok(SettleOutcome::Failed { error, .. }) | Err(error) => {
                hindered(handler, self.received, &error, Action::Retry)
            }
        }
    }
}
