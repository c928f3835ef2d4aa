//! Cancellations: which messages an operator wants no worker to handle any further.
//!
//! A message that waits is leased by its id and settled, so this is for those that a worker holds. The
//! engine keeps the order and tells every consumer of the queue. The worker settles under its own
//! receipt: see `consumer/cancelling/`.

use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use tokio::sync::watch;

use crate::engine::Settle;
use crate::error::Result;
use crate::message::message_id::MessageId;
use crate::message::queue_name::QueueName;
use crate::message::settlement::{Progress, Reason, ReasonKind};
use crate::text::bounded;

/// What becomes of an event that is cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Cancel {
    /// It becomes a dead letter, with the reason [`ReasonKind::Cancelled`].
    Dead,
    /// It is deleted. Neither an archive nor a trail keeps it. The audit trail calls it a discard.
    Discard,
}

/// What an operator asks for when a message is cancelled.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CancelOrder {
    /// What becomes of the message.
    pub what: Cancel,
    /// Who cancels it.
    pub by: String,
    /// Why, if a reason was given.
    pub reason: Option<String>,
}

impl CancelOrder {
    /// An order without a reason.
    #[must_use]
    pub fn new(what: Cancel, by: impl Into<String>) -> Self {
        Self {
            what,
            by: by.into(),
            reason: None,
        }
    }

    /// Sets why.
    #[must_use]
    pub fn reason(mut self, reason: impl Into<Option<String>>) -> Self {
        self.reason = reason.into();
        self
    }

    /// The settlement that carries the order out on a message that was delivered so often.
    pub(crate) fn settle(&self, progress: Progress, deliveries: u32) -> Settle {
        match self.what {
            Cancel::Discard => Settle::Discard,
            Cancel::Dead => Settle::DeadLetter {
                reason: Reason::new(ReasonKind::Cancelled, self.text(), deliveries),
                progress,
                outgoing: Vec::new(),
            },
        }
    }

    fn text(&self) -> String {
        let by = &self.by;
        match &self.reason {
            Some(reason) => bounded(&format!("cancelled by {by}: {reason}")),
            None => bounded(&format!("cancelled by {by}")),
        }
    }
}

/// A cancellation that was asked for, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cancellation {
    /// The message, by the id that its deliveries have.
    pub message_id: MessageId,
    /// What was asked for.
    pub order: CancelOrder,
    /// When, by the engine's clock.
    pub asked_at: DateTime<Utc>,
}

impl Cancellation {
    /// A cancellation that was asked for at this time.
    #[must_use]
    pub fn new(message_id: MessageId, order: CancelOrder, asked_at: DateTime<Utc>) -> Self {
        Self {
            message_id,
            order,
            asked_at,
        }
    }
}

/// The cancellations of one queue that are not finished.
pub type QueueCancellations = Arc<[Cancellation]>;

/// The cancellations that an engine keeps. Such an engine also
/// [leases by id](crate::engine::Engine::lease_by_id).
///
/// A cancellation lasts until it is [finished](Self::finish), for a day at most.
#[async_trait]
pub trait Cancellations: Send + Sync {
    /// Asks whoever holds a message, or comes to hold it, to cancel it, and tells every process. A second
    /// order for a message replaces the first. Returns false, and keeps nothing, if the queue has no such
    /// message. An engine with [`Operations`](crate::engine::Operations) records it in the same step.
    ///
    /// # Errors
    /// [`ErrorKind::QueueMissing`](crate::ErrorKind::QueueMissing) if there is no such queue;
    /// otherwise when the store could not be written.
    async fn ask(&self, queue: &QueueName, id: &MessageId, order: &CancelOrder) -> Result<bool>;

    /// The cancellations of a queue, as they are now and from now on. They were looked up when this
    /// answers. Later changes come within a second as a rule, and within a few seconds if one is missed.
    ///
    /// # Errors
    /// When they could not be looked up.
    async fn watch(&self, queue: &QueueName) -> Result<watch::Receiver<QueueCancellations>>;

    /// Forgets cancellations: their messages are settled. Those that are unknown are left out.
    ///
    /// # Errors
    /// When the store could not be written.
    async fn finish(&self, queue: &QueueName, ids: &[MessageId]) -> Result<()>;

    /// The id of the dead letter that a message has become, among the newest 10,000 of the queue.
    ///
    /// # Errors
    /// When the store could not be read.
    async fn letter_of(&self, queue: &QueueName, id: &MessageId) -> Result<Option<MessageId>>;
}
