//! What the code that the macros write refers to. Not part of the public interface: it may change
//! in any release.

use std::pin::Pin;

pub use inventory;

use crate::handler::batch::{BatchOutput, BatchResults, FromBatch, Unread};

pub use crate::delivery::received::Received;
pub use crate::error::Result;
pub use crate::event::envelope::Envelope;
pub use crate::event::tick::Tick;
pub use crate::event::{Event, EventDescriptor};
pub use crate::handler::batch::{BatchCall, BatchFuture};
pub use crate::handler::call::Call;
pub use crate::handler::definition::HandlerDefinition;
pub use crate::handler::extract::Extract;
pub use crate::handler::outcome::{HandlerError, HandlerOutput};
pub use crate::handler::retry::{Backoff, Jitter};
pub use crate::handler::{FromEvent, Handler, HandlerFuture, Subscription};
pub use crate::publish::draft::Draft;
pub use crate::publish::published::warn_of_nobody;
pub use crate::runtime::check_runtime;
pub use crate::schedule::{Missed, Schedule};
pub use crate::{__error as error, __warn as warn};

/// A handler that registered itself at link time.
pub struct Discovered(pub fn() -> Handler);

inventory::collect!(Discovered);

/// Reads the event of a delivery.
///
/// # Errors
/// When the delivery is not such an event.
pub fn from_event<E: FromEvent>(call: &Call) -> Result<E, HandlerError> {
    E::from_event(call.context.received())
}

/// Reads the tick of a delivery.
///
/// # Errors
/// When the delivery is not a tick.
pub fn tick(call: &Call) -> Result<Tick, HandlerError> {
    call.context.received().tick()
}

/// A handler with a schedule of its own, whose ticks it takes.
#[must_use]
pub fn scheduled(
    name: &str,
    event_type: &'static str,
    schedule: Schedule,
    invoke: impl Fn(Call) -> HandlerFuture + Send + Sync + 'static,
) -> Handler {
    Handler::scheduled(name, event_type, schedule, invoke)
}

/// The events that a handler takes.
#[must_use]
pub fn subscription<E: FromEvent>() -> Subscription {
    E::subscription()
}

/// Runs an extractor.
///
/// The future is boxed, because rustc checks the bounds of an opaque future wherever it is
/// mentioned: a type that is not an extractor would be reported three times.
///
/// # Errors
/// The error with which the handler's run fails.
pub fn extract<X: Extract>(
    call: &Call,
) -> Pin<Box<dyn Future<Output = Result<X, HandlerError>> + Send + '_>> {
    Box::pin(X::extract(call))
}

/// Reads the events of a batch.
#[must_use]
pub fn read_batch<B: FromBatch>(call: &BatchCall) -> (B, Unread) {
    B::read(call)
}

/// The events that a batch handler takes.
#[must_use]
pub fn batch_subscription<B: FromBatch>() -> Subscription {
    B::subscription()
}

/// A field that an event's key is made of. `__ezq_kind` tells an `Option` from any other type:
/// method lookup prefers the inherent method, which only an `Option` has, to that of
/// [`PlainField`].
#[derive(Debug)]
pub struct Field<'a, T>(pub &'a T);

/// A field that may be absent.
#[derive(Debug)]
pub struct OptionalKind;

/// A field that is always present.
#[derive(Debug)]
pub struct PlainKind;

impl<T> Field<'_, Option<T>> {
    /// The kind of the field.
    #[must_use]
    pub fn __ezq_kind(&self) -> OptionalKind {
        OptionalKind
    }
}

/// A field that is not an `Option`.
pub trait PlainField {
    /// The kind of the field.
    fn __ezq_kind(&self) -> PlainKind;
}

impl<T> PlainField for Field<'_, T> {
    fn __ezq_kind(&self) -> PlainKind {
        PlainKind
    }
}

impl OptionalKind {
    /// The value of the field, if it has one.
    #[must_use]
    pub fn present<'a, T>(&self, field: &'a Option<T>) -> Option<&'a T> {
        field.as_ref()
    }
}

impl PlainKind {
    /// The value of the field, which it always has.
    #[must_use]
    pub fn present<'a, T>(&self, field: &'a T) -> Option<&'a T> {
        Some(field)
    }
}

/// One event type in an [`EventSet`](crate::handler::FromEvent). Two variants of one type would be
/// two implementations of this trait, which rustc refuses.
pub trait OneVariantEach<Set> {}

/// The functions that handle a handler's return value.
///
/// They are function pointers, so that the bound on the type is stated once, in [`output`]: rustc
/// reports a type that does not fit wherever the bound is mentioned.
#[derive(Debug)]
pub struct Output<O> {
    /// The types of the events that the value may hold.
    pub types: fn() -> Vec<EventDescriptor>,
    /// The events in the value, or the handler's error.
    pub take: fn(O) -> Result<Vec<Draft>, HandlerError>,
}

impl<O> Clone for Output<O> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<O> Copy for Output<O> {}

/// The functions that handle a return value of this type.
#[must_use]
pub fn output<O: HandlerOutput>() -> Output<O> {
    Output {
        types: O::returned_types,
        take: O::into_drafts,
    }
}

/// As [`Output`], for a batch handler.
#[derive(Debug)]
pub struct OutputOfBatch<O> {
    /// The types of the events that the value may hold.
    pub types: fn() -> Vec<EventDescriptor>,
    /// The result for each event of the batch, or the handler's error.
    pub take: fn(Unread, O) -> Result<BatchResults, HandlerError>,
}

impl<O> Clone for OutputOfBatch<O> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<O> Copy for OutputOfBatch<O> {}

/// The functions that handle a batch handler's return value of this type.
#[must_use]
pub fn batch_output<O: BatchOutput>() -> OutputOfBatch<O> {
    OutputOfBatch {
        types: O::returned_types,
        take: Unread::results::<O>,
    }
}
