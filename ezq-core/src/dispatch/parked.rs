//! How many of a consumer's deliveries are parked: begun, but waiting for a handler's limit or a
//! batch. A parked delivery takes no place of the consumer's concurrency.

use std::sync::atomic::{AtomicUsize, Ordering};

/// The number of parked deliveries.
#[derive(Debug, Default)]
pub(crate) struct ParkedCount {
    all: AtomicUsize,
    /// Those of handlers with a limit. Their handlers' backlogs bound them.
    limited: AtomicUsize,
}

impl ParkedCount {
    /// How many are parked in all.
    pub(crate) fn all(&self) -> usize {
        self.all.load(Ordering::Acquire)
    }

    /// How many of them wait for a handler with a limit.
    pub(crate) fn limited(&self) -> usize {
        self.limited.load(Ordering::Acquire)
    }

    pub(super) fn add(&self, is_limited: bool) {
        self.all.fetch_add(1, Ordering::AcqRel);
        self.limited
            .fetch_add(usize::from(is_limited), Ordering::AcqRel);
    }

    pub(super) fn remove(&self, is_limited: bool) {
        self.all.fetch_sub(1, Ordering::AcqRel);
        self.limited
            .fetch_sub(usize::from(is_limited), Ordering::AcqRel);
    }
}
