//! The replays of a database: listing and removing them.

use chrono::DateTime;
use ezq_core::Result;
use ezq_core::admin::{RecordedAct, recorded};
use ezq_core::engine::{AuditAction, AuditEntry, Signature};
use ezq_core::message::QueueName;
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Connection as _, Row as _};

use super::failure::failed;
use super::progress::ReplayProgress;
use super::sql;
use crate::engine::PgmqEngine;
use crate::message::encoding;

/// The replays that were begun in a database.
#[derive(Debug, Clone, Copy)]
pub struct Replays<'a> {
    engine: &'a PgmqEngine,
}

impl<'a> Replays<'a> {
    pub(super) fn of(engine: &'a PgmqEngine) -> Self {
        Self { engine }
    }

    /// All replays, oldest first, finished ones included.
    ///
    /// # Errors
    /// When the database could not be asked, or the role may not read `ezq.replays`.
    pub async fn list(&self) -> Result<Vec<ReplayProgress>> {
        if self.engine.is_absent("replays").await? {
            return Ok(Vec::new());
        }
        self.engine.ready_to_replay().await?;
        let mut connection = self.engine.connector().connect().await?;
        let found = list(&mut connection, None).await;
        let _ = connection.close().await;
        found.map_err(|failure| failed(failure, self.engine))
    }

    /// Removes the record of a replay when awaited, so that its name can be used again. Returns whether
    /// there was one. The copies that it stored stay. It is signed by the database's role unless it is said
    /// who does it.
    ///
    /// # Errors
    /// As for [`list`](Self::list).
    pub fn remove(&self, name: impl Into<String>) -> RecordedAct<'a, bool> {
        let engine = self.engine;
        let name = name.into();
        let signature = Signature::new(&*engine.place().role);
        let now = DateTime::UNIX_EPOCH;
        let mut entry = AuditEntry::new(now, signature, AuditAction::ForgetReplay, None);
        entry.subject = Some(name.clone());
        RecordedAct::new(Ok(entry), move |entry| async move {
            if engine.is_absent("replays").await? {
                return Ok(false);
            }
            let remove = forget(engine, &name);
            recorded(engine, entry, remove, |removed| (!removed).then_some(0)).await
        })
    }
}

async fn forget(engine: &PgmqEngine, name: &str) -> Result<bool> {
    engine.ready_to_replay().await?;
    let mut connection = engine.connector().connect().await?;
    let name = engine.encoding().name(name);
    let removed = sqlx::query("DELETE FROM ezq.replays WHERE name = $1").bind(&*name);
    let removed = removed.execute(&mut connection).await;
    let _ = connection.close().await;
    let removed = removed.map_err(|failure| failed(failure, engine))?;
    Ok(removed.rows_affected() > 0)
}

/// One replay, or all of them.
pub(super) async fn list(
    connection: &mut PgConnection,
    name: Option<&str>,
) -> Result<Vec<ReplayProgress>, sqlx::Error> {
    let rows = sqlx::query(sql::LIST)
        .bind(name)
        .fetch_all(connection)
        .await?;
    rows.iter().map(progress).collect()
}

fn progress(row: &PgRow) -> Result<ReplayProgress, sqlx::Error> {
    Ok(ReplayProgress {
        name: encoding::original(row.try_get("name")?).into_owned(),
        queue: queue(row.try_get("queue")?)?,
        target: queue(row.try_get("target")?)?,
        handed_over: u64::try_from(row.try_get::<i64, _>("handed_over")?).unwrap_or(0),
        is_finished: row.try_get("is_finished")?,
        began_at: row.try_get("began_at")?,
        moved_at: row.try_get("moved_at")?,
    })
}

fn queue(name: &str) -> Result<QueueName, sqlx::Error> {
    QueueName::new(name).map_err(|error| sqlx::Error::Decode(Box::new(error)))
}
