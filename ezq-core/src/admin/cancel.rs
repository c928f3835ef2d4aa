//! Cancelling one event, whether it waits or runs.

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;

use tracing::{Instrument, debug, info};

use crate::admin::by_hand::cancel_waiting;
use crate::engine::{Cancel, CancelOrder, Cancellations, Engine};
use crate::error::{Error, ErrorKind, Result, error_chain};
use crate::message::message_id::MessageId;
use crate::message::queue_name::QueueName;
use crate::publish::services::Services;
use crate::runtime::cut_off;
use crate::text::bounded;

/// What became of a cancellation.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum CancelOutcome {
    /// The event waited. It is cancelled.
    Cancelled,
    /// A worker or a transaction has the event, and the workers were asked to cancel it. That one does so
    /// within a second as a rule, and within a few seconds if a notification is lost. If it is gone, another
    /// does it once the lease or the transaction has ended. An event that is handled before its worker hears
    /// of it stays handled.
    Asked,
    /// The event is a dead letter already.
    AlreadyDead {
        /// Its id among the dead letters.
        letter: MessageId,
    },
    /// There is no such event: it was handled, or never stored.
    NotFound,
}

/// A cancellation that begins when this is awaited.
///
/// # Errors
/// - [`ErrorKind::QueueMissing`] if there is no such queue.
/// - [`ErrorKind::Unsupported`] if the queue's engine cannot cancel.
/// - Otherwise when the engine could not be asked.
///
/// # Cancel safety
/// The work is done in a task of its own, and goes on if the future is dropped.
#[must_use = "nothing is cancelled until this is awaited"]
pub struct CancelRequest<'a> {
    engine: &'a Arc<dyn Engine>,
    services: &'a Arc<Services>,
    queue: QueueName,
    id: MessageId,
    order: CancelOrder,
}

impl<'a> CancelRequest<'a> {
    pub(crate) fn new(
        (engine, services): (&'a Arc<dyn Engine>, &'a Arc<Services>),
        queue: QueueName,
        id: MessageId,
        (what, by): (Cancel, &str),
    ) -> Self {
        Self {
            engine,
            services,
            queue,
            id,
            order: CancelOrder::new(what, by),
        }
    }

    /// Who cancels. Defaults to the [name of the application](crate::config::Config::app).
    pub fn by(mut self, who: impl Into<String>) -> Self {
        self.order.by = bounded(&who.into());
        self
    }

    /// Why. Defaults to no reason.
    pub fn reason(mut self, reason: impl Into<String>) -> Self {
        self.order.reason = Some(bounded(&reason.into()));
        self
    }

    async fn begin(self) -> Result<CancelOutcome> {
        let Self {
            engine,
            services,
            queue,
            id,
            order,
        } = self;
        let engine = Arc::clone(engine);
        let services = Arc::clone(services);
        let cancelled = async move { cancel(&*engine, &services, &queue, &id, &order).await };

        // In a task, so that a dropped future cannot leave the message leased.
        tokio::spawn(cancelled.in_current_span())
            .await
            .unwrap_or_else(|error| Err(cut_off("cancelling an event", error)))
    }
}

impl<'a> IntoFuture for CancelRequest<'a> {
    type Output = Result<CancelOutcome>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'a>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.begin())
    }
}

impl std::fmt::Debug for CancelRequest<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CancelRequest")
            .field("queue", &self.queue)
            .field("id", &self.id)
            .field("order", &self.order)
            .finish_non_exhaustive()
    }
}

async fn cancel(
    engine: &dyn Engine,
    services: &Services,
    queue: &QueueName,
    id: &MessageId,
    order: &CancelOrder,
) -> Result<CancelOutcome> {
    let cancellations = engine.cancellations().ok_or_else(|| {
        let name = engine.capabilities().name;
        let text = format!("the engine `{name}` does not support cancelling events");
        Error::new(ErrorKind::Unsupported, text)
    })?;
    // Asked first: the order and its entry in the audit trail are stored together, and stand if this
    // process dies before it has carried the order out.
    if !cancellations.ask(queue, id, order).await? {
        return absent(cancellations, queue, id).await;
    }

    let is_cancelled = match cancel_waiting(engine, &services.notices, queue, id, order).await {
        Ok(is_cancelled) => is_cancelled,
        Err(error) => {
            if error.kind() != ErrorKind::LeaseLost {
                // Consumers of the queue carry the order out.
                debug!(%queue, message_id = %id, error = error_chain(&error), "cannot cancel it here");
            }
            let CancelOrder { what, by, reason } = order;
            info!(%queue, message_id = %id, ?what, by, reason, "a running event is to be cancelled");
            return Ok(CancelOutcome::Asked);
        }
    };

    if let Err(error) = cancellations.finish(queue, std::slice::from_ref(id)).await {
        // Consumers forget the order as soon as they find no such message.
        debug!(%queue, message_id = %id, error = error_chain(&error), "cannot forget a cancellation");
    }
    match is_cancelled {
        true => Ok(CancelOutcome::Cancelled),
        // A worker had it when it was asked, and has carried the order out by now, or handled it first.
        false => Ok(CancelOutcome::Asked),
    }
}

/// What became of an event that is not in its queue.
async fn absent(
    cancellations: &dyn Cancellations,
    queue: &QueueName,
    id: &MessageId,
) -> Result<CancelOutcome> {
    let letter = cancellations.letter_of(queue, id).await?;
    Ok(match letter {
        Some(letter) => CancelOutcome::AlreadyDead { letter },
        None => CancelOutcome::NotFound,
    })
}
