//! The session of an examination, and what all checks need to know.

use std::time::{Duration, Instant};

use ezq_core::Result;
use ezq_core::engine::{DoctorOptions, Finding, Severity};
use ezq_core::message::QueueName;
use sqlx::postgres::PgConnection;
use sqlx::{Connection as _, Row as _};
use tokio::time::timeout;

use super::settings::Settings;
use crate::admin::overview;
use crate::connection::connector::{Connector, PINNED};
use crate::connection::dedicated::limit;
use crate::connection::pooler::Sharing;
use crate::error;

/// It may only read, and its statements end on the server before a check is given up. Rare statements
/// are planned for the tables as they are.
const BOUNDED: &str = "SET default_transaction_read_only = on; SET statement_timeout = 1800; \
                       SET lock_timeout = 500; SET plan_cache_mode = force_custom_plan; \
                       SET row_security = off";
/// How long closing the session may take.
const CLOSING: Duration = Duration::from_secs(1);

/// What all checks need to know.
pub(super) struct Facts {
    pub(super) connector: Connector,
    pub(super) options: DoctorOptions,
    pub(super) settings: Settings,
    /// What is between this process and the server, or why that is not known.
    pub(super) sharing: Result<Sharing, String>,
    /// The role of the session, whose rights count.
    pub(super) role: String,
    /// The role that logged in, whose settings count.
    pub(super) login: String,
    pub(super) database: String,
    pub(super) is_standby: bool,
    /// All queues.
    pub(super) queues: Vec<QueueName>,
    /// How long the server takes to answer.
    round_trip: Duration,
}

/// Learns what all checks need to know, over a session that was just opened. Nothing is prepared before it
/// is known that the session is this process' own.
pub(super) async fn learn(
    connection: &mut PgConnection,
    connector: &Connector,
    options: &DoctorOptions,
    sharing: Result<Sharing, String>,
) -> Result<Facts> {
    let learnt = limit(
        connector.connect_timeout(),
        ask(connection, connector, options, sharing),
    );
    learnt
        .await
        .map_err(|failure| error::of(failure, connector.place()))
}

async fn ask(
    connection: &mut PgConnection,
    connector: &Connector,
    options: &DoctorOptions,
    sharing: Result<Sharing, String>,
) -> Result<Facts, sqlx::Error> {
    // First: what follows changes some of them.
    let settings = Settings::read(connection).await?;
    sqlx::raw_sql(PINNED).execute(&mut *connection).await?;
    sqlx::raw_sql(BOUNDED).execute(&mut *connection).await?;

    let row = sqlx::query(
        "SELECT current_user::text AS role, session_user::text AS login,
                current_database()::text AS database, pg_is_in_recovery() AS is_standby",
    );
    let row = row.fetch_one(&mut *connection).await?;
    let queues = overview::queues(&mut *connection).await?;

    let asked = Instant::now();
    connection.ping().await?;
    Ok(Facts {
        connector: connector.clone(),
        options: options.clone(),
        settings,
        sharing,
        role: row.try_get("role")?,
        login: row.try_get("login")?,
        database: row.try_get("database")?,
        is_standby: row.try_get("is_standby")?,
        queues,
        round_trip: asked.elapsed(),
    })
}

/// Opens another session, after a check has spoilt one.
pub(super) async fn reopen(facts: &Facts) -> Result<PgConnection> {
    let connector = &facts.connector;
    let mut connection = connector.plain().await?;
    let prepared = async {
        sqlx::raw_sql(PINNED).execute(&mut connection).await?;
        sqlx::raw_sql(BOUNDED).execute(&mut connection).await
    };
    limit(connector.connect_timeout(), prepared)
        .await
        .map_err(|failure| error::of(failure, connector.place()))?;
    Ok(connection)
}

pub(super) async fn close(connection: PgConnection) {
    // One that is not closed politely is dropped.
    let _ = timeout(CLOSING, connection.close()).await;
}

impl Facts {
    /// What was reached.
    pub(super) fn connection(&self) -> Finding {
        let text = format!(
            "Postgres {} at {}, database `{}`, role `{}`; an answer takes {:.1} ms",
            self.settings.value("server_version"),
            self.connector.place().server(),
            self.database,
            self.role,
            self.round_trip.as_secs_f64() * 1000.0
        );
        Finding::new(Severity::Ok, "connection", text)
    }
}

/// What the role may do with a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sight {
    Absent,
    Hidden,
    Readable,
}

/// Whether a table exists and the role may read it. The catalogue answers any role, unlike
/// `to_regclass`, which needs a right on the schema.
pub(super) async fn sight(
    connection: &mut PgConnection,
    schema: &str,
    table: &str,
) -> Result<Sight, sqlx::Error> {
    let may_read: Option<bool> = sqlx::query_scalar(
        "SELECT pg_catalog.has_schema_privilege(n.oid, 'USAGE')
                AND pg_catalog.has_table_privilege(c.oid, 'SELECT')
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE n.nspname = $1 AND c.relname = $2",
    )
    .bind(schema)
    .bind(table)
    .fetch_optional(connection)
    .await?;
    Ok(match may_read {
        None => Sight::Absent,
        Some(false) => Sight::Hidden,
        Some(true) => Sight::Readable,
    })
}
