//! The options of one handler: how long it may run, how often it is tried, and how wide it runs.

use std::time::Duration;

use super::retry::Backoff;

/// The options of one handler. An option that is `None` falls back to the application's.
///
/// ```
/// use ezq_core::handler::HandlerOptions;
/// use std::time::Duration;
///
/// let slow = HandlerOptions::default().timeout(None).max_attempts(2);
/// let all = HandlerOptions::default().timeout(Duration::from_secs(5)).concurrency(8);
///
/// let merged = slow.or(all);
/// assert_eq!(merged.timeout, Some(None));
/// assert_eq!(merged.concurrency, Some(8));
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HandlerOptions {
    /// How long one run may take; `Some(None)` is no limit.
    pub timeout: Option<Option<Duration>>,
    /// Attempts in all, the first included. At least 1.
    pub max_attempts: Option<u32>,
    /// The pause after each failed attempt.
    pub backoff: Option<Backoff>,
    /// Runs at once in this application. At least 1. Defaults to no limit.
    pub concurrency: Option<usize>,
    /// Events in a batch at most, for a handler of batches only. At least 1. Defaults to 100.
    pub batch_size: Option<usize>,
    /// How long a batch that is not full waits for more events, for a handler of batches only.
    /// Defaults to 20 ms.
    pub batch_wait: Option<Duration>,
}

impl HandlerOptions {
    /// Sets how long one run may take. `None` is no limit.
    #[must_use]
    pub fn timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.timeout = Some(timeout.into());
        self
    }

    /// Sets the number of attempts in all; at least 1.
    #[must_use]
    pub fn max_attempts(mut self, max_attempts: u32) -> Self {
        self.max_attempts = Some(max_attempts);
        self
    }

    /// Sets the pause after each failed attempt.
    #[must_use]
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = Some(backoff);
        self
    }

    /// Sets how many runs go on at once in this application; at least 1.
    #[must_use]
    pub fn concurrency(mut self, concurrency: usize) -> Self {
        self.concurrency = Some(concurrency);
        self
    }

    /// Sets how many events a batch has at most; at least 1.
    #[must_use]
    pub fn batch_size(mut self, batch_size: usize) -> Self {
        self.batch_size = Some(batch_size);
        self
    }

    /// Sets how long a batch that is not full waits for more events.
    #[must_use]
    pub fn batch_wait(mut self, batch_wait: Duration) -> Self {
        self.batch_wait = Some(batch_wait);
        self
    }

    /// These options; each one that is `None` is taken from `other`.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            timeout: self.timeout.or(other.timeout),
            max_attempts: self.max_attempts.or(other.max_attempts),
            backoff: self.backoff.or(other.backoff),
            concurrency: self.concurrency.or(other.concurrency),
            batch_size: self.batch_size.or(other.batch_size),
            batch_wait: self.batch_wait.or(other.batch_wait),
        }
    }
}
