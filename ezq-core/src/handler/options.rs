//! The options of one handler.

use std::time::Duration;

use crate::handler::batch::BatchLimits;
use crate::handler::retry::{Backoff, RetryPolicy};

/// The options of one handler. An option that is `None` falls back to the application's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
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

    pub(crate) fn batch(&self) -> BatchLimits {
        let defaults = BatchLimits::default();
        BatchLimits {
            size: self.batch_size.unwrap_or(defaults.size),
            wait: self.batch_wait.unwrap_or(defaults.wait),
        }
    }

    pub(crate) fn retry(&self, defaults: RetryPolicy) -> RetryPolicy {
        RetryPolicy {
            max_attempts: self.max_attempts.unwrap_or(defaults.max_attempts).max(1),
            backoff: self.backoff.unwrap_or(defaults.backoff),
        }
    }
}
