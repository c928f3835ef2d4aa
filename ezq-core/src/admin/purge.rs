//! Removing every message of a queue.

use std::future::{Future, IntoFuture};
use std::pin::Pin;

use super::acting::Order;
use super::recorded::Recorded;
use crate::engine::{AuditAction, AuditEntry};
use crate::error::Result;
use crate::message::queue_name::QueueName;
use crate::shared::Shared;

/// Every message of a queue, including leased ones, which is removed when this is awaited. It returns how
/// many there were. Get it by [`App::purge`](crate::app::App::purge).
///
/// It is recorded in the [audit trail](crate::app::App::audit) before.
///
/// # Errors
/// When the engine could not be asked. Some messages of a large queue may be removed by then.
///
/// # Cancel safety
/// Messages that were removed before the future is dropped stay removed.
#[must_use = "nothing is removed until this is awaited"]
#[derive(Debug)]
pub struct PurgeRequest<'a> {
    inner: &'a Shared,
    order: Order<'a>,
    queue: Result<QueueName>,
}

impl<'a> PurgeRequest<'a> {
    pub(crate) fn new(inner: &'a Shared, queue: Result<QueueName>) -> Self {
        Self {
            inner,
            order: Order::new(inner),
            queue,
        }
    }

    /// Who removes them. Defaults to the [name of the application](crate::config::Config::app).
    pub fn by(mut self, who: impl Into<String>) -> Self {
        self.order.signature.by = who.into();
        self
    }

    /// Why. Defaults to no reason.
    pub fn reason(mut self, reason: impl Into<String>) -> Self {
        self.order.signature.reason = Some(reason.into());
        self
    }

    async fn purge(self) -> Result<u64> {
        let queue = self.queue?;
        let engine = self.inner.services.engines.of(&queue);
        let now = chrono::DateTime::UNIX_EPOCH;
        let signature = self.order.signature;
        let entry = AuditEntry::new(now, signature, AuditAction::Purge, queue.clone());
        let recorded = Recorded::begin(&**engine, entry).await?;
        let purged = engine.purge(&queue).await?;
        recorded.end(purged).await;
        Ok(purged)
    }
}

impl<'a> IntoFuture for PurgeRequest<'a> {
    type Output = Result<u64>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'a>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.purge())
    }
}
