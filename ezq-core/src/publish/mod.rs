//! Publishing: events on their way into the store.
//!
//! Begin at [`Publisher`], or at the methods of [`App`](crate::app::App) of the same names. A call
//! returns a builder ([`Publish`], [`PublishAll`], [`Broadcast`]): set options, then await it for what
//! was [stored](Published).
//!
//! An event passes four forms. A call serializes its payload into a [draft](Draft); a builder keeps the
//! draft with its options; writing makes a [prepared](Prepared) message of both; the engine's answer
//! becomes the [result](Published).
//!
//! The caller's own transaction is a step that an engine's extension adds to the builders; they hand
//! out the message and the engine ([`prepare_for`](Publish::prepare_for)).
//!
//! # Source files
//!
//! | to see | open |
//! |---|---|
//! | the calls and builders for one event, several, or a copy for all | `builder.rs`, `all.rs`, `broadcast.rs` |
//! | the options that all builders have | `options.rs` |
//! | envelope, headers, body, and what is refused | `writing.rs` |
//! | storing, and the events that handlers return | `publisher.rs` |
//! | the context of a trace, where the application has a tracer | `traced.rs` |
//! | publishing in a handler's transaction | `transaction.rs` |
//! | which queue a type goes to, and which engine keeps it | `routing.rs`, `engines.rs` |
//! | what publishers, handlers and consumers share | `services.rs`, `states.rs` |

pub(crate) mod all;
pub(crate) mod broadcast;
pub(crate) mod builder;
pub(crate) mod draft;
pub(crate) mod engines;
pub(crate) mod options;
pub(crate) mod prepared;
pub(crate) mod published;
pub(crate) mod publisher;
pub(crate) mod routing;
pub(crate) mod services;
pub(crate) mod states;
mod traced;
pub(crate) mod transaction;
pub(crate) mod writing;

pub use all::{PublishAll, PublishAllError};
pub use broadcast::Broadcast;
pub use builder::{IntoPublish, Publish};
pub use draft::Draft;
pub use prepared::{Prepared, PreparedBroadcast};
pub use published::{Broadcasted, Published};
pub use publisher::Publisher;
