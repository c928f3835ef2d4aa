//! What a handler may know of its delivery and of its run.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::delivery::attempt::Attempt;
use crate::delivery::received::Received;
use crate::event::envelope::Envelope;
use crate::message::headers::Headers;
use crate::message::message_id::MessageId;
use crate::message::queue_name::QueueName;
use crate::message::settlement::HandlerName;

/// Tells a handler about its delivery: ids, attempt, deadline, cancellation.
///
/// ```
/// use ezq_core::handler::Context;
///
/// async fn handle(context: &Context) {
///     println!("attempt {} of {}", context.attempt(), context.event_id());
/// }
/// ```
#[derive(Debug, Clone)]
pub struct Context {
    pub(crate) attempt: Attempt,
    pub(crate) handler: HandlerName,
    pub(crate) deadline: Option<Instant>,
}

impl Context {
    pub(crate) fn received(&self) -> &Arc<Received> {
        &self.attempt.received
    }

    /// The event's id. It is the same on every delivery, so it can serve as an idempotency key.
    #[must_use]
    pub fn event_id(&self) -> &str {
        self.received().envelope.id()
    }

    /// The event's type name.
    #[must_use]
    pub fn event_type(&self) -> &str {
        self.received().envelope.event_type()
    }

    /// The event with all its attributes.
    #[must_use]
    pub fn envelope(&self) -> &Envelope {
        &self.received().envelope
    }

    /// The queue that the event came from.
    #[must_use]
    pub fn queue(&self) -> &QueueName {
        &self.received().queue
    }

    /// The message's id in that queue.
    #[must_use]
    pub fn message_id(&self) -> &MessageId {
        self.received().receipt.message_id()
    }

    /// The message's headers, as they were when it was delivered.
    #[must_use]
    pub fn headers(&self) -> &Headers {
        &self.received().headers
    }

    /// The name of the running handler.
    #[must_use]
    pub fn handler(&self) -> &HandlerName {
        &self.handler
    }

    /// The number of this handler's attempt, from 1. An attempt that a crash cut short is not counted,
    /// and runs again under the same number.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempt.number
    }

    /// How often the message was delivered, this delivery included.
    #[must_use]
    pub fn deliveries(&self) -> u32 {
        self.received().deliveries
    }

    /// When the message was stored, by the engine's clock.
    #[must_use]
    pub fn enqueued_at(&self) -> DateTime<Utc> {
        self.received().enqueued_at
    }

    /// When the handler's timeout ends the run; `None` if it has no timeout.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// True if the lease has run out by this worker's clock and was not renewed, for instance since
    /// the database does not answer. Another worker may take the event over, so do nothing now that
    /// must not happen twice.
    #[must_use]
    pub fn is_lease_expired(&self) -> bool {
        self.received().lease.is_expired()
    }

    /// A token that fires when the handler is to stop: its lease is lost, or its consumer was
    /// interrupted. The handler's future is then dropped at its next `.await`, so pass the token to
    /// tasks that it spawned. Each call returns a child token: cancelling it stops whatever listens to
    /// it, and has no effect on the event.
    #[must_use]
    pub fn cancellation(&self) -> CancellationToken {
        self.received().lease.cancel().child_token()
    }
}
