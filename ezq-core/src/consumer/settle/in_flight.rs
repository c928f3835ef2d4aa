//! The receipts whose settlement is on its way.

use std::sync::{Mutex, MutexGuard, PoisonError};

use foldhash::HashSet;

use crate::engine::Receipt;

/// The receipts whose settlement is on its way. A renewal that finds such a lease gone does not
/// report it as lost.
#[derive(Debug, Default)]
pub(crate) struct InFlight(Mutex<HashSet<Receipt>>);

impl InFlight {
    fn set(&self) -> MutexGuard<'_, HashSet<Receipt>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn contains(&self, receipt: &Receipt) -> bool {
        self.set().contains(receipt)
    }

    /// Adds receipts, under one lock.
    pub(crate) fn extend(&self, receipts: impl Iterator<Item = Receipt>) {
        self.set().extend(receipts);
    }

    /// Removes a receipt. True if it was there.
    pub(crate) fn remove(&self, receipt: &Receipt) -> bool {
        self.set().remove(receipt)
    }
}
