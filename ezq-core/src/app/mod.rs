//! An application: an engine, handlers, state and configuration, checked once when it is built.
//!
//! Begin at [`App::builder`]. [`App`] publishes, makes consumers, and looks into queues.
//! [`App::dispatch_inline`] runs an event's handlers without a queue, and answers with an
//! [`InlineReport`].
//!
//! # Source files
//!
//! This folder is the top of the crate: it puts the other folders together and holds what a program
//! calls on [`App`]. It decides nothing about publishing, dispatch or consuming; each method hands
//! over to the folder that does.
//!
//! | to see | open |
//! |---|---|
//! | what an application offers | `application.rs` |
//! | what a program can put into one | `builder.rs`, `module.rs` |
//! | in which order that is checked | `build.rs` |
//! | which events would reach no handler | `reach.rs` |
//! | handlers run without a queue | `inline.rs` |
//! | queues looked into and changed by hand | `operating.rs` |
//! | health, and notices of what becomes of events | `health.rs`, `notices.rs` |

mod application;
mod build;
mod builder;
mod health;
mod inline;
mod module;
mod notices;
mod operating;
pub(crate) mod reach;

pub use crate::dispatch::inline::{InlineOutcome, InlineReport};
pub use application::App;
pub use builder::AppBuilder;
pub use module::Module;
