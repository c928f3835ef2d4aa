//! [`Module`]: handlers with their states, layers and options, which an application takes as a whole.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::handler::layer::{Layer, SharedLayer};
use crate::handler::retry::Backoff;
use crate::handler::{Handler, HandlerDefinition, HandlerOptions};
use crate::publish::states::States;

/// Handlers with their states, layers and options: a part of a program, or a library of handlers.
///
/// A module knows no engine and no database, so that one module fits an application on PGMQ, one on
/// another engine, and one of a test. Modules nest.
///
/// - A handler finds a state in its module first, then in the module around it, then in the
///   application. So two modules may have different states of one type.
/// - Options are defaults for the handlers of the module: what a handler sets itself wins, and an inner
///   module wins over an outer one. What the [configuration](crate::config::Config::handlers) says of
///   a handler wins over both.
/// - Two handlers of one name are refused by [`AppBuilder::build`](crate::app::AppBuilder::build),
///   whichever modules they are in.
///
/// ```
/// use ezq_core::app::Module;
/// use ezq_core::event::Event;
/// use ezq_core::handler::{Handler, State};
/// use ezq_core::testing::TestApp;
/// use std::time::Duration;
/// # #[derive(serde::Serialize, serde::Deserialize)] struct Paid { order: i64 }
/// # impl Event for Paid { const TYPE: &'static str = "paid"; }
/// # #[derive(serde::Serialize, serde::Deserialize)] struct Mailed { to: String }
/// # impl Event for Mailed { const TYPE: &'static str = "mailed"; }
///
/// #[derive(Clone)]
/// struct Mailbox(String);
///
/// async fn receipt(_: Paid, State(mailbox): State<Mailbox>) -> Mailed {
///     Mailed { to: mailbox.0 }
/// }
///
/// fn receipts(mailbox: &str) -> Module {
///     Module::new()
///         .register(Handler::on("receipts.send", receipt))
///         .state(Mailbox(mailbox.to_owned()))
///         .timeout(Some(Duration::from_secs(20)))
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> ezq_core::Result<()> {
/// let app = TestApp::new(|app| app.module(receipts("ada@example.org")))?;
/// app.publish(&Paid { order: 7 }).await?;
/// app.drain().await?;
/// assert_eq!(app.assert_published::<Mailed>().to, "ada@example.org");
/// # Ok(()) }
/// ```
#[derive(Default)]
#[must_use = "a module does nothing until an application takes it"]
pub struct Module {
    handlers: Vec<Handler>,
    modules: Vec<Module>,
    layers: Vec<SharedLayer>,
    states: States,
    options: HandlerOptions,
    queue: Option<String>,
}

impl Module {
    /// An empty module.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a handler that `#[on_event]` made, by the name of its function.
    pub fn handler<H: HandlerDefinition>(self) -> Self {
        self.register(H::definition())
    }

    /// Adds a handler that was made without a macro, or a [`Relay`](crate::relay::Relay).
    pub fn register(mut self, handler: impl Into<Handler>) -> Self {
        self.handlers.push(handler.into());
        self
    }

    /// Adds the handlers of another module, whose states, layers and options stay its own.
    pub fn module(mut self, module: Module) -> Self {
        self.modules.push(module);
        self
    }

    /// Adds a state for the handlers of the module, one of each type: a second one replaces the first.
    pub fn state<T: Clone + Send + Sync + 'static>(mut self, state: T) -> Self {
        self.states.insert(state);
        self
    }

    /// Adds a state that is made of another one, which the module, or whatever takes it, was given. See
    /// [`AppBuilder::state_from`](crate::app::AppBuilder::state_from).
    pub fn state_from<S, T>(mut self, part: impl Fn(&S) -> T + Send + Sync + 'static) -> Self
    where
        S: Send + Sync + 'static,
        T: Clone + Send + Sync + 'static,
    {
        self.states.insert_part(part);
        self
    }

    /// Runs a [`Layer`] around each handler of the module, also around those that are added later.
    pub fn layer(mut self, layer: impl Layer) -> Self {
        self.layers.push(Arc::new(layer));
        self
    }

    /// Gives the handlers a [queue of their own](Handler::queue). A handler that names a queue keeps it.
    pub fn queue(mut self, queue: impl Into<String>) -> Self {
        self.queue = Some(queue.into());
        self
    }

    /// How long one run of a handler may take; see [`Handler::timeout`].
    pub fn timeout(mut self, timeout: Option<Duration>) -> Self {
        self.options.timeout = Some(timeout);
        self
    }

    /// How often a handler is tried on one event; see [`Handler::max_attempts`].
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.options.max_attempts = Some(attempts);
        self
    }

    /// The pause after each failed attempt; see [`Handler::backoff`].
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.options.backoff = Some(backoff);
        self
    }

    /// The handlers of this module and those inside it, each with all that the modules say of it.
    /// `outer` has the states of whatever takes the module.
    pub(super) fn into_handlers(self, outer: &Arc<States>) -> Vec<Handler> {
        let own = (!self.states.is_empty()).then(|| self.states.complete(Some(Arc::clone(outer))));
        let states = own.as_ref().unwrap_or(outer);

        let mut handlers = self.handlers;
        for module in self.modules {
            handlers.extend(module.into_handlers(states));
        }

        for handler in &mut handlers {
            handler.states = handler.states.take().or_else(|| own.clone());
            handler.layers.splice(0..0, self.layers.iter().cloned());
            handler.options = std::mem::take(&mut handler.options).or(self.options.clone());
            handler.queue = handler.queue.take().or_else(|| self.queue.clone());
        }
        handlers
    }
}

impl fmt::Debug for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Module")
            .field("handlers", &self.handlers)
            .field("modules", &self.modules)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}
