//! Events, handlers, dispatcher, publisher, consumer and the engine contract of ezq.
//!
//! Applications depend on the crate `ezq`, which re-exports what they need from here; depend on
//! this crate to write an engine of your own.

pub mod engine;
mod error;
pub mod headers;
mod queue_name;
mod settlement;

pub use engine::memory::MemoryEngine;
pub use engine::{
    Capabilities, Delivery, Due, Engine, ExtendOutcome, MessageId, Outgoing, PublishOutcome,
    QueueStats, Receipt, SettleOutcome,
};
pub use error::{Error, ErrorKind, Result, error_chain};
pub use queue_name::{DEAD_LETTER_SUFFIX, QueueName};
pub use settlement::{
    ERROR_TEXT_LIMIT, ERRORS_KEPT, ErrorRecord, HandlerMark, HandlerName, HandlerState, Progress,
    Reason, ReasonKind, Settle,
};
