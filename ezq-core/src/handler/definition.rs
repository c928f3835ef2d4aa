//! What a handler is: a name, the events that it takes, its options, and the function to call. And what
//! leads from the name of a function to its handler.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::broker::Sink;
use crate::error::Result;
use crate::event::{EventDescriptor, is_control};
use crate::handler::batch::{BatchCall, BatchFuture};
use crate::handler::call::Call;
use crate::handler::extract::{Extract, Provided};
use crate::handler::input::Subscription;
use crate::handler::invoke::{HandlerFuture, Invoke};
use crate::handler::layer::{Layer, SharedLayer};
use crate::handler::options::HandlerOptions;
use crate::handler::quickness::Quickness;
use crate::handler::retry::Backoff;
use crate::message::settlement::HandlerName;
use crate::observe::metrics::HandlerMetrics;
use crate::publish::states::States;
use crate::schedule::{Plan, Schedule, Template};

/// A handler with its options, to be registered with an application. `#[on_event]` makes one; so do
/// [`Handler::on`] and [`Handler::on_batch`].
#[derive(Clone)]
pub struct Handler {
    pub(crate) name: HandlerName,
    pub(crate) subscription: Subscription,
    pub(crate) invoke: Invoke,
    pub(crate) checks: Vec<fn(&Provided<'_>) -> Result<()>>,
    /// How many of its extractors take its transaction: 0 or 1, which is checked when the application
    /// is built.
    pub(crate) transactions: usize,
    pub(crate) order: i32,
    /// A queue of its own. The name is checked when the application is built.
    pub(crate) queue: Option<String>,
    /// Patterns of the types that it takes. They are checked when the application is built.
    pub(crate) patterns: Vec<String>,
    pub(crate) options: HandlerOptions,
    /// The types of the events that it may return.
    pub(crate) returned: Vec<EventDescriptor>,
    /// The schedule whose ticks it takes, and their type name.
    pub(crate) schedule: Option<(&'static str, Schedule)>,
    pub(crate) quickness: Arc<Quickness>,
    pub(crate) metrics: HandlerMetrics,
    /// The states of its module; `None` if these are the application's.
    pub(crate) states: Option<Arc<States>>,
    /// What runs around it, from the outside in. Put around the function when the application is
    /// built.
    pub(crate) layers: Vec<SharedLayer>,
    /// It was found at link time.
    pub(crate) is_discovered: bool,
    /// The broker that it sends events to, if it is a relay: health asks it, and the application closes it.
    pub(crate) sink: Option<Arc<dyn Sink>>,
    /// It is a relay that sends so many events in a second at most.
    pub(crate) is_paced: bool,
}

impl Handler {
    /// A handler from its parts, as the macros use it. In your own code use [`on`](Self::on).
    #[must_use]
    pub fn new(
        name: &str,
        subscription: Subscription,
        invoke: impl Fn(Call) -> HandlerFuture + Send + Sync + 'static,
    ) -> Self {
        Self::with(name, subscription, Invoke::One(Arc::new(invoke)))
    }

    /// A handler of batches from its parts, as the macros use it. In your own code use
    /// [`on_batch`](Self::on_batch).
    #[must_use]
    pub fn batch(
        name: &str,
        subscription: Subscription,
        invoke: impl Fn(BatchCall) -> BatchFuture + Send + Sync + 'static,
    ) -> Self {
        Self::with(name, subscription, Invoke::Batch(Arc::new(invoke)))
    }

    fn with(name: &str, subscription: Subscription, invoke: Invoke) -> Self {
        Self {
            name: HandlerName::from(name),
            subscription,
            invoke,
            checks: Vec::new(),
            transactions: 0,
            order: 0,
            queue: None,
            patterns: Vec::new(),
            options: HandlerOptions::default(),
            returned: Vec::new(),
            schedule: None,
            quickness: Arc::default(),
            metrics: Default::default(),
            states: None,
            layers: Vec::new(),
            is_discovered: false,
            sink: None,
            is_paced: false,
        }
    }

    /// A handler of the ticks of its own schedule. The ticks have a type name of their own.
    pub(crate) fn scheduled(
        name: &str,
        event_type: &'static str,
        schedule: Schedule,
        invoke: impl Fn(Call) -> HandlerFuture + Send + Sync + 'static,
    ) -> Self {
        let types = vec![EventDescriptor::tick(event_type)];
        let handler = Self::new(name, Subscription::Types(types), invoke);
        Self {
            schedule: Some((event_type, schedule)),
            ..handler
        }
    }

    /// The handler's schedule, if it has one. Its ticks go to the handler's queue.
    pub(crate) fn plan(&self) -> Option<Plan> {
        let (event_type, schedule) = self.schedule.clone()?;
        let schedule = match &self.queue {
            Some(queue) => schedule.queue(queue),
            None => schedule,
        };
        let template = Ok(Template::Tick(event_type));
        Some(Plan {
            name: self.name.as_str().to_owned(),
            schedule,
            template,
        })
    }

    /// Whether the handler takes `End` or `Interrupt`, alone or among other types.
    pub(crate) fn takes_control(&self) -> bool {
        match &self.subscription {
            Subscription::Types(types) => types.iter().any(|event| is_control(event.type_name)),
            Subscription::All | Subscription::Patterns(_) => false,
        }
    }

    /// Puts the layers of the application and its own around the function, and has it find the states
    /// of its module.
    pub(crate) fn enclose(mut self, outer: &[SharedLayer]) -> Self {
        let own = std::mem::take(&mut self.layers);
        let layers: Arc<[SharedLayer]> = outer.iter().cloned().chain(own).collect();
        if !layers.is_empty() {
            self.invoke = self.invoke.within(layers);
        }
        if let Some(states) = &self.states {
            self.invoke = self.invoke.with_states(Arc::clone(states));
        }
        self
    }

    /// The durable name, under which messages keep the handler's progress.
    #[must_use]
    pub fn name(&self) -> &HandlerName {
        &self.name
    }

    /// Which events the handler takes.
    #[must_use]
    pub fn subscription(&self) -> &Subscription {
        &self.subscription
    }

    /// Requires that the application provides the extractor `X`, which is checked at start.
    #[must_use]
    pub fn requires<X: Extract>(mut self) -> Self {
        self.checks.push(X::check);
        self.transactions += usize::from(X::TRANSACTION);
        self
    }

    /// Declares which events the handler may return, so that the application can check where they go.
    #[doc(hidden)]
    #[must_use]
    pub fn returning(mut self, types: Vec<EventDescriptor>) -> Self {
        self.returned = types;
        self
    }

    /// Runs the handler after those of a lower order and before those of a higher one. Handlers of one
    /// order run concurrently. Any number; defaults to 0.
    #[must_use]
    pub fn order(mut self, order: i32) -> Self {
        self.order = order;
        self
    }

    /// Gives the handler a queue of its own. It takes events from this queue only, and only handlers
    /// with this queue take events from it. The name is checked when the application is built.
    /// Defaults to the queues that no handler has to itself.
    #[must_use]
    pub fn queue(mut self, queue: impl Into<String>) -> Self {
        self.queue = Some(queue.into());
        self
    }

    /// Limits a handler of [`AnyEvent`](crate::handler::AnyEvent) to types that match this
    /// [`Pattern`](crate::event::Pattern), or another one that is given in the same way. Patterns are
    /// checked when the application is built. Defaults to every type.
    #[must_use]
    pub fn pattern(mut self, pattern: impl Into<String>) -> Self {
        self.patterns.push(pattern.into());
        self
    }

    /// How long one run may take; `None` is no limit. A run that takes longer is dropped and counts as a
    /// failed attempt. Defaults to the application's.
    #[must_use]
    pub fn timeout(mut self, timeout: Option<Duration>) -> Self {
        self.options.timeout = Some(timeout);
        self
    }

    /// How often the handler is tried on one event, the first attempt included. At least 1. Defaults to
    /// the application's.
    #[must_use]
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.options.max_attempts = Some(attempts);
        self
    }

    /// How many runs of the handler there may be at once in this application, whatever the concurrency
    /// of its consumers. At least 1. Defaults to no limit.
    ///
    /// An event that waits for its run keeps its lease; the handler's timeout begins with the run. A
    /// waiting event takes no place among those that a consumer handles at once, and does not hold up
    /// the events of other handlers.
    ///
    /// A consumer keeps waiting events of the handler up to twice its own concurrency, and one
    /// batch more for a handler of batches. When it has had that many for a second, and other
    /// handlers take events of the queue, the consumer looks past the handler's other events: they
    /// go back to their places, and no attempt is counted. It spends about a tenth of the time on
    /// this, and reads and writes every message that it passes. So a slow handler with many events
    /// is better given a queue of its own. Looking past events needs an
    /// [ordered](crate::engine::Capabilities::ordered) engine.
    #[must_use]
    pub fn concurrency(mut self, limit: usize) -> Self {
        self.options.concurrency = Some(limit);
        self
    }

    /// How many events there are in a batch at most, for a handler of batches only. At least 1. Defaults
    /// to 100.
    #[must_use]
    pub fn batch_size(mut self, size: usize) -> Self {
        self.options.batch_size = Some(size);
        self
    }

    /// How long a batch that is not full waits for more events, for a handler of batches only. Zero does
    /// not wait. Defaults to 20 ms.
    #[must_use]
    pub fn batch_wait(mut self, wait: Duration) -> Self {
        self.options.batch_wait = Some(wait);
        self
    }

    /// The pause after each failed attempt. Defaults to the application's.
    #[must_use]
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.options.backoff = Some(backoff);
        self
    }

    /// Runs a [`Layer`] around the handler. Of several, the first that is added is outermost.
    #[must_use]
    pub fn layer(mut self, layer: impl Layer) -> Self {
        self.layers.push(Arc::new(layer));
        self
    }
}

impl fmt::Debug for Handler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handler")
            .field("name", &self.name)
            .field("subscription", &self.subscription)
            .field("order", &self.order)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// A type that leads to a handler.
///
/// `#[on_event]` and `#[on_schedule]` write one beside each function, under the function's own name and
/// with its visibility. So [`AppBuilder::handler`](crate::app::AppBuilder::handler) and
/// [`Module::handler`](crate::app::Module::handler) take the name of the function: `.handler::<greet>()`.
/// Whatever imports the function imports the type as well.
///
/// Implement it for a type of your own to make a handler without a macro reachable in the same way:
///
/// ```
/// use ezq_core::app::App;
/// use ezq_core::handler::{AnyEvent, Handler, HandlerDefinition};
///
/// /// Writes every event down.
/// struct Audit;
///
/// impl HandlerDefinition for Audit {
///     fn definition() -> Handler {
///         Handler::on("audit", |event: AnyEvent| async move {
///             println!("{}", event.event_type());
///         })
///     }
/// }
///
/// assert_eq!(Audit::definition().name().as_str(), "audit");
/// let builder = App::builder().handler::<Audit>();
/// # let _ = builder;
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a handler",
    label = "no function with `#[on_event]` or `#[on_schedule]`",
    note = "put `#[on_event]` on the function and import it by its name; a handler that was made by \
            `Handler::on` is added with `.register(..)`"
)]
pub trait HandlerDefinition {
    /// The handler, with all its options.
    fn definition() -> Handler;
}
