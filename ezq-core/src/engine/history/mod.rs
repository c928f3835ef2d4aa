//! The history of one event: every stored copy of it, with its state and what its handlers did.
//!
//! A history is read from the stored messages as they are now, so it shows what they keep and no more:
//! the newest errors of each handler, and an acknowledged event only if its queue keeps an archive or a
//! trail. Engines fill in the types of `copies.rs`; `status.rs` sums a history up in one word, and
//! `show.rs` prints it for people.

mod copies;
mod show;
mod status;

pub use copies::{CopyState, EventCopy, History};
pub use status::EventStatus;
