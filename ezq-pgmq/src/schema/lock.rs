//! The advisory lock under which every ezq changes the schema.

/// The key of the lock: `ezq` and a number, as bytes.
pub(crate) const LOCK_KEY: i64 = 0x65_7a_71_01;

pub(crate) const LOCK: &str = "SELECT pg_catalog.pg_advisory_xact_lock($1)";
pub(crate) const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '20s'";
