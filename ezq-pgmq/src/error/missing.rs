//! Which table or function is missing, or not to be used, if an error reports one.
//!
//! A user's trigger or view may ask for a missing table as well, so the error's code is not enough
//! to tell that a queue was dropped. The error's fields do not name the table. Its message does, in
//! any language, without quotes inside the name.

use sqlx::error::DatabaseError;

use crate::error::codes::{code, is_permission};

const TABLE: &str = "42P01";
const FUNCTION: &str = "42883";
const SCHEMA: &str = "3F000";
const COLUMN: &str = "42703";
const NOT_NULL: &str = "23502";

/// A table does not exist, whoever asked for it.
pub(crate) fn is_table(failure: &sqlx::Error) -> bool {
    code(failure).as_deref() == Some(TABLE)
}

/// This table does not exist. It is named with its schema and without quotes.
pub(crate) fn is(failure: &sqlx::Error, table: &str) -> bool {
    is_table(failure) && names(message(failure)).any(|name| name == table)
}

/// The table of PGMQ that does not exist, with its schema.
pub(crate) fn of_pgmq(failure: &sqlx::Error) -> Option<&str> {
    names(message(failure)).find(|name| name.starts_with("pgmq.") && is_table(failure))
}

/// The table or function of ezq that does not exist, with its schema; or the schema itself.
pub(crate) fn of_ezq(failure: &sqlx::Error) -> Option<&str> {
    let mut names = names(message(failure));
    match code(failure)?.as_str() {
        TABLE | FUNCTION => names.find(|name| name.starts_with("ezq.")),
        SCHEMA => names.find(|name| *name == "ezq"),
        _ => None,
    }
}

/// An entry of the audit trail could not be written, since the trail is absent or was made by an older ezq.
pub(crate) fn is_trail_behind(failure: &sqlx::Error) -> bool {
    match code(failure).as_deref() {
        Some(COLUMN | NOT_NULL) => names(message(failure)).any(|name| name == "audit"),
        _ => of_ezq(failure).is_some(),
    }
}

/// The same for an error that was made from such a failure.
pub(crate) fn told_of_ezq(error: &ezq_core::Error) -> bool {
    let source = std::error::Error::source(error);
    let failure = source.and_then(|source| source.downcast_ref::<sqlx::Error>());
    failure.and_then(of_ezq).is_some()
}

/// The role lacks a right on this table. The server names it without its schema.
pub(crate) fn is_denied(failure: &sqlx::Error, table: &str) -> bool {
    is_permission(failure) && names(message(failure)).any(|name| name == table)
}

/// The table of a queue, an archive, or the sequence of their ids, on which the role lacks a right.
pub(crate) fn denied_of_pgmq(failure: &sqlx::Error) -> Option<&str> {
    let mut names = names(message(failure));
    names.find(|name| is_permission(failure) && (name.starts_with("q_") || name.starts_with("a_")))
}

/// The words of a message, split at characters that no name can contain.
fn names(message: &str) -> impl Iterator<Item = &str> {
    message.split(|c: char| !(c.is_alphanumeric() || "_-.:/@".contains(c)))
}

fn message(failure: &sqlx::Error) -> &str {
    failure
        .as_database_error()
        .map(DatabaseError::message)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_named_in_whatever_quotes_and_not_by_a_longer_name() {
        let is_named = |message: &str, table: &str| names(message).any(|name| name == table);
        for message in [
            "relation \"pgmq.q_orders\" does not exist",
            "Relation »pgmq.q_orders« existiert nicht",
        ] {
            assert!(is_named(message, "pgmq.q_orders"));
            assert!(!is_named(message, "pgmq.q_order"));
        }
        for longer in ["pgmq.q_orders_dlq", "pgmq.q_orders-2", "pgmq.q_orders.paid"] {
            let message = format!("relation \"{longer}\" does not exist");
            assert!(is_named(&message, longer) && !is_named(&message, "pgmq.q_orders"));
        }
        assert!(is_named(
            "function ezq.recipients(text) does not exist",
            "ezq.recipients"
        ));
    }
}
