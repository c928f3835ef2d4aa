//! Handlers: what they are, what they take and what they return.
//!
//! A handler is a name, the events that it takes, its options, and the function to call. `#[on_event]`
//! makes one of an annotated function; begin at [`Handler::on`] to make one without a macro.
//!
//! - A handler takes an event, an [`AnyEvent`] or a [`Batch`], and what it [extracts](Extract) from its
//!   run: [`Context`], [`State`], an [`Extension`], a [`Publisher`](crate::publish::Publisher).
//! - It returns events or an [outcome](HandlerOutput). A [`HandlerError`] says what becomes of an event
//!   that failed, and [`HandlerResultExt`] makes one of any error.
//! - [`RetryPolicy`] and [`Backoff`] say how often and when it runs again. A backoff of your own is a
//!   function of a [`FailedAttempt`].
//! - A [`Layer`] is code of your own around handlers, and a [`Module`](crate::app::Module) keeps
//!   handlers together with their states, layers and options.
//!
//! # Source files
//!
//! | to see | open |
//! |---|---|
//! | a handler, and how one is made without a macro | `definition.rs`, `function.rs` |
//! | which events it takes | `input.rs`, `decode.rs`, `batch.rs` |
//! | what else it takes | `context.rs`, `extract.rs` |
//! | what it returns | `outcome.rs`, `batch.rs` |
//! | one run of it, and what runs around it | `call.rs`, `invoke.rs`, `layer.rs` |
//! | how it is run | `options.rs`, `retry.rs`, `quickness.rs` |

pub(crate) mod batch;
pub(crate) mod call;
pub(crate) mod context;
mod decode;
pub(crate) mod definition;
pub(crate) mod extract;
pub(crate) mod function;
mod input;
pub(crate) mod invoke;
pub(crate) mod layer;
mod options;
pub(crate) mod outcome;
pub(crate) mod quickness;
pub(crate) mod retry;

pub use crate::delivery::received::Received;
pub use batch::{
    Batch, BatchCall, BatchFuture, BatchItem, BatchOutput, BatchResults, FromBatch, Unread,
};
pub use call::Call;
pub use context::Context;
pub use definition::{Handler, HandlerDefinition};
pub use extract::{Extension, Extract, OptionalExtract, Provided, State};
pub use function::{Extractors, IntoHandler};
pub use input::{AnyEvent, FromEvent, Subscription};
pub use invoke::HandlerFuture;
pub use layer::{HandlerResult, Layer, Next, Returned};
pub use options::HandlerOptions;
pub use outcome::{Emit, HandlerError, HandlerErrorKind, HandlerOutput, HandlerResultExt};
pub use retry::{Backoff, CustomBackoff, FailedAttempt, Jitter, RetryPolicy};
