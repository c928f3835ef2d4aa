//! Captured tables: listing them, and removing a capture.

use std::cmp::Ordering;

use chrono::DateTime;
use ezq_core::admin::RecordedAct;
use ezq_core::engine::{AuditAction, AuditEntry, Signature};
use ezq_core::message::QueueName;
use ezq_core::{Error, Result};
use serde_json::Value;
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Connection as _, Row as _};

use super::name::{absent, resolved};
use super::sql;
use crate::admin::audit;
use crate::engine::PgmqEngine;
use crate::error::{self, missing};
use crate::message::encoding::Encoding;
use crate::schema::lock::{LOCK, LOCK_KEY};

/// A table whose changes are captured.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CapturedTable {
    /// The table's schema.
    pub schema: String,
    /// Its name.
    pub table: String,
    /// What the types of its events begin with.
    pub name: String,
    /// The `source` of its events.
    pub source: String,
    /// The queue that gets the events; `None` if they are broadcast.
    pub queue: Option<QueueName>,
    /// The captured columns; `None` for all that the table has at the time of a change.
    pub columns: Option<Vec<String>>,
    /// The column whose value is the ordering key.
    pub key: Option<String>,
    /// Tables that became its parents or children after it was captured. What is written to them
    /// bypasses the triggers. This should be empty; otherwise the table is refused when it is
    /// captured again.
    pub uncovered: Vec<String>,
    /// Whether the triggers fire. Someone may have disabled them.
    pub is_enabled: bool,
    /// The statements that bring the capture up to date, for the function's owner to run. Set by a
    /// capture that found the table captured by an older ezq while
    /// [`manage_schema`](crate::PgmqConfig::manage_schema) is off. A [list](Captures::list) has
    /// none.
    pub upgrade: Option<String>,
}

/// The tables of a database whose changes are captured.
#[derive(Debug, Clone, Copy)]
pub struct Captures<'a> {
    engine: &'a PgmqEngine,
}

impl<'a> Captures<'a> {
    pub(super) fn new(engine: &'a PgmqEngine) -> Self {
        Self { engine }
    }

    /// All captures of the database, whoever made them, by schema and name.
    ///
    /// # Errors
    /// When the database could not be asked.
    pub async fn list(&self) -> Result<Vec<CapturedTable>> {
        let mut connection = self.engine.connector().connect().await?;
        let found = of(&mut connection, None).await;
        let _ = connection.close().await;
        let found = found.map_err(|failure| failed(failure, self.engine))?;
        Ok(found.into_iter().map(|found| found.captured).collect())
    }

    /// Removes the triggers of a table and their function, when awaited. Returns whether there were any.
    /// Stored events stay. It is signed by the database's role unless it is said who does it.
    ///
    /// # Errors
    /// - [`ErrorKind::Configuration`](ezq_core::ErrorKind::Configuration) when there is no such
    ///   table
    /// - [`ErrorKind::Permission`](ezq_core::ErrorKind::Permission) unless the role, or a role that
    ///   it is a member of, captured the table
    /// - [`ErrorKind::Transient`](ezq_core::ErrorKind::Transient) when the table was in use for
    ///   longer than three seconds
    pub fn remove(&self, table: impl Into<String>) -> RecordedAct<'a, bool> {
        let engine = self.engine;
        let table = table.into();
        let signature = Signature::new(&*engine.place().role);
        let now = DateTime::UNIX_EPOCH;
        let mut entry = AuditEntry::new(now, signature, AuditAction::EndCapture, None);
        entry.subject = Some(table.clone());
        RecordedAct::new(Ok(entry), move |entry| async move {
            let mut connection = engine.connector().connect().await?;
            let removed = remove_from(&mut connection, engine, &table, &entry).await;
            let _ = connection.close().await;
            removed
        })
    }
}

async fn remove_from(
    connection: &mut PgConnection,
    engine: &PgmqEngine,
    table: &str,
    entry: &AuditEntry,
) -> Result<bool> {
    let encoding = engine.encoding();
    let mut removed = remove(connection, table, entry, encoding).await;
    if removed.as_ref().is_err_and(missing::is_trail_behind) {
        engine.ready_to_record().await?;
        removed = remove(connection, table, entry, encoding).await;
    }
    match removed {
        Ok(Some(removed)) => Ok(removed),
        Ok(None) => Err(absent(table)),
        Err(failure) if error::is_name(&failure) => Err(absent(table).with_source(failure)),
        Err(failure) => Err(failed(failure, engine)),
    }
}

/// Removes a capture and records it, if there is one.
async fn remove(
    connection: &mut PgConnection,
    table: &str,
    entry: &AuditEntry,
    encoding: Encoding,
) -> Result<Option<bool>, sqlx::Error> {
    let mut tx = connection.begin().await?;
    sqlx::query(LOCK).bind(LOCK_KEY).execute(&mut *tx).await?;
    // Writers wait behind this statement while it waits for the table.
    sqlx::query("SET LOCAL lock_timeout = '3s'")
        .execute(&mut *tx)
        .await?;
    let Some(oid) = resolved(&mut tx, table, encoding).await? else {
        return Ok(None);
    };

    let found = of(&mut tx, Some(oid)).await?;
    for found in &found {
        sqlx::raw_sql(AssertSqlSafe(sql::drop(&found.function)))
            .execute(&mut *tx)
            .await?;
    }
    if !found.is_empty() {
        audit::write(&mut tx, entry, encoding).await?;
    }

    // Listeners need not poll for its changes any more.
    sqlx::query("SELECT pg_notify($1, '')")
        .bind(crate::wake::feeds::CHANNEL)
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(Some(!found.is_empty()))
}

/// A capture, with its function and triggers.
pub(super) struct InstalledCapture {
    pub(super) captured: CapturedTable,
    pub(super) function: String,
    pub(super) triggers: Vec<String>,
    /// The version of the function and the triggers.
    pub(super) version: u64,
    config: Value,
    source: String,
}

/// How an installed capture compares to the wanted one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Absent,
    /// The same options, by this ezq or a newer one.
    Current,
    /// The same options, by an older ezq.
    Older,
    /// Other options, by a newer ezq.
    Newer,
    /// Other options, or something is missing or was changed.
    Different,
}

impl InstalledCapture {
    pub(super) fn compare(&self, config: &Value) -> Comparison {
        let is_same = self.config == *config;
        let is_whole = self.triggers.len() == sql::TRIGGERS.len();
        match self.version.cmp(&sql::VERSION) {
            Ordering::Greater if is_same => Comparison::Current,
            Ordering::Greater => Comparison::Newer,
            Ordering::Less if is_same && is_whole => Comparison::Older,
            Ordering::Equal if self.source == sql::body(config) && is_whole => Comparison::Current,
            Ordering::Less | Ordering::Equal => Comparison::Different,
        }
    }
}

pub(super) async fn of(
    connection: &mut PgConnection,
    table: Option<i64>,
) -> Result<Vec<InstalledCapture>, sqlx::Error> {
    let rows = sqlx::query(sql::CAPTURES)
        .bind(table)
        .fetch_all(connection)
        .await?;
    rows.iter().map(found).collect()
}

fn found(row: &PgRow) -> Result<InstalledCapture, sqlx::Error> {
    // Whoever owns the function may change its comment. A comment that cannot be read counts as
    // empty.
    let config: Option<String> = row.try_get("config")?;
    let mut config: Value = config
        .and_then(|text| serde_json::from_str(&text).ok())
        .unwrap_or_default();
    let version = config
        .as_object_mut()
        .and_then(|config| config.remove(sql::VERSION_FIELD));
    let text = |field: &str| config.get(field).and_then(Value::as_str).map(str::to_owned);
    let columns = config.get("columns").and_then(Value::as_array);

    let captured = CapturedTable {
        schema: row.try_get("schema")?,
        table: row.try_get("name")?,
        name: text("name").unwrap_or_default(),
        source: text("source").unwrap_or_default(),
        queue: text("queue").and_then(|name| QueueName::new(&name).ok()),
        columns: columns.map(|names| {
            names
                .iter()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect()
        }),
        key: text("key"),
        uncovered: row.try_get("uncovered")?,
        is_enabled: row.try_get("is_enabled")?,
        upgrade: None,
    };

    Ok(InstalledCapture {
        captured,
        function: row.try_get("function")?,
        triggers: row.try_get("triggers")?,
        // The first version was not recorded.
        version: version.and_then(|version| version.as_u64()).unwrap_or(1),
        config,
        source: row.try_get("source")?,
    })
}

pub(super) fn failed(failure: sqlx::Error, engine: &PgmqEngine) -> Error {
    error::of(failure, engine.connector().place())
}
