//! The guard of the delivery that is at work in a lane.

use std::sync::Arc;

use tokio::sync::mpsc;

/// The right of one delivery to be at work while others of its ordering key wait.
///
/// [`pass`](Self::pass) lets the next of the key start. A guard that is dropped without it ends the
/// lane, whatever the cause: the message comes again, its lease is lost or its task panicked.
#[derive(Debug)]
pub(crate) struct LaneGuard {
    key: Arc<str>,
    number: u64,
    steps: mpsc::UnboundedSender<LaneStep>,
    is_passed: bool,
}

/// What a guard tells its lane.
#[derive(Debug)]
pub(crate) struct LaneStep {
    pub(crate) key: Arc<str>,
    /// The number of the lane: a key may have another lane by now.
    pub(crate) number: u64,
    /// Whether the next delivery of the key may start.
    pub(crate) goes_on: bool,
}

impl LaneGuard {
    pub(crate) fn new(key: Arc<str>, number: u64, steps: mpsc::UnboundedSender<LaneStep>) -> Self {
        Self {
            key,
            number,
            steps,
            is_passed: false,
        }
    }

    /// Lets the next delivery of the key start. Further calls have no effect.
    pub(crate) fn pass(&mut self) {
        if !std::mem::replace(&mut self.is_passed, true) {
            self.send(true);
        }
    }

    /// Ends the lane even if the guard was passed on: the delivery is not settled after all.
    pub(crate) fn revoke(mut self) {
        self.is_passed = false;
    }

    fn send(&self, goes_on: bool) {
        // Nobody receives once the consumer has ended.
        let _ = self.steps.send(LaneStep {
            key: Arc::clone(&self.key),
            number: self.number,
            goes_on,
        });
    }
}

impl Drop for LaneGuard {
    fn drop(&mut self) {
        if !self.is_passed {
            self.send(false);
        }
    }
}
