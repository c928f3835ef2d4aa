//! When a handler's transaction may claim a batch by itself. Such a claim counts no delivery, so it
//! needs proof that the handler does not fail or crash on what comes: a leased batch that succeeded
//! just before.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{Mutex, MutexGuard};

/// The gate before claims without a lease.
#[derive(Debug, Default)]
pub(crate) struct ClaimGate {
    is_open: AtomicBool,
    claiming: Mutex<()>,
}

impl ClaimGate {
    /// Opens the gate after a batch that succeeded in its transaction, and closes it after another.
    pub(crate) fn set_open(&self, is_open: bool) {
        self.is_open.store(is_open, Ordering::Release);
    }

    /// Whether the next batch may be claimed without a lease.
    pub(crate) fn is_open(&self) -> bool {
        self.is_open.load(Ordering::Acquire)
    }

    /// Waits for the right to claim. Claims are inspected one after another, so that none passes
    /// a message for which an earlier one closed the gate.
    pub(crate) async fn claiming(&self) -> MutexGuard<'_, ()> {
        self.claiming.lock().await
    }
}
