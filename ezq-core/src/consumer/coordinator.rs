//! The coordinator of one run: waits for what happens next and routes it.
//!
//! Invariants:
//!
//! - At most the window is held unhandled, as many deliveries again wait in lanes, and batches that
//!   gather hold what they have room for.
//! - After a stop was decided nothing new starts, except what stands before a control event.
//!
//! When a run is over is decided by `is_finished`; what an empty answer proves, by `found_nothing`.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::{JoinError, yield_now};
use tokio::time::{Instant, sleep_until};
use tracing::info;

use crate::consumer::cancelling::watch::CancelWatch;
use crate::consumer::fetcher::claim::{Answer, Claim, Fetched};
use crate::consumer::fetcher::fetch::Fetcher;
use crate::consumer::fetcher::walk::ClaimStart;
use crate::consumer::fetcher::window::Window;
use crate::consumer::intake::take_in;
use crate::consumer::pausing::watch::PauseWatch;
use crate::consumer::prepare::{Orders, Prepared};
use crate::consumer::scope::RunScope;
use crate::consumer::stop::listener::{StopListener, StopRequest};
use crate::consumer::stop::{Phase, Stop, deadline};
use crate::consumer::workload::Workload;
use crate::dispatch::work::Work;
use crate::engine::{Delivery, Leased};
use crate::event::Control;
use crate::logging::warn;
use crate::observe::status::ConsumerStatus;

/// A settlement may publish events. So a consumer that runs until its queue is idle asks again this
/// soon after its last task has ended.
const SETTLING_PAUSE: Duration = Duration::from_millis(2);

/// A consumer that drains asks again this soon while what it gave back is on its way.
const RETURNING_PAUSE: Duration = Duration::from_millis(20);

/// The coordinator of one run.
pub(crate) struct Coordinator {
    scope: Arc<RunScope>,
    status: Arc<ConsumerStatus>,
    fetcher: Fetcher,
    work: Workload,
    pauses: PauseWatch,
    cancellations: CancelWatch,
    pub(crate) stop: Stop,
}

impl Coordinator {
    pub(crate) fn new(
        scope: Arc<RunScope>,
        status: Arc<ConsumerStatus>,
        prepared: Prepared,
        window: Window,
        started: Instant,
    ) -> Self {
        let Prepared { wakeups, orders } = prepared;
        let Orders {
            pauses,
            cancellations,
        } = orders;
        let fetcher = Fetcher::new(Arc::clone(&scope), Arc::clone(&status), wakeups, window);
        let work = Workload::new(Arc::clone(&scope));
        let pauses = PauseWatch::new(Arc::clone(&scope), pauses);
        let cancellations = CancelWatch::new(Arc::clone(&scope), cancellations);
        let stop = Stop::new(Arc::clone(&scope), started);
        status.paused(pauses.is_paused());
        Self {
            scope,
            status,
            fetcher,
            work,
            pauses,
            cancellations,
            stop,
        }
    }

    /// Runs until the consumer has stopped and nothing is left to wait for.
    pub(crate) async fn drive(&mut self, stops: &mut StopListener) {
        let scope = Arc::clone(&self.scope);
        loop {
            let has_more = self.advance();
            if self.is_finished() {
                return;
            }
            // What was started may have left room for more.
            self.fetcher.start(&self.work, &self.stop);
            self.route_next(&scope, has_more, stops).await;
        }
    }

    /// Does what can be done at once. True if there is more of it.
    fn advance(&mut self) -> bool {
        self.fetcher.review_limits();
        // Before anything starts: the next claim is under way while this work is done.
        self.fetcher.start(&self.work, &self.stop);
        if self.stop.is_fetched() {
            // Nothing comes any more that could join the batch that gathers.
            self.work.batches.close();
        }
        let has_more = self.work.start_tasks();
        self.stop_while_paused();
        self.drain_on();
        let is_stopping = self.stop.phase() != Phase::Running;
        self.status.runs(is_stopping);
        has_more
    }

    /// Waits for the next thing that happens and passes it to the part that it concerns.
    async fn route_next(&mut self, scope: &RunScope, has_more: bool, stops: &mut StopListener) {
        let Self {
            fetcher,
            work,
            stop,
            ..
        } = &*self;
        let is_waiting = fetcher.is_idle() && fetcher.wants_more(work, stop);
        let is_looking = fetcher.look.is_under_way();
        let is_searching = fetcher.wants_to_search(stop);
        let is_overfull =
            work.waiting_singly() > fetcher.window.least() && stop.phase() == Phase::Running;
        let awaits_settlements = fetcher.is_full(work) || !fetcher.busy.have_returned();
        let awaits_places = stop.phase() == Phase::Draining
            || !scope.admission.backlogs.is_empty()
            || work.buffered() > 0;
        let batch_due = work.batches.due();
        let may_time_out = stop.phase() != Phase::Cancelling;

        tokio::select! {
            // A handler is done: there is room for another.
            Some(ended) = self.work.tasks.join_next(), if !self.work.tasks.is_empty() => {
                self.task_ended(ended);
            }
            // A claim is answered, or a transactional batch is done.
            Some(fetched) = self.fetcher.under_way.requests.join_next(), if !self.fetcher.is_idle() => {
                self.fetched(fetched).await;
            }
            // More can start at once. Other tasks of this thread, and the arms here, go first.
            () = yield_now(), if has_more => {}
            // What was fetched ahead waits for too long: another consumer may be quicker.
            () = sleep_until(self.fetcher.window.due()), if is_overfull => self.release_surplus(),
            // It is time for the next claim, or for a look ahead of it.
            () = sleep_until(self.fetcher.pace.next_start()), if is_waiting && !is_looking => {}
            // The engine has looked into all idle queues that asked, or could not tell.
            looked = self.fetcher.look.answered(), if is_looking => self.fetcher.looked(looked),
            // A relay's batch has gathered for long enough.
            () = deadline::passed(batch_due) => {}
            // The queue is paused: it is time to search it for control events.
            () = sleep_until(self.fetcher.search.next()), if is_searching => {}
            // The queue or a handler was paused, or resumed.
            () = self.pauses.changed() => self.pauses_changed(),
            // An operator cancelled an event that a worker has, perhaps this one.
            () = self.cancellations.changed() => self.cancel_ordered(),
            // Something is settled: there is room to fetch, or what a walk released has returned.
            () = scope.leases.freed(), if awaits_settlements => {}
            // Nothing is claimed while renewals fail: now they work again.
            () = scope.leases.renewal(), if !scope.leases.are_renewed() => {}
            // A parked delivery gave up its place. Or a handler has begun: an `Interrupt` may wait for it.
            () = scope.admission.changed(), if awaits_places => {}
            // Handlers have been busy for long, or the next walk is due.
            () = deadline::passed(self.fetcher.busy.review_due(is_waiting)) => {
                self.fetcher.pace.now();
            }
            // More of a key can be claimed once all that is held of it is settled.
            () = scope.leases.key_freed(), if is_waiting => self.fetcher.pace.now(),
            // A delivery with a key is done: the next of its lane starts, or the lane ends.
            Some(step) = self.work.lanes.step() => self.work.follow(step),
            // The engine says that something was published.
            is_wakeup = self.fetcher.wakeups.next(), if is_waiting || is_searching => {
                self.fetcher.woken(is_wakeup);
            }
            // A token, the handle, a signal or the end of the grace.
            request = stops.next() => self.stop_requested(request, stops),
            // The time limit of an `End` is over.
            () = deadline::passed(self.stop.deadline), if may_time_out => self.time_out(),
            // The store does not answer, or a handler does not yield.
            () = deadline::passed(self.stop.gives_up) => self.give_up(),
        }
    }

    fn task_ended(&mut self, ended: Result<(), JoinError>) {
        self.work.task_ended(ended);
        if self.scope.settings.until_idle && self.work.tasks.is_empty() {
            self.fetcher.pace.soon(SETTLING_PAUSE);
        }
    }

    async fn fetched(&mut self, fetched: Result<Fetched, JoinError>) {
        match fetched {
            Ok(Fetched::Leased(answer)) => {
                let number = answer.claim.number;
                self.answered(*answer).await;
                self.scope.leases.took_in(number);
            }
            Ok(Fetched::Transactional(handled)) => self.fetcher.handled_in_transaction(handled),
            Ok(Fetched::Searched(searched)) => {
                if let Some((control, sent)) = self.fetcher.searched(*searched) {
                    self.stop.learn_start(control.leased_at, sent);
                    self.accept(control, sent);
                }
            }

            // The claim was given up.
            Err(error) if error.is_cancelled() => self.fetcher.claim_aborted(),
            Err(_) => {
                self.fetcher.under_way.search_ended();
                self.answered(Answer::panicked()).await;
                // No answer is on its way any more, whatever the claim took.
                self.scope.leases.took_in_all();
            }
        }
    }

    async fn answered(&mut self, answer: Answer) {
        let Some((claim, leased)) = self.fetcher.answered(answer) else {
            return;
        };
        if leased.deliveries.is_empty() {
            return self.found_nothing(&claim, &leased);
        }

        self.fetcher.brought(&claim, &leased, &self.work);
        if claim.leaves_more(&leased) && !self.fetcher.busy.is_walking() {
            let incoming = leased.deliveries.len();
            self.fetcher.start_early(incoming, &self.work, &self.stop);
            // The claim is sent before these are read, which may take long.
            yield_now().await;
        }

        let last = leased.deliveries.last().map(Delivery::position);
        if let Some(leased_at) = leased.deliveries.iter().map(|one| one.leased_at).min() {
            self.stop.learn_start(leased_at, claim.sent);
        }
        self.fetcher.busy.begin_answer(&claim.start);
        self.work.batches.begin_answer(&leased.deliveries);
        for delivery in leased.deliveries {
            self.accept(delivery, claim.sent);
        }
        self.work.batches.end_answer();
        self.fetcher.busy.end_answer(&claim.start, last);
    }

    /// Concludes from an empty answer what is left in the queue.
    fn found_nothing(&mut self, claim: &Claim, leased: &Leased) {
        if claim.is_early {
            // What was taken in since may have changed what there is to find: an `End`, above all.
            return self.fetcher.pace.now();
        }

        self.fetcher.busy.begin_answer(&claim.start);
        self.fetcher.busy.end_answer(&claim.start, None);
        if leased.is_partial {
            return self.fetcher.pace.idle(leased.next_due, rand::random());
        }

        match (&claim.start, self.stop.phase()) {
            // The released deliveries are gone: the walk goes on from where it was.
            (ClaimStart::Back(_), _) => return self.fetcher.pace.now(),
            // What it looked past is still to come.
            (ClaimStart::Onward(_), _) => {}
            // When it was sent, deliveries that a walk released were still on their way back.
            (ClaimStart::Front, _) if !claim.has_returned => {}
            // What was given back may stand before the control event: a claim after its return finds it.
            (ClaimStart::Front, Phase::Draining) if !self.has_all_back(claim) => {
                return self.fetcher.pace.soon(RETURNING_PAUSE);
            }
            // Nothing is left that this consumer could claim: it held no delivery with a key, or none
            // keeps another from being claimed. What other consumers hold up is theirs to handle.
            (ClaimStart::Front, Phase::Draining) if claim.is_keyless || !leased.is_held_up => {
                self.stop.drained();
            }
            (ClaimStart::Front, Phase::Running) if self.scope.settings.until_idle => {
                let is_idle = self.work.tasks.is_empty();
                if claim.is_settled && is_idle && self.work.buffered() == 0 {
                    return self.stop.finish_idle();
                }
                if is_idle {
                    return self.fetcher.pace.soon(SETTLING_PAUSE);
                }
            }
            _ => {}
        }
        self.fetcher.pace.idle(leased.next_due, rand::random());
    }

    /// Whether an empty claim would have found all that this consumer has given back.
    fn has_all_back(&self, claim: &Claim) -> bool {
        claim.gone_back.is_some() && claim.gone_back == self.scope.leases.gone_back()
    }

    /// Takes in one delivery, in the order of the queue.
    fn accept(&mut self, delivery: Delivery, sent: Instant) {
        let settings = &self.scope.settings;
        let Some(lease) = self.scope.leases.hold(&delivery, sent) else {
            let queue = &settings.queue;
            let message_id = delivery.receipt.message_id();
            return info!(%queue, %message_id, "the store delivered again what is held here: the \
                                               work goes on under the new lease");
        };

        if self.stop.refuses(&delivery) {
            return self.scope.release(delivery.receipt);
        }

        if let Some(order) = self.scope.cancel_orders.of(delivery.receipt.message_id()) {
            return self.scope.cancel_unhandled(&order, delivery);
        }

        match take_in(&self.scope, delivery, lease) {
            None => {}
            Some((work, None)) => self.line_up(work),
            Some((work, Some(control))) => self.meet(work, control),
        }
    }

    /// Puts a delivery where it waits to be started.
    fn line_up(&mut self, work: Work) {
        let received = Arc::clone(&work.received);
        let key = received.headers.key();

        // The claim was sent before the pause was heard of.
        if self.pauses.is_paused() {
            return self.scope.give_back(&work);
        }

        let busy = &mut self.fetcher.busy;
        if busy.pass_over(&self.scope, &self.work.lanes, &work, key.as_deref()) {
            return self.scope.give_back(&work);
        }
        let max_waiting = self.fetcher.window.size();
        self.work.enqueue(work, key.as_deref(), max_waiting);
    }

    /// Meets a control event: what stands behind it goes back.
    fn meet(&mut self, work: Work, control: Control) {
        if !self.stop.meet(work, control) {
            return;
        }
        if let Some(position) = self.stop.position() {
            self.work.release_after(&position);
        }
        self.scope.admission.watch();
    }

    /// Takes note of what was paused or resumed.
    fn pauses_changed(&mut self) {
        let was_paused = self.pauses.is_paused();
        self.pauses.learn();
        let is_paused = self.pauses.is_paused();
        self.status.paused(is_paused);

        match (was_paused, is_paused) {
            (false, true) => {
                // Nothing begins: what waits goes back, and batches that gather find that out.
                self.work.release_all();
                self.scope.admission.open_batches.close();
                self.fetcher.search.soon();
            }
            (true, false) => self.fetcher.pace.now(),
            _ => {}
        }
    }

    /// Cancels the events that an operator has cancelled: those that run, and those that have not started.
    fn cancel_ordered(&mut self) {
        self.cancellations.learn(self.stop.receipt());
        self.work.settle_cancelled();
    }

    /// A stop in a paused queue leaves there what it would handle first.
    fn stop_while_paused(&mut self) {
        if !self.pauses.is_paused() {
            return;
        }
        let is_idle = self.fetcher.is_idle() && self.work.tasks.is_empty();
        match self.stop.phase() {
            Phase::Draining => self.stop.drained(),
            Phase::Running if self.scope.settings.until_idle && is_idle => self.stop.finish_idle(),
            _ => {}
        }
    }

    /// Goes on with what stands before a control event once all of it is fetched.
    fn drain_on(&mut self) {
        let is_taken_in = self.stop.phase() == Phase::Draining
            && self.stop.is_fetched()
            && self.work.buffered() == 0;
        // A delivery whose task was not polled yet may still join a batch.
        if !is_taken_in || !self.scope.admission.are_polled() {
            return;
        }

        // Nothing can join the batches that gather, so they begin.
        self.scope.admission.open_batches.close();

        // An `Interrupt` takes effect once every handler before it was called.
        let is_begun = self.work.lanes.waiting() == 0 && self.scope.admission.have_begun();
        // While the queue is paused, what waits for a handler's limit does not begin.
        if self.stop.is_interrupt() && (is_begun || self.pauses.is_paused()) {
            self.cancel();
        }
    }

    /// Gives back what was fetched ahead and waits for too long.
    fn release_surplus(&mut self) {
        self.fetcher.window.shrink();
        self.work.release_surplus(self.fetcher.window.least());
    }

    /// Does what was asked for from outside.
    fn stop_requested(&mut self, request: StopRequest, stops: &StopListener) {
        let is_news = self
            .stop
            .request(request.reason(), self.work.has_started_all());

        match request {
            StopRequest::Finish(_) if is_news => {
                self.stop.finish();
                self.scope.admission.stop();
                self.work.release_all();
            }
            // A stop that has come further is not taken back.
            StopRequest::Finish(_) => {}
            StopRequest::Cancel(_) => {
                self.cancel();
                self.stop.gives_up = stops.handler_deadline();
            }
        }
    }

    fn time_out(&mut self) {
        warn!(queue = %self.scope.settings.queue, "the time to stop is over: running handlers are \
                                                   cancelled");
        self.cancel();
    }

    /// Cancels what runs; the rest goes back.
    fn cancel(&mut self) {
        self.stop.cancel();
        self.scope.admission.stop();
        self.fetcher.cancel_transactions();
        self.scope.leases.cancel_all(self.stop.receipt());
        self.work.release_all();
    }

    /// Stops waiting. While handlers may finish, it gives up only a claim that is not answered. Once
    /// they were cancelled, it leaves them behind too. Their events come again when the leases end.
    fn give_up(&mut self) {
        self.stop.gives_up = None;
        self.fetcher.give_up_claim();
        if self.stop.phase() == Phase::Cancelling {
            let count = self.work.abandon_tasks();
            if count > 0 {
                let queue = &self.scope.settings.queue;
                warn!(%queue, count, "cancelled handlers do not end: the consumer stops without \
                                      them");
            }
            self.fetcher.abandon();
        }
    }

    /// Whether nothing is left to wait for.
    fn is_finished(&self) -> bool {
        self.work.has_started_all()
            && self.work.tasks.is_empty()
            && self.fetcher.is_idle()
            && self.stop.is_fetched()
    }
}
