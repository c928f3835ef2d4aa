//! What a message is apart from the event in it: its queue, its id, its headers, the progress of its
//! handlers, and its retention.
//!
//! These are plain data, shared by engines and the rest of ezq. Nothing here stores, sends or settles
//! a message: that is the contract in [`engine`](crate::engine).
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
