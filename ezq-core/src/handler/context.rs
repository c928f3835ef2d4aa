//! What surrounds one run of one handler.

use crate::delivery::received::Received;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::engine::{MessageId, UnitOfWork};
use crate::event::envelope::Envelope;
use crate::message::headers::Headers;
use crate::message::queue_name::QueueName;
use crate::message::settlement::HandlerName;
use crate::publish::publisher::Publisher;
use crate::publish::services::Services;
use crate::publish::transaction::Transaction;

/// What a handler may know about its delivery: ids, attempt, deadline, cancellation.
///
/// ```
/// use ezq_core::Context;
///
/// async fn handle(context: &Context) {
///     println!("attempt {} of {}", context.attempt(), context.event_id());
/// }
/// ```
#[derive(Debug, Clone)]
pub struct Context {
    pub(crate) received: Arc<Received>,
    pub(crate) handler: HandlerName,
    pub(crate) attempt: u32,
    pub(crate) deadline: Option<Instant>,
}

impl Context {
    /// The event's id; the same on every delivery, fit to be an idempotency key.
    #[must_use]
    pub fn event_id(&self) -> &str {
        self.received.envelope.id()
    }

    /// The event's type name.
    #[must_use]
    pub fn event_type(&self) -> &str {
        self.received.envelope.event_type()
    }

    /// The event with all its attributes.
    #[must_use]
    pub fn envelope(&self) -> &Envelope {
        &self.received.envelope
    }

    /// The queue it came from.
    #[must_use]
    pub fn queue(&self) -> &QueueName {
        &self.received.queue
    }

    /// The message's id in that queue.
    #[must_use]
    pub fn message_id(&self) -> &MessageId {
        self.received.receipt.message_id()
    }

    /// The message's headers, as they were when it was delivered.
    #[must_use]
    pub fn headers(&self) -> &Headers {
        &self.received.headers
    }

    /// The name of the handler that runs.
    #[must_use]
    pub fn handler(&self) -> &HandlerName {
        &self.handler
    }

    /// Which attempt of this handler it is, from 1. An attempt that a crash cut short is not
    /// counted and runs again under the same number.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// How often the message was delivered, this time included.
    #[must_use]
    pub fn deliveries(&self) -> u32 {
        self.received.deliveries
    }

    /// When the message was stored, on the engine's clock.
    #[must_use]
    pub fn enqueued_at(&self) -> DateTime<Utc> {
        self.received.enqueued_at
    }

    /// When the handler's timeout ends it; `None` if it has none.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Whether, by this worker's own clock, the lease has run out without being renewed, as when
    /// the database does not answer. Another worker may take the event over: hold back what must
    /// not happen twice.
    #[must_use]
    pub fn is_lease_expired(&self) -> bool {
        self.received.lease.is_expired()
    }

    /// A token that fires when the handler is to stop: its lease is lost, or the consumer was
    /// interrupted. The handler's future is dropped at its next `.await`; hand the token to what it
    /// spawned. Each call gives a child of its own: to cancel it stops what listens to it, and
    /// changes nothing for the event.
    #[must_use]
    pub fn cancellation(&self) -> CancellationToken {
        self.received.lease.cancel().child_token()
    }
}

/// One run of one handler: what extractors draw from.
#[derive(Debug, Clone)]
pub struct Call {
    pub(crate) context: Context,
    pub(crate) services: Arc<Services>,
    pub(crate) transaction: Option<Arc<Transaction>>,
    /// It handles one event, which is the cause of what it publishes.
    pub(crate) is_single: bool,
}

impl Call {
    /// What surrounds the run.
    #[must_use]
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// A publisher whose events name this one as their cause; for a batch, none.
    #[must_use]
    pub fn publisher(&self) -> Publisher {
        let publisher = if self.is_single {
            Publisher::caused_by(&self.services, &self.context.received)
        } else {
            Publisher::new(Arc::clone(&self.services))
        };
        publisher.within(self.transaction.as_ref())
    }

    /// Shows the handler's transaction to its engine's extractor: `None` unless one of the
    /// handler's extractors says that it [needs](crate::Extract::TRANSACTION) it.
    pub fn unit_of_work<R>(&self, show: impl FnOnce(&mut dyn UnitOfWork) -> R) -> Option<R> {
        self.transaction
            .as_ref()
            .and_then(|transaction| transaction.with(show))
    }

    /// The application's state of a type, if it was given one.
    #[must_use]
    pub fn state<T: Clone + Send + Sync + 'static>(&self) -> Option<T> {
        self.services.states.find()
    }
}
