//! [`App`] itself: it publishes events, makes consumers, and leads to everything else.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::admin::consumers::Consumers;
use crate::admin::queues::Queues;
use crate::admin::schedules::Schedules;
use crate::admin::sources::Sources;
use crate::admin::subscriptions::Subscriptions;
use crate::app::AppBuilder;
use crate::broker::Source;
use crate::config::Config;
use crate::consumer::Consumer;
use crate::engine::Engine;
use crate::error::Result;
use crate::event::envelope::Envelope;
use crate::event::{End, Event};
use crate::handler::Handler;
use crate::ingest::Ingest;
use crate::message::queue_name::{IntoQueueName, QueueName};
use crate::publish::all::PublishAll;
use crate::publish::broadcast::Broadcast;
use crate::publish::builder::Publish;
use crate::publish::published::Published;
use crate::publish::publisher::Publisher;
use crate::shared::Shared;

/// An application: it publishes events and makes consumers. Clones share everything, and are cheap.
#[derive(Debug, Clone)]
pub struct App {
    pub(crate) inner: Arc<Shared>,
}

impl App {
    /// Begins an application, with options from the environment and the handlers found at link time.
    pub fn builder() -> AppBuilder {
        AppBuilder::default()
    }

    /// Publishes an event when awaited; see [`Publisher::publish`].
    pub fn publish<E: Event>(&self, event: &E) -> Publish {
        self.publisher().publish(event)
    }

    /// Publishes events in one round trip when awaited; see [`Publisher::publish_all`].
    pub fn publish_all<'e, E: Event>(&self, events: impl IntoIterator<Item = &'e E>) -> PublishAll {
        self.publisher().publish_all(events)
    }

    /// Publishes events of any types in one round trip when awaited; see [`Publisher::publish_many`].
    pub fn publish_many(&self) -> PublishAll {
        self.publisher().publish_many()
    }

    /// Publishes an event whose type is known only at run time; see [`Publisher::publish_envelope`].
    pub fn publish_envelope(&self, envelope: Envelope) -> Publish {
        self.publisher().publish_envelope(envelope)
    }

    /// Broadcasts an event to every subscribed queue when awaited; see [`Publisher::broadcast`].
    pub fn broadcast<E: Event>(&self, event: &E) -> Broadcast {
        self.publisher().broadcast(event)
    }

    /// Broadcasts an event whose type is known only at run time; see [`Publisher::broadcast`].
    pub fn broadcast_envelope(&self, envelope: Envelope) -> Broadcast {
        self.publisher().broadcast_envelope(envelope)
    }

    /// The subscriptions of all applications: which queues get copies of which broadcast events.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) when the engine does not broadcast.
    pub fn subscriptions(&self) -> Result<Subscriptions<'_>> {
        Subscriptions::new(&self.inner)
    }

    /// Records in the store which event types this application [owns](AppBuilder::owns) and
    /// [publishes](AppBuilder::publishes), for [`Subscriptions::parties`]. If it declares none, nothing
    /// happens. On PGMQ this is done when the application connects.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) when the engine does not broadcast;
    /// otherwise when the store could not be written.
    pub async fn announce(&self) -> Result<()> {
        self.inner.announce().await
    }

    /// The schedules that the application's engine keeps, to list, pause, fire and remove them.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) when the engine keeps no schedules.
    pub fn schedules(&self) -> Result<Schedules<'_>> {
        Schedules::of(&self.inner)
    }

    /// The queues of the application's engines, to list them, and to pause and resume them and their
    /// handlers.
    #[must_use]
    pub fn queues(&self) -> Queues<'_> {
        Queues::new(&self.inner)
    }

    /// The consumers of the application's engines, in every process: who runs where, and who is gone.
    #[must_use]
    pub fn consumers(&self) -> Consumers<'_> {
        Consumers::new(&self.inner)
    }

    /// The sources from which ingests have stored messages, in every process: how far, and since when.
    #[must_use]
    pub fn sources(&self) -> Sources<'_> {
        Sources::new(&self.inner)
    }

    /// A publisher, for code that needs nothing else of the application.
    #[must_use]
    pub fn publisher(&self) -> Publisher {
        Publisher::new(Arc::clone(&self.inner.services))
    }

    /// A consumer of the application's queue; [`Consumer::queue`] sets another.
    pub fn consumer(&self) -> Consumer {
        Consumer::new(Arc::clone(&self.inner))
    }

    /// Stores the messages of a broker as events of a queue: `app.ingest(source).into("orders")`. Run it, or
    /// spawn it.
    pub fn ingest(&self, source: impl Source) -> Ingest {
        Ingest::new(Arc::clone(&self.inner), source)
    }

    /// The queues that [`Consumer::run_all`] consumes:
    ///
    /// - each that a handler has to itself,
    /// - each to which events are published that another handler takes, by a route, by their type, or
    ///   because it is the application's,
    /// - the application's, if a handler takes events of any type, or if there is no handler.
    #[must_use]
    pub fn consumed_queues(&self) -> BTreeSet<QueueName> {
        self.inner.queues()
    }

    /// Stops every consumer of a queue that runs now, in any process, once the events that were due
    /// before are handled. A consumer that is too busy to look at its queue stops when it does, within
    /// ten minutes.
    ///
    /// `timeout` is how long each consumer's running handlers may go on; `None` means no limit.
    ///
    /// # Errors
    /// As publishing an event.
    pub async fn stop_all(
        &self,
        queue: impl IntoQueueName,
        timeout: Option<Duration>,
    ) -> Result<Published> {
        self.publish(&End { timeout, all: true }).queue(queue).await
    }

    /// Checks that every engine answers. [`health`](Self::health) says more, and waits no longer than
    /// [`connect_timeout`](Config::connect_timeout).
    ///
    /// # Errors
    /// The error of the first engine that does not.
    pub async fn health_check(&self) -> Result<()> {
        for engine in self.inner.services.engines.all() {
            engine.health_check().await?;
        }
        Ok(())
    }

    /// The engine that keeps a queue: the application's own, or a named one.
    #[must_use]
    pub fn engine(&self, queue: &QueueName) -> &Arc<dyn Engine> {
        self.inner.services.engines.of(queue)
    }

    /// The options of the application.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// The handlers of the application, in the order in which they run.
    pub fn handlers(&self) -> impl Iterator<Item = &Handler> {
        self.inner
            .dispatcher
            .registry
            .handlers()
            .iter()
            .map(|handler| &**handler)
    }

    /// Closes the sinks of relays and the engines, which ends their background work and connections. Stop the consumers first.
    /// Waits up to a second for hooks to get the notices of what was done.
    pub async fn close(&self) {
        // Notices first, so that hooks hear of the last events before their engines are gone.
        self.inner.services.notices.flush().await;
        self.inner.close_sinks().await;
        for engine in self.inner.services.engines.all() {
            engine.close().await;
        }
    }
}
