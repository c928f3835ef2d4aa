//! What the SQLSTATE of a database error means: one function for each question.

use sqlx::error::DatabaseError;
use sqlx::postgres::{PgDatabaseError, PgSeverity};

/// One message's content is to blame. Trying again with the same content cannot help, and other
/// messages are not affected.
pub(crate) fn is_data(error: &sqlx::Error) -> bool {
    // 22: data exception; 54: a limit of the server, such as nesting or the size of a value.
    code(error).is_some_and(|code| code.starts_with("22") || code.starts_with("54"))
}

/// A row cannot be written as it is: its content, a constraint, or a trigger refuses it.
pub(crate) fn is_of_row(error: &sqlx::Error) -> bool {
    is_data(error) || code(error).is_some_and(|code| code.starts_with("23") || code == "P0001")
}

/// The database's encoding lacks a character.
pub(crate) fn is_untranslatable(error: &sqlx::Error) -> bool {
    code(error).as_deref() == Some("22P05")
}

/// A table's name is invalid: its syntax, or a database or schema that does not exist.
pub(crate) fn is_name(error: &sqlx::Error) -> bool {
    matches!(
        code(error).as_deref(),
        Some("42601" | "42602" | "0A000" | "22023" | "3F000")
    )
}

/// A deadlock or a serialisation failure: repeating the statement helps at once.
pub(crate) fn is_conflict(error: &sqlx::Error) -> bool {
    matches!(code(error).as_deref(), Some("40P01" | "40001"))
}

/// A row has changed since the transaction's snapshot.
pub(crate) fn is_isolated(error: &sqlx::Error) -> bool {
    code(error).as_deref() == Some("40001")
}

/// A statement was cancelled, by its time limit or on request.
pub(crate) fn is_cancelled(error: &sqlx::Error) -> bool {
    code(error).as_deref() == Some("57014")
}

/// This text was to be a number, and is none.
pub(crate) fn is_no_number(error: &sqlx::Error, text: &str) -> bool {
    code(error).as_deref() == Some("22P02") && error.to_string().contains(text)
}

/// The role lacks a right.
pub(crate) fn is_permission(error: &sqlx::Error) -> bool {
    code(error).as_deref() == Some("42501")
}

/// The server does not do this at all, or not with this table.
pub(crate) fn is_unsupported(error: &sqlx::Error) -> bool {
    code(error).as_deref() == Some("0A000")
}

/// An earlier statement of the same transaction failed.
pub(crate) fn is_aborted(error: &sqlx::Error) -> bool {
    code(error).as_deref() == Some("25P02")
}

/// A statement writes in a read-only transaction.
pub(crate) fn is_read_only(error: &sqlx::Error) -> bool {
    code(error).as_deref() == Some("25006")
}

/// The server refused the statements: it works, and nothing of them was done. A conflict with other
/// transactions is not a refusal, nor is a lack of resources.
pub(crate) fn is_refusal(error: &sqlx::Error) -> bool {
    // 08: the connection; 53: resources; 57P: the server stops; 58 and XX: the server is broken.
    let others = ["08", "53", "57P", "58", "XX"];
    !is_conflict(error)
        && code(error).is_some_and(|code| !others.iter().any(|class| code.starts_with(class)))
}

/// A column is gone since the table was looked up, or a cached plan no longer fits.
pub(crate) fn is_reshaped(error: &sqlx::Error) -> bool {
    matches!(code(error).as_deref(), Some("42703" | "0A000"))
}

/// Whether the connection can still be used after this error.
pub(crate) fn keeps_connection(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(database) => {
            let code = database.code().unwrap_or_default();
            // 25006: a session that began read-only stays so when the server accepts writes again.
            let is_stale = matches!(&*code, "0A000" | "25006");
            !(code.starts_with("57P") || code.starts_with("08") || is_fatal(error) || is_stale)
        }
        sqlx::Error::RowNotFound
        | sqlx::Error::ColumnNotFound(_)
        | sqlx::Error::ColumnDecode { .. }
        | sqlx::Error::Decode(_) => true,
        _ => false,
    }
}

/// The server refused the login.
pub(crate) fn is_login(error: &sqlx::Error) -> bool {
    matches!(code(error).as_deref(), Some("28000" | "28P01"))
}

pub(crate) fn code(error: &sqlx::Error) -> Option<String> {
    error
        .as_database_error()
        .and_then(DatabaseError::code)
        .map(Into::into)
}

/// The server ended the session, for example because it was idle in a transaction for too long.
pub(super) fn is_fatal(error: &sqlx::Error) -> bool {
    let error = error.as_database_error();
    let error = error.and_then(|error| error.try_downcast_ref::<PgDatabaseError>());
    error.is_some_and(|error| matches!(error.severity(), PgSeverity::Fatal | PgSeverity::Panic))
}
