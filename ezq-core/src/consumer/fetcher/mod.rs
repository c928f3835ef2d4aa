//! Fetching: one claim at a time. `Fetcher::start_claim`, here, decides how many messages to ask for:
//! the room that is left, and at most the share that the [`window`] allows.
//!
//! Two exceptions: while the deliveries of a full claim are read, the next claim is on its way
//! already. And batches that are claimed inside their handler's transaction run two at a time, see
//! [`transactional`].

pub(crate) mod claim;
pub(crate) mod claim_health;
pub(crate) mod pace;
pub(crate) mod transactional;
pub(crate) mod wakeups;
pub(crate) mod walk;
pub(crate) mod window;

use std::sync::Arc;

use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use tracing::{Instrument, debug};

use crate::consumer::fetcher::claim::{Answer, Claim, Fetched};
use crate::consumer::fetcher::claim_health::ClaimHealth;
use crate::consumer::fetcher::pace::Pace;
use crate::consumer::fetcher::transactional::{TransactionalBatch, endless_lease};
use crate::consumer::fetcher::wakeups::Wakeups;
use crate::consumer::fetcher::walk::{BusyHandlers, can_walk};
use crate::consumer::fetcher::window::Window;
use crate::consumer::scope::RunScope;
use crate::consumer::stop::{Phase, Stop};
use crate::consumer::workload::Workload;
use crate::delivery::lease::Lease;
use crate::engine::{LeaseRequest, Leased};
use crate::logging::warn;
use crate::observe::report::Disposition;
use crate::observe::status::ConsumerStatus;

/// How many batches are claimed and handled in transactions at once: one works while the other
/// commits. No leased claim runs beside them.
const TRANSACTIONAL_BATCHES: usize = 2;

/// What fetches for one consumer.
pub(crate) struct Fetcher {
    scope: Arc<RunScope>,
    health: ClaimHealth,
    /// The claims and transactional batches under way.
    pub(crate) requests: JoinSet<Fetched>,
    /// The claim that is not answered yet.
    claiming: Option<AbortHandle>,
    /// How many deliveries of the newest claim are not taken in yet.
    incoming: usize,
    pub(crate) window: Window,
    pub(crate) pace: Pace,
    pub(crate) wakeups: Wakeups,
    pub(crate) busy: BusyHandlers,
    /// Cancels the batches that are handled in transactions.
    transactional: Arc<Lease>,
    /// The newest fetch found as much as it asked for.
    has_backlog: bool,
}

impl Fetcher {
    pub(crate) fn new(
        scope: Arc<RunScope>,
        status: Arc<ConsumerStatus>,
        wakeups: Wakeups,
        window: Window,
    ) -> Self {
        Self {
            requests: JoinSet::new(),
            claiming: None,
            incoming: 0,
            window,
            pace: Pace::of(&scope.app.config, wakeups.exist()),
            wakeups,
            busy: BusyHandlers::new(can_walk(&scope)),
            transactional: endless_lease(),
            has_backlog: false,
            health: ClaimHealth::new(scope.settings.queue.clone(), status),
            scope,
        }
    }

    /// Whether there is a reason to fetch.
    pub(crate) fn wants_more(&self, work: &Workload, stop: &Stop) -> bool {
        let is_short = work.buffered() + self.incoming <= self.window.low();
        stop.allows_fetching()
            && is_short
            && self.busy.allow_fetching()
            && !self.is_full(work)
            && self.room(work) > 0
            // A claim might bring what is held here and was not renewed in time.
            && self.scope.leases.are_renewed()
    }

    /// Whether so much waits to be settled that more would only be held. It ends when there is room
    /// for a claim worth its round trip.
    pub(crate) fn is_full(&self, work: &Workload) -> bool {
        self.allowance(work) < self.scope.settings.concurrency
    }

    /// How much more may be held, counting what is handled and not settled. What waits for another
    /// of its key, or for its handler's limit, has a bound of its own.
    fn allowance(&self, work: &Workload) -> usize {
        let unsettled = self.scope.app.config.settle_batch.saturating_mul(4);
        let apart = work.lanes.waiting() + self.scope.admission.parked.limited();
        let held = self.scope.leases.count().saturating_sub(apart);
        self.max_unhandled()
            .saturating_add(unsettled)
            .saturating_sub(held + self.incoming)
    }

    /// How much more may be asked for.
    fn room(&self, work: &Workload) -> usize {
        let unhandled = work.buffered() + self.incoming + work.at_work();
        self.max_unhandled()
            .saturating_sub(unhandled)
            .min(self.allowance(work))
    }

    /// How much one claim may ask for.
    fn max_claim(&self) -> usize {
        self.window.share().saturating_add(self.scope.batch_room)
    }

    /// How much may be held unhandled.
    fn max_unhandled(&self) -> usize {
        self.window.size().saturating_add(self.scope.batch_room)
    }

    /// Whether nothing is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.requests.is_empty()
    }

    /// Fetches as much as there is a reason to, if it is time.
    pub(crate) fn start(&mut self, work: &Workload, stop: &Stop) {
        loop {
            if !self.wants_more(work, stop) || Instant::now() < self.pace.next() {
                return;
            }
            if !self.goes_transactional(stop) {
                return self.start_claim(work, stop);
            }

            // Among what is leased and not taken in yet may be an `End`, which must not be passed.
            let is_busy = self.requests.len() >= TRANSACTIONAL_BATCHES;
            if is_busy || self.claiming.is_some() || self.incoming > 0 {
                return;
            }
            self.start_transactional();
        }
    }

    /// Whether the next batch is claimed and handled in one transaction.
    fn goes_transactional(&self, stop: &Stop) -> bool {
        let scope = &self.scope;
        self.has_backlog
            && stop.phase() == Phase::Running
            && scope.admission.claim_gate.is_open()
            && scope
                .app
                .dispatcher
                .sole_batch(&scope.settings.queue)
                .is_some()
    }

    fn start_transactional(&mut self) {
        let batch = TransactionalBatch {
            app: Arc::clone(&self.scope.app),
            queue: self.scope.settings.queue.clone(),
            admission: Arc::clone(&self.scope.admission),
            lease: Arc::clone(&self.transactional),
        };
        let run = async move { Fetched::Transactional(batch.run().await) };
        self.requests.spawn(run.in_current_span());
    }

    fn start_claim(&mut self, work: &Workload, stop: &Stop) {
        // An `Interrupt` cancels running batches in the end, so their end must not be waited for.
        let is_free = self.requests.is_empty() || stop.is_interrupt();
        if self.claiming.is_some() || !is_free {
            return;
        }

        let scope = &self.scope;
        let settings = &scope.settings;
        let start = self.busy.next_start(&scope.admission.backlogs);
        let request = LeaseRequest {
            queue: settings.queue.clone(),
            max: self.room(work).min(self.max_claim()),
            ttl: settings.lease,
            keys: settings.concurrency.saturating_add(scope.batch_room),
            before: stop.position(),
            after: start.after().cloned(),
        };
        let claim = Claim {
            number: scope.leases.claim(),
            sent: Instant::now(),
            max: request.max,
            start,
            is_settled: scope.leases.count() == 0,
            is_keyless: scope.leases.keyed() == 0,
            is_early: self.incoming > 0,
            has_returned: self.busy.have_returned(),
            asks_for_wakeups: self.wakeups.has_failed(),
        };

        let engine = Arc::clone(&settings.engine);
        let sent = claim.send(engine, request).in_current_span();
        self.claiming = Some(self.requests.spawn(sent));
    }

    /// Starts the next claim while `incoming` deliveries are about to be taken in.
    pub(crate) fn start_early(&mut self, incoming: usize, work: &Workload, stop: &Stop) {
        self.incoming = incoming;
        self.start(work, stop);
        self.incoming = 0;
    }

    /// Books an answer. `None` if the claim failed.
    pub(crate) fn answered(&mut self, answer: Answer) -> Option<(Claim, Leased)> {
        self.claiming = None;
        if let Some(wakeups) = answer.wakeups {
            self.pace = Pace::of(&self.scope.app.config, wakeups.exist());
            self.wakeups = wakeups;
        }

        let leased = match answer.result {
            Ok(leased) => leased,
            Err(error) => {
                self.health.failed(&error, answer.created);
                self.pace.failed(rand::random());
                return None;
            }
        };
        self.health.succeeded();
        self.has_backlog = answer.claim.is_full(&leased);
        Some((answer.claim, leased))
    }

    /// Fits pace and window to a claim that brought deliveries.
    pub(crate) fn brought(&mut self, claim: &Claim, leased: &Leased, work: &Workload) {
        let is_full = claim.is_full(leased);
        let count = leased.deliveries.len();
        debug!(queue = %self.scope.settings.queue, count, fetched.full = is_full, "leased");
        self.pace.now();

        // What waits for its handler's limit would only be more of it, unless a walk passes it.
        let busy = if self.busy.is_walking() {
            work.at_work()
        } else {
            work.running()
        };
        let is_starved = work.buffered() == 0 && busy <= self.scope.settings.concurrency / 2;
        let bytes = leased
            .deliveries
            .iter()
            .map(|delivery| delivery.body.len())
            .sum();
        self.window.filled(is_full, is_starved, bytes);
    }

    /// Books a batch that a transaction claimed and handled.
    pub(crate) fn handled_in_transaction(&mut self, handled: Option<(usize, bool)>) {
        let (count, has_backlog) = handled.unwrap_or_default();
        if count > 0 {
            self.health.claimed_in_transaction();
        }
        for _ in 0..count {
            self.scope.counters.add(Disposition::Handled);
        }
        self.has_backlog = has_backlog;
        self.pace.now();
    }

    /// Sees which handlers have enough, and whether to walk past their events.
    pub(crate) fn review_limits(&mut self) {
        self.busy
            .review(&self.scope, &mut self.pace, &mut self.window);
    }

    /// Takes note of a wake-up, or that there will be no more.
    pub(crate) fn woken(&mut self, is_wakeup: bool) {
        if is_wakeup {
            self.pace.now();
        } else {
            self.wakeups.end();
        }
    }

    /// Takes note that the claim was given up.
    pub(crate) fn claim_aborted(&mut self) {
        self.claiming = None;
    }

    /// Cancels the batches that are handled in transactions.
    pub(crate) fn cancel_transactions(&self) {
        self.transactional.cancel().cancel();
    }

    /// Gives up a claim that is not answered. Its deliveries come again when their leases end.
    pub(crate) fn give_up_claim(&mut self) {
        if let Some(claiming) = self.claiming.take() {
            warn!(queue = %self.scope.settings.queue, "a claim is not answered: it is given up");
            claiming.abort();
            self.scope.leases.took_in_all();
        }
    }

    /// Leaves everything under way behind.
    pub(crate) fn abandon(&mut self) {
        self.requests = JoinSet::new();
    }
}
