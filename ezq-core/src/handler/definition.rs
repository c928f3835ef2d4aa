//! What leads from the name of a function to its handler.

use crate::handler::Handler;

/// A type that leads to a handler.
///
/// `#[on_event]` and `#[on_schedule]` write one beside each function, under the function's own name and
/// with its visibility. So [`AppBuilder::handler`](crate::app::AppBuilder::handler) and
/// [`Module::handler`](crate::app::Module::handler) take the name of the function: `.handler::<greet>()`.
/// Whatever imports the function imports the type as well.
///
/// Implement it for a type of your own to make a handler without a macro reachable in the same way:
///
/// ```
/// use ezq_core::app::App;
/// use ezq_core::handler::{AnyEvent, Handler, HandlerDefinition};
///
/// /// Writes every event down.
/// struct Audit;
///
/// impl HandlerDefinition for Audit {
///     fn definition() -> Handler {
///         Handler::on("audit", |event: AnyEvent| async move {
///             println!("{}", event.event_type());
///         })
///     }
/// }
///
/// assert_eq!(Audit::definition().name().as_str(), "audit");
/// let builder = App::builder().handler::<Audit>();
/// # let _ = builder;
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a handler",
    label = "no function with `#[on_event]` or `#[on_schedule]`",
    note = "put `#[on_event]` on the function and import it by its name; a handler that was made by \
            `Handler::on` is added with `.register(..)`"
)]
pub trait HandlerDefinition {
    /// The handler, with all its options.
    fn definition() -> Handler;
}
