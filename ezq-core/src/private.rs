//! What the macros expand to; not part of the public interface.

use std::pin::Pin;

pub use inventory;
pub use tracing;

use crate::handler::batch::{Batch, BatchOutput, BatchResults, Unread};

pub use crate::delivery::received::Received;
pub use crate::error::Result;
pub use crate::event::envelope::Envelope;
pub use crate::event::tick::Tick;
pub use crate::event::{Event, EventDescriptor};
pub use crate::handler::batch::{BatchCall, BatchFuture};
pub use crate::handler::context::Call;
pub use crate::handler::extract::Extract;
pub use crate::handler::outcome::{HandlerError, HandlerOutput};
pub use crate::handler::retry::{Backoff, Jitter};
pub use crate::handler::{FromEvent, Handler, HandlerFuture, Subscription};
pub use crate::logging::{add, is_unheard, print};
pub use crate::publish::broadcast::warn_of_nobody;
pub use crate::publish::publisher::Draft;
pub use crate::runtime::check_runtime;
pub use crate::schedule::{Missed, Schedule};
pub use crate::{__error as error, __warn as warn};

/// A handler that `#[on_event]` made from a function.
pub trait HandlerDefinition {
    /// The handler.
    fn definition() -> Handler;
}

/// A handler that was found at link time.
pub struct Discovered(pub fn() -> Handler);

inventory::collect!(Discovered);

/// Reads the event.
///
/// # Errors
/// When the delivery is not such an event.
pub fn from_event<E: FromEvent>(call: &Call) -> Result<E, HandlerError> {
    E::from_event(&call.context.received)
}

/// Reads the tick of a schedule.
///
/// # Errors
/// When the delivery is no tick.
pub fn tick(call: &Call) -> Result<Tick, HandlerError> {
    call.context.received.tick()
}

/// A handler of the ticks of its own schedule.
#[must_use]
pub fn scheduled(
    name: &str,
    event_type: &'static str,
    schedule: Schedule,
    invoke: impl Fn(Call) -> HandlerFuture + Send + Sync + 'static,
) -> Handler {
    Handler::scheduled(name, event_type, schedule, invoke)
}

/// Which events a handler takes.
#[must_use]
pub fn subscription<E: FromEvent>() -> Subscription {
    E::subscription()
}

/// Draws an extractor.
///
/// Boxed, because rustc checks an opaque future's bounds at every mention of it: a type that is no
/// extractor would be three errors.
///
/// # Errors
/// What the run fails with.
pub fn extract<X: Extract>(
    call: &Call,
) -> Pin<Box<dyn Future<Output = Result<X, HandlerError>> + Send + '_>> {
    Box::pin(X::extract(call))
}

/// A [`Batch`] of events, as the macros name it: by its whole type.
pub trait BatchOf: Sized {
    /// Which events it holds.
    fn subscription() -> Subscription;

    /// Reads its events.
    fn read(call: &BatchCall) -> (Self, Unread);
}

impl<E: FromEvent> BatchOf for Batch<E> {
    fn subscription() -> Subscription {
        E::subscription()
    }

    fn read(call: &BatchCall) -> (Self, Unread) {
        call.read()
    }
}

/// Reads the events of a batch.
#[must_use]
pub fn read_batch<B: BatchOf>(call: &BatchCall) -> (B, Unread) {
    B::read(call)
}

/// Which events a handler of batches takes.
#[must_use]
pub fn batch_subscription<B: BatchOf>() -> Subscription {
    B::subscription()
}

/// A field on the way to an event's key: its method tells an `Option`, whose own method it is,
/// from anything else, for which [`PlainField`] has it.
#[derive(Debug)]
pub struct Field<'a, T>(pub &'a T);

/// A field that is there or not.
#[derive(Debug)]
pub struct OptionalKind;

/// A field that is there.
#[derive(Debug)]
pub struct PlainKind;

impl<T> Field<'_, Option<T>> {
    /// What the field is.
    #[must_use]
    pub fn __ezq_kind(&self) -> OptionalKind {
        OptionalKind
    }
}

/// A field that is no `Option`.
pub trait PlainField {
    /// What the field is.
    fn __ezq_kind(&self) -> PlainKind;
}

impl<T> PlainField for Field<'_, T> {
    fn __ezq_kind(&self) -> PlainKind {
        PlainKind
    }
}

impl OptionalKind {
    /// What is in the field, if something is.
    #[must_use]
    pub fn present<'a, T>(&self, field: &'a Option<T>) -> Option<&'a T> {
        field.as_ref()
    }
}

impl PlainKind {
    /// What is in the field.
    #[must_use]
    pub fn present<'a, T>(&self, field: &'a T) -> Option<&'a T> {
        Some(field)
    }
}

/// One event in an [`EventSet`](crate::FromEvent): two variants of one type would be two of this.
pub trait OneVariantEach<Set> {}

/// What is done with what a handler returns.
///
/// Plain functions, so that the bound on its type is stated once: rustc reports an unfit type at
/// each mention.
#[derive(Debug)]
pub struct Output<O> {
    /// The types of the events that it may be.
    pub types: fn() -> Vec<EventDescriptor>,
    /// Its events, or the handler's own error.
    pub take: fn(O) -> Result<Vec<Draft>, HandlerError>,
}

impl<O> Clone for Output<O> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<O> Copy for Output<O> {}

/// What is done with what a handler returns.
#[must_use]
pub fn output<O: HandlerOutput>() -> Output<O> {
    Output {
        types: O::returned_types,
        take: O::into_drafts,
    }
}

/// As [`Output`], of a handler of batches.
#[derive(Debug)]
pub struct OutputOfBatch<O> {
    /// The types of the events that it may be.
    pub types: fn() -> Vec<EventDescriptor>,
    /// What became of each event, or the handler's own error.
    pub take: fn(Unread, O) -> Result<BatchResults, HandlerError>,
}

impl<O> Clone for OutputOfBatch<O> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<O> Copy for OutputOfBatch<O> {}

/// What is done with what a handler of batches returns.
#[must_use]
pub fn batch_output<O: BatchOutput>() -> OutputOfBatch<O> {
    OutputOfBatch {
        types: O::returned_types,
        take: Unread::results::<O>,
    }
}
