//! Claiming from a queue with ordering keys: `walk` where the keys have indexes, by the one
//! `statement`; `unindexed` where they have none; `contested` afterwards.

pub(crate) mod contested;
mod statement;
pub(crate) mod unindexed;
pub(crate) mod walk;
