//! What a message is, apart from its event: queue, headers, progress and retention.

pub mod headers;
pub(crate) mod message_id;
pub(crate) mod queue_name;
pub(crate) mod retention;
pub(crate) mod settlement;
