//! Batch handlers: one run handles several events.

use std::future::Future;
use std::ops::Deref;
use std::pin::Pin;
use std::time::Duration;

use crate::error::{Error, ErrorKind};
use crate::event::EventDescriptor;
use crate::handler::call::Call;
use crate::handler::context::Context;
use crate::handler::input::{FromEvent, Subscription};
use crate::handler::outcome::{Emit, HandlerError};
use crate::publish::draft::Draft;

/// Several events for one run of a handler, in the order of the queue.
///
/// A handler of `Batch<E>` gets the events that are there, up to its [batch
/// size](crate::handler::Handler::batch_size). A batch that is not full waits for more, up to the
/// [batch wait](crate::handler::Handler::batch_wait). What the handler returns decides about the
/// events:
///
/// - `()`, or `Ok` with events to publish: every event is done.
/// - A `Vec` with one `Result` for each event, in their order: each event for itself.
/// - An error: the batch failed. Each of its events is handled again at once in a batch of its own, so
///   that one bad event does not hold up the others. A failed batch counts no attempt.
///
/// An event that failed before, or whose worker died, always comes in a batch of its own.
///
/// Events that the handler returns for one event of the batch are published in the step that marks
/// that event done. Events that it returns for the batch as a whole are published by its `Tx`, if it
/// takes one. Otherwise they are published at least once, before any event of the batch is
/// acknowledged: if the worker dies in between, the events that were not acknowledged are handled
/// again, and what they return is published once more.
///
/// ```
/// # use ezq_core::event::Event;
/// # use ezq_core::handler::Batch;
/// # #[derive(serde::Serialize, serde::Deserialize)] struct Reading { celsius: f64 }
/// # impl Event for Reading { const TYPE: &'static str = "reading"; }
/// async fn store(batch: Batch<Reading>) -> Vec<Result<(), &'static str>> {
///     let store = |reading: &Reading| {
///         if reading.celsius < -273.15 { Err("colder than cold") } else { Ok(()) }
///     };
///     batch.events().map(store).collect()
/// }
/// ```
#[derive(Debug, Clone)]
pub struct Batch<E> {
    pub(crate) items: Vec<BatchItem<E>>,
}

/// An event of a [`Batch`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct BatchItem<E> {
    /// The event.
    pub event: E,
    /// The event's id, attempt, deadline and the rest.
    pub context: Context,
}

impl<E> Batch<E> {
    /// The events without their contexts, in the order of the queue.
    pub fn events(&self) -> impl Iterator<Item = &E> {
        self.items.iter().map(|item| &item.event)
    }
}

impl<E> Deref for Batch<E> {
    type Target = [BatchItem<E>];

    fn deref(&self) -> &[BatchItem<E>] {
        &self.items
    }
}

impl<E> IntoIterator for Batch<E> {
    type Item = BatchItem<E>;
    type IntoIter = std::vec::IntoIter<BatchItem<E>>;

    fn into_iter(self) -> Self::IntoIter {
        self.items.into_iter()
    }
}

impl<'b, E> IntoIterator for &'b Batch<E> {
    type Item = &'b BatchItem<E>;
    type IntoIter = std::slice::Iter<'b, BatchItem<E>>;

    fn into_iter(self) -> Self::IntoIter {
        self.items.iter()
    }
}

/// How a handler's batches are made. Defaults to 100 events and 20 ms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BatchLimits {
    /// Events in a batch at most.
    pub(crate) size: usize,
    /// How long a batch that is not full waits for more.
    pub(crate) wait: Duration,
}

impl Default for BatchLimits {
    fn default() -> Self {
        Self {
            size: 100,
            wait: Duration::from_millis(20),
        }
    }
}

/// One run of a batch handler, before its events are decoded.
#[derive(Debug, Clone)]
pub struct BatchCall {
    pub(crate) call: Call,
    pub(crate) contexts: Vec<Context>,
}

impl BatchCall {
    /// What extractors draw from.
    #[must_use]
    pub fn call(&self) -> &Call {
        &self.call
    }

    /// Decodes the events. One that cannot be decoded fails by itself, and is not in the batch.
    #[must_use]
    pub fn read<E: FromEvent>(&self) -> (Batch<E>, Unread) {
        let mut items = Vec::with_capacity(self.contexts.len());
        let mut unread = Vec::with_capacity(self.contexts.len());

        for context in &self.contexts {
            unread.push(match E::from_event(context.received()) {
                Ok(event) => {
                    items.push(BatchItem {
                        event,
                        context: context.clone(),
                    });
                    None
                }
                Err(error) => Some(error),
            });
        }
        (Batch { items }, Unread(unread))
    }
}

/// Which events of a batch could not be decoded, and why.
#[derive(Debug)]
pub struct Unread(Vec<Option<HandlerError>>);

/// The results of one run of a batch handler.
#[derive(Debug)]
pub struct BatchResults {
    /// Events to publish for the batch as a whole.
    pub(crate) shared: Vec<Draft>,
    /// One result for each event, in their order.
    pub(crate) each: Vec<Result<Vec<Draft>, HandlerError>>,
}

/// The future of one run of a batch handler.
pub type BatchFuture = Pin<Box<dyn Future<Output = Result<BatchResults, HandlerError>> + Send>>;

impl Unread {
    /// The results of the whole batch: what the handler returned, and an error for each event that
    /// could not be decoded.
    ///
    /// # Errors
    /// The handler's own error, or a fatal one if it returned another number of results than it got
    /// events.
    pub fn results<O: BatchOutput>(self, output: O) -> Result<BatchResults, HandlerError> {
        let count = self.0.iter().filter(|unread| unread.is_none()).count();
        let BatchResults { shared, each } = output.into_results(count)?;
        if each.len() != count {
            let text = format!(
                "a batch of {count} events got {} results: return one for each event, in their order",
                each.len()
            );
            return Err(HandlerError::fatal(Error::new(
                ErrorKind::InvalidResult,
                text,
            )));
        }

        let mut each = each.into_iter();
        let results = self
            .0
            .into_iter()
            .filter_map(|unread| unread.map(Err).or_else(|| each.next()));
        Ok(BatchResults {
            shared,
            each: results.collect(),
        })
    }
}

/// What a batch handler may return: events for the batch as a whole (see
/// [`Emit`](crate::handler::Emit)), a `Vec` with one `Result` for each event, or a `Result` of one
/// of these.
#[diagnostic::on_unimplemented(
    message = "a batch handler cannot return `{Self}`",
    label = "not something a batch handler returns",
    note = "return `()`, events, a `Vec` with a `Result` for each event, or a `Result` of one of these \
            whose error converts into `HandlerError`",
    note = "an error does so if it is `Send + Sync + 'static`: in place of `Box<dyn Error>` write \
            `Box<dyn Error + Send + Sync>`, and in place of a type with an `Rc` or a `Cell` inside \
            one with an `Arc` or a `Mutex`"
)]
pub trait BatchOutput: Send {
    /// The types of the events that it may be.
    #[doc(hidden)]
    fn returned_types() -> Vec<EventDescriptor>;

    #[doc(hidden)]
    fn into_results(self, count: usize) -> Result<BatchResults, HandlerError>;
}

impl<T: Emit> BatchOutput for T {
    fn returned_types() -> Vec<EventDescriptor> {
        T::emitted_types()
    }

    fn into_results(self, count: usize) -> Result<BatchResults, HandlerError> {
        let mut shared = Vec::new();
        self.emit(&mut shared).map_err(HandlerError::fatal)?;
        Ok(BatchResults {
            shared,
            each: (0..count).map(|_| Ok(Vec::new())).collect(),
        })
    }
}

impl<T: Emit, E: Into<HandlerError> + Send> BatchOutput for Result<T, E> {
    fn returned_types() -> Vec<EventDescriptor> {
        T::emitted_types()
    }

    fn into_results(self, count: usize) -> Result<BatchResults, HandlerError> {
        self.map_err(Into::into)?.into_results(count)
    }
}

impl<T: Emit, E: Into<HandlerError> + Send> BatchOutput for Vec<Result<T, E>> {
    fn returned_types() -> Vec<EventDescriptor> {
        T::emitted_types()
    }

    fn into_results(self, _: usize) -> Result<BatchResults, HandlerError> {
        let each = self.into_iter().map(|result| {
            let mut drafts = Vec::new();
            let emitted = result.map_err(Into::into)?;
            emitted.emit(&mut drafts).map_err(HandlerError::fatal)?;
            Ok(drafts)
        });
        Ok(BatchResults {
            shared: Vec::new(),
            each: each.collect(),
        })
    }
}

impl<T, E, F> BatchOutput for Result<Vec<Result<T, E>>, F>
where
    T: Emit,
    E: Into<HandlerError> + Send,
    F: Into<HandlerError> + Send,
{
    fn returned_types() -> Vec<EventDescriptor> {
        T::emitted_types()
    }

    fn into_results(self, count: usize) -> Result<BatchResults, HandlerError> {
        self.map_err(Into::into)?.into_results(count)
    }
}

/// A type that can be a batch handler's first parameter: a [`Batch`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a batch",
    label = "a batch handler's first parameter is its batch",
    note = "take `Batch<MyEvent>`; a function of one event goes to `Handler::on`"
)]
pub trait FromBatch: Sized + Send + 'static {
    /// The events that the batch holds.
    #[doc(hidden)]
    fn subscription() -> Subscription;

    /// Reads the events of a call.
    #[doc(hidden)]
    fn read(call: &BatchCall) -> (Self, Unread);

    /// Whether no event could be read.
    #[doc(hidden)]
    fn is_empty(&self) -> bool;
}

impl<E: FromEvent> FromBatch for Batch<E> {
    fn subscription() -> Subscription {
        E::subscription()
    }

    fn read(call: &BatchCall) -> (Self, Unread) {
        call.read()
    }

    fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_another_number_of_results_than_the_batch_has_events() {
        let none = Vec::<Result<(), HandlerError>>::new();
        let refused = Unread(vec![None]).results(none).unwrap_err();
        assert!(refused.is_fatal());
        let error: Option<&Error> = refused.source().downcast_ref();
        assert_eq!(error.map(Error::kind), Some(ErrorKind::InvalidResult));
    }
}
