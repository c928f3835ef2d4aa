//! Claiming from a queue with ordering keys: `walk` where the keys have indexes, by the one
//! `statement`; `unindexed` where they have none; `contested` afterwards.
//!
//! # Ordering keys
//!
//! The key of a message is the text under `x-pgmq-group` in its headers. A message with a key can
//! be claimed when no earlier message of its key, by id, is in the queue, and none of its key is
//! leased. So a retry or a delay blocks its own key, and whatever removes a message unblocks the
//! next one. A redriven dead letter stands behind what was stored since.
//!
//! # The indexes
//!
//! A queue gets three partial indexes once a message with a key is published to it or found in it:
//!
//! 1. (hash of the key, id),
//! 2. (hash, `vt`) of what was ever delivered,
//! 3. `vt` of what has no key.
//!
//! The second has `vt` inside an expression and is asked for one key at a time. Otherwise a plan
//! made while little was leased would look for each key among everybody's leases. The hash bounds
//! the size of an entry: a key may have any length, and two keys of one hash only wait for each
//! other.
//!
//! The indexes of a queue up to 8 MB are built at once, by statements that lock it for a moment.
//! Those of a larger queue are built concurrently, over a connection of their own, by one process
//! of the database at a time. Nobody waits for them. What an interrupted build left behind is
//! dropped and built again.
//!
//! Without the indexes (`manage_schema(false)`, no right to create them, or while they are built)
//! the order is kept as well, slowly, and a claim takes one message of a key at a time. The log
//! says what to run.
//!
//! # Two claims that cannot see each other
//!
//! An earlier message of a key may be committed while a later one is being claimed. Then two claims
//! hold different rows of one key, and no lock tells. So whoever claimed messages with a key looks,
//! after its commit, whether anyone else holds one of that key, and gives them back if so. Of two
//! claims at least one sees the other.

pub(crate) mod contested;
mod statement;
pub(crate) mod unindexed;
pub(crate) mod walk;
