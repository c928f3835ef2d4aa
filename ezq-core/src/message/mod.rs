//! What a message is apart from the event in it: its queue, its id, its headers, the progress of its
//! handlers, and its retention.
//!
//! Begin at [`QueueName`] to name a queue, and at [`Retention`] to choose what becomes of handled events.
//! Engines, and code that reads stored messages, use the rest: [`headers`] has every header that ezq
//! writes, and [`Progress`] what a message remembers of its handlers.
//!
//! These are plain data. Nothing here stores, sends or settles a message: that is the contract in
//! [`engine`](crate::engine).
//!
//! # Source files
//!
//! | to see | open |
//! |---|---|
//! | which names a queue may have, and where its dead letters go | `queue_name.rs` |
//! | which ids a store gives | `message_id.rs` |
//! | every header that ezq writes | `headers.rs` |
//! | what a message remembers of its handlers, and why it died | `settlement.rs` |
//! | what becomes of handled events | `retention.rs` |

pub mod headers;
pub(crate) mod message_id;
pub(crate) mod queue_name;
pub(crate) mod retention;
pub(crate) mod settlement;

pub use crate::text::ERROR_TEXT_LIMIT;
pub use message_id::MessageId;
pub use queue_name::{DEAD_LETTER_SUFFIX, IntoQueueName, QueueName};
pub use retention::Retention;
pub use settlement::{
    ERRORS_KEPT, ErrorRecord, HandlerMark, HandlerName, HandlerState, Progress, Reason, ReasonKind,
};
