//! Extractors: what a handler's parameters after the event may be.

use crate::publish::services::States;
use std::any::type_name;
use std::future::Future;

use crate::engine::Capabilities;
use crate::error::{Error, ErrorKind, Result};
use crate::handler::context::{Call, Context};
use crate::handler::outcome::HandlerError;
use crate::publish::publisher::Publisher;

/// A parameter that a handler can ask for, after the event.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an extractor",
    label = "not something a handler can ask for",
    note = "after the event a handler takes `Context`, `State<T>`, `Publisher`, `Tx` or a type of its own that \
            implements `Extract`; for several events take an enum with `#[derive(EventSet)]`; a function with a \
            schedule takes its `Tick` first, by that name and by no alias"
)]
pub trait Extract: Sized + Send + 'static {
    /// Whether it takes the handler's transaction, which is begun before the handler runs and
    /// commits with its acknowledgement. One parameter of a handler may.
    const TRANSACTION: bool = false;

    /// Whether the application can provide it; asked once, at start.
    ///
    /// # Errors
    /// What is missing, and how to provide it.
    fn check(provided: &Provided<'_>) -> Result<()> {
        let _ = provided;
        Ok(())
    }

    /// Draws it from one run of a handler.
    ///
    /// # Errors
    /// What the run fails with.
    fn extract(call: &Call) -> impl Future<Output = Result<Self, HandlerError>> + Send;
}

/// What an application has to offer to extractors.
#[derive(Debug)]
pub struct Provided<'a> {
    pub(crate) states: &'a States,
    /// What the queue's engine can do.
    pub capabilities: &'a Capabilities,
}

/// State shared by all handlers, given to the application's builder; cloned for each run.
///
/// ```
/// use ezq_core::State;
/// use std::sync::Arc;
///
/// struct Plans;
/// async fn handle(State(plans): State<Arc<Plans>>) {}
/// ```
#[derive(Debug, Clone)]
pub struct State<T>(pub T);

impl<T: Clone + Send + Sync + 'static> Extract for State<T> {
    fn check(provided: &Provided<'_>) -> Result<()> {
        if provided.states.holds::<T>() {
            Ok(())
        } else {
            Err(missing::<T>())
        }
    }

    async fn extract(call: &Call) -> Result<Self, HandlerError> {
        call.state()
            .map(State)
            .ok_or_else(|| HandlerError::fatal(missing::<T>()))
    }
}

fn missing<T>() -> Error {
    let name = type_name::<T>();
    Error::new(
        ErrorKind::MissingState,
        format!("there is no state of type `{name}`: give one with `.state(..)` on the builder"),
    )
}

impl Extract for Context {
    async fn extract(call: &Call) -> Result<Self, HandlerError> {
        Ok(call.context().clone())
    }
}

impl Extract for Publisher {
    async fn extract(call: &Call) -> Result<Self, HandlerError> {
        Ok(call.publisher())
    }
}
