//! [`AppBuilder`]: what an application is made of, collected before it is checked.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::codec::codecs::{Codec, Codecs};
use crate::config::Config;
use crate::engine::{Engine, EventRole};
use crate::error::{Error, Result};
use crate::event::Event;
use crate::handler::Handler;
use crate::message::queue_name::QueueName;
use crate::message::retention::Retention;
use crate::observe::notices::{Hook, Notice};
use crate::private::HandlerDefinition;
use crate::publish::publisher::Draft;
use crate::publish::routing::Routing;
use crate::publish::services::States;
use crate::schedule::{Plan, Schedule, Template};

/// Builds an [`App`].
#[must_use]
pub struct AppBuilder {
    pub(super) named: BTreeMap<String, Arc<dyn Engine>>,
    pub(super) routes: BTreeMap<QueueName, String>,
    pub(super) config: Result<Config>,
    pub(super) codecs: Codecs,
    pub(super) hooks: Vec<Hook>,
    pub(super) routing: Routing,
    pub(super) handlers: Vec<Handler>,
    pub(super) parties: Vec<(EventRole, &'static str)>,
    pub(super) discover: bool,
    pub(super) states: States,
    pub(super) schedules: Vec<Plan>,
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

    /// Adds a codec, to be chosen by its name: for a [queue](Self::queue_codec), for an
    /// [event type](Self::event_codec), or by an event itself with `#[event(codec = "...")]`.
    /// `cloudevents`, `flat`, `ezvent` and [`raw`](crate::RawJson) are there already.
    ///
    /// Add it everywhere before anyone writes with it, and keep it for as long as there are
    /// messages that it wrote.
    pub fn codec(mut self, codec: impl Codec) -> Self {
        self.codecs.add(codec);
        self
    }

    /// Writes the events of a queue with a codec, unless they have one of their own, and reads
    /// with it what does not say how it was written. Defaults to [`Config::wire`](crate::Config).
    ///
    /// What is [broadcast](crate::Publisher::broadcast) is written once for all queues, and so never
    /// by this: give a type that is to lie encrypted everywhere its codec by
    /// [`event_codec`](Self::event_codec).
    ///
    /// ```
    /// # use ezq_core::{App, MemoryEngine};
    /// let app = App::builder().queue_codec("sensors", "raw").build(MemoryEngine::new())?;
    /// # Ok::<(), ezq_core::Error>(())
    /// ```
    pub fn queue_codec(
        mut self,
        queue: impl TryInto<QueueName, Error = Error>,
        codec: impl Into<String>,
    ) -> Self {
        match queue.try_into() {
            Ok(queue) => {
                self.codecs.queues.insert(queue, codec.into());
            }
            Err(error) => self.config = self.config.and(Err(error)),
        }
        self
    }

    /// Writes the events of a type with a codec, over what the type itself says and over its
    /// queue's.
    pub fn event_codec(mut self, event_type: impl Into<String>, codec: impl Into<String>) -> Self {
        self.codecs.events.insert(event_type.into(), codec.into());
        self
    }

    /// Routes events by a function of their type's name: the queue of those whose publisher names
    /// none; with `None`, [`Config::event_routes`](crate::Config::event_routes) decide, then the
    /// type's own queue, then the application's.
    ///
    /// ```
    /// # use ezq_core::{App, MemoryEngine, QueueName};
    /// let slow = QueueName::new("slow")?;
    /// let app = App::builder()
    ///     .route_events(move |event_type| event_type.ends_with(".export").then(|| slow.clone()))
    ///     .build(MemoryEngine::new())?;
    /// # Ok::<(), ezq_core::Error>(())
    /// ```
    pub fn route_events(
        mut self,
        route: impl Fn(&str) -> Option<QueueName> + Send + Sync + 'static,
    ) -> Self {
        self.routing.function = Some(Arc::new(route));
        self
    }

    /// Publishes an event at the times of a schedule, while a consumer of the application runs in any
    /// process: one firing for each tick, however many run. The event is the same each time but for
    /// its id and `time`, which is when the tick was due.
    ///
    /// The name is a durable key in the engine's database: two applications that share it give their
    /// schedules different names. Where another one runs a schedule of that name for another event or
    /// queue, a consumer does not start, with [`ErrorKind::Configuration`](crate::ErrorKind). Of two
    /// versions of an application the one whose process began
    /// last decides about times, policy, event type and queue; once no process of it was seen for two
    /// minutes, the others' definition takes its place.
    pub fn schedule<E: Event>(mut self, name: &str, schedule: Schedule, event: &E) -> Self {
        let template = Draft::of(event).map(Template::Event);
        self.schedules.push(Plan {
            name: name.to_owned(),
            schedule,
            template,
        });
        self
    }

    /// Calls a function with every [`Notice`] of this application: before an event is published,
    /// after that is committed or failed, and when an event is handled, retried or dead-lettered.
    ///
    /// Hooks are called one after another, on a thread of their own, a little later. What they do
    /// changes nothing: a panic is logged; one that is slow misses notices when more than
    /// [`NOTICES_KEPT`](crate::NOTICES_KEPT) wait, and [`App::missed_notices`] counts them. For async code subscribe by
    /// [`App::notices`].
    ///
    /// ```
    /// # use ezq_core::{App, MemoryEngine, NoticeKind};
    /// let app = App::builder()
    ///     .hook(|notice| {
    ///         if let NoticeKind::DeadLettered { reason, .. } = &notice.kind {
    ///             eprintln!("{:?} died in {}: {}", notice.event_id, notice.queue, reason.error);
    ///         }
    ///     })
    ///     .build(MemoryEngine::new())?;
    /// # Ok::<(), ezq_core::Error>(())
    /// ```
    pub fn hook(mut self, hook: impl Fn(&Notice) + Send + Sync + 'static) -> Self {
        self.hooks.push(Box::new(hook));
        self
    }
}
