//! What is buffered and what runs, and when the next delivery starts.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use tokio::task::{JoinError, JoinSet};
use tracing::Instrument;

use crate::consumer::scope::RunScope;
use crate::consumer::settle::settlement::{PendingSettlement, SettledDelivery};
use crate::consumer::workload::batches::{RelayBatches, RunningBatch};
use crate::consumer::workload::lanes::{Admission, LaneChange, Lanes};
use crate::consumer::workload::task::handle;
use crate::consumer::workload::together::handle_together;
use crate::delivery::lane_guard::LaneStep;
use crate::dispatch::in_place::{self, Begun};
use crate::dispatch::work::Work;
use crate::engine::Position;
use crate::message::settlement::Progress;
use crate::observe::report::Disposition;

/// How many deliveries are started before the coordinator looks at what else happened.
const STARTS_PER_ROUND: usize = 64;

/// The deliveries that a consumer holds.
pub(crate) struct Workload {
    scope: Arc<RunScope>,
    /// What may start as soon as the concurrency allows, in the order of the queue.
    buffer: VecDeque<Work>,
    /// What waits for another delivery of its ordering key.
    pub(crate) lanes: Lanes,
    /// What a relay sends together.
    pub(crate) batches: RelayBatches,
    /// What was started and not done at its first poll.
    pub(crate) tasks: JoinSet<()>,
}

impl Workload {
    pub(crate) fn new(scope: Arc<RunScope>) -> Self {
        Self {
            batches: RelayBatches::new(Arc::clone(&scope)),
            scope,
            buffer: VecDeque::new(),
            lanes: Lanes::new(),
            tasks: JoinSet::new(),
        }
    }

    /// How many deliveries wait for the concurrency, or for their batch to begin.
    pub(crate) fn buffered(&self) -> usize {
        self.buffer.len() + self.batches.waiting()
    }

    /// How many deliveries wait for the concurrency.
    pub(crate) fn waiting_singly(&self) -> usize {
        self.buffer.len()
    }

    /// How many deliveries run, those that wait for batches or handlers' limits included.
    pub(crate) fn running(&self) -> usize {
        self.tasks.len()
    }

    /// How many deliveries run, without those that wait for their handlers' limits.
    pub(crate) fn at_work(&self) -> usize {
        self.tasks
            .len()
            .saturating_sub(self.scope.admission.parked.limited())
    }

    /// Whether everything that was taken in has started.
    pub(crate) fn has_started_all(&self) -> bool {
        self.buffered() == 0 && self.lanes.waiting() == 0
    }

    /// How much a claim may bring into a relay's batches, while so many deliveries are to be taken in.
    /// `None` if there are no batches.
    pub(crate) fn batch_room(&self, incoming: usize) -> Option<usize> {
        let at_work = self.at_work().saturating_sub(self.batches.running());
        let others = self.buffer.len() + self.lanes.waiting() + at_work;
        self.batches.room(incoming, others)
    }

    /// Takes in the next delivery of the queue: into a relay's batch, or into its lane if it has an
    /// ordering key.
    pub(crate) fn enqueue(&mut self, work: Work, key: Option<&str>, max_waiting: usize) {
        let is_in_lane = key.is_some_and(|key| self.lanes.has(key));
        if !is_in_lane && self.batches.takes(&work, key) {
            return self.batches.add(work);
        }
        let Some(key) = key else {
            return self.buffer.push_back(work);
        };
        match self.lanes.enter(key, work, max_waiting) {
            Admission::Start(work) => self.buffer.push_back(work),
            Admission::Wait => {}
            Admission::Refuse(work) => self.scope.give_back(&work),
        }
    }

    /// Starts what is buffered, as far as the concurrency allows. True if there is more to start
    /// right away.
    pub(crate) fn start_tasks(&mut self) -> bool {
        for _ in 0..STARTS_PER_ROUND {
            // A delivery that was done in place may have made room for the next of its key.
            while let Some(step) = self.lanes.try_step() {
                self.follow(step);
            }
            self.grant_places();
            if !self.may_start() {
                return false;
            }

            if let Some((works, running)) = self.batches.next() {
                self.start_together(works, running);
                continue;
            }
            let Some(work) = self.next_delivery() else {
                self.hurry_batches();
                return false;
            };
            self.start(work);
        }
        self.buffered() > 0
    }

    fn start_together(&mut self, works: Vec<Work>, running: RunningBatch) {
        // From now on, not from its first poll: an `Interrupt` waits until the relay was called.
        let start = self.scope.admission.calling(None);
        let handled = handle_together(Arc::clone(&self.scope), works, start, running);
        self.tasks.spawn(handled.in_current_span());
    }

    /// Runs the open batches as they are if others wait for what is in them: those of its key cannot join a
    /// batch that an event is in.
    ///
    /// Fast path, shown by `relays::keys::events_of_one_key_do_not_wait_for_others`: without it each event of a
    /// single busy key would wait for the whole of `batch_wait`.
    fn hurry_batches(&self) {
        if self.lanes.waiting() > 0 {
            self.scope.admission.open_batches.close();
        }
    }

    fn start(&mut self, work: Work) {
        if !work.received.lease.is_held() {
            return self.scope.counters.add(Disposition::Lost);
        }
        if work.received.lease.is_expired() {
            // Another worker may have it by now; if not, it comes again with a whole lease.
            return self.scope.give_back(&work);
        }

        let begins = self.scope.admission.starting();
        let handled = handle(Arc::clone(&self.scope), work, begins);
        match in_place::begin(Box::pin(handled)) {
            Begun::Done => {}
            Begun::Panicked => self.scope.log_panic(),
            Begun::Waits(running) => {
                self.tasks.spawn(running.in_current_span());
            }
        }
    }

    /// Whether the concurrency allows another delivery to start. Those that wait for a batch do not
    /// count against it, but have a bound of their own.
    fn may_start(&self) -> bool {
        let concurrency = self.scope.settings.concurrency;
        let most = concurrency.saturating_add(self.scope.batch_room);
        self.has_place() && self.at_work() < most
    }

    fn has_place(&self) -> bool {
        let parked = self.scope.admission.parked.all();
        self.tasks.len().saturating_sub(parked) < self.scope.settings.concurrency
    }

    /// Gives places to handlers that got their limit's permit: they go before anything new.
    fn grant_places(&self) {
        if self.scope.admission.backlogs.is_empty() {
            return;
        }
        while self.has_place() && self.scope.admission.grant_place() {}
    }

    /// Picks the delivery to start next.
    ///
    /// Deliveries that may kill their worker run one at a time and are picked at random. So those
    /// before it finish, and one that kills the process does not take the same others with it each
    /// time.
    fn next_delivery(&mut self) -> Option<Work> {
        // A fifth of the limit leaves four fifths to find the culprit one by one.
        let threshold = (self.scope.app.config.max_deliveries / 5).max(2);
        let is_suspect = |work: &Work| work.received.unsettled_deliveries() >= threshold;
        if !self.buffer.front().is_some_and(is_suspect) {
            return self.buffer.pop_front();
        }

        let admission = &self.scope.admission;
        if admission.quarantine.is_occupied() {
            let other = self.buffer.iter().position(|other| !is_suspect(other))?;
            return self.buffer.remove(other);
        }

        let suspects: Vec<usize> = self
            .buffer
            .iter()
            .enumerate()
            .filter(|(_, work)| is_suspect(work))
            .map(|(index, _)| index)
            .collect();
        let picked = suspects.get(rand::random_range(0..suspects.len()))?;
        let mut work = self.buffer.remove(*picked)?;
        work.suspect = Mutex::new(Some(admission.enter_quarantine()));
        Some(work)
    }

    /// Takes note that the task of a delivery has ended.
    pub(crate) fn task_ended(&self, ended: Result<(), JoinError>) {
        if let Err(error) = ended
            && error.is_panic()
        {
            self.scope.log_panic();
        }
    }

    /// Starts the next delivery of a lane, or gives back what is left of a lane that ended.
    pub(crate) fn follow(&mut self, step: LaneStep) {
        match self.lanes.follow(step) {
            LaneChange::None => {}
            LaneChange::Start(work) => self.buffer.push_front(work),
            LaneChange::End { current, rest } => {
                self.scope.leases.cancel(&current);
                for work in rest {
                    self.scope.give_back(&work);
                }
            }
        }
    }

    /// Gives back what is buffered beyond the first `kept` deliveries.
    pub(crate) fn release_surplus(&mut self, kept: usize) {
        for work in self.buffer.split_off(kept.min(self.buffer.len())) {
            self.scope.give_back(&work);
        }
    }

    /// Gives back everything that has not started.
    pub(crate) fn release_all(&mut self) {
        let mut waiting = self.lanes.clear();
        waiting.extend(self.batches.remove(|_| true));
        let buffered = std::mem::take(&mut self.buffer);
        for work in buffered.into_iter().chain(waiting) {
            self.scope.give_back(&work);
        }
    }

    /// Settles what has not started and was cancelled by an operator.
    pub(crate) fn settle_cancelled(&mut self) {
        let scope = &self.scope;
        let is_cancelled =
            |work: &Work| scope.cancel_orders.has(work.received.receipt.message_id());
        let (cancelled, kept) = std::mem::take(&mut self.buffer)
            .into_iter()
            .partition::<VecDeque<_>, _>(is_cancelled);
        self.buffer = kept;

        let mut waiting = self.lanes.remove(is_cancelled);
        waiting.extend(self.batches.remove(is_cancelled));
        for mut work in cancelled.into_iter().chain(waiting) {
            let received = &work.received;
            let Some(order) = scope.cancel_orders.of(received.receipt.message_id()) else {
                continue;
            };
            let deliveries = received.deliveries.saturating_sub(1);
            let settle = order.settle(Progress::default(), deliveries);
            let disposition = Disposition::of(&settle);
            let delivery = SettledDelivery::Handled(Arc::clone(received));
            scope.settle(PendingSettlement {
                // The next of its key starts once this one is settled.
                lane: work.lane.take(),
                ..PendingSettlement::new(delivery, settle, disposition)
            });
        }
    }

    /// Gives back what has not started and stands behind a position.
    pub(crate) fn release_after(&mut self, position: &Position) {
        let is_after = |work: &Work| work.received.position() > *position;
        let (after, before) = std::mem::take(&mut self.buffer)
            .into_iter()
            .partition::<Vec<_>, _>(is_after);
        self.buffer = before.into();

        let mut waiting = self.lanes.cut(position);
        waiting.extend(self.batches.remove(is_after));
        for work in after.into_iter().chain(waiting) {
            self.scope.give_back(&work);
        }
    }

    /// Leaves running handlers behind; how many there were.
    pub(crate) fn abandon_tasks(&mut self) -> usize {
        std::mem::take(&mut self.tasks).len()
    }
}
