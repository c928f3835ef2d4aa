//! Giving up one event that waits.

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;

use tracing::{Instrument, info};

use super::acting::Order;
use super::by_hand::settle_waiting;
use super::recorded::Recorded;
use crate::engine::{AuditAction, AuditEntry, Engine, EventRef, Settle, Signature};
use crate::error::Result;
use crate::message::message_id::MessageId;
use crate::message::queue_name::QueueName;
use crate::message::settlement::{Progress, Reason, ReasonKind};
use crate::observe::notices::Notices;
use crate::publish::services::Services;
use crate::runtime::cut_off;
use crate::shared::Shared;
use crate::text::bounded;

/// One event that is given up when this is awaited. It returns whether there was such an event. Get it by
/// [`App::fail`](crate::app::App::fail).
///
/// It is recorded in the [audit trail](crate::app::App::audit) before.
///
/// # Errors
/// - [`ErrorKind::LeaseLost`](crate::ErrorKind::LeaseLost) while a worker holds the message; a retry after
///   that helps.
/// - [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) if the engine cannot lease by id.
/// - Otherwise when the engine could not be asked.
///
/// After an error the message is as it was, with the same due time and one more delivery. If the
/// process or the store fails in between, the message is due within half a minute, whatever its due
/// time was.
///
/// # Cancel safety
/// The work is done in a task of its own, and goes on if the future is dropped.
#[must_use = "nothing is given up until this is awaited"]
#[derive(Debug)]
pub struct FailRequest<'a> {
    order: Order<'a>,
    services: Arc<Services>,
    queue: Result<QueueName>,
    id: MessageId,
    error: String,
}

impl<'a> FailRequest<'a> {
    pub(crate) fn new(
        inner: &'a Shared,
        queue: Result<QueueName>,
        id: MessageId,
        reason: &str,
    ) -> Self {
        let mut order = Order::new(inner);
        let error = bounded(reason);
        order.signature.reason = Some(error.clone());
        Self {
            order,
            services: Arc::clone(&inner.services),
            queue,
            id,
            error,
        }
    }

    /// Who gives it up. Defaults to the [name of the application](crate::config::Config::app).
    pub fn by(mut self, who: impl Into<String>) -> Self {
        self.order.signature.by = who.into();
        self
    }

    async fn begin(self) -> Result<bool> {
        let queue = self.queue?;
        let engine = Arc::clone(self.services.engines.of(&queue));
        let services = self.services;
        let signature = self.order.signature;
        let failed = async move {
            let event = (&queue, &self.id, &*self.error);
            fail(&*engine, &services.notices, event, signature).await
        };

        // In a task, so that a dropped future cannot leave the message leased.
        tokio::spawn(failed.in_current_span())
            .await
            .unwrap_or_else(|error| Err(cut_off("giving an event up", error)))
    }
}

impl<'a> IntoFuture for FailRequest<'a> {
    type Output = Result<bool>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'a>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.begin())
    }
}

/// Moves a message that waits to the dead letters.
async fn fail(
    engine: &dyn Engine,
    notices: &Notices,
    (queue, id, error): (&QueueName, &MessageId, &str),
    signature: Signature,
) -> Result<bool> {
    let by = signature.by.clone();
    let now = chrono::DateTime::UNIX_EPOCH;
    let entry = AuditEntry {
        event: Some(EventRef::from(id)),
        ..AuditEntry::new(now, signature, AuditAction::Fail, queue.clone())
    };
    let recorded = Recorded::begin(engine, entry).await?;

    let is_failed = settle_waiting(engine, notices, queue, id, |delivery| Settle::DeadLetter {
        reason: Reason {
            kind: ReasonKind::Operator,
            handler: None,
            error: error.to_owned(),
            // The lease just taken is no delivery to a worker.
            attempts: delivery.deliveries.saturating_sub(1),
        },
        progress: Progress::default(),
        outgoing: Vec::new(),
    })
    .await;
    // After an error the message is as it was.
    let count = u64::from(matches!(is_failed, Ok(true)));
    recorded.end(count).await;
    if count > 0 {
        info!(%queue, message_id = %id, by, error, "an operator gave an event up");
    }
    is_failed
}
