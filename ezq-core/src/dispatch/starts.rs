//! What was started and has not begun yet. The coordinator settles a control event only once
//! everything before it has begun.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// What a start waits for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Stage {
    /// The delivery's task is to be polled.
    Poll,
    /// The handler is to be called.
    Call,
}

/// The numbers of starts that are under way.
///
/// Every access is sequentially consistent. The coordinator sets the watch and then reads the counts;
/// a start changes a count and then reads the watch. So at least one of the two sees the other.
#[derive(Debug, Default)]
pub(super) struct Starts {
    unpolled: AtomicUsize,
    uncalled: AtomicUsize,
    /// The coordinator waits until nothing is left.
    is_watched: AtomicBool,
}

impl Starts {
    pub(super) fn add(&self, stage: Stage) {
        self.count(stage).fetch_add(1, Ordering::SeqCst);
    }

    /// Notes that a start has begun or was dropped. True if the coordinator is to be woken.
    pub(super) fn remove(&self, stage: Stage) -> bool {
        self.count(stage).fetch_sub(1, Ordering::SeqCst) == 1 && self.is_watched()
    }

    /// Whether every delivery that was started was polled: it runs, or waits for what it needs.
    pub(super) fn are_polled(&self) -> bool {
        self.unpolled.load(Ordering::SeqCst) == 0
    }

    /// Whether the handlers of all deliveries that were started were called.
    pub(super) fn have_begun(&self) -> bool {
        self.are_polled() && self.uncalled.load(Ordering::SeqCst) == 0
    }

    pub(super) fn watch(&self) {
        self.is_watched.store(true, Ordering::SeqCst);
    }

    pub(super) fn is_watched(&self) -> bool {
        self.is_watched.load(Ordering::SeqCst)
    }

    fn count(&self, stage: Stage) -> &AtomicUsize {
        match stage {
            Stage::Poll => &self.unpolled,
            Stage::Call => &self.uncalled,
        }
    }
}
