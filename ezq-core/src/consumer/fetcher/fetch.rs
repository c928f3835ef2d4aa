//! When to claim, and what an answer leads to.

use std::sync::Arc;

use tokio::time::Instant;
use tracing::debug;

use crate::consumer::fetcher::claim::{Answer, Claim, Fetched};
use crate::consumer::fetcher::claim_health::ClaimHealth;
use crate::consumer::fetcher::claim_size::ClaimSize;
use crate::consumer::fetcher::look::Look;
use crate::consumer::fetcher::pace::Pace;
use crate::consumer::fetcher::transactional::{TRANSACTIONAL_BATCHES, TransactionalClaims};
use crate::consumer::fetcher::under_way::UnderWay;
use crate::consumer::fetcher::wakeups::Wakeups;
use crate::consumer::fetcher::walk::{BusyHandlers, can_walk};
use crate::consumer::fetcher::window::Window;
use crate::consumer::pausing::search::{ControlSearch, Searched};
use crate::consumer::scope::RunScope;
use crate::consumer::stop::{Phase, Stop};
use crate::consumer::workload::Workload;
use crate::engine::{Delivery, LeaseRequest, Leased, Looked};
use crate::logging::warn;
use crate::observe::report::Disposition;
use crate::observe::status::ConsumerStatus;

/// What fetches for one consumer.
pub(crate) struct Fetcher {
    scope: Arc<RunScope>,
    health: ClaimHealth,
    pub(crate) under_way: UnderWay,
    pub(crate) window: Window,
    pub(crate) pace: Pace,
    pub(crate) look: Look,
    pub(crate) wakeups: Wakeups,
    pub(crate) busy: BusyHandlers,
    pub(crate) search: ControlSearch,
    transactional: TransactionalClaims,
}

impl Fetcher {
    pub(crate) fn new(
        scope: Arc<RunScope>,
        status: Arc<ConsumerStatus>,
        wakeups: Wakeups,
        window: Window,
    ) -> Self {
        Self {
            health: ClaimHealth::new(scope.settings.queue.clone(), status),
            under_way: UnderWay::new(),
            window,
            pace: pace(&scope, &wakeups),
            look: Look::none(),
            wakeups,
            busy: BusyHandlers::new(can_walk(&scope)),
            search: ControlSearch::new(),
            transactional: TransactionalClaims::new(),
            scope,
        }
    }

    /// What the size of the next claim depends on.
    fn claim_size<'a>(&'a self, work: &'a Workload) -> ClaimSize<'a> {
        ClaimSize {
            scope: &self.scope,
            window: &self.window,
            work,
            incoming: self.under_way.incoming,
        }
    }

    /// Whether there is a reason to fetch.
    pub(crate) fn wants_more(&self, work: &Workload, stop: &Stop) -> bool {
        let size = self.claim_size(work);
        stop.allows_fetching()
            && !self.scope.admission.paused.is_queue()
            && size.is_short()
            && self.busy.allow_fetching()
            && !size.is_full()
            && size.room() > 0
            // A claim might bring what is held here and was not renewed in time.
            && self.scope.leases.are_renewed()
    }

    /// Whether so much waits to be settled that more would only be held.
    pub(crate) fn is_full(&self, work: &Workload) -> bool {
        self.claim_size(work).is_full()
    }

    /// Whether nothing is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.under_way.is_idle()
    }

    /// Whether control events are to be searched for, because no claim would find them.
    pub(crate) fn wants_to_search(&self, stop: &Stop) -> bool {
        self.scope.admission.paused.is_queue()
            && stop.phase() == Phase::Running
            && !self.under_way.is_searching()
    }

    /// Fetches as much as there is a reason to, if it is time.
    pub(crate) fn start(&mut self, work: &Workload, stop: &Stop) {
        if self.wants_to_search(stop) && self.search.next() <= Instant::now() {
            let searching = self.search.begin(&self.scope.settings);
            self.under_way
                .search(async move { Fetched::Searched(Box::new(searching.run().await)) });
        }

        self.look_ahead(work, stop);
        loop {
            let is_time = Instant::now() >= self.pace.next() && !self.look.is_under_way();
            if !self.wants_more(work, stop) || !is_time {
                return;
            }
            if !self.transactional.are_due(&self.scope, stop) {
                return self.start_claim(work, stop);
            }

            if !self.under_way.allows_transaction(TRANSACTIONAL_BATCHES) {
                return;
            }
            let batch = self.transactional.batch(&self.scope);
            self.under_way
                .transact(async move { Fetched::Transactional(batch.run().await) });
        }
    }

    /// Begins a look if it is time for one, and ends one that can tell nothing of use any more.
    fn look_ahead(&mut self, work: &Workload, stop: &Stop) {
        let Some(from) = self.pace.look_from() else {
            return self.look.end();
        };
        if !self.wants_more(work, stop) {
            return self.look.end();
        }
        if Instant::now() < from || self.look.is_under_way() {
            return;
        }

        // Elsewhere a claim is bounded by a place, or proves more than that nothing is due.
        let is_plain = stop.phase() == Phase::Running
            && stop.position().is_none()
            && self.under_way.is_idle()
            && !self.busy.is_walking()
            && self.busy.have_returned();
        match is_plain {
            true => self.look.begin(&self.scope.settings, self.pace.next()),
            false => self.pace.without_look(),
        }
    }

    /// Takes note of what a look told.
    pub(crate) fn looked(&mut self, looked: Looked) {
        match looked {
            Looked::Nothing { next_due } => {
                self.health.succeeded();
                self.pace.idle(next_due, rand::random());
            }
            Looked::Perhaps => self.pace.looked(),
        }
    }

    fn start_claim(&mut self, work: &Workload, stop: &Stop) {
        // An `Interrupt` cancels running batches in the end, so their end must not be waited for.
        let is_free = self.under_way.is_idle() || stop.is_interrupt();
        if self.under_way.is_claiming() || !is_free {
            return;
        }

        let max = self.claim_size(work).next();
        let scope = &self.scope;
        let settings = &scope.settings;
        let start = self.busy.next_start(&scope.admission.backlogs);
        let is_settled = scope.leases.count() == 0;
        let request = LeaseRequest {
            queue: settings.queue.clone(),
            max,
            ttl: settings.lease,
            keys: settings.concurrency.saturating_add(scope.batch_room),
            before: stop.position(),
            after: start.after().cloned(),
            // Only a claim of a consumer that holds nothing proves that its queue is idle.
            is_exhaustive: settings.until_idle && is_settled,
        };
        let claim = Claim {
            number: scope.leases.claim(),
            sent: Instant::now(),
            max,
            start,
            is_settled,
            is_keyless: scope.leases.keyed() == 0,
            is_early: self.under_way.incoming > 0,
            has_returned: self.busy.have_returned(),
            gone_back: scope.leases.gone_back(),
            asks_for_wakeups: self.wakeups.has_failed(),
        };

        let engine = Arc::clone(&settings.engine);
        let metrics = scope.metrics.clone();
        let tracer = scope.app.services.tracer.clone();
        self.under_way
            .claim(claim.send(engine, request, metrics, tracer));
    }

    /// Starts the next claim while `incoming` deliveries are about to be taken in.
    pub(crate) fn start_early(&mut self, incoming: usize, work: &Workload, stop: &Stop) {
        self.under_way.incoming = incoming;
        self.start(work, stop);
        self.under_way.incoming = 0;
    }

    /// Books an answer. `None` if the claim failed.
    pub(crate) fn answered(&mut self, answer: Answer) -> Option<(Claim, Leased)> {
        self.under_way.claim_ended();
        if let Some(wakeups) = answer.wakeups {
            self.pace = pace(&self.scope, &wakeups);
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
        self.transactional.has_backlog = answer.claim.is_full(&leased);
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
        self.transactional.has_backlog = has_backlog;
        self.pace.now();
    }

    /// Books a search. Returns the control event that it leased, and when that was asked for.
    pub(crate) fn searched(&mut self, mut searched: Searched) -> Option<(Delivery, Instant)> {
        self.under_way.search_ended();
        self.search.ended(&mut searched);

        match searched.result {
            Ok(found) => {
                self.health.succeeded();
                found.map(|delivery| (delivery, searched.sent))
            }
            Err(error) => {
                self.health.failed(&error, None);
                None
            }
        }
    }

    /// Sees which handlers have enough, and whether to walk past their events.
    pub(crate) fn review_limits(&mut self) {
        self.busy
            .review(&self.scope, &mut self.pace, &mut self.window);
    }

    /// Takes note of a wake-up, or that there will be no more.
    pub(crate) fn woken(&mut self, is_wakeup: bool) {
        match is_wakeup {
            true if self.scope.admission.paused.is_queue() => self.search.soon(),
            true => self.pace.now(),
            false => self.wakeups.end(),
        }
    }

    /// Takes note that the claim was given up.
    pub(crate) fn claim_aborted(&mut self) {
        self.under_way.claim_ended();
    }

    /// Cancels the batches that are handled in transactions.
    pub(crate) fn cancel_transactions(&self) {
        self.transactional.cancel();
    }

    /// Gives up a claim that is not answered. Its deliveries come again when their leases end.
    pub(crate) fn give_up_claim(&mut self) {
        if self.under_way.abort_claim() {
            warn!(queue = %self.scope.settings.queue, "the store did not answer a claim in time: \
                                                       it is abandoned");
            self.scope.leases.took_in_all();
        }
    }

    /// Leaves everything under way behind.
    pub(crate) fn abandon(&mut self) {
        self.under_way.abandon();
    }
}

/// The pace of a consumer. One that runs until its queue is idle claims: only a claim proves that.
fn pace(scope: &RunScope, wakeups: &Wakeups) -> Pace {
    let settings = &scope.settings;
    let has_looks = settings.engine.shared_looks().is_some() && !settings.until_idle;
    // A claim asks for wake-ups again.
    let has_looks = has_looks && !wakeups.has_failed();
    Pace::of(&scope.app.config, wakeups.exist()).with_looks(has_looks)
}
