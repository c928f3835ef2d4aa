//! What ezq needs in the database: PGMQ, its queues, and ezq's own tables.
//!
//! Everything here looks first. It changes something only where it is absent and may be created,
//! under [one lock](lock).
//!
//! # Migrations
//!
//! The schema `ezq` stands beside `pgmq`. Each table is one numbered entry of a list, and
//! `ezq.migrations` says which entries are applied. The first call that needs a table makes it,
//! over a connection of its own and under ezq's advisory lock. Where everything is applied, no
//! statement changes anything. Versions that this ezq does not know are left alone. A change waits
//! half a second for a table's lock, lets those pass that wait behind it, and is tried again for 20
//! s.
//!
//! `setup_sql` prints the same statements. Each is run only if its version is not recorded, or
//! something of it was dropped, so an older ezq replaces nothing newer.
//!
//! # What was dropped
//!
//! A part is whole if its versions are recorded and its tables and functions exist; the catalogue
//! tells both. A call that misses one forgets that the part was whole. When it is tried again, it
//! makes what is missing: that step, and all later ones of the part. Steps of a newer ezq are taken
//! off the record, so that the newer one runs them again. Where nothing may be made, the error
//! names what is missing and says what to run.
//!
//! An error about a missing table means a queue, an archive or a table of ezq's own only if its
//! message names that table: triggers and views use other tables.

pub(crate) mod archive_index;
pub(crate) mod dropping;
pub(crate) mod install;
pub(crate) mod key_index;
pub(crate) mod lock;
mod migrations;
mod obstacles;
mod ownership;
mod part;
pub(crate) mod partitions;
mod parts;
pub(crate) mod queues;
pub(crate) mod report;
pub(crate) mod setup;
mod stale_keys;

pub(crate) use ownership::foreign_owner;
pub(crate) use part::Part;
pub(crate) use parts::{Schema, create_schema, migrate, out_of_reach, script, sql};
