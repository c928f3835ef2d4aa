//! Operations on all events in a state, from their start to their end.

use ezq_core::engine::{
    EventAction, EventState, OperationStatus, Operations, Selection, Signature,
};

use super::super::operation::Bulk;
use super::{Play, Result};
use crate::error::CaseError;

/// More steps than any of these operations takes.
const MOST: usize = 20;

impl Play<'_> {
    pub(super) async fn bulk(&mut self, queue: usize, what: Bulk) -> Result<bool> {
        // Compared first, so that the ids of all letters are known.
        self.look(queue).await?;
        let clients = [&self.stage.engine, &self.stage.second];
        let [Some(first), Some(second)] = clients.map(|client| client.operations()) else {
            return Ok(false);
        };

        // No other step of this sequence has the id.
        let name = self.queue(queue);
        let (action, state) = of(what);
        let id = format!("{name}-{}", self.reference.step());
        let selection = Selection::new(name, state);
        let signature = Signature::new("the model");
        first.start(&id, &action, &selection, &signature).await?;
        let done = end([second, first], &id).await?;

        let (wanted, told) = match what {
            Bulk::DiscardReady => (self.reference.discard_ready(queue), "discarded at once"),
            Bulk::DiscardDead => (self.end_letters(queue, false), "dead discarded at once"),
            Bulk::RedriveDead => (self.end_letters(queue, true), "dead redriven at once"),
            Bulk::RetryScheduled => (self.reference.retry_now(queue, false), "scheduled made due"),
            Bulk::RetryRetrying => (self.reference.retry_now(queue, true), "retried at once"),
        };
        check_eq!(done, wanted, "done by {what:?}");
        (0..wanted).for_each(|_| self.count(told));
        Ok(true)
    }

    /// Discards or redrives all dead letters of the reference.
    fn end_letters(&mut self, queue: usize, comes_back: bool) -> u64 {
        let ids: Vec<_> = self
            .reference
            .letters(queue)
            .filter_map(|letter| letter.id.clone())
            .collect();
        let ended = ids.iter().filter(|id| match comes_back {
            true => self.reference.redrive(queue, id),
            false => self.reference.discard(queue, id).is_some(),
        });
        u64::try_from(ended.count()).unwrap_or(u64::MAX)
    }
}

fn of(what: Bulk) -> (EventAction, EventState) {
    match what {
        Bulk::DiscardReady => (EventAction::Discard, EventState::Ready),
        Bulk::DiscardDead => (EventAction::Discard, EventState::Dead),
        Bulk::RedriveDead => (EventAction::Redrive, EventState::Dead),
        Bulk::RetryScheduled => (EventAction::RetryNow, EventState::Scheduled),
        Bulk::RetryRetrying => (EventAction::RetryNow, EventState::Retrying),
    }
}

/// Takes the steps of an operation, by one client after the other. Returns to how many events it was done.
async fn end(clients: [&dyn Operations; 2], id: &str) -> Result<u64> {
    for step in 0..MOST {
        // Either client may take any step.
        let operation = clients[step % 2].step(id).await?;
        if operation.status == OperationStatus::Ended {
            return Ok(operation.done);
        }
    }
    let text = format!("an operation does not end in {MOST} steps");
    Err(CaseError::Failed(text))
}
