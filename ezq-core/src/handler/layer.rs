//! Layers: code that runs around handlers, as middleware does around the handlers of a web server.
//!
//! A handler's layers are put around its function when the application is built. So a handler without
//! layers is called as if there were none.
//!
//! Invariant: a layer is part of the run that it surrounds. Whatever holds for the handler's own code
//! holds for it: timeout, cancellation, panics, and the transaction.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::handler::batch::{BatchCall, BatchFuture, BatchResults};
use crate::handler::call::Call;
use crate::handler::invoke::{HandlerFuture, Invoke};
use crate::handler::outcome::HandlerError;
use crate::message::headers::Headers;
use crate::publish::draft::Draft;

/// What a run of a handler comes to, as its layers see it.
pub type HandlerResult = Result<Returned, HandlerError>;

type LayerFuture = Pin<Box<dyn Future<Output = HandlerResult> + Send>>;

/// Code that runs around handlers: it sees each run before and after the handler, may give it
/// [values](Call::insert) that extractors read, and may answer in the handler's place.
///
/// An async function of a [`Call`] and a [`Next`] is a layer. Implement the trait where a layer has
/// options or a state of its own.
///
/// ```
/// use ezq_core::handler::{Call, HandlerResult, Next};
/// use std::time::Instant;
///
/// async fn timing(call: Call, next: Next) -> HandlerResult {
///     let handler = call.context().handler().clone();
///     let began = Instant::now();
///     let result = next.run(call).await;
///     println!("{handler} took {:?}, ok: {}", began.elapsed(), result.is_ok());
///     result
/// }
/// # let _ = ezq_core::app::App::builder().layer(timing);
/// ```
///
/// # Where layers are added, and in which order they run
///
/// [`AppBuilder::layer`](crate::app::AppBuilder::layer) adds one for all handlers,
/// [`Module::layer`](crate::app::Module::layer) for those of a module, and
/// [`Handler::layer`](crate::handler::Handler::layer) or `#[on_event(layer = timing)]` for one handler.
///
/// The application's layers are outermost, then those of the outer module, of the module inside it, and
/// of the handler. Of the layers that are added in one place, the first is outermost.
///
/// # What a layer is part of
///
/// Layers run inside the attempt. The handler's timeout covers them; when a lease is lost they are
/// dropped where they are; their panic is the handler's. They run in the span `ezq.handle`. If the
/// handler takes `Tx`, the transaction has begun before the first layer, and commits only if the
/// outermost one returns `Ok`.
///
/// What a layer returns is what counts. An error decides about the event as the handler's own would:
/// [`HandlerError::snooze`] puts the event off and counts no attempt. `Ok(Returned::default())` without
/// [`Next::run`] means that the event is handled. Layers also surround runs whose event cannot be
/// decoded, and handlers of control events.
///
/// # Batches
///
/// One run of a batch handler is one run of its layers. [`Call::contexts`] has a context for each event
/// of the batch. An error of a layer is an error of the batch, so each event runs again alone.
/// [`Returned::failures`] has the events that failed by themselves.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a layer",
    label = "not something that runs around handlers",
    note = "write `async fn my_layer(call: Call, next: Next) -> HandlerResult`, which calls \
            `next.run(call).await`; or implement `Layer` for a type of your own",
    note = "a closure names the types of its parameters: `|call: Call, next: Next| async move {{ .. }}`"
)]
pub trait Layer: Send + Sync + 'static {
    /// Surrounds one run: everything before `next.run(call)` happens before the handler, everything
    /// behind it afterwards.
    fn run(&self, call: Call, next: Next) -> impl Future<Output = HandlerResult> + Send;
}

impl<F, Fut> Layer for F
where
    F: Fn(Call, Next) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = HandlerResult> + Send,
{
    fn run(&self, call: Call, next: Next) -> impl Future<Output = HandlerResult> + Send {
        self(call, next)
    }
}

/// A layer whose type is not known, as a handler keeps it.
pub(crate) type SharedLayer = Arc<dyn AnyLayer>;

pub(crate) trait AnyLayer: Send + Sync {
    fn run_boxed(self: Arc<Self>, call: Call, next: Next) -> LayerFuture;
}

impl<L: Layer> AnyLayer for L {
    fn run_boxed(self: Arc<Self>, call: Call, next: Next) -> LayerFuture {
        Box::pin(async move { self.run(call, next).await })
    }
}

/// The rest of a run: the layers further in, and the handler.
pub struct Next {
    layers: Arc<[SharedLayer]>,
    /// The layers that were entered already.
    entered: usize,
    function: Invoke,
}

impl Next {
    /// Runs the rest. It takes the [`Next`], so a handler runs once at most.
    ///
    /// # Errors
    /// The error of the handler, or of a layer further in.
    pub async fn run(mut self, mut call: Call) -> HandlerResult {
        if let Some(layer) = self.layers.get(self.entered) {
            let layer = Arc::clone(layer);
            self.entered += 1;
            return layer.run_boxed(call, self).await;
        }

        match &self.function {
            Invoke::One(function) => function(call).await.map(Returned::of_event),
            Invoke::Batch(function) => {
                let contexts = call.take_contexts();
                let called = function(BatchCall { call, contexts });
                called.await.map(Returned::of_batch)
            }
        }
    }
}

impl fmt::Debug for Next {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Next")
            .field(
                "layers_left",
                &self.layers.len().saturating_sub(self.entered),
            )
            .finish_non_exhaustive()
    }
}

impl Invoke {
    /// This function with layers around it, the first one outermost.
    pub(crate) fn within(self, layers: Arc<[SharedLayer]>) -> Self {
        match &self {
            Self::One(_) => Self::One(Arc::new(move |call| -> HandlerFuture {
                let next = self.after(&layers);
                Box::pin(async move { next.run(call).await?.into_drafts() })
            })),
            Self::Batch(_) => Self::Batch(Arc::new(move |batch| -> BatchFuture {
                let next = self.after(&layers);
                let BatchCall { mut call, contexts } = batch;
                let count = contexts.len();
                call.put_contexts(contexts);
                Box::pin(async move { next.run(call).await?.into_results(count) })
            })),
        }
    }

    fn after(&self, layers: &Arc<[SharedLayer]>) -> Next {
        Next {
            layers: Arc::clone(layers),
            entered: 0,
            function: self.clone(),
        }
    }
}

/// What a handler that succeeded returned, as its [layers](Layer) see it. The default is nothing: the
/// event is handled, and nothing is published.
#[derive(Debug, Default)]
#[must_use = "what is returned is published only if the layer returns it"]
pub struct Returned {
    /// The events to publish; of a batch, those for the batch as a whole.
    drafts: Vec<Draft>,
    /// Of a batch, one result for each event. Empty if no handler was called.
    each: Vec<Result<Vec<Draft>, HandlerError>>,
}

impl Returned {
    fn of_event(drafts: Vec<Draft>) -> Self {
        Self {
            drafts,
            each: Vec::new(),
        }
    }

    fn of_batch(results: BatchResults) -> Self {
        Self {
            drafts: results.shared,
            each: results.each,
        }
    }

    /// Adds an event, which is published as if the handler had returned it.
    ///
    /// # Errors
    /// [`ErrorKind::Encode`] if it cannot be written as JSON.
    pub fn publish<E: Event>(&mut self, event: &E) -> Result<()> {
        self.drafts.push(Draft::of(event)?);
        Ok(())
    }

    /// Gives the events to publish the headers of a trace's context, as a
    /// [`Tracer`](crate::observe::Tracer) does.
    pub fn trace(&mut self, headers: &Headers) {
        let headers = Arc::new(headers.clone());
        let each = self.each.iter_mut().flatten().flatten();
        for draft in self.drafts.iter_mut().chain(each) {
            draft.trace = Some(Arc::clone(&headers));
        }
    }

    /// The types of the events to publish, in the order in which they were returned.
    pub fn event_types(&self) -> impl Iterator<Item = &str> {
        let each = self.each.iter().flatten().flatten();
        self.drafts.iter().chain(each).map(Draft::event_type)
    }

    /// The events of a batch that failed by themselves: their places in [`Call::contexts`], and why.
    pub fn failures(&self) -> impl Iterator<Item = (usize, &HandlerError)> {
        let results = self.each.iter().enumerate();
        results.filter_map(|(place, result)| Some((place, result.as_ref().err()?)))
    }

    fn into_drafts(self) -> Result<Vec<Draft>, HandlerError> {
        if self.each.is_empty() {
            Ok(self.drafts)
        } else {
            Err(of_another_run())
        }
    }

    fn into_results(mut self, count: usize) -> Result<BatchResults, HandlerError> {
        // A layer has answered in the handler's place, for all of the batch.
        if self.each.is_empty() {
            self.each = (0..count).map(|_| Ok(Vec::new())).collect();
        }
        if self.each.len() != count {
            return Err(of_another_run());
        }
        Ok(BatchResults {
            shared: self.drafts,
            each: self.each,
        })
    }
}

/// A layer kept what one run returned and gave it to another run.
fn of_another_run() -> HandlerError {
    let text = "a layer returned what another run had returned: return what `next.run(call)` returns, or \
                `Returned::default()`";
    HandlerError::fatal(Error::new(ErrorKind::InvalidResult, text))
}
