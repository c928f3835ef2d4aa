//! The transaction in which a handler's own writes, its outgoing events and its mark on the message
//! commit together.

use std::any::Any;

use async_trait::async_trait;

use super::{BroadcastMessage, Delivery, Outgoing, Receipt, SettleOutcome};
use crate::error::{Error, ErrorKind, Result};
use crate::message::queue_name::QueueName;
use crate::message::settlement::Progress;

/// One delivery that a handler's transaction settles for that handler.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Finished {
    /// The delivery.
    pub receipt: Receipt,
    /// The handler's mark, which is merged into the message. `None` if no other handler is left to
    /// run: the message is then acknowledged.
    pub mark: Option<Progress>,
}

impl Finished {
    /// A delivery that is acknowledged, unless a [`mark`](Self::mark) is set.
    #[must_use]
    pub fn new(receipt: Receipt) -> Self {
        Self {
            receipt,
            mark: None,
        }
    }

    /// Merges a handler's mark into the message, which other handlers still need.
    #[must_use]
    pub fn mark(mut self, mark: impl Into<Option<Progress>>) -> Self {
        self.mark = mark.into();
        self
    }
}

/// The transaction of one handler on one delivery, or on a batch of deliveries. The extractor `Tx`
/// wraps it.
///
/// It ends by [`finish`](Self::finish) or [`abandon`](Self::abandon). If it is dropped, the engine must
/// roll it back as well.
#[async_trait]
pub trait UnitOfWork: Send {
    /// Takes up to `max` messages that are due, inside the transaction. If it commits, they are
    /// acknowledged; if not, they are as they were. This counts no delivery.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] if the engine, or this queue, has no such claim. That is the default,
    /// and the caller then leases as usual.
    async fn claim(&mut self, max: usize) -> Result<Vec<Delivery>> {
        let _ = max;
        Err(Error::new(
            ErrorKind::Unsupported,
            "the engine cannot claim inside a transaction",
        ))
    }

    /// Keeps an event to be broadcast when the transaction commits: a copy for every subscribed queue.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] if the engine does not broadcast, which is the default;
    /// [`ErrorKind::InvalidEvent`] for an event that the store cannot keep.
    fn broadcast(&mut self, message: BroadcastMessage) -> Result<()> {
        let text = format!(
            "the engine cannot broadcast `{}` inside a transaction",
            message.event_type
        );
        Err(Error::new(ErrorKind::Unsupported, text))
    }

    /// Whether the transaction itself has created a queue. Asked once its handler has ended.
    ///
    /// No other connection sees such a queue yet, and [`ensure_queue`](super::Engine::ensure_queue)
    /// would wait there until the transaction ends. False by default, and where it is not known.
    async fn has_made(&mut self, queue: &QueueName) -> bool {
        let _ = queue;
        false
    }

    /// Settles the deliveries, writes the outgoing events, and commits.
    ///
    /// Each delivery is fenced by its receipt: its mark is merged into the message, or the message is
    /// acknowledged. If a single receipt is void, everything is rolled back and the answer is
    /// [`SettleOutcome::LeaseLost`].
    ///
    /// # Errors
    /// When the transaction could not be committed. After a
    /// [transient](crate::Error::is_transient) error it is open whether it was; the stored messages
    /// show it at their next delivery. After any other error nothing of it is stored, and the handler
    /// counts as failed.
    async fn finish(
        self: Box<Self>,
        finished: Vec<Finished>,
        outgoing: Vec<Outgoing>,
    ) -> Result<SettleOutcome>;

    /// Rolls back, and stops a statement that is still running.
    async fn abandon(self: Box<Self>);

    /// This transaction as its engine's own type, for that engine's extractor.
    fn as_any(&mut self) -> &mut dyn Any;
}
