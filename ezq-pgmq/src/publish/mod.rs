//! Publishing: rows and inserts, dedupe keys, group commit, broadcasts, and the messages of
//! brokers.

pub(crate) mod broadcast;
mod copy;
pub(crate) mod dedupe;
pub(crate) mod group_commit;
mod insert;
pub(crate) mod intake;
pub(crate) mod key_lock;
pub(crate) mod recipients;
pub(crate) mod row;
pub(crate) mod store;

pub(crate) use insert::{insert, insert_in};
pub(crate) use row::{ByQueue, QueueRows, Row, checked};
pub(crate) use store::CONFLICT_TRIES;
