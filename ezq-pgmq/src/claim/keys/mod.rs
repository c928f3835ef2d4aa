//! Claiming from a queue with ordering keys.

pub(crate) mod contested;
mod statement;
pub(crate) mod unindexed;
pub(crate) mod walk;
