//! [`AppBuilder`]: the parts of an application, collected here and checked when it is built.
//!
//! No method fails. A wrong argument is kept, and refused by [`AppBuilder::build`] with the others.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::app::Module;
use crate::codec::Codec;
use crate::codec::codecs::Codecs;
use crate::config::Config;
use crate::engine::{Engine, EventRole};
use crate::error::{Error, Result};
use crate::event::Event;
use crate::handler::Handler;
use crate::handler::definition::HandlerDefinition;
use crate::handler::layer::{Layer, SharedLayer};
use crate::message::queue_name::{IntoQueueName, QueueName};
use crate::message::retention::Retention;
use crate::observe::notices::{Hook, Notice};
use crate::observe::tracer::Tracer;
use crate::publish::draft::Draft;
use crate::publish::routing::Routing;
use crate::publish::states::States;
use crate::schedule::{Plan, Schedule, Template};

/// Builds an [`App`](crate::app::App).
#[must_use]
pub struct AppBuilder {
    pub(super) named: BTreeMap<String, Arc<dyn Engine>>,
    pub(super) routes: BTreeMap<QueueName, String>,
    pub(super) config: Result<Config>,
    pub(super) codecs: Codecs,
    pub(super) hooks: Vec<Hook>,
    pub(super) routing: Routing,
    pub(super) handlers: Vec<Handler>,
    pub(super) modules: Vec<Module>,
    pub(super) layers: Vec<SharedLayer>,
    pub(super) tracer: Option<(Arc<dyn Tracer>, SharedLayer)>,
    pub(super) parties: Vec<(EventRole, &'static str)>,
    pub(super) discover: bool,
    pub(super) states: States,
    pub(super) schedules: Vec<Plan>,
}

/// Begins with options from the environment, and the handlers found at link time.
impl Default for AppBuilder {
    fn default() -> Self {
        Self::with(Config::from_env())
    }
}

impl AppBuilder {
    /// Begins with these options, without reading the environment.
    pub(crate) fn with(config: Result<Config>) -> Self {
        Self {
            named: BTreeMap::new(),
            routes: BTreeMap::new(),
            config,
            codecs: Codecs::default(),
            hooks: Vec::new(),
            routing: Routing::default(),
            handlers: Vec::new(),
            modules: Vec::new(),
            layers: Vec::new(),
            tracer: None,
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
    /// Changes options. What is set here wins over the environment.
    ///
    /// ```
    /// # use ezq_core::app::App;
    /// # use ezq_core::memory::MemoryEngine;
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

    /// Adds a state for handlers that ask for `State<T>`. There is one state of each type: a second one
    /// replaces the first.
    pub fn state<T: Clone + Send + Sync + 'static>(mut self, state: T) -> Self {
        self.states.insert(state);
        self
    }

    /// Adds a state that is a part of another one, so that handlers need not know the whole. The part is
    /// taken once, when the application is built; what it is taken from may be given later. It replaces
    /// a [`state`](Self::state) of its type.
    ///
    /// ```
    /// # use ezq_core::app::App;
    /// # use ezq_core::handler::State;
    /// # use ezq_core::memory::MemoryEngine;
    /// #[derive(Clone)]
    /// struct Mailer;
    ///
    /// #[derive(Clone)]
    /// struct AppState { mailer: Mailer, limit: u32 }
    ///
    /// async fn handle(State(_mailer): State<Mailer>) {}
    ///
    /// let app = App::builder()
    ///     .state(AppState { mailer: Mailer, limit: 3 })
    ///     .state_from(|app: &AppState| app.mailer.clone())
    ///     .build(MemoryEngine::new())?;
    /// # Ok::<(), ezq_core::Error>(())
    /// ```
    pub fn state_from<S, T>(mut self, part: impl Fn(&S) -> T + Send + Sync + 'static) -> Self
    where
        S: Send + Sync + 'static,
        T: Clone + Send + Sync + 'static,
    {
        self.states.insert_part(part);
        self
    }

    /// As [`state`](Self::state), unless there is a state of this type already.
    pub fn default_state<T: Clone + Send + Sync + 'static>(mut self, state: T) -> Self {
        if !self.states.holds::<T>() {
            self.states.insert(state);
        }
        self
    }

    /// Leaves out the handlers found at link time. For tests, and for programs with several applications.
    pub fn without_discovered_handlers(mut self) -> Self {
        self.discover = false;
        self
    }

    /// Takes the handlers found at link time, as an application does unless it is a
    /// [`TestApp`](crate::testing::TestApp).
    pub fn with_discovered_handlers(mut self) -> Self {
        self.discover = true;
        self
    }

    /// The options as they are so far.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`](crate::ErrorKind::Configuration) when the environment has a wrong
    /// option, or the kind of an earlier wrong argument.
    pub fn config(&self) -> Result<&Config> {
        self.config.as_ref().map_err(Error::without_source)
    }

    /// Registers a handler that `#[on_event]` made, by the name of its function.
    pub fn handler<H: HandlerDefinition>(self) -> Self {
        self.register(H::definition())
    }

    /// Registers a handler that was made without a macro, or a [`Relay`](crate::relay::Relay).
    pub fn register(mut self, handler: impl Into<Handler>) -> Self {
        self.handlers.push(handler.into());
        self
    }

    /// Registers the handlers of a [`Module`], with its states, layers and options.
    pub fn module(mut self, module: Module) -> Self {
        self.modules.push(module);
        self
    }

    /// Runs a [`Layer`] around every handler, those of modules and those found at link time included. Of
    /// several, the first that is added is outermost.
    pub fn layer(mut self, layer: impl Layer) -> Self {
        self.layers.push(Arc::new(layer));
        self
    }

    /// Has a tracing system follow the events, as `ezq-otel` does: it sees what is published and claimed,
    /// and its layer runs around all others. A second one replaces the first.
    pub fn tracer<T: Tracer + Layer + Clone>(mut self, tracer: T) -> Self {
        self.tracer = Some((Arc::new(tracer.clone()), Arc::new(tracer)));
        self
    }

    /// Sets the application's queue: where events go that have no other by a route or their type, and
    /// what its consumers consume unless they name another. The same as [`Config::queue`].
    ///
    /// ```
    /// # use ezq_core::{app::App, memory::MemoryEngine};
    /// let app = App::builder().queue("jobs").build(MemoryEngine::new())?;
    /// assert_eq!(app.config().queue.as_str(), "jobs");
    /// # Ok::<(), ezq_core::Error>(())
    /// ```
    pub fn queue(mut self, queue: impl IntoQueueName) -> Self {
        self.config = self.config.and_then(|mut config| {
            config.queue = queue.into_queue_name()?;
            Ok(config)
        });
        self
    }

    /// Sets the name of the application: the `source` of its events, and the owner of its subscriptions.
    /// A word of letters, digits, `-`, `.` and `_`, or a URI. The same as [`Config::app`].
    pub fn app(self, name: impl Into<String>) -> Self {
        self.configure(|config| config.app = name.into())
    }

    /// Declares that this application owns an event type and publishes it, for
    /// [`Subscriptions::parties`](crate::admin::Subscriptions::parties). Nothing is enforced.
    pub fn owns<E: Event>(mut self) -> Self {
        self.parties.push((EventRole::Owner, E::TYPE));
        self
    }

    /// Declares that this application publishes an event type that another application owns, for
    /// [`Subscriptions::parties`](crate::admin::Subscriptions::parties). Nothing is enforced.
    pub fn publishes<E: Event>(mut self) -> Self {
        self.parties.push((EventRole::Publisher, E::TYPE));
        self
    }

    /// Adds an engine under a name, for queues that are [routed](Self::queue_engine) to it.
    pub fn named_engine(mut self, name: &str, engine: impl Engine) -> Self {
        self.named.insert(name.to_owned(), Arc::new(engine));
        self
    }

    /// Keeps a queue on a [named engine](Self::named_engine), instead of the application's own.
    pub fn queue_engine(mut self, queue: impl IntoQueueName, engine: &str) -> Self {
        match queue.into_queue_name() {
            Ok(queue) => {
                self.routes.insert(queue, engine.to_owned());
            }
            Err(error) => self.config = self.config.and(Err(error)),
        }
        self
    }

    /// Sets what becomes of a queue's events once they are handled. Defaults to [`Retention::Delete`].
    ///
    /// ```
    /// # use ezq_core::app::App;
    /// # use ezq_core::memory::MemoryEngine;
    /// # use ezq_core::message::Retention;
    /// # use std::time::Duration;
    /// let month = Duration::from_secs(30 * 24 * 3600);
    /// let app = App::builder()
    ///     .retention("orders", Retention::archive_for(month))
    ///     .build(MemoryEngine::new())?;
    /// # Ok::<(), ezq_core::Error>(())
    /// ```
    pub fn retention(mut self, queue: impl IntoQueueName, retention: Retention) -> Self {
        self.config = self.config.and_then(|mut config| {
            config.retention.insert(queue.into_queue_name()?, retention);
            Ok(config)
        });
        self
    }

    /// Adds a codec. It is chosen by its name: for a [queue](Self::queue_codec), for an
    /// [event type](Self::event_codec), or by an event itself with `#[event(codec = "...")]`.
    /// `cloudevents`, `flat`, `ezvent` and [`raw`](crate::codec::RawJson) exist already.
    ///
    /// Add a codec to every application that reads its messages before one writes with it. Keep it as
    /// long as there are messages that it wrote.
    pub fn codec(mut self, codec: impl Codec) -> Self {
        self.codecs.add(codec);
        self
    }

    /// Writes the events of a queue with a codec, unless they have one of their own. Bodies in the queue
    /// that do not show how they were written are read with it too. Defaults to [`Config::wire`].
    ///
    /// A [broadcast](crate::publish::Publisher::broadcast) event is written once for all queues, so
    /// no queue's codec applies to it. Set the codec of a type that must be encrypted everywhere by
    /// [`event_codec`](Self::event_codec).
    ///
    /// ```
    /// # use ezq_core::app::App;
    /// # use ezq_core::memory::MemoryEngine;
    /// let app = App::builder().queue_codec("sensors", "raw").build(MemoryEngine::new())?;
    /// # Ok::<(), ezq_core::Error>(())
    /// ```
    pub fn queue_codec(mut self, queue: impl IntoQueueName, codec: impl Into<String>) -> Self {
        match queue.into_queue_name() {
            Ok(queue) => {
                self.codecs.queues.insert(queue, codec.into());
            }
            Err(error) => self.config = self.config.and(Err(error)),
        }
        self
    }

    /// Writes the events of a type with a codec. This wins over the type's own codec and over that of the
    /// queue.
    pub fn event_codec(mut self, event_type: impl Into<String>, codec: impl Into<String>) -> Self {
        self.codecs.events.insert(event_type.into(), codec.into());
        self
    }

    /// Sets a function that chooses the queue of an event by its type name, if the publisher names none.
    ///
    /// If it returns `None`, the queue is the first of these: that of
    /// [`Config::event_routes`], the event type's own, the application's.
    ///
    /// ```
    /// # use ezq_core::app::App;
    /// # use ezq_core::memory::MemoryEngine;
    /// # use ezq_core::message::QueueName;
    /// let slow = QueueName::new("slow")?;
    /// let app = App::builder()
    ///     .event_queue(move |event_type| event_type.ends_with(".export").then(|| slow.clone()))
    ///     .build(MemoryEngine::new())?;
    /// # Ok::<(), ezq_core::Error>(())
    /// ```
    pub fn event_queue<Q: IntoQueueName>(
        mut self,
        route: impl Fn(&str) -> Option<Q> + Send + Sync + 'static,
    ) -> Self {
        self.routing.function = Some(Arc::new(move |event_type| {
            let queue = route(event_type).map(Q::into_queue_name);
            queue.transpose()
        }));
        self
    }

    /// Publishes an event at each tick of a schedule, while a consumer of the application runs in any
    /// process. Each tick fires once, however many processes run. The events are equal except for their
    /// ids and their `time`, which is when the tick was due.
    ///
    /// The name is a durable key in the engine's database. Two applications that share a database must
    /// give their schedules different names: a consumer does not start, with
    /// [`ErrorKind::ScheduleTaken`](crate::ErrorKind::ScheduleTaken), if another application runs a
    /// schedule of this name for another event type or queue.
    ///
    /// If processes of one application have different definitions of a schedule, that of the process
    /// that started last is used. If no process with that definition was seen for two minutes, the
    /// definition of the others is used again.
    pub fn schedule<E: Event>(mut self, name: &str, schedule: Schedule, event: &E) -> Self {
        let template = Draft::of(event).map(Template::Event);
        self.schedules.push(Plan {
            name: name.to_owned(),
            schedule,
            template,
        });
        self
    }

    /// Calls a function with every [`Notice`] of this application: before an event is published, after
    /// that is committed or has failed, and when an event is handled, retried or dead-lettered.
    ///
    /// Hooks are called one after another, a little later, on a thread of their own. They cannot
    /// affect an event. A panic is logged. If a hook is so slow that more than
    /// [`NOTICES_KEPT`](crate::observe::NOTICES_KEPT) notices wait, it misses some, and
    /// [`App::missed_notices`](crate::app::App::missed_notices) counts them. Async code can
    /// subscribe by [`App::notices`](crate::app::App::notices).
    ///
    /// ```
    /// # use ezq_core::app::App;
    /// # use ezq_core::memory::MemoryEngine;
    /// # use ezq_core::observe::NoticeKind;
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
