//! [`App`] itself: what publishes events, makes consumers and leads to everything else.

use std::sync::Arc;
use std::time::Duration;

use crate::admin::schedules::Schedules;
use crate::admin::subscriptions::Subscriptions;
use crate::app::AppBuilder;
use crate::config::Config;
use crate::consumer::Consumer;
use crate::engine::Engine;
use crate::error::Result;
use crate::event::envelope::Envelope;
use crate::event::{End, Event};
use crate::handler::Handler;
use crate::message::queue_name::QueueName;
use crate::publish::all::PublishAll;
use crate::publish::broadcast::Broadcast;
use crate::publish::builder::Publish;
use crate::publish::publisher::{Published, Publisher};
use crate::shared::Shared;

/// An application: publishes events and makes consumers. Cheap to clone.
#[derive(Debug, Clone)]
pub struct App {
    pub(crate) inner: Arc<Shared>,
}

impl App {
    /// Begins an application, with the options of the environment.
    pub fn builder() -> AppBuilder {
        AppBuilder::default()
    }

    /// Publishes an event; see [`Publisher::publish`].
    pub fn publish<E: Event>(&self, event: &E) -> Publish {
        self.publisher().publish(event)
    }

    /// Publishes events in one round trip; see [`Publisher::publish_all`].
    pub fn publish_all<'e, E: Event>(&self, events: impl IntoIterator<Item = &'e E>) -> PublishAll {
        self.publisher().publish_all(events)
    }

    /// Publishes an event known only at run time; see [`Publisher::publish_envelope`].
    pub fn publish_envelope(&self, envelope: Envelope) -> Publish {
        self.publisher().publish_envelope(envelope)
    }

    /// Broadcasts an event to every subscribed queue; see [`Publisher::broadcast`].
    pub fn broadcast<E: Event>(&self, event: &E) -> Broadcast {
        self.publisher().broadcast(event)
    }

    /// Broadcasts an event known only at run time; see [`Publisher::broadcast`].
    pub fn broadcast_envelope(&self, envelope: Envelope) -> Broadcast {
        self.publisher().broadcast_envelope(envelope)
    }

    /// Which queues get copies of what is broadcast, of all applications.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] when the engine does not broadcast.
    pub fn subscriptions(&self) -> Result<Subscriptions<'_>> {
        Subscriptions::new(&self.inner)
    }

    /// Records in the store which types this application [owns](AppBuilder::owns) and
    /// [publishes](AppBuilder::publishes), for [`Subscriptions::parties`]; nothing if it said so of
    /// none. Connecting to PGMQ does so by itself.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] when the engine does not broadcast, and when the store could not
    /// be written.
    pub async fn announce(&self) -> Result<()> {
        self.inner.announce().await
    }

    /// The schedules that the application's engine keeps: what they do next, and changing it.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) when it keeps none.
    pub fn schedules(&self) -> Result<Schedules<'_>> {
        Schedules::of(&self.inner)
    }

    /// A publisher to hand around.
    #[must_use]
    pub fn publisher(&self) -> Publisher {
        Publisher::new(Arc::clone(&self.inner.services))
    }

    /// A consumer of the application's queue, or of another.
    pub fn consumer(&self) -> Consumer {
        Consumer::new(Arc::clone(&self.inner))
    }

    /// Stops every consumer of a queue that runs now, each after what was due before. One that is
    /// too busy to look at its queue learns of it when it does, within ten minutes.
    ///
    /// # Errors
    /// As publishing an event.
    pub async fn stop_all(
        &self,
        queue: &QueueName,
        timeout: Option<Duration>,
    ) -> Result<Published> {
        self.publish(&End { timeout, all: true }).queue(queue).await
    }

    /// Whether every engine answers.
    ///
    /// # Errors
    /// What keeps the first that does not.
    pub async fn health_check(&self) -> Result<()> {
        for engine in self.inner.services.engines.all() {
            engine.health_check().await?;
        }
        Ok(())
    }

    /// The engine that keeps a queue.
    #[must_use]
    pub fn engine(&self, queue: &QueueName) -> &Arc<dyn Engine> {
        self.inner.services.engines.of(queue)
    }

    /// Whether a named engine keeps a queue, in place of the application's own.
    #[must_use]
    pub fn is_routed(&self, queue: &QueueName) -> bool {
        self.inner.services.engines.routes.contains_key(queue)
    }

    /// The application's options.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// The handlers it knows, in the order in which they run.
    pub fn handlers(&self) -> impl Iterator<Item = &Handler> {
        self.inner
            .dispatcher
            .registry
            .handlers()
            .iter()
            .map(|handler| &**handler)
    }

    /// Closes the engines: their background work ends. Stop the consumers first. Waits a second at
    /// most for hooks to be told of what was done.
    pub async fn close(&self) {
        self.inner.services.notices.flush().await;
        for engine in self.inner.services.engines.all() {
            engine.close().await;
        }
    }
}
