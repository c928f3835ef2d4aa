//! Refusing a pooler that gives each transaction another session of the server's.
//!
//! Through one, a prepared statement may be another client's, settings stay with whoever comes next,
//! and a notification reaches a client that does not expect it: settlements fail and leases are lost,
//! seldom enough to pass a trial. So it is found out before anything relies on a session.

use std::time::Duration;

use ezq_core::{Error, ErrorKind, Result};
use sqlx::postgres::PgConnection;
use sqlx::{ConnectOptions as _, Connection as _};
use tokio::time::timeout;

use crate::connection::connector::Connector;
use crate::connection::dedicated::limit;
use crate::error;

/// For how long a second connection is waited for. Where there is none to be had, nothing is found.
const PATIENCE: Duration = Duration::from_secs(1);

/// What tells a session from every other: behind several servers a process id may come twice.
/// When it began is not told to a login whose role is another one.
const SESSION: &str = "SELECT pg_catalog.concat(s.pid, ' ', s.backend_start)
                       FROM pg_catalog.pg_stat_get_activity(pg_catalog.pg_backend_pid()) s";

/// Holds a session by a second connection. If it is the one that the first had just now, or the first
/// has another meanwhile, then sessions are handed around.
///
/// # Errors
/// [`ErrorKind::Unsupported`] if they are; when the first connection fails.
pub(crate) async fn refuse(first: &mut PgConnection, connector: &Connector) -> Result<()> {
    let failed = |failure| error::of(failure, connector.place());
    let had = limit(connector.connect_timeout(), session(first))
        .await
        .map_err(failed)?;
    let Ok(Ok(mut second)) = timeout(PATIENCE, connector.options().connect()).await else {
        tracing::debug!("no second connection: a pooler that shares sessions would not be noticed");
        return Ok(());
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
    if !is_held && has.map_err(failed)? == had {
        return Ok(());
    }
    let text = format!(
        "at {} is a pooler that shares sessions between transactions (transaction pooling): let \
         EZQ_DATABASE_URL lead to the server itself or to session pooling; DATABASE_URL may stay as it is",
        connector.place().server()
    );
    Err(Error::new(ErrorKind::Unsupported, text))
}

/// By the simple protocol, which prepares nothing.
async fn session(connection: &mut PgConnection) -> Result<String, sqlx::Error> {
    use sqlx::Row as _;
    sqlx::raw_sql(SESSION)
        .fetch_one(connection)
        .await?
        .try_get(0)
}
