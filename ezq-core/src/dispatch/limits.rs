//! Handlers that may run only so often at once, in one consumer: what waits for that, and how it
//! goes on.
//!
//! A delivery takes a place among those that its consumer handles at once, but not while all that is
//! left of it waits for its handlers' limits or batches. A run that got its permit asks the
//! coordinator for the delivery's place again, and gets it before anything new begins. So the
//! consumer's concurrency holds, and no handler's backlog keeps the others from it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Semaphore, SemaphorePermit, oneshot};
use tokio_util::sync::CancellationToken;

use crate::dispatch::dispatcher::{Dispatcher, Work, is_due};
use crate::dispatch::slots::{Granted, Parked, Slots, Suspect};
use crate::handler::{Handler, Invoke};
use crate::message::queue_name::QueueName;
use crate::message::settlement::{HandlerName, Progress};

/// The handlers of a consumer's queue that have a limit, and what waits for a place.
#[derive(Debug, Default)]
pub(crate) struct Limited {
    handlers: Vec<Backlog>,
    wanting: Mutex<VecDeque<Wanting>>,
}

/// What of one handler was started and not called yet.
#[derive(Debug)]
struct Backlog {
    handler: HandlerName,
    waiting: AtomicUsize,
    /// With so many it has enough.
    most: usize,
}

/// A delivery that may go on once it has a place.
#[derive(Debug)]
pub(crate) struct Wanting {
    pub(crate) give: oneshot::Sender<Granted>,
    pub(crate) is_suspect: bool,
}

impl Backlog {
    fn count(&self) -> usize {
        self.waiting.load(Ordering::Acquire)
    }

    fn has_room(&self) -> bool {
        self.count() <= self.most / 2
    }
}

impl Limited {
    /// Handlers, each with how much may wait for it before it has enough.
    pub(crate) fn of(handlers: impl IntoIterator<Item = (HandlerName, usize)>) -> Self {
        let backlog = |(handler, most)| Backlog {
            handler,
            waiting: AtomicUsize::new(0),
            most,
        };
        Self {
            handlers: handlers.into_iter().map(backlog).collect(),
            wanting: Mutex::default(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.handlers.is_empty()
    }

    /// By what a handler is known here.
    pub(crate) fn index(&self, handler: &HandlerName) -> Option<usize> {
        self.handlers
            .iter()
            .position(|backlog| backlog.handler == *handler)
    }

    /// Notes that a run of a handler is to come.
    pub(crate) fn waits(&self, index: usize) {
        if let Some(backlog) = self.handlers.get(index) {
            backlog.waiting.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Notes that it has come, or will not.
    pub(crate) fn waits_no_more(&self, index: usize) {
        if let Some(backlog) = self.handlers.get(index) {
            backlog.waiting.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// Whether as much waits for a handler as may, with more that is to come.
    pub(crate) fn has_enough(&self, index: usize, to_come: usize) -> bool {
        let backlog = self.handlers.get(index);
        backlog.is_some_and(|backlog| backlog.count().saturating_add(to_come) >= backlog.most)
    }

    /// Whether any handler has enough.
    pub(crate) fn is_crowded(&self) -> bool {
        self.handlers
            .iter()
            .any(|backlog| backlog.count() >= backlog.most)
    }

    /// Whether at most half of what may waits for a handler.
    pub(crate) fn has_room(&self, index: usize) -> bool {
        self.handlers.get(index).is_none_or(Backlog::has_room)
    }

    /// Whether that is so for every handler.
    pub(crate) fn is_relaxed(&self) -> bool {
        self.handlers.iter().all(Backlog::has_room)
    }

    pub(crate) fn want(&self, wanting: Wanting) {
        self.wanting().push_back(wanting);
    }

    /// The first that wants a place; one that may kill its worker only if no other such runs.
    pub(crate) fn next(&self, has_suspect: bool) -> Option<Wanting> {
        let mut wanting = self.wanting();
        let index = wanting
            .iter()
            .position(|one| !(one.is_suspect && has_suspect))?;
        wanting.remove(index)
    }

    fn wanting(&self) -> MutexGuard<'_, VecDeque<Wanting>> {
        self.wanting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one delivery takes of its consumer's concurrency while its handlers run.
pub(crate) struct Place<'a> {
    slots: &'a Arc<Slots>,
    suspect: &'a Mutex<Option<Suspect>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// How many of its handlers run, and how many wait for their limits or batches.
    running: usize,
    waiting: usize,
    /// How many of those that wait have a limit, and how many gather a batch.
    limited: usize,
    gathering: usize,
    /// While none runs.
    parked: Option<Parked>,
    /// It may kill its worker: while parked it keeps no other such delivery from running.
    is_suspect: bool,
}

impl<'a> Place<'a> {
    pub(crate) fn of(work: &'a Work) -> Self {
        Self {
            slots: &work.slots,
            suspect: &work.suspect,
            state: Mutex::default(),
        }
    }

    /// So many handlers begin.
    pub(crate) fn begin(&self, count: usize) {
        self.state().running += count;
    }

    /// One of them has ended.
    pub(crate) fn ended(&self) {
        let mut state = self.state();
        state.running = state.running.saturating_sub(1);
        self.park_if_idle(&mut state);
    }

    /// Waits until a handler may run. `None` when the consumer stops before, or the lease is lost.
    pub(crate) async fn permit<'l>(
        &self,
        limit: &'l Semaphore,
        cancelled: &CancellationToken,
    ) -> Option<SemaphorePermit<'l>> {
        if let Ok(permit) = limit.try_acquire() {
            return Some(permit);
        }
        // In a box: where nothing waits, no delivery needs room for it.
        Box::pin(self.wait(limit, cancelled)).await
    }

    async fn wait<'l>(
        &self,
        limit: &'l Semaphore,
        cancelled: &CancellationToken,
    ) -> Option<SemaphorePermit<'l>> {
        let _waits = Waits::of(self, true, false);
        let permitted = async {
            let permit = limit.acquire().await.ok()?;
            self.regain().await;
            Some(permit)
        };
        tokio::select! {
            biased;
            // Nothing new begins.
            () = self.slots.stopped() => None,
            () = cancelled.cancelled() => None,
            permit = permitted => permit,
        }
    }

    /// Gets the delivery's place again, if it gave it up.
    async fn regain(&self) {
        let (parked, is_suspect) = {
            let mut state = self.state();
            (state.parked.take(), state.is_suspect)
        };
        let Some(parked) = parked else { return };
        if let Some(suspect) = self.slots.place(parked, is_suspect).await {
            *self.suspect.lock().unwrap_or_else(PoisonError::into_inner) = Some(suspect);
        }
        // Another handler may have come and gone meanwhile.
        self.state().parked = None;
    }

    /// A handler waits for its batch until the guard is dropped.
    pub(crate) fn gathers(&self, is_limited: bool) -> Waits<'_> {
        Waits::of(self, is_limited, true)
    }

    fn park_if_idle(&self, state: &mut State) {
        if state.running == 0 && state.waiting > 0 && state.parked.is_none() {
            state.parked = Some(self.slots.park(state.limited > 0));
            if state.gathering > 0 {
                // A batch goes on without asking for a place, and so without asking whether another
                // delivery that may kill its worker runs.
                return;
            }
            let suspect = self
                .suspect
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take();
            state.is_suspect |= suspect.is_some();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A handler waits for its limit, or for its batch. When that ends, for whatever reason, it counts as
/// one that runs.
pub(crate) struct Waits<'a> {
    place: &'a Place<'a>,
    is_limited: bool,
    gathers: bool,
}

impl<'a> Waits<'a> {
    fn of(place: &'a Place<'a>, is_limited: bool, gathers: bool) -> Self {
        let mut state = place.state();
        state.running = state.running.saturating_sub(1);
        state.waiting += 1;
        state.limited += usize::from(is_limited);
        state.gathering += usize::from(gathers);
        place.park_if_idle(&mut state);
        drop(state);
        Self {
            place,
            is_limited,
            gathers,
        }
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        let mut state = self.place.state();
        state.waiting -= 1;
        state.limited -= usize::from(self.is_limited);
        state.gathering -= usize::from(self.gathers);
        state.running += 1;
        if self.gathers {
            state.parked = None;
        }
    }
}

impl Dispatcher {
    /// The handlers of a queue that have a limit, for a consumer that holds so many of one that
    /// wait. One that takes batches may have another of them gather.
    pub(crate) fn limited(&self, queue: &QueueName, most: usize) -> Limited {
        let handlers = self.registry.of(queue).iter();
        let limited = handlers.filter(|handler| self.limits.contains_key(&handler.name));
        Limited::of(limited.map(|handler| {
            let batch = self
                .batches
                .get(&handler.name)
                .map_or(0, |limits| limits.size);
            (handler.name.clone(), most.saturating_add(batch))
        }))
    }

    /// Which handlers with a limit are due on a delivery.
    pub(crate) fn limited_on(&self, work: &Work) -> Vec<usize> {
        let (received, limited) = (&work.received, &work.slots.limited);
        let handlers = self.registry.find(&received.queue, &received.envelope);
        if !handlers
            .iter()
            .any(|handler| limited.index(&handler.name).is_some())
        {
            return Vec::new();
        }
        let known = Progress::from_headers(&received.headers);
        let now = work.clock.now();
        let due = handlers
            .iter()
            .filter(|handler| is_due(handler, &known, now));
        due.filter_map(|handler| limited.index(&handler.name))
            .collect()
    }

    /// What a delivery takes of its consumer's concurrency, if a handler of it may have to wait.
    /// In a box: most deliveries have none.
    pub(crate) fn place<'w>(
        &self,
        due: &[&Arc<Handler>],
        work: &'w Work,
    ) -> Option<Box<Place<'w>>> {
        let may_wait = |handler: &&Arc<Handler>| {
            matches!(handler.invoke, Invoke::Batch(_)) || self.limits.contains_key(&handler.name)
        };
        due.iter().any(may_wait).then(|| Box::new(Place::of(work)))
    }
}
