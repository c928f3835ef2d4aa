//! Writes the code beside a handler: its type, its definition and its entry in the list of
//! handlers that consumers find at start.
//!
//! Most of the work is where spans point. rustc reports an unfit type at the span of the code that
//! demands it, so that code is spanned at the user's own tokens.

mod definition;
mod marker;
mod places;
mod settings;

pub(super) use definition::{allowed_on_function, handler};
pub(super) use marker::fallback;
pub(crate) use marker::handler_type;
