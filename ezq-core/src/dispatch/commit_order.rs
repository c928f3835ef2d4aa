//! Handlers of one delivery that have transactions commit one at a time. Only so does the last one
//! know that it is the last, and acknowledges the delivery in its own transaction.

use std::iter::once;
use std::sync::Arc;

use tokio::sync::Mutex;

use crate::delivery::received::Received;
use crate::dispatch::attempt::store_failed;
use crate::dispatch::commit::{CommitError, Fenced, commit};
use crate::dispatch::lost_lease;
use crate::dispatch::run_outcome::RunOutcome;
use crate::engine::{Outgoing, UnitOfWork};
use crate::handler::Handler;
use crate::handler::outcome::HandlerError;
use crate::message::settlement::{HandlerMark, HandlerState, Progress};
use crate::publish::services::Services;

/// The order in which the handlers of one delivery commit.
pub(crate) struct CommitOrder<'a> {
    received: &'a Received,
    services: &'a Services,
    known: &'a Progress,
    /// Held from before a commit to after it: two handlers that commit at once would each see the
    /// other open, and none would acknowledge.
    undone: Mutex<Undone>,
}

/// What no transaction of the delivery has committed yet.
struct Undone {
    /// Handlers that are not done.
    handlers: usize,
    /// Events of handlers that are done and have no transaction.
    outgoing: Vec<Outgoing>,
}

impl<'a> CommitOrder<'a> {
    /// For the handlers of a delivery; `None` if none of them has a transaction.
    pub(crate) fn of(
        handlers: &[Arc<Handler>],
        received: &'a Received,
        services: &'a Services,
        known: &'a Progress,
    ) -> Option<Self> {
        if handlers.iter().all(|handler| handler.transactions == 0) {
            return None;
        }

        let undone_handlers = handlers.iter().filter(|handler| {
            let mark = known.0.get(&handler.name);
            mark.is_none_or(|mark| mark.state != HandlerState::Done)
        });
        let undone = Mutex::new(Undone {
            handlers: undone_handlers.count(),
            outgoing: Vec::new(),
        });
        Some(Self {
            received,
            services,
            known,
            undone,
        })
    }

    /// Takes the outcome of a run, and commits its transaction, if it succeeded and has one.
    pub(crate) async fn finish(&self, handler: &Handler, outcome: RunOutcome) -> RunOutcome {
        if matches!(outcome, RunOutcome::Marked) {
            // The transaction of its batch has committed it.
            let mut undone = self.undone.lock().await;
            undone.handlers = undone.handlers.saturating_sub(1);
        }
        let RunOutcome::Done(outgoing, unit) = outcome else {
            return outcome;
        };

        let mut undone = self.undone.lock().await;
        let Some(unit) = unit else {
            undone.handlers = undone.handlers.saturating_sub(1);
            undone.outgoing.extend(outgoing.iter().cloned());
            return RunOutcome::Done(outgoing, None);
        };

        if undone.handlers == 1 && self.are_here(&undone.outgoing) {
            let earlier = std::mem::take(&mut undone.outgoing);
            return self
                .commit(handler, unit, true, [earlier, outgoing].concat())
                .await;
        }
        let outcome = self.commit(handler, unit, false, outgoing).await;
        if matches!(outcome, RunOutcome::Marked) {
            undone.handlers = undone.handlers.saturating_sub(1);
        }
        outcome
    }

    /// Whether the engine of the delivery's queue keeps the queues of all these events: a
    /// transaction stores no others.
    fn are_here(&self, events: &[Outgoing]) -> bool {
        let engines = &self.services.engines;
        events
            .iter()
            .all(|event| engines.same(&self.received.queue, &event.queue))
    }

    async fn commit(
        &self,
        handler: &Handler,
        unit: Box<dyn UnitOfWork>,
        is_last: bool,
        outgoing: Vec<Outgoing>,
    ) -> RunOutcome {
        let received = self.received;
        let mark = (!is_last).then(|| {
            let mark = HandlerMark::done_after(self.known.0.get(&handler.name));
            Progress::of_one(handler.name.clone(), mark)
        });
        let mut fenced = [Fenced { received, mark }];

        let cancelled = received.lease.cancel();
        let committed = commit(self.services, unit, &mut fenced, outgoing, Some(cancelled));
        match committed.await {
            Ok(()) if is_last => RunOutcome::Settled,
            Ok(()) => RunOutcome::Marked,
            Err(CommitError::Cancelled) => RunOutcome::Cancelled,
            Err(CommitError::LeaseLost) => lost_lease::while_committing(once(received)),
            Err(CommitError::Failed(error)) => {
                store_failed(handler, received, error, HandlerError::retry)
            }
        }
    }
}
