//! How many messages a claim asks for: the room that is left, and at most the share that the window
//! allows.

use crate::consumer::fetcher::window::Window;
use crate::consumer::scope::RunScope;
use crate::consumer::workload::Workload;

/// What the size of the next claim depends on: what the consumer holds, and how much it may hold.
pub(crate) struct ClaimSize<'a> {
    pub(crate) scope: &'a RunScope,
    pub(crate) window: &'a Window,
    pub(crate) work: &'a Workload,
    /// How many deliveries of the newest claim are not taken in yet.
    pub(crate) incoming: usize,
}

impl ClaimSize<'_> {
    /// How many messages the next claim asks for.
    pub(crate) fn next(&self) -> usize {
        self.room().min(self.max_claim())
    }

    /// Whether so little waits that it is time to claim more.
    pub(crate) fn is_short(&self) -> bool {
        match self.work.batch_room(self.incoming) {
            Some(room) => room > 0,
            None => self.work.buffered() + self.incoming <= self.window.low(),
        }
    }

    /// Whether so much waits to be settled that more would only be held. It ends when there is room
    /// for a claim worth its round trip.
    pub(crate) fn is_full(&self) -> bool {
        self.allowance() < self.scope.settings.concurrency
    }

    /// How much more may be asked for.
    pub(crate) fn room(&self) -> usize {
        let room = self.work.batch_room(self.incoming).unwrap_or_else(|| {
            let unhandled = self.work.buffered() + self.incoming + self.work.at_work();
            self.max_unhandled().saturating_sub(unhandled)
        });
        room.min(self.allowance())
    }

    /// How much more may be held, counting what is handled and not settled. What waits for another
    /// of its key, or for its handler's limit, has a bound of its own.
    fn allowance(&self) -> usize {
        let unsettled = self.scope.app.config.settle_batch.saturating_mul(4);
        let apart = self.work.lanes.waiting() + self.scope.admission.parked.limited();
        let held = self.scope.leases.count().saturating_sub(apart);
        self.max_unhandled()
            .saturating_add(unsettled)
            .saturating_sub(held + self.incoming)
    }

    /// How much one claim may ask for.
    fn max_claim(&self) -> usize {
        self.window.share().saturating_add(self.scope.batch_room)
    }

    /// How much may be held unhandled.
    fn max_unhandled(&self) -> usize {
        self.window.size().saturating_add(self.scope.batch_room)
    }
}
