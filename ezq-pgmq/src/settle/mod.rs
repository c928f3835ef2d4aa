//! Settling: every statement is fenced by the receipts, locks rows in the order of their ids, and
//! answers for each message.
//!
//! One statement settles a whole batch of acknowledgements, or of returns, that publish no events.
//! Dead letters, and settlements with events, share one transaction. It locks what still matches
//! its receipt, and writes nothing for a message that does not.
//!
//! If the database refuses what one message carries or publishes, the batch is repeated message by
//! message. If another session has rows locked, the others are settled without them (see `locked`).
//! If the table of another queue is locked, only what publishes there waits.

mod batch;
mod locked;
mod settlement;
mod statements;

pub(crate) use batch::{Resources, SettleBatch};
pub(crate) use locked::LockedRows;
