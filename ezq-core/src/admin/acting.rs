//! One event, acted on by its id: discarded, redriven, tried at once, moved.

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;

use crate::engine::{
    ActOutcome, Engine, EventAction, EventRef, LeaseRequest, Operations, Signature,
};
use crate::error::{Error, ErrorKind, Result};
use crate::message::queue_name::QueueName;
use crate::shared::Shared;

/// Something that is done to one event when this is awaited. It returns whether there was such an event.
///
/// It is recorded in the [audit trail](crate::app::App::audit), in the same step.
///
/// # Errors
/// - [`ErrorKind::LeaseLost`] while a worker holds the event: nothing was done. A retry after that helps.
/// - [`ErrorKind::QueueMissing`] if the queue, or the one to move to, does not exist.
/// - [`ErrorKind::Configuration`] for a queue to move to that is the event's own.
/// - [`ErrorKind::Unsupported`] if the queue's engine does not act on events by id, or another engine
///   keeps the queue to move to.
/// - Otherwise when the engine could not be asked; nothing was done.
///
/// # Cancel safety
/// Dropping the future leaves it open whether it was done.
#[must_use = "nothing is done until this is awaited"]
#[derive(Debug)]
pub struct EventAct<'a> {
    order: Order<'a>,
    queue: QueueName,
    action: Result<EventAction>,
    event: EventRef,
}

impl<'a> EventAct<'a> {
    pub(crate) fn new(
        inner: &'a Shared,
        queue: QueueName,
        action: Result<EventAction>,
        event: EventRef,
    ) -> Self {
        Self {
            order: Order::new(inner),
            queue,
            action,
            event,
        }
    }

    /// Who does it. Defaults to the [name of the application](crate::config::Config::app).
    pub fn by(mut self, who: impl Into<String>) -> Self {
        self.order.signature.by = who.into();
        self
    }

    /// Why. Defaults to no reason.
    pub fn reason(mut self, reason: impl Into<String>) -> Self {
        self.order.signature.reason = Some(reason.into());
        self
    }

    async fn act(self) -> Result<bool> {
        let Self {
            order,
            queue,
            action,
            event,
        } = self;
        let action = action?;
        let operations = order.operations_for(&queue, &action)?;
        let outcomes = operations
            .act(
                &queue,
                &action,
                std::slice::from_ref(&event),
                &order.signature,
            )
            .await?;
        match outcomes.first() {
            Some(ActOutcome::Done) => Ok(true),
            Some(ActOutcome::Leased) => Err(LeaseRequest::held(&queue, event.id())),
            Some(ActOutcome::Missing) | None => Ok(false),
        }
    }
}

impl<'a> IntoFuture for EventAct<'a> {
    type Output = Result<bool>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'a>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.act())
    }
}

/// Who orders something of an application's engines.
#[derive(Clone)]
pub(super) struct Order<'a> {
    inner: &'a Shared,
    pub(super) signature: Signature,
}

impl<'a> Order<'a> {
    pub(super) fn new(inner: &'a Shared) -> Self {
        Self {
            inner,
            signature: Signature::new(inner.config.app.clone()),
        }
    }

    /// The operations of a queue's engine, for an action that fits the queue.
    pub(super) fn operations_for(
        &self,
        queue: &QueueName,
        action: &EventAction,
    ) -> Result<&'a dyn Operations> {
        action.check_queue(queue)?;
        let engines = &self.inner.services.engines;
        if let Some(to) = action.target()
            && !engines.same(queue, to)
        {
            let text = format!(
                "the queues `{queue}` and `{to}` are kept by two engines, and no single step changes both"
            );
            return Err(Error::new(ErrorKind::Unsupported, text));
        }
        operations(engines.of(queue))
    }
}

impl std::fmt::Debug for Order<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.signature.fmt(f)
    }
}

/// The operations of an engine.
pub(super) fn operations(engine: &Arc<dyn Engine>) -> Result<&dyn Operations> {
    engine.operations().ok_or_else(|| {
        let name = engine.capabilities().name;
        let text = format!("the engine `{name}` does not act on stored events");
        Error::new(ErrorKind::Unsupported, text)
    })
}
