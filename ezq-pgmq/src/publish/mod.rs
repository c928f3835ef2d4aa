//! Publishing: inserts, dedupe keys, commits that callers share, and broadcasts.

pub(crate) mod broadcast;
pub(crate) mod dedupe;
pub(crate) mod group_commit;
mod insert;

pub(crate) use insert::{
    ByQueue, CONFLICT_TRIES, DUE, Row, checked, due, insert, insert_in, storable, store,
    with_columns,
};
