//! Ordering keys: the indexes that serve them, the claim that keeps their order, who holds a key.
//!
//! The key of a message is the text under `x-pgmq-group` in its headers. Statements compare its
//! hash, which has one size whatever the key has; two keys of one hash would only wait for each
//! other. The invariant: of one key only the first message by id is claimed, or a run of those that
//! follow it, and none while another worker has any.

use crate::sql;

/// The hash of a row's key; NULL where there is none.
pub(crate) fn hash(row: &str) -> String {
    format!("pg_catalog.hashtextextended({row}.headers ->> 'x-pgmq-group'::text, 0)")
}

/// A row has a key.
pub(crate) fn is_keyed(row: &str) -> String {
    format!("{row}.headers ->> 'x-pgmq-group'::text IS NOT NULL")
}

/// A row has no key.
pub(crate) fn is_plain(row: &str) -> String {
    format!("{row}.headers ->> 'x-pgmq-group'::text IS NULL")
}

/// When a row is due, as the index of what is leased has it: written like this, no plan looks for a
/// key's leased messages in the index over all times, among everybody's.
pub(crate) fn held_until(row: &str) -> String {
    format!("greatest({row}vt, '-infinity')")
}

/// Some message `l` of a key is leased, beside those that a condition leaves out. Where there is an
/// index for it, `OFFSET 0` keeps the planner from reading all of that at once.
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

/// For a claim that knows nothing of keys: a row `c` without a key, or the first of a key of which
/// no other is leased.
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
