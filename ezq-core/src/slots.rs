//! What of a consumer's running deliveries only waits for a batch, and so takes no place among those
//! that it handles at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// How many deliveries of one consumer are parked.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    parked: AtomicUsize,
    changed: Notify,
}

impl Slots {
    pub(crate) fn parked(&self) -> usize {
        self.parked.load(Ordering::Acquire)
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

/// A parked delivery.
pub(crate) struct Parked(Arc<Slots>);

impl Drop for Parked {
    fn drop(&mut self) {
        self.0.parked.fetch_sub(1, Ordering::AcqRel);
    }
}
