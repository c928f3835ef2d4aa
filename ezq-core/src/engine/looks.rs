//! Looks at queues that have nothing to do, which an engine shares among their consumers.

use std::time::Duration;

use async_trait::async_trait;

use crate::message::queue_name::QueueName;

/// Tells consumers of idle queues whether a claim could find anything.
///
/// A consumer that is woken still looks into its queue every few seconds, for what no wake-up told of. One
/// process may have hundreds of consumers: one statement that looks into all their queues costs far less
/// than a claim of each. [`SharedLooks::look`] waits for others that ask soon, and answers all of them.
///
/// Nothing depends on it: a consumer that gets no answer claims.
#[async_trait]
pub trait SharedLooks: Send + Sync {
    /// Looks into a queue, at the latest when [`LookRequest::patience`] is over.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    async fn look(&self, request: LookRequest) -> Looked;
}

/// A request to look into a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LookRequest {
    /// The queue, which was empty when it was last looked into.
    pub queue: QueueName,
    /// How long the leases of its consumer are. A consumer that looks leases as soon as there is
    /// something.
    pub ttl: Duration,
    /// For how long the look may wait for those of other queues.
    pub patience: Duration,
}

impl LookRequest {
    /// Looks into `queue` for a consumer whose leases last for `ttl`, within `patience`.
    #[must_use]
    pub fn new(queue: QueueName, ttl: Duration, patience: Duration) -> Self {
        Self {
            queue,
            ttl,
            patience,
        }
    }
}

/// What a look told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Looked {
    /// Nothing was due, whoever holds it. A claim would have found nothing.
    Nothing {
        /// How long until the next message falls due, as far as one is stored.
        next_due: Option<Duration>,
    },
    /// Something may be due, or the store could not tell: a claim finds that out.
    Perhaps,
}
