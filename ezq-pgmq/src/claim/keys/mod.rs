//! Claiming from a queue with ordering keys.

mod statement;
pub(crate) mod unindexed;
pub(crate) mod walk;
