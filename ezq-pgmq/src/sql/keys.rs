//! Expressions for ordering keys.
//!
//! The key of a message is the text under `x-pgmq-group` in its headers. Statements compare hashes
//! of keys, which have one size. Two keys with the same hash only wait for each other.
//!
//! Invariant of all claims: of one key only the first message by id is claimed, or a run of those
//! that follow it, and none while another worker has any.

use crate::sql;

/// The hash of a row's key; NULL without one.
pub(crate) fn hash(row: &str) -> String {
    format!("pg_catalog.hashtextextended({row}.headers ->> 'x-pgmq-group'::text, 0)")
}

/// The row has a key.
pub(crate) fn is_keyed(row: &str) -> String {
    format!("{row}.headers ->> 'x-pgmq-group'::text IS NOT NULL")
}

/// The row has no key.
pub(crate) fn is_plain(row: &str) -> String {
    format!("{row}.headers ->> 'x-pgmq-group'::text IS NULL")
}

/// The due time of a row, as the index over leased messages has it. Written like this, no plan uses
/// the index on `vt`, which would read the leased messages of all keys.
pub(crate) fn held_until(row: &str) -> String {
    format!("greatest({row}vt, '-infinity')")
}

/// The condition that some message `l` of a key is leased, apart from those that `beside` excludes.
/// With an index, `OFFSET 0` keeps the planner from reading all leased messages at once.
pub(crate) fn leased(table: &str, key: &str, is_indexed: bool, beside: &str) -> String {
    let (time, singly) = if is_indexed {
        (held_until("l."), " OFFSET 0")
    } else {
        ("l.vt".to_owned(), "")
    };

    format!(
        "EXISTS (SELECT FROM {table} l WHERE {} AND {} = {key} AND l.read_ct > 0 \
         AND {time} > pg_catalog.statement_timestamp() AND {} < l.read_ct{beside}{singly})",
        is_keyed("l"),
        hash("l"),
        sql::returned("l.headers")
    )
}

/// For claims without indexes over keys: the row `c` has no key, or is its key's first and no other
/// message of the key is leased.
pub(crate) fn is_free(table: &str) -> String {
    format!(
        "({} OR (NOT EXISTS (SELECT FROM {table} e WHERE {} AND {} = {} AND e.msg_id < c.msg_id) \
         AND NOT {}))",
        is_plain("c"),
        is_keyed("e"),
        hash("e"),
        hash("c"),
        leased(table, &hash("c"), false, "")
    )
}
