//! Batches: one run of a handler on several events.

use std::future::Future;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, ErrorKind};
use crate::event::EventDescriptor;
use crate::handler::context::{Call, Context};
use crate::handler::extract::Extract;
use crate::handler::outcome::{Emit, HandlerError};
use crate::handler::{FromEvent, Handler};
use crate::publish::publisher::Draft;

/// Several events for one run of a handler, in the order of the queue.
///
/// A handler of `Batch<E>` gets as many events as are there, up to its batch size, and waits for
/// more no longer than its batch wait. It says what became of them by what it returns:
///
/// - `()`, or `Ok` with events to publish: every event is done;
/// - a `Vec` of one `Result` for each event, in their order: each event on its own;
/// - an error: the batch failed, and every event of it is run again at once, in a batch of its own,
///   so that one bad event does not hold up the others. A failed batch is no attempt.
///
/// An event that failed before, or whose worker died, always comes in a batch of its own.
///
/// Events that the handler returns for one event of the batch go out in the step that marks that
/// event done. Events that it returns for the batch as a whole go out with its `Tx`, if it takes one.
/// Otherwise they are published before any event of the batch is acknowledged, at least once: if the
/// worker dies in between, what was not acknowledged runs again and publishes once more, perhaps for
/// a part of the batch only.
///
/// ```
/// # use ezq_core::{Batch, Event};
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
    items: Vec<BatchItem<E>>,
}

/// An event of a [`Batch`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct BatchItem<E> {
    /// The event.
    pub event: E,
    /// Its id, attempt and the rest.
    pub context: Context,
}

impl<E> Batch<E> {
    /// The events alone.
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

/// How a handler's batches are made; what is not set falls back to 100 events and 20 ms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BatchLimits {
    pub(crate) size: usize,
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

/// One run of a batch handler.
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

    /// Reads the events; what cannot be read fails alone.
    #[must_use]
    pub fn read<E: FromEvent>(&self) -> (Batch<E>, Unread) {
        let mut items = Vec::with_capacity(self.contexts.len());
        let mut unread = Vec::with_capacity(self.contexts.len());
        for context in &self.contexts {
            unread.push(match E::from_event(&context.received) {
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

/// Which events of a batch could not be read, and why.
#[derive(Debug)]
pub struct Unread(Vec<Option<HandlerError>>);

/// What a run of a batch handler came to.
#[derive(Debug)]
pub struct BatchResults {
    /// Events of the batch as a whole.
    pub(crate) shared: Vec<Draft>,
    /// One result for each event, in their order.
    pub(crate) each: Vec<Result<Vec<Draft>, HandlerError>>,
}

/// The future of one run of a batch handler.
pub type BatchFuture = Pin<Box<dyn Future<Output = Result<BatchResults, HandlerError>> + Send>>;

impl Unread {
    /// What became of the whole batch, once the handler has said what became of the rest.
    ///
    /// # Errors
    /// The handler's own error, or that it returned another number of results than it got events.
    pub fn results<O: BatchOutput>(self, output: O) -> Result<BatchResults, HandlerError> {
        let count = self.0.iter().filter(|unread| unread.is_none()).count();
        let BatchResults { shared, each } = output.into_results(count)?;
        if each.len() != count {
            let text = format!(
                "a batch of {count} events got {} results: return one for each event, in their order",
                each.len()
            );
            return Err(HandlerError::fatal(Error::new(
                ErrorKind::Configuration,
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

/// What a batch handler may return: [`Emit`] for the batch as a whole, a `Vec` with a `Result` for
/// each event, or a `Result` of one of these.
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
        let result = |result: Result<T, E>| {
            let mut drafts = Vec::new();
            result
                .map_err(Into::into)?
                .emit(&mut drafts)
                .map_err(HandlerError::fatal)?;
            Ok(drafts)
        };
        Ok(BatchResults {
            shared: Vec::new(),
            each: self.into_iter().map(result).collect(),
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

/// A function that can be a batch handler: a [`Batch`], then extractors.
pub trait IntoBatchHandler<Args> {
    /// The handler, under a name.
    fn into_batch_handler(self, name: &str) -> Handler;
}

macro_rules! into_batch_handler {
    ($(($($extract:ident),*))+) => {$(
        impl<Func, Fut, Out, Ev, $($extract,)*> IntoBatchHandler<(Ev, $($extract,)*)> for Func
        where
            Func: Fn(Batch<Ev>, $($extract),*) -> Fut + Clone + Send + Sync + 'static,
            Fut: Future<Output = Out> + Send,
            Out: BatchOutput,
            Ev: FromEvent,
            $($extract: Extract,)*
        {
            fn into_batch_handler(self, name: &str) -> Handler {
                let invoke = move |call: BatchCall| -> BatchFuture {
                    let function = self.clone();
                    Box::pin(async move {
                        let (batch, unread) = call.read::<Ev>();
                        if batch.is_empty() {
                            return unread.results(());
                        }
                        let output = function(batch, $($extract::extract(call.call()).await?),*);
                        unread.results(output.await)
                    })
                };
                Handler::batch(name, Ev::subscription(), invoke)
                    .returning(Out::returned_types())
                    $(.requires::<$extract>())*
            }
        }
    )+};
}
into_batch_handler! { () (A) (A, B) (A, B, C) (A, B, C, D) (A, B, C, D, F) }

/// What the registry calls for a batch.
pub(crate) type InvokeBatch = Arc<dyn Fn(BatchCall) -> BatchFuture + Send + Sync>;
