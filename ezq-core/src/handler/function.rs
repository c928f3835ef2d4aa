//! Functions and closures as handlers: [`Handler::on`] and [`Handler::on_batch`].
//!
//! [`IntoHandler`] asks for the shape of a function only: async, with an event and extractors. What an
//! event, an extractor and an answer must be is asked by `on` and `on_batch`, so that rustc names the
//! one type that does not fit.

use std::future::Future;

use crate::error::Result;
use crate::handler::batch::{BatchFuture, BatchOutput, FromBatch};
use crate::handler::call::Call;
use crate::handler::definition::Handler;
use crate::handler::extract::Extract;
use crate::handler::input::FromEvent;
use crate::handler::invoke::HandlerFuture;
use crate::handler::outcome::{HandlerError, HandlerOutput};

impl Handler {
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
    pub fn on<Args, F>(name: &str, function: F) -> Self
    where
        F: IntoHandler<Args>,
        F::Event: FromEvent,
        F::Extractors: Extractors,
        F::Output: HandlerOutput,
        F::Future: Send,
    {
        let subscription = F::Event::subscription();
        let handler = Self::new(name, subscription, move |call| -> HandlerFuture {
            let function = function.clone();
            Box::pin(async move {
                let event = F::Event::from_event(call.context.received())?;
                let extractors = F::Extractors::extract(&call).await?;
                function.call(event, extractors).await.into_drafts()
            })
        });
        F::Extractors::required_by(handler.returning(F::Output::returned_types()))
    }

    /// A handler of batches from a function or closure whose first parameter is a
    /// [`Batch`](crate::handler::Batch).
    ///
    /// ```
    /// # use ezq_core::handler::{AnyEvent, Batch, Handler};
    /// let count = Handler::on_batch("count", |batch: Batch<AnyEvent>| async move {
    ///     println!("{} events", batch.len());
    /// });
    /// assert_eq!(count.batch_size(1000).name().as_str(), "count");
    /// ```
    #[must_use]
    pub fn on_batch<Args, F>(name: &str, function: F) -> Self
    where
        F: IntoHandler<Args>,
        F::Event: FromBatch,
        F::Extractors: Extractors,
        F::Output: BatchOutput,
        F::Future: Send,
    {
        let subscription = F::Event::subscription();
        let handler = Self::batch(name, subscription, move |call| -> BatchFuture {
            let function = function.clone();
            Box::pin(async move {
                let (batch, unread) = F::Event::read(&call);
                // Nothing could be decoded, so there is nothing to call it with.
                if batch.is_empty() {
                    return unread.results(());
                }
                let extractors = F::Extractors::extract(call.call()).await?;
                unread.results(function.call(batch, extractors).await)
            })
        });
        F::Extractors::required_by(handler.returning(F::Output::returned_types()))
    }
}

/// A function that can be a handler: async, its event or batch first, then up to five extractors.
#[diagnostic::on_unimplemented(
    message = "this is not a function that can be a handler",
    label = "not an async function of an event and up to five extractors",
    note = "write `async fn my_handler(event: MyEvent, state: State<Pool>)`, or a closure that names the \
            types of its parameters: `|event: MyEvent| async move {{ .. }}`",
    note = "it is async, and takes its event and everything else by value",
    note = "for more than five extractors write `#[on_event]`, which takes any number, or gather some in a \
            type of your own that implements `Extract`"
)]
pub trait IntoHandler<Args>: Clone + Send + Sync + 'static {
    /// The first parameter.
    type Event;
    /// The other parameters, as a tuple.
    type Extractors;
    /// What the function returns once it has run.
    type Output;
    /// What the function returns at once.
    type Future: Future<Output = Self::Output> + 'static;

    /// Calls the function.
    #[doc(hidden)]
    fn call(&self, event: Self::Event, extractors: Self::Extractors) -> Self::Future;
}

macro_rules! into_handler {
    ($(($($extract:ident),*))+) => {$(
        impl<Func, Fut, Event, $($extract,)*> IntoHandler<(Event, $($extract,)*)> for Func
        where
            Func: Fn(Event, $($extract),*) -> Fut + Clone + Send + Sync + 'static,
            Fut: Future + 'static,
        {
            type Event = Event;
            type Extractors = ($($extract,)*);
            type Output = Fut::Output;
            type Future = Fut;

            #[allow(non_snake_case)]
            fn call(&self, event: Event, ($($extract,)*): ($($extract,)*)) -> Fut {
                self(event, $($extract),*)
            }
        }

        impl<$($extract: Extract,)*> Extractors for ($($extract,)*) {
            #[allow(clippy::unused_async, unused_variables)]
            async fn extract(call: &Call) -> Result<Self, HandlerError> {
                Ok(($($extract::extract(call).await?,)*))
            }

            fn required_by(handler: Handler) -> Handler {
                handler$(.requires::<$extract>())*
            }
        }
    )+};
}
into_handler! { () (A) (A, B) (A, B, C) (A, B, C, D) (A, B, C, D, E) }

/// The extractors of a function: a tuple of up to five types that implement [`Extract`].
pub trait Extractors: Sized + Send + 'static {
    /// Makes all of them for one run, one after another.
    #[doc(hidden)]
    fn extract(call: &Call) -> impl Future<Output = Result<Self, HandlerError>> + Send;

    /// Has the handler require each of them.
    #[doc(hidden)]
    fn required_by(handler: Handler) -> Handler;
}
