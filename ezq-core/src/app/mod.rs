//! An application: an engine, handlers, state and configuration, checked once when it is built.

mod codecs;
mod health;
mod inline;
mod notices;
mod operating;
pub(crate) mod reach;
mod routing;
mod schedules;

use crate::dispatch::registry::types;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::admin::subscriptions::Subscriptions;
use crate::codec::codecs::Codecs;
use crate::config::Config;
use crate::consumer::Consumer;
use crate::dispatch::dispatcher::Dispatcher;
use crate::dispatch::registry::Registry;
use crate::engine::{Engine, EventRole};
use crate::error::{Error, ErrorKind, Result};
use crate::event::attributes::check_type;
use crate::event::envelope::Envelope;
use crate::event::{End, Event};
use crate::handler::Handler;
use crate::message::queue_name::QueueName;
use crate::message::retention::Retention;
use crate::observe::notices::{Hook, Notices};
use crate::private::{Discovered, HandlerDefinition, inventory};
use crate::publish::all::PublishAll;
use crate::publish::broadcast::Broadcast;
use crate::publish::builder::Publish;
use crate::publish::engines::Engines;
use crate::publish::publisher::{Published, Publisher};
use crate::publish::routing::Routing;
use crate::publish::services::{Services, States};
use crate::schedule::{Plan, Plans};
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

/// Builds an [`App`].
#[must_use]
pub struct AppBuilder {
    named: BTreeMap<String, Arc<dyn Engine>>,
    routes: BTreeMap<QueueName, String>,
    pub(crate) config: Result<Config>,
    pub(crate) codecs: Codecs,
    pub(crate) hooks: Vec<Hook>,
    pub(crate) routing: Routing,
    handlers: Vec<Handler>,
    parties: Vec<(EventRole, &'static str)>,
    discover: bool,
    states: States,
    pub(crate) schedules: Vec<Plan>,
}

/// The options of the environment, and the handlers found at link time.
impl Default for AppBuilder {
    fn default() -> Self {
        Self::with(Config::from_env())
    }
}

impl AppBuilder {
    /// Begins with these options, whatever the environment says.
    pub(crate) fn with(config: Result<Config>) -> Self {
        Self {
            named: BTreeMap::new(),
            routes: BTreeMap::new(),
            config,
            codecs: Codecs::default(),
            hooks: Vec::new(),
            routing: Routing::default(),
            handlers: Vec::new(),
            parties: Vec::new(),
            discover: true,
            states: States::default(),
            schedules: Vec::new(),
        }
    }
}

impl std::fmt::Debug for AppBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AppBuilder")
            .field("config", &self.config)
            .field("handlers", &self.handlers)
            .finish_non_exhaustive()
    }
}

impl AppBuilder {
    /// Changes options, over what the environment says.
    ///
    /// ```
    /// # use ezq_core::{App, memory::MemoryEngine};
    /// # use std::time::Duration;
    /// let app = App::builder()
    ///     .configure(|config| {
    ///         config.app = "shop".into();
    ///         config.lease = Duration::from_secs(5);
    ///     })
    ///     .build(MemoryEngine::new())?;
    /// # Ok::<(), ezq_core::Error>(())
    /// ```
    pub fn configure(mut self, change: impl FnOnce(&mut Config)) -> Self {
        if let Ok(config) = &mut self.config {
            change(config);
        }
        self
    }

    /// Gives state to handlers that ask for `State<T>`; one per type.
    pub fn state<T: Clone + Send + Sync + 'static>(mut self, state: T) -> Self {
        self.states.insert(state);
        self
    }

    /// As [`state`](Self::state), unless there is one of its type already.
    pub fn default_state<T: Clone + Send + Sync + 'static>(mut self, state: T) -> Self {
        if !self.states.holds::<T>() {
            self.states.insert(state);
        }
        self
    }

    /// Leaves out the handlers found at link time: for tests, and for programs with several
    /// applications.
    pub fn without_discovered_handlers(mut self) -> Self {
        self.discover = false;
        self
    }

    /// The options so far.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`] when the environment has a wrong option.
    pub fn config(&self) -> Result<&Config> {
        self.config.as_ref().map_err(Error::without_source)
    }

    /// Registers a handler that `#[on_event]` made, by its function's name.
    pub fn handler<H: HandlerDefinition>(self) -> Self {
        self.register(H::definition())
    }

    /// Registers a handler.
    pub fn register(mut self, handler: Handler) -> Self {
        self.handlers.push(handler);
        self
    }

    /// Names the application: the `source` of what it publishes, and whose its subscriptions are.
    /// The same as [`Config::app`].
    pub fn app(self, name: impl Into<String>) -> Self {
        self.configure(|config| config.app = name.into())
    }

    /// Says that a type of event is this application's own, and that it publishes it; told by
    /// [`Subscriptions::parties`]. Nothing is enforced.
    pub fn owns<E: Event>(mut self) -> Self {
        self.parties.push((EventRole::Owner, E::TYPE));
        self
    }

    /// Says that this application publishes events of a type that is another's; told by
    /// [`Subscriptions::parties`].
    pub fn publishes<E: Event>(mut self) -> Self {
        self.parties.push((EventRole::Publisher, E::TYPE));
        self
    }

    /// Adds an engine under a name.
    pub fn named_engine(mut self, name: &str, engine: impl Engine) -> Self {
        self.named.insert(name.to_owned(), Arc::new(engine));
        self
    }

    /// Keeps a queue on a named engine.
    pub fn route(mut self, queue: &QueueName, engine: &str) -> Self {
        self.routes.insert(queue.clone(), engine.to_owned());
        self
    }

    /// What becomes of a queue's events once they are handled. Defaults to [`Retention::Delete`].
    ///
    /// ```
    /// # use ezq_core::{App, MemoryEngine, Retention};
    /// # use std::time::Duration;
    /// let month = Duration::from_secs(30 * 24 * 3600);
    /// let app = App::builder()
    ///     .retention("orders", Retention::archive_for(month))
    ///     .build(MemoryEngine::new())?;
    /// # Ok::<(), ezq_core::Error>(())
    /// ```
    pub fn retention(
        mut self,
        queue: impl TryInto<QueueName, Error = Error>,
        retention: Retention,
    ) -> Self {
        self.config = self.config.and_then(|mut config| {
            config.retention.insert(queue.try_into()?, retention);
            Ok(config)
        });
        self
    }

    /// The application, checked: options, handlers, state, events and engines.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`], [`ErrorKind::DuplicateHandler`],
    /// [`ErrorKind::DuplicateEvent`], [`ErrorKind::AmbiguousVersion`],
    /// [`ErrorKind::UnreachableHandler`], [`ErrorKind::MissingState`], or [`ErrorKind::Unsupported`]
    /// when a handler, a [schedule](Self::schedule) or a [retention](Self::retention) needs what the
    /// engine cannot do; and what keeps a schedule's event from being published.
    pub fn build(mut self, engine: impl Engine) -> Result<App> {
        let config = self.config?;
        config.validate()?;
        for (_, event_type) in &self.parties {
            check_type(event_type).map_err(|why| {
                let name = event_type.escape_debug();
                let text = format!("the application owns or publishes `{name}`: {why}");
                Error::new(ErrorKind::Configuration, text)
            })?;
        }
        let engines = Engines {
            default: Arc::new(engine),
            named: self.named,
            routes: self.routes,
        };
        engines.validate()?;
        if self.discover {
            let explicit: Vec<_> = self.handlers.iter().map(|h| h.name().clone()).collect();
            let found = inventory::iter::<Discovered>
                .into_iter()
                .map(|Discovered(make)| make());
            self.handlers
                .extend(found.filter(|handler| !explicit.contains(handler.name())));
        }
        let registry = Registry::new(self.handlers)?;
        registry.check_options(&config.handlers)?;
        let mut codecs = self.codecs;
        codecs.wire = config.wire;
        codecs.validate(
            registry
                .handlers()
                .iter()
                .flat_map(|handler| types(handler)),
        )?;
        let config = Arc::new(config);
        let services = Arc::new(Services {
            states: self.states,
            engines,
            source: config.app.clone(),
            default_queue: config.queue.clone(),
            routing: self.routing.with(config.event_routes.clone()),
            codecs,
            notices: Notices::with(self.hooks)?,
            message_limit: config.message_limit,
            dedupe_window: config.dedupe_window,
        });
        let of_handlers = registry
            .handlers()
            .iter()
            .filter_map(|handler| handler.plan());
        self.schedules.extend(of_handlers);
        let schedules = Plans::new(self.schedules, &Publisher::new(Arc::clone(&services)))?;
        let dispatcher = Dispatcher::new(registry, Arc::clone(&services), Arc::clone(&config));
        let (parties, consumers) = (self.parties, Mutex::default());
        let inner = Shared {
            services,
            dispatcher,
            config,
            schedules,
            parties,
            consumers,
        };
        inner.check()?;
        inner.check_reach()?;
        for (queue, retention) in &inner.config.retention {
            inner
                .services
                .engines
                .of(queue)
                .set_retention(queue, *retention)?;
        }
        Ok(App {
            inner: Arc::new(inner),
        })
    }
}
