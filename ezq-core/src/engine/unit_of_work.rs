//! The transaction in which a handler's writes, its outgoing events and its mark commit together.

use std::any::Any;

use async_trait::async_trait;

use super::{BroadcastMessage, Delivery, Outgoing, Receipt, SettleOutcome};
use crate::error::{Error, ErrorKind, Result};
use crate::message::queue_name::QueueName;
use crate::message::settlement::Progress;

/// One delivery that a handler's transaction finishes.
#[derive(Debug, Clone, PartialEq)]
pub struct Finished {
    /// The delivery.
    pub receipt: Receipt,
    /// The mark of the handler, to be merged into the message. `None` if no other handler is left:
    /// the message is acknowledged.
    pub mark: Option<Progress>,
}

/// One handler's transaction on one delivery, or on a batch of them; what the extractor `Tx` wraps.
///
/// It ends in [`finish`](Self::finish) or [`abandon`](Self::abandon); one that is dropped rolls
/// back as well.
#[async_trait]
pub trait UnitOfWork: Send {
    /// Takes up to `max` messages that are due out of the queue, inside the transaction: they are
    /// acknowledged when it commits, and as they were if it does not. No delivery is counted.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] if the engine, or this queue, has no such claim.
    async fn claim(&mut self, max: usize) -> Result<Vec<Delivery>> {
        let _ = max;
        Err(Error::new(
            ErrorKind::Unsupported,
            "no claim inside a transaction",
        ))
    }

    /// Keeps an event that goes to every subscribed queue when the transaction commits, beside the
    /// outgoing events.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] if the engine does not broadcast; [`ErrorKind::InvalidEvent`] for
    /// an event that the store cannot keep.
    fn broadcast(&mut self, message: BroadcastMessage) -> Result<()> {
        let text = format!(
            "no transaction of this engine can broadcast `{}`",
            message.event_type
        );
        Err(Error::new(ErrorKind::Unsupported, text))
    }

    /// Whether the transaction itself has made a queue, which nobody else sees yet: to make sure of
    /// such a queue from elsewhere would wait for the transaction's end. Asked once its handler has
    /// ended. Where it cannot be told, and by default, no.
    async fn has_made(&mut self, queue: &QueueName) -> bool {
        let _ = queue;
        false
    }

    /// Merges marks into messages and acknowledges others, each under the fence of its receipt, then
    /// writes the outgoing events, then commits. A single receipt that does not hold any more rolls
    /// everything back and answers [`SettleOutcome::LeaseLost`].
    ///
    /// # Errors
    /// When it could not be committed. A [transient](crate::Error::is_transient) error leaves it
    /// open whether it was: the messages' own state tells. After any other nothing of it stands, and
    /// the handler counts as failed.
    async fn finish(
        self: Box<Self>,
        finished: Vec<Finished>,
        outgoing: Vec<Outgoing>,
    ) -> Result<SettleOutcome>;

    /// Rolls back, stopping a statement that still runs.
    async fn abandon(self: Box<Self>);

    /// The unit as its engine's own type, for that engine's extractor.
    fn as_any(&mut self) -> &mut dyn Any;
}
