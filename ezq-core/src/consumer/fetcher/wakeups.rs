//! The engine's wake-ups, as far as it has any.

use std::future::pending;

use tokio::sync::watch;

/// The wake-ups of one queue.
#[derive(Debug)]
pub(crate) struct Wakeups {
    receiver: Option<watch::Receiver<u64>>,
    /// Asking the engine for wake-ups failed: the consumer polls, and asks again.
    has_failed: bool,
}

impl Wakeups {
    /// What the engine answered: a receiver, or none if it wakes nobody.
    pub(crate) fn new(receiver: Option<watch::Receiver<u64>>) -> Self {
        Self {
            receiver,
            has_failed: false,
        }
    }

    /// No wake-ups yet, because the engine could not be asked.
    pub(crate) fn failed() -> Self {
        Self {
            receiver: None,
            has_failed: true,
        }
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.has_failed
    }

    /// Whether the engine wakes this consumer.
    pub(crate) fn exist(&self) -> bool {
        self.receiver.is_some()
    }

    /// Waits for the next wake-up; false if there will be no more.
    ///
    /// # Cancel safety
    /// No wake-up is lost when the future is dropped.
    pub(crate) async fn next(&mut self) -> bool {
        match &mut self.receiver {
            Some(receiver) => receiver.changed().await.is_ok(),
            None => pending().await,
        }
    }

    /// Forgets an engine that wakes no more.
    pub(crate) fn end(&mut self) {
        self.receiver = None;
    }
}
