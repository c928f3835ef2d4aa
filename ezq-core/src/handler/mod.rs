//! Handlers: what they are, what they take and what they return.
//!
//! A handler is a name, the events that it takes, its options, and the function to call. `#[on_event]`
//! makes one of an annotated function; begin at [`Handler::on`] to make one without a macro.
//!
//! - A handler takes an event, an [`AnyEvent`] or a [`Batch`], and what it [extracts](Extract) from its
//!   run: [`Context`], [`State`], a [`Publisher`](crate::publish::Publisher).
//! - It returns events or an [outcome](HandlerOutput). A [`HandlerError`] says what becomes of an event
//!   that failed, and [`HandlerResultExt`] makes one of any error.
//! - [`RetryPolicy`] and [`Backoff`] say how often and when it runs again.

pub(crate) mod batch;
pub(crate) mod context;
mod decode;
pub(crate) mod extract;
pub(crate) mod outcome;
pub(crate) mod quickness;
pub(crate) mod retry;

pub use crate::delivery::received::Received;
pub use batch::{
    Batch, BatchCall, BatchFuture, BatchItem, BatchOutput, BatchResults, IntoBatchHandler, Unread,
};
pub use context::{Call, Context};
pub use extract::{Extract, Provided, State};
pub use outcome::{Emit, HandlerError, HandlerErrorKind, HandlerOutput, HandlerResultExt};
pub use retry::{Backoff, Jitter, RetryPolicy};

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::error::Result;
use crate::event::envelope::Envelope;
use crate::event::pattern::Pattern;
use crate::event::{Event, EventDescriptor, is_control};
use crate::handler::batch::{BatchLimits, InvokeBatch};
use crate::handler::quickness::Quickness;
use crate::message::settlement::HandlerName;
use crate::publish::draft::Draft;
use crate::schedule::{Plan, Schedule, Template};

/// The future of one run of a handler.
pub type HandlerFuture = Pin<Box<dyn Future<Output = Result<Vec<Draft>, HandlerError>> + Send>>;

/// Which events a handler takes.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Subscription {
    /// Events of these types.
    Types(Vec<EventDescriptor>),
    /// Every event but control events.
    All,
    /// Every event but control events whose type matches one of these.
    Patterns(Vec<Pattern>),
}

impl Subscription {
    /// Events of `types`.
    #[must_use]
    pub fn of(types: Vec<EventDescriptor>) -> Self {
        Self::Types(types)
    }
}

/// A type that can be a handler's first parameter: an event, [`AnyEvent`], or an event set.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an event",
    label = "a handler's first parameter is its event",
    note = "add `#[derive(Event, Serialize, Deserialize)]` to `{Self}`; or take `AnyEvent`, or an enum with \
            `#[derive(EventSet)]`; a batch is written as `Batch<MyEvent>`, by that name and by no alias"
)]
pub trait FromEvent: Sized + Send + 'static {
    /// Which events a handler of it takes.
    fn subscription() -> Subscription;

    /// Decodes a delivery.
    ///
    /// # Errors
    /// An error if the delivery is no such event, or its data does not fit the type.
    fn from_event(received: &Received) -> Result<Self, HandlerError>;
}

impl<E: Event> FromEvent for E {
    fn subscription() -> Subscription {
        Subscription::Types(vec![EventDescriptor::of::<E>()])
    }

    fn from_event(received: &Received) -> Result<Self, HandlerError> {
        received.decode()
    }
}

/// An event of any type except control events. It is for logs, audits and relays.
#[derive(Debug, Clone)]
pub struct AnyEvent {
    envelope: Envelope,
}

impl AnyEvent {
    /// The event with all its attributes.
    #[must_use]
    pub fn envelope(&self) -> &Envelope {
        &self.envelope
    }

    /// The event's type name.
    #[must_use]
    pub fn event_type(&self) -> &str {
        self.envelope.event_type()
    }

    /// The payload as JSON text; `None` if it is not JSON.
    #[must_use]
    pub fn data(&self) -> Option<&str> {
        self.envelope.data()
    }

    /// Decodes the event as type `E`.
    ///
    /// # Errors
    /// An error if it is not such an event, or its payload does not fit the type.
    pub fn decode<E: Event>(&self) -> Result<E> {
        self.envelope.decode()
    }
}

impl FromEvent for AnyEvent {
    fn subscription() -> Subscription {
        Subscription::All
    }

    fn from_event(received: &Received) -> Result<Self, HandlerError> {
        Ok(Self {
            envelope: received.envelope.clone(),
        })
    }
}

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
}

/// The function to call.
#[derive(Clone)]
pub(crate) enum Invoke {
    One(Arc<dyn Fn(Call) -> HandlerFuture + Send + Sync>),
    Batch(InvokeBatch),
}

/// The options of one handler. An option that is `None` falls back to the application's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HandlerOptions {
    /// How long one run may take; `Some(None)` is no limit.
    pub timeout: Option<Option<Duration>>,
    /// Attempts in all, the first included. At least 1.
    pub max_attempts: Option<u32>,
    /// The pause after each failed attempt.
    pub backoff: Option<Backoff>,
    /// Runs at once in this application. At least 1. Defaults to no limit.
    pub concurrency: Option<usize>,
    /// Events in a batch at most, for a handler of batches only. At least 1. Defaults to 100.
    pub batch_size: Option<usize>,
    /// How long a batch that is not full waits for more events, for a handler of batches only.
    /// Defaults to 20 ms.
    pub batch_wait: Option<Duration>,
}

impl HandlerOptions {
    /// These options; each one that is `None` is taken from `other`.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            timeout: self.timeout.or(other.timeout),
            max_attempts: self.max_attempts.or(other.max_attempts),
            backoff: self.backoff.or(other.backoff),
            concurrency: self.concurrency.or(other.concurrency),
            batch_size: self.batch_size.or(other.batch_size),
            batch_wait: self.batch_wait.or(other.batch_wait),
        }
    }

    pub(crate) fn batch(&self) -> BatchLimits {
        let defaults = BatchLimits::default();
        BatchLimits {
            size: self.batch_size.unwrap_or(defaults.size),
            wait: self.batch_wait.unwrap_or(defaults.wait),
        }
    }

    pub(crate) fn retry(&self, defaults: RetryPolicy) -> RetryPolicy {
        RetryPolicy {
            max_attempts: self.max_attempts.unwrap_or(defaults.max_attempts).max(1),
            backoff: self.backoff.unwrap_or(defaults.backoff),
        }
    }
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
        }
    }

    /// A handler from a function or closure, for code that registers handlers without the macro.
    ///
    /// The name is a durable key: messages keep the handler's progress under it.
    ///
    /// ```
    /// use ezq_core::handler::{AnyEvent, Context, Handler};
    ///
    /// let audit = Handler::on("audit", |event: AnyEvent, context: Context| async move {
    ///     println!("{} on {}", event.event_type(), context.queue());
    /// });
    /// assert_eq!(audit.name().as_str(), "audit");
    /// ```
    #[must_use]
    pub fn on<Args>(name: &str, function: impl IntoHandler<Args>) -> Self {
        function.into_handler(name)
    }

    /// A handler of batches from a function or closure whose first parameter is a [`Batch`].
    ///
    /// ```
    /// # use ezq_core::handler::{AnyEvent, Batch, Handler};
    /// let count = Handler::on_batch("count", |batch: Batch<AnyEvent>| async move {
    ///     println!("{} events", batch.len());
    /// });
    /// assert_eq!(count.batch_size(1000).name().as_str(), "count");
    /// ```
    #[must_use]
    pub fn on_batch<Args>(name: &str, function: impl IntoBatchHandler<Args>) -> Self {
        function.into_batch_handler(name)
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

    /// Limits a handler of [`AnyEvent`] to types that match this [`Pattern`], or another one that is
    /// given in the same way. Patterns are checked when the application is built. Defaults to every
    /// type.
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

/// A function that can be a handler. It takes an event, then extractors.
pub trait IntoHandler<Args> {
    /// Makes the handler, under a name.
    fn into_handler(self, name: &str) -> Handler;
}

macro_rules! into_handler {
    ($(($($extract:ident),*))+) => {$(
        impl<Func, Fut, Out, Ev, $($extract,)*> IntoHandler<(Ev, $($extract,)*)> for Func
        where
            Func: Fn(Ev, $($extract),*) -> Fut + Clone + Send + Sync + 'static,
            Fut: Future<Output = Out> + Send,
            Out: HandlerOutput,
            Ev: FromEvent,
            $($extract: Extract,)*
        {
            fn into_handler(self, name: &str) -> Handler {
                let invoke = move |call: Call| -> HandlerFuture {
                    let function = self.clone();
                    Box::pin(async move {
                        let event = Ev::from_event(call.context.received())?;
                        function(event, $($extract::extract(&call).await?),*).await.into_drafts()
                    })
                };
                Handler::new(name, Ev::subscription(), invoke)
                    .returning(Out::returned_types())
                    $(.requires::<$extract>())*
            }
        }
    )+};
}
into_handler! { () (A) (A, B) (A, B, C) (A, B, C, D) (A, B, C, D, F) }
