//! The place that one delivery takes of its consumer's concurrency.
//!
//! A delivery has a place while one of its handlers runs, and none while everything left of it waits
//! for handlers' limits or batches: it is *parked*. A run that got its permit asks the coordinator for
//! the delivery's place again, and gets it before anything new begins. So the consumer's concurrency
//! holds, and the backlog of one handler does not keep the others from it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_util::sync::CancellationToken;

use crate::dispatch::admission::{Admission, Parked, Suspect};
use crate::dispatch::work::Work;

/// The place of one delivery while its handlers run.
pub(crate) struct Place<'a> {
    admission: &'a Arc<Admission>,
    suspect: &'a Mutex<Option<Suspect>>,
    state: Mutex<State>,
}

/// What the handlers of the delivery do at the moment.
#[derive(Default)]
struct State {
    running: usize,
    /// Handlers that wait for their limits or batches.
    waiting: usize,
    /// Those that have a limit.
    limited: usize,
    /// Those that wait for a batch.
    gathering: usize,
    /// Set while none runs and one waits.
    parked: Option<Parked>,
    /// The delivery may kill its worker, and left the quarantine when it was parked.
    is_suspect: bool,
}

impl<'a> Place<'a> {
    pub(crate) fn of(work: &'a Work) -> Self {
        Self {
            admission: &work.admission,
            suspect: &work.suspect,
            state: Mutex::default(),
        }
    }

    /// Notes that so many handlers begin.
    pub(crate) fn begin(&self, count: usize) {
        self.state().running += count;
    }

    /// Notes that a handler has ended.
    pub(crate) fn end(&self) {
        let mut state = self.state();
        state.running = state.running.saturating_sub(1);
        self.park_if_idle(&mut state);
    }

    /// Waits until a handler may run. `None` if the consumer stops first, or the lease is lost.
    pub(crate) async fn permit<'l>(
        &self,
        limit: &'l Semaphore,
        cancelled: &CancellationToken,
    ) -> Option<SemaphorePermit<'l>> {
        if let Ok(permit) = limit.try_acquire() {
            return Some(permit);
        }
        // In a box: a delivery that waits for nothing needs no room for it.
        Box::pin(self.wait(limit, cancelled)).await
    }

    async fn wait<'l>(
        &self,
        limit: &'l Semaphore,
        cancelled: &CancellationToken,
    ) -> Option<SemaphorePermit<'l>> {
        let _waiting = WaitingHandler::of(self, true, false);
        let permitted = async {
            let permit = limit.acquire().await.ok()?;
            self.regain().await;
            Some(permit)
        };

        tokio::select! {
            // A stop and a lost lease come first: a permit that is ready as well must begin nothing.
            biased;
            // Nothing new begins.
            () = self.admission.stopped() => None,
            // The lease is lost.
            () = cancelled.cancelled() => None,
            permit = permitted => permit,
        }
    }

    /// Gets the delivery's place back, if it was parked.
    async fn regain(&self) {
        // The lock is not held across the wait for a place.
        let (parked, is_suspect) = {
            let mut state = self.state();
            (state.parked.take(), state.is_suspect)
        };
        let Some(parked) = parked else { return };

        if let Some(suspect) = self.admission.place(parked, is_suspect).await {
            *self.suspect.lock().unwrap_or_else(PoisonError::into_inner) = Some(suspect);
        }
        // Another handler may have ended meanwhile, and parked the delivery once more.
        self.state().parked = None;
    }

    /// Counts a handler as waiting for its batch until the guard is dropped.
    pub(crate) fn gather(&self, is_limited: bool) -> WaitingHandler<'_> {
        WaitingHandler::of(self, is_limited, true)
    }

    fn park_if_idle(&self, state: &mut State) {
        if state.running > 0 || state.waiting == 0 || state.parked.is_some() {
            return;
        }

        state.parked = Some(self.admission.park(state.limited > 0));
        if state.gathering > 0 {
            // A batch goes on without asking for a place, so nothing would make it wait for another
            // suspect: it stays in quarantine.
            return;
        }
        let mut suspect = self.suspect.lock().unwrap_or_else(PoisonError::into_inner);
        state.is_suspect |= suspect.take().is_some();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A handler that waits for its limit, or for its batch. Once that ends, for whatever reason, it
/// counts as running.
pub(crate) struct WaitingHandler<'a> {
    place: &'a Place<'a>,
    is_limited: bool,
    is_gathering: bool,
}

impl<'a> WaitingHandler<'a> {
    fn of(place: &'a Place<'a>, is_limited: bool, is_gathering: bool) -> Self {
        let mut state = place.state();
        state.running = state.running.saturating_sub(1);
        state.waiting += 1;
        state.limited += usize::from(is_limited);
        state.gathering += usize::from(is_gathering);
        place.park_if_idle(&mut state);
        drop(state);

        Self {
            place,
            is_limited,
            is_gathering,
        }
    }
}

impl Drop for WaitingHandler<'_> {
    fn drop(&mut self) {
        let mut state = self.place.state();
        state.waiting -= 1;
        state.limited -= usize::from(self.is_limited);
        state.gathering -= usize::from(self.is_gathering);
        state.running += 1;
        // A run that waited for a limit has its place back by now; a batch takes it without asking.
        if self.is_gathering {
            state.parked = None;
        }
    }
}
