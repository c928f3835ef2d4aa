//! Refusing a pooler that shares sessions between transactions (transaction pooling).
//!
//! Behind one, a prepared statement may be another client's, settings leak to the next client, and
//! notifications reach clients that do not expect them. Settlements fail and leases are lost, but
//! so rarely that a trial may pass. So this is checked before anything relies on a session.

use std::time::Duration;

use ezq_core::{Error, ErrorKind, Result};
use sqlx::postgres::PgConnection;
use sqlx::{ConnectOptions as _, Connection as _};
use tokio::time::timeout;

use crate::connection::connector::Connector;
use crate::connection::dedicated::limit;
use crate::error;

/// How long to wait for a second connection. Without one, sharing cannot be noticed.
const PATIENCE: Duration = Duration::from_secs(1);

/// What identifies a session. Behind several servers a process id may occur twice, so its start is
/// included, unless the login is set to another role.
const SESSION: &str = "SELECT pg_catalog.concat(s.pid, ' ', s.backend_start)
                       FROM pg_catalog.pg_stat_get_activity(pg_catalog.pg_backend_pid()) s";

/// What is between a connection and its server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// Each connection has a session of its own.
    None,
    /// A pooler shares sessions between transactions.
    Transactions,
    /// There was no second connection to tell by.
    Unknown,
}

/// Refuses a pooler that shares sessions.
///
/// # Errors
/// [`ErrorKind::Unsupported`] if there is one; when the first connection fails.
pub(crate) async fn refuse(first: &mut PgConnection, connector: &Connector) -> Result<()> {
    if sharing(first, connector).await? != Sharing::Transactions {
        return Ok(());
    }

    let text = format!(
        "at {} is a pooler that shares sessions between transactions (transaction pooling): let \
         EZQ_DATABASE_URL lead to the server itself or to session pooling; DATABASE_URL may stay as it is",
        connector.place().server()
    );
    Err(Error::new(ErrorKind::Unsupported, text))
}

/// Holds one session by a second connection. Sessions are shared if that is the session that the
/// first connection just had, or if the first now has another.
///
/// # Errors
/// When the first connection fails.
pub(crate) async fn sharing(first: &mut PgConnection, connector: &Connector) -> Result<Sharing> {
    let failed = |failure| error::of(failure, connector.place());
    let had = limit(connector.connect_timeout(), session(first))
        .await
        .map_err(failed)?;
    let Ok(Ok(mut second)) = timeout(PATIENCE, connector.options().connect()).await else {
        tracing::debug!(
            "cannot open a second connection: a pooler that shares sessions would not be noticed"
        );
        return Ok(Sharing::Unknown);
    };

    let held = timeout(PATIENCE, async {
        sqlx::raw_sql("BEGIN").execute(&mut second).await?;
        session(&mut second).await
    });
    let held = held.await;
    let has = limit(connector.connect_timeout(), session(first)).await;
    let end = async {
        sqlx::raw_sql("ROLLBACK").execute(&mut second).await?;
        second.close().await
    };

    let _ = timeout(PATIENCE, end).await;
    let is_held = matches!(held, Ok(Ok(held)) if held == had);
    match !is_held && has.map_err(failed)? == had {
        true => Ok(Sharing::None),
        false => Ok(Sharing::Transactions),
    }
}

/// The simple protocol prepares nothing.
async fn session(connection: &mut PgConnection) -> Result<String, sqlx::Error> {
    use sqlx::Row as _;
    sqlx::raw_sql(SESSION)
        .fetch_one(connection)
        .await?
        .try_get(0)
}
