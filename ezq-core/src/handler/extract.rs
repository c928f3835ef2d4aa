//! Extractors: the parameters that a handler may take after the event.

use std::any::type_name;
use std::future::Future;

use crate::engine::Capabilities;
use crate::error::{Error, ErrorKind, Result};
use crate::handler::call::Call;
use crate::handler::context::Context;
use crate::handler::outcome::HandlerError;
use crate::publish::publisher::Publisher;
use crate::publish::states::States;

/// A parameter that a handler can take after the event. Implement it to give handlers one of your own.
///
/// ```
/// use ezq_core::handler::{Call, Extract, HandlerError};
///
/// /// The key under which an external service recognises a repeated call.
/// struct IdempotencyKey(String);
///
/// impl Extract for IdempotencyKey {
///     async fn extract(call: &Call) -> Result<Self, HandlerError> {
///         Ok(Self(call.context().event_id().to_owned()))
///     }
/// }
///
/// async fn charge(IdempotencyKey(key): IdempotencyKey) {
///     println!("charging under {key}");
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an extractor",
    label = "not something a handler can ask for",
    note = "after the event a handler takes `Context`, `State<T>`, `Publisher`, `Tx` or a type of its own that \
            implements `Extract`; for several events take an enum with `#[derive(EventSet)]`; a function with a \
            schedule takes its `Tick` first, by that name and by no alias"
)]
pub trait Extract: Sized + Send + 'static {
    /// Whether it takes the handler's transaction, which begins before the handler runs and commits
    /// with the acknowledgement of the event. At most one parameter of a handler may take it.
    /// Defaults to `false`.
    const TRANSACTION: bool = false;

    /// Checks that the application can provide it. Called once, at start. Defaults to no check.
    ///
    /// # Errors
    /// An error that says what is missing, and how to provide it.
    fn check(provided: &Provided<'_>) -> Result<()> {
        let _ = provided;
        Ok(())
    }

    /// Makes the parameter for one run of a handler.
    ///
    /// # Errors
    /// An error with which the run fails, before the handler is called.
    fn extract(call: &Call) -> impl Future<Output = Result<Self, HandlerError>> + Send;
}

/// An extractor that may have nothing to extract: what `Option<X>` needs of `X`. Implement it beside
/// [`Extract`] where `None` is no failure.
///
/// ```
/// use ezq_core::handler::{Call, Extract, HandlerError, OptionalExtract};
///
/// struct Locale(String);
///
/// impl OptionalExtract for Locale {
///     async fn extract_optional(call: &Call) -> Result<Option<Self>, HandlerError> {
///         let locale = call.context().headers().text("locale");
///         Ok(locale.map(|locale| Self(locale.to_owned())))
///     }
/// }
///
/// impl Extract for Locale {
///     async fn extract(call: &Call) -> Result<Self, HandlerError> {
///         let found = Self::extract_optional(call).await?;
///         found.ok_or_else(|| HandlerError::fatal("the event has no header `locale`"))
///     }
/// }
///
/// async fn greet(locale: Option<Locale>) {
///     println!("in {}", locale.map_or("en".to_owned(), |locale| locale.0));
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`Option<{Self}>` is not an extractor",
    label = "not something that may be absent",
    note = "`Option` goes around `State<T>`, `Extension<T>`, or a type of your own that implements \
            `OptionalExtract`; around any other extractor write `Result<.., HandlerError>`"
)]
pub trait OptionalExtract: Sized + Send + 'static {
    /// Makes the parameter for one run of a handler; `None` if there is nothing to extract.
    ///
    /// # Errors
    /// An error with which the run fails, before the handler is called.
    fn extract_optional(
        call: &Call,
    ) -> impl Future<Output = Result<Option<Self>, HandlerError>> + Send;
}

/// `None` where there is nothing to extract. Nothing is checked at start.
impl<X: OptionalExtract> Extract for Option<X> {
    async fn extract(call: &Call) -> Result<Self, HandlerError> {
        X::extract_optional(call).await
    }
}

/// Hands the extractor's error to the handler, which decides what becomes of the event.
impl<X: Extract> Extract for Result<X, HandlerError> {
    const TRANSACTION: bool = X::TRANSACTION;

    fn check(provided: &Provided<'_>) -> Result<()> {
        X::check(provided)
    }

    async fn extract(call: &Call) -> Result<Self, HandlerError> {
        Ok(X::extract(call).await)
    }
}

/// What an application provides to the extractors of its handlers.
#[derive(Debug)]
pub struct Provided<'a> {
    pub(crate) states: &'a States,
    /// What the engine of the handler's queue can do.
    pub capabilities: &'a Capabilities,
}

impl Provided<'_> {
    /// Whether there is a state of type `T`.
    #[must_use]
    pub fn has_state<T: 'static>(&self) -> bool {
        self.states.holds::<T>()
    }
}

/// The state of type `T` that was given to the handler's [module](crate::app::Module), or else to the
/// application's builder. Cloned for each run, so wrap what is large in an `Arc`.
///
/// An application without it does not start a consumer of the handler. `Option<State<T>>` is `None`
/// then. A part of a larger state is one too; see
/// [`AppBuilder::state_from`](crate::app::AppBuilder::state_from).
///
/// ```
/// use ezq_core::handler::State;
/// use std::sync::Arc;
///
/// struct Plans;
/// async fn handle(State(plans): State<Arc<Plans>>) {}
/// ```
#[derive(Debug, Clone)]
pub struct State<T>(pub T);

impl<T: Clone + Send + Sync + 'static> Extract for State<T> {
    fn check(provided: &Provided<'_>) -> Result<()> {
        if provided.has_state::<T>() {
            Ok(())
        } else {
            Err(missing::<T>(provided.states))
        }
    }

    async fn extract(call: &Call) -> Result<Self, HandlerError> {
        let state = call.state().map(Self);
        state.ok_or_else(|| HandlerError::fatal(missing::<T>(call.states())))
    }
}

impl<T: Clone + Send + Sync + 'static> OptionalExtract for State<T> {
    async fn extract_optional(call: &Call) -> Result<Option<Self>, HandlerError> {
        Ok(call.state().map(Self))
    }
}

fn missing<T: 'static>(states: &States) -> Error {
    let name = type_name::<T>();
    let text = match states.unmade_of::<T>() {
        Some(whole) => format!(
            "there is no state of type `{name}`: it is made of `{whole}`, which was not given: give \
             that with `.state(..)`"
        ),
        None => format!(
            "there is no state of type `{name}`: give one with `.state(..)` on the builder or the module"
        ),
    };
    Error::new(ErrorKind::MissingState, text)
}

/// A value that a [layer](crate::handler::Layer) added to the run: a tenant, a transaction of your own,
/// a user. Cloned for each extractor that takes it, so wrap what is large in an `Arc`.
///
/// Without such a value the run fails, and no retry helps. `Option<Extension<T>>` is `None` then.
///
/// ```
/// use ezq_core::handler::{Call, Extension, HandlerResult, Next};
///
/// #[derive(Clone)]
/// struct Tenant(String);
///
/// async fn tenant(mut call: Call, next: Next) -> HandlerResult {
///     let name = call.context().headers().text("tenant").unwrap_or("none").to_owned();
///     call.insert(Tenant(name));
///     next.run(call).await
/// }
///
/// async fn handle(Extension(tenant): Extension<Tenant>) {
///     println!("for {}", tenant.0);
/// }
/// # let _ = ezq_core::app::App::builder().layer(tenant);
/// ```
#[derive(Debug, Clone)]
pub struct Extension<T>(pub T);

impl<T: Clone + Send + Sync + 'static> Extract for Extension<T> {
    async fn extract(call: &Call) -> Result<Self, HandlerError> {
        call.extension().map(Self).ok_or_else(|| {
            let name = type_name::<T>();
            let text = format!(
                "no layer gave a value of type `{name}`: add the layer that calls `call.insert(..)`, \
                 or take `Option<Extension<..>>`"
            );
            HandlerError::fatal(Error::new(ErrorKind::MissingState, text))
        })
    }
}

impl<T: Clone + Send + Sync + 'static> OptionalExtract for Extension<T> {
    async fn extract_optional(call: &Call) -> Result<Option<Self>, HandlerError> {
        Ok(call.extension().map(Self))
    }
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
