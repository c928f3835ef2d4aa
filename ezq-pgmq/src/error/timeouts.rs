//! Statements that took too long: those that were given up, and those that waited for a lock in vain.

use std::fmt;
use std::time::Duration;

use sqlx::error::DatabaseError;

use super::codes::{code, is_fatal};

const LOCK_TIMEOUT: &str = "55P03";

/// The error of statements that are given up.
pub(crate) fn given_up(after: Duration) -> sqlx::Error {
    given_up_for(after, Vec::new())
}

/// The same, for statements that waited for locks of these backends.
pub(crate) fn given_up_for(after: Duration, holders: Vec<i32>) -> sqlx::Error {
    let inner = GivenUpError { after, holders };
    sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, inner))
}

/// Statements were given up, and may still run.
pub(crate) fn is_given_up(error: &sqlx::Error) -> bool {
    as_given_up(error).is_some()
}

fn as_given_up(error: &sqlx::Error) -> Option<&GivenUpError> {
    let sqlx::Error::Io(error) = error else {
        return None;
    };
    error.get_ref()?.downcast_ref()
}

#[derive(Debug)]
struct GivenUpError {
    after: Duration,
    holders: Vec<i32>,
}

impl fmt::Display for GivenUpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no answer within {:?}", self.after)
    }
}

impl std::error::Error for GivenUpError {}

/// A statement waited for a lock for as long as it may.
pub(crate) fn is_locked(error: &sqlx::Error) -> bool {
    code(error).as_deref() == Some(LOCK_TIMEOUT) || locked_by(error).is_some()
}

/// Who held the lock that a statement waited for in vain, in words.
pub(super) fn locked_by(error: &sqlx::Error) -> Option<String> {
    if let Some(GivenUpError { holders, .. }) = as_given_up(error) {
        return (!holders.is_empty()).then(|| held(holders));
    }
    let locked: &LockError = error.as_database_error()?.try_downcast_ref()?;
    Some(locked.detail.clone())
}

fn held(holders: &[i32]) -> String {
    let pids: Vec<String> = holders.iter().map(i32::to_string).collect();
    let noun = if pids.len() == 1 { "pid" } else { "the pids" };
    format!("waits for a lock held by {noun} {}", pids.join(", "))
}

/// The same error. If it is about a lock, it also holds who has the lock, for [`of`](super::of) to report.
pub(crate) fn held_by(error: sqlx::Error, holders: &[i32]) -> sqlx::Error {
    match error {
        sqlx::Error::Database(inner)
            if inner.code().as_deref() == Some(LOCK_TIMEOUT) && !holders.is_empty() =>
        {
            sqlx::Error::Database(Box::new(LockError {
                detail: held(holders),
                inner,
            }))
        }
        other => other,
    }
}

/// The server's error about a lock, and who holds it.
#[derive(Debug)]
struct LockError {
    detail: String,
    inner: Box<dyn DatabaseError>,
}

impl fmt::Display for LockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.inner, f)
    }
}

impl std::error::Error for LockError {}

impl DatabaseError for LockError {
    fn message(&self) -> &str {
        self.inner.message()
    }

    fn code(&self) -> Option<std::borrow::Cow<'_, str>> {
        self.inner.code()
    }

    fn as_error(&self) -> &(dyn std::error::Error + Send + Sync + 'static) {
        self
    }

    fn as_error_mut(&mut self) -> &mut (dyn std::error::Error + Send + Sync + 'static) {
        self
    }

    fn into_error(self: Box<Self>) -> Box<dyn std::error::Error + Send + Sync + 'static> {
        self
    }

    fn kind(&self) -> sqlx::error::ErrorKind {
        self.inner.kind()
    }
}

/// The connection is gone, and so is what ran on it.
pub(crate) fn is_lost(error: &sqlx::Error) -> bool {
    !is_given_up(error)
        && match code(error) {
            Some(code) => code.starts_with("57P") || code.starts_with("08") || is_fatal(error),
            None => matches!(error, sqlx::Error::Io(_)),
        }
}

#[cfg(feature = "embedded")]
#[cfg(test)]
mod tests {
    use sqlx::{Connection as _, PgConnection};

    use super::*;
    use crate::embedded::EmbeddedPostgres;
    use crate::error::keeps_connection;

    #[tokio::test]
    async fn a_session_that_the_server_ended_is_lost_whatever_the_reason() {
        let server = EmbeddedPostgres::shared().await.unwrap();
        // The error of an idle transaction that timed out looks like this one.
        let ended = PgConnection::connect(&server.database_url("nowhere"))
            .await
            .unwrap_err();
        assert_eq!(code(&ended).as_deref(), Some("3D000"));
        assert!(is_lost(&ended) && !keeps_connection(&ended));

        let mut stands = PgConnection::connect(&server.url()).await.unwrap();
        let failed = sqlx::raw_sql("SELECT 1 / 0")
            .execute(&mut stands)
            .await
            .unwrap_err();
        assert!(!is_lost(&failed) && keeps_connection(&failed));
    }
}
