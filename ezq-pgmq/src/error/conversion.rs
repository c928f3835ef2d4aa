//! The error of ezq that a driver's error becomes: its kind, and a text that says what to do.
//!
//! Invariant: no message and no source shows a password. Places are named by role, host, port and
//! database.

use std::time::Duration;

use ezq_core::message::QueueName;
use ezq_core::{Error, ErrorKind};

use super::codes::{code, is_data, is_login, is_untranslatable};
use super::missing;
use super::timeouts::{is_given_up, is_locked, locked_by};
use crate::config::Place;
use crate::sql;

/// The error of a statement on a queue.
pub(crate) fn on_queue(error: sqlx::Error, queue: &QueueName, place: &Place) -> Error {
    if missing::is(&error, &format!("pgmq.q_{queue}")) {
        return queue_missing(queue).with_source(error);
    }
    of(error, place)
}

/// The error of any statement, or of connecting.
pub(crate) fn of(error: sqlx::Error, place: &Place) -> Error {
    if let sqlx::Error::Configuration(inner) = &error
        && let Some(ours) = inner.downcast_ref::<Error>()
    {
        return ours.without_source();
    }

    let kind = kind(&error);
    let text = match kind {
        ErrorKind::Permission if is_login(&error) => format!(
            "the server at {} refused the login of `{}`: check user and password, and pg_hba.conf",
            place.server(),
            place.role
        ),
        ErrorKind::Permission => format!(
            "the role `{role}` lacks a right in the database `{}`: {} (the statements that \
             `ezq::pgmq::setup_sql(&queues, Some(\"{role}\"))` prints, run by an administrator, grant \
             all that ezq needs), or connect as another",
            place.database,
            grant(&error, place),
            role = place.role.escape_debug()
        ),
        ErrorKind::DatabaseMissing => format!(
            "the database `{}` does not exist on {}: create it (`createdb {}`) or correct the URL",
            place.database,
            place.server(),
            place.database
        ),
        ErrorKind::QueueMissing => {
            let table = missing::of_pgmq(&error).unwrap_or("pgmq");
            format!("the table `{table}` of a queue does not exist")
        }
        ErrorKind::Transient if missing::of_ezq(&error).is_some() => {
            let name = missing::of_ezq(&error).unwrap_or("ezq");
            format!(
                "`{name}` does not exist: the next attempt creates it again, or says what to run"
            )
        }
        ErrorKind::Transient if is_locked(&error) => {
            let told = locked_by(&error);
            let told = told
                .as_deref()
                .unwrap_or("waits for another session's lock");
            format!(
                "a statement at {} {told}: see pg_stat_activity and pg_locks",
                place.server()
            )
        }
        ErrorKind::Transient => format!(
            "the database at {} gave up the statement, and a later attempt may succeed",
            place.server()
        ),
        ErrorKind::Connection if is_given_up(&error) => {
            format!("the server at {} takes too long to answer", place.server())
        }
        ErrorKind::Engine if missing::is_table(&error) => format!(
            "a trigger or a view at {} uses a table that does not exist",
            place.server()
        ),
        ErrorKind::Connection => format!(
            "no connection to {place}: check that the server runs and that host and port are right"
        ),
        _ if is_untranslatable(&error) => format!(
            "the encoding of the database `{}` has no form for a character of the text: use a \
             database with the encoding UTF8",
            place.database
        ),
        _ => format!("a statement failed at {}", place.server()),
    };

    Error::new(kind, text).with_source(error)
}

/// What to do where the role lacks a right: the statement, if the server names something of PGMQ.
fn grant(error: &sqlx::Error, place: &Place) -> String {
    let Some(name) = missing::denied_of_pgmq(error) else {
        return "grant it".to_owned();
    };
    let right = match name.ends_with("_msg_id_seq") {
        true => "usage on sequence",
        false => "select, insert, update, delete on",
    };
    let role = sql::identifier(&place.role);
    format!("run `grant {right} {} to {role}`", sql::in_pgmq(name))
}

/// The error when the server does not answer in time.
pub(crate) fn timed_out(place: &Place, after: Duration) -> Error {
    let text = format!(
        "no answer from {} within {after:?}: check that the server runs, that host and port are \
         right, and that no firewall blocks the connection",
        place.server()
    );
    Error::new(ErrorKind::Connection, text)
}

/// The error when the server answers but accepts no writes.
pub(crate) fn read_only(place: &Place) -> Error {
    let text = format!(
        "the server at {} takes no writes for the role `{}`: it is a standby, or \
         `default_transaction_read_only` is on; connect to the primary",
        place.server(),
        place.role
    );
    Error::new(ErrorKind::Transient, text)
}

pub(crate) fn queue_missing(queue: &QueueName) -> Error {
    let text = format!(
        "the queue `{queue}` does not exist: create it with `select pgmq.create('{queue}'); \
         select pgmq.create('{}')`",
        queue.dead_letters()
    );
    Error::new(ErrorKind::QueueMissing, text)
}

pub(crate) fn kind(error: &sqlx::Error) -> ErrorKind {
    // The next call that needs a missing table of ezq creates it again.
    if is_locked(error) || missing::of_ezq(error).is_some() {
        return ErrorKind::Transient;
    }

    if missing::of_pgmq(error).is_some() {
        return ErrorKind::QueueMissing;
    }

    let Some(code) = code(error) else {
        return match error {
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => ErrorKind::Connection,
            sqlx::Error::Configuration(_) => ErrorKind::Configuration,
            _ => ErrorKind::Engine,
        };
    };

    match code.as_str() {
        "28000" | "28P01" | "42501" => ErrorKind::Permission,
        "3D000" => ErrorKind::DatabaseMissing,
        // Statement timeouts, a server that became a standby, a plan that no longer fits.
        "40001" | "40P01" | "57014" | "25006" | "0A000" => ErrorKind::Transient,
        code if code.starts_with("57P") || code.starts_with("53") => ErrorKind::Transient,
        code if code.starts_with("08") => ErrorKind::Connection,
        _ => ErrorKind::Engine,
    }
}

/// The server ended a statement for the time it took, or the client gave it up.
pub(crate) fn took_too_long(error: &Error) -> bool {
    let source = std::error::Error::source(error);
    let source = source.and_then(|source| source.downcast_ref::<sqlx::Error>());
    source.is_some_and(|failure| is_given_up(failure) || code(failure).as_deref() == Some("57014"))
}

/// The server could not send a value: it is not text, too long for one, or a number that would be
/// too large.
pub(crate) fn is_unsendable(error: &Error) -> bool {
    let source = std::error::Error::source(error);
    let source = source.and_then(|source| source.downcast_ref::<sqlx::Error>());
    source.is_some_and(|failure| is_data(failure) || code(failure).as_deref() == Some("53200"))
}
