//! What ezq needs in the database: PGMQ, its queues, and ezq's own tables.
//!
//! Everything here looks first. It changes something only where it is absent and may be created,
//! under [one lock](lock).

pub(crate) mod archive_index;
pub(crate) mod install;
pub(crate) mod key_index;
pub(crate) mod lock;
mod migrations;
mod ownership;
mod part;
mod parts;
pub(crate) mod queues;
pub(crate) mod setup;
mod stale_keys;

pub(crate) use part::Part;
pub(crate) use parts::{Schema, create_schema, migrate, out_of_reach, script, sql};
