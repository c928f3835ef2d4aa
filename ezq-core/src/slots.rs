//! What of a consumer's running deliveries only waits for a batch, and so takes no place among those
//! that it handles at once; and how the newest batch went.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::{Mutex, MutexGuard, Notify};

/// How many deliveries of one consumer are parked.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    parked: AtomicUsize,
    changed: Notify,
    proven: AtomicBool,
    claiming: Mutex<()>,
    suspects: AtomicUsize,
}

impl Slots {
    pub(crate) fn parked(&self) -> usize {
        self.parked.load(Ordering::Acquire)
    }

    /// Whether a delivery runs that may kill its worker.
    pub(crate) fn has_suspect(&self) -> bool {
        self.suspects.load(Ordering::Acquire) > 0
    }

    /// Notes that such a delivery runs until the guard is dropped.
    pub(crate) fn suspect(self: &Arc<Self>) -> Suspect {
        self.suspects.fetch_add(1, Ordering::AcqRel);
        Suspect(Arc::clone(self))
    }

    /// Notes whether the newest batch succeeded in its transaction.
    pub(crate) fn prove(&self, succeeded: bool) {
        self.proven.store(succeeded, Ordering::Release);
    }

    /// Whether it did: then the next batch may be claimed without a lease.
    pub(crate) fn is_proven(&self) -> bool {
        self.proven.load(Ordering::Acquire)
    }

    /// Waits for the right to claim without a lease. Claims that are looked at one after another do
    /// not pass what is out of the ordinary.
    pub(crate) async fn claiming(&self) -> MutexGuard<'_, ()> {
        self.claiming.lock().await
    }

    /// Waits until a delivery was parked since the last call.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Parks a delivery until the guard is dropped.
    pub(crate) fn park(self: &Arc<Self>) -> Parked {
        self.parked.fetch_add(1, Ordering::AcqRel);
        self.changed.notify_one();
        Parked(Arc::clone(self))
    }
}

/// A delivery that may kill its worker.
pub(crate) struct Suspect(Arc<Slots>);

impl Drop for Suspect {
    fn drop(&mut self) {
        self.0.suspects.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A parked delivery.
pub(crate) struct Parked(Arc<Slots>);

impl Drop for Parked {
    fn drop(&mut self) {
        self.0.parked.fetch_sub(1, Ordering::AcqRel);
    }
}
