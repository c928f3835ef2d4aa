//! Making sure that PGMQ is installed and new enough.
//!
//! The catalogue is checked first. Where PGMQ exists nothing is changed, so a role without rights
//! on the schema can start. Where it is absent, it is installed under ezq's lock, on a connection
//! that is closed afterwards. An existing version is never upgraded.
//!
//! PGMQ is the server's extension where it has one, else the SQL that ezq carries in
//! `ezq-pgmq/pgmq`. That is recorded as PGMQ's own installers record it, so that they can upgrade it.

use ezq_core::{Error, ErrorKind, Result};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection, Postgres, Row, Transaction};
use tokio::time::{Instant, timeout_at};

use crate::config::Place;
use crate::connection::connector::Connector;
use crate::error;
use crate::schema::lock::{LOCK, LOCK_KEY};
use crate::schema::ownership;

/// The oldest PGMQ that ezq works with.
pub const OLDEST_PGMQ: &str = "1.5.1";
/// The PGMQ that ezq installs where the server does not have it as an extension.
pub const CARRIED_PGMQ: &str = include_str!("../../pgmq/VERSION").trim_ascii();

const PGMQ_SQL: &str = include_str!("../../pgmq/pgmq.sql");
/// PGMQ's own installers hold this lock; see `init_lock` of its crate.
const PGMQ_LOCK: i64 = i64::MIN + 4149;
/// Where PGMQ's own installers record which scripts were run, and the name of the first one. They
/// read it, and upgrade from there.
const RECORD_TABLE: &str = "
    CREATE TABLE IF NOT EXISTS pgmq.__pgmq_migrations (
      name text PRIMARY KEY NOT NULL,
      version text NOT NULL,
      run_at timestamptz NOT NULL DEFAULT clock_timestamp())";
const RECORD: &str = "
    INSERT INTO pgmq.__pgmq_migrations (name, version) VALUES ('pgmq.sql', $1)
    ON CONFLICT (name) DO UPDATE SET version = excluded.version, run_at = clock_timestamp()";
/// The script has 2,000 lines and takes a fraction of a second: a slow disk is given a minute,
/// whatever the limit of the application's other statements is.
const SCRIPT_TIMEOUT: &str = "SET LOCAL statement_timeout = '1min'";

const AVAILABLE: &str =
    "SELECT EXISTS (SELECT FROM pg_catalog.pg_available_extensions WHERE name = 'pgmq')";
// `to_regclass` and the catalogue need no right beyond USAGE on the schema.
const PROBE: &str = "
    SELECT to_regclass('pgmq.meta') IS NOT NULL AS present,
           (SELECT extversion::text FROM pg_catalog.pg_extension WHERE extname = 'pgmq') AS version,
           to_regprocedure('pgmq.create(text)') IS NOT NULL
             AND EXISTS (SELECT FROM pg_catalog.pg_attribute
                         WHERE attrelid = to_regclass('pgmq.message_record')
                           AND attname = 'headers' AND NOT attisdropped) AS has_headers";

enum PgmqState {
    Absent,
    TooOld(String),
    Good,
}

/// The transaction under whose lock PGMQ is installed, and what it found.
struct Locked<'c> {
    tx: Transaction<'c, Postgres>,
    found: PgmqState,
    /// Whether the server has the extension's files.
    is_available: bool,
}

/// Checks PGMQ, and installs it where it is absent and `manage` allows it.
pub(crate) async fn ensure(
    connection: &mut PgConnection,
    connector: &Connector,
    manage: bool,
    deadline: Instant,
) -> Result<()> {
    let place = connector.place();
    let found = async {
        Ok((
            ownership::foreign_owner(connection).await?,
            probe(connection).await?,
        ))
    };

    let found = match timeout_at(deadline, found).await {
        Ok(found) => found,
        Err(_) => Err(error::given_up(connector.connect_timeout())),
    };
    let (foreign, found) = found.map_err(|failure| error::of(failure, place))?;

    if let Some(foreign) = foreign {
        return Err(foreign.refused(place));
    }

    match found {
        PgmqState::Good => Ok(()),
        PgmqState::TooOld(version) => Err(too_old(&version, place)),
        PgmqState::Absent if manage => install(connector, deadline).await,
        PgmqState::Absent => Err(missing(place)),
    }
}

async fn probe(connection: &mut PgConnection) -> Result<PgmqState, sqlx::Error> {
    let row = sqlx::query(PROBE).fetch_one(connection).await?;
    if !row.try_get::<bool, _>("present")? {
        return Ok(PgmqState::Absent);
    }
    let version: Option<String> = row.try_get("version")?;
    let old = version.as_deref().is_some_and(is_too_old);
    if old || !row.try_get::<bool, _>("has_headers")? {
        let version = version.unwrap_or_else(|| "a version without message headers".to_owned());
        return Ok(PgmqState::TooOld(version));
    }
    Ok(PgmqState::Good)
}

fn is_too_old(version: &str) -> bool {
    is_older(version, OLDEST_PGMQ)
}

/// Whether one version is before another, number by number.
pub(crate) fn is_older(version: &str, than: &str) -> bool {
    let numbers = |text: &str| -> Vec<u32> {
        text.split('.')
            .map_while(|part| part.parse().ok())
            .collect()
    };
    numbers(version) < numbers(than)
}

async fn install(connector: &Connector, deadline: Instant) -> Result<()> {
    let place = connector.place();
    let mut guard = match timeout_at(deadline, connector.connect()).await {
        Ok(connected) => connected?,
        Err(_) => return Err(error::timed_out(place, connector.connect_timeout())),
    };
    let result = install_locked(&mut guard, connector, deadline).await;

    // Ends the transaction, and with it the lock.
    let _ = guard.close().await;
    match result {
        Ok(()) => Ok(()),
        Err(failure) if failure.kind() == ErrorKind::Permission => {
            Err(missing(place).with_source(failure))
        }
        Err(failure) => Err(failure),
    }
}

// One transaction holds the locks and creates PGMQ.
async fn install_locked(
    guard: &mut PgConnection,
    connector: &Connector,
    deadline: Instant,
) -> Result<()> {
    let place = connector.place();
    let left = deadline
        .saturating_duration_since(Instant::now())
        .as_millis()
        .max(1);
    let locked = async {
        let mut tx = guard.begin().await?;
        let wait = format!("SET LOCAL lock_timeout = {left}");
        sqlx::query(AssertSqlSafe(wait)).execute(&mut *tx).await?;
        for lock in [LOCK_KEY, PGMQ_LOCK] {
            sqlx::query(LOCK).bind(lock).execute(&mut *tx).await?;
        }
        sqlx::query(SCRIPT_TIMEOUT).execute(&mut *tx).await?;
        let found = probe(&mut tx).await?;
        let is_available = sqlx::query_scalar(AVAILABLE).fetch_one(&mut *tx).await?;
        Ok(Locked {
            tx,
            found,
            is_available,
        })
    };

    let mut locked = locked.await.map_err(|failure| match failure {
        failure if error::is_locked(&failure) => busy(place).with_source(failure),
        failure => error::of(failure, place),
    })?;
    match locked.found {
        PgmqState::Good => return Ok(()),
        PgmqState::TooOld(version) => return Err(too_old(&version, place)),
        PgmqState::Absent => {}
    }

    // An extension first: administrators can upgrade it.
    let how = if locked.is_available && create_extension(&mut locked.tx).await {
        "as an extension"
    } else {
        let installed = install_from_sql(&mut locked.tx).await;
        installed.map_err(|failure| error::of(failure, place))?;
        "from SQL"
    };
    locked
        .tx
        .commit()
        .await
        .map_err(|failure| error::of(failure, place))?;
    tracing::info!(database = place.database, "installed PGMQ {how}");
    Ok(())
}

async fn create_extension(tx: &mut PgConnection) -> bool {
    let created = async {
        // A savepoint: after a failure the transaction must keep its lock.
        let mut attempt = tx.begin().await?;
        sqlx::raw_sql("CREATE EXTENSION pgmq")
            .execute(&mut *attempt)
            .await?;
        attempt.commit().await
    };

    match created.await {
        Ok(()) => true,
        Err(failure) => {
            tracing::debug!(%failure, "cannot create the extension pgmq, installing from SQL");
            false
        }
    }
}

async fn install_from_sql(tx: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(PGMQ_SQL).execute(&mut *tx).await?;
    sqlx::query(RECORD_TABLE).execute(&mut *tx).await?;
    sqlx::query(RECORD).bind(CARRIED_PGMQ).execute(tx).await?;
    Ok(())
}

fn busy(place: &Place) -> Error {
    let text = format!(
        "PGMQ is not installed in the database `{}` yet, and another session has held the lock \
         under which it is installed for too long: try again, or look for an advisory lock in \
         pg_locks",
        place.database
    );
    Error::new(ErrorKind::Transient, text)
}

fn missing(place: &Place) -> Error {
    let text = format!(
        "PGMQ is not installed in the database `{}` and is not to be, or cannot be, installed by \
         `{}`: run `CREATE EXTENSION pgmq` there as an administrator, or `GRANT CREATE ON DATABASE \
         \"{}\" TO \"{}\"`",
        place.database, place.role, place.database, place.role
    );
    Error::new(ErrorKind::PgmqMissing, text)
}

fn too_old(version: &str, place: &Place) -> Error {
    let text = format!(
        "PGMQ in the database `{}` is {version}; ezq needs {OLDEST_PGMQ} or newer: update it with \
         `ALTER EXTENSION pgmq UPDATE`",
        place.database
    );
    Error::new(ErrorKind::PgmqMissing, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compares_versions_by_number() {
        assert!(is_too_old("1.4.4") && is_too_old("1.5.0") && is_too_old("0.33.3"));
        assert!(!is_too_old("1.5.1") && !is_too_old("1.13.0") && !is_too_old("2.0"));
    }
}
