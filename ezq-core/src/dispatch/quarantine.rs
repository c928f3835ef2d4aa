//! Deliveries that may kill their worker run one at a time, so that the crash of one does not take
//! the others along.
//!
//! A message that was delivered often and never settled (a fifth of `max_deliveries`, at least 2)
//! is a suspect. A consumer starts suspects in random order, so each crash of the one that kills
//! its process lets half of the others through.

use std::sync::atomic::{AtomicUsize, Ordering};

/// The suspects that run now.
#[derive(Debug, Default)]
pub(crate) struct Quarantine {
    running: AtomicUsize,
}

impl Quarantine {
    /// Whether a suspect runs.
    pub(crate) fn is_occupied(&self) -> bool {
        self.running.load(Ordering::Acquire) > 0
    }

    pub(super) fn enter(&self) {
        self.running.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn leave(&self) {
        self.running.fetch_sub(1, Ordering::AcqRel);
    }
}
