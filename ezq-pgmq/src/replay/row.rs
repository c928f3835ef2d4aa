//! The row of a replay in `ezq.replays`.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::Row as _;
use sqlx::postgres::PgConnection;

use super::sql;

/// The row of a replay.
pub(super) struct ReplayRow {
    pub(super) definition: Value,
    pub(super) position: i64,
    pub(super) last_id: i64,
    pub(super) at: DateTime<Utc>,
    /// The transactions that were open when it began, numbered as in rows' `xmin`.
    pub(super) open: Vec<i64>,
}

/// The row of a name, locked until the transaction ends.
pub(super) async fn locked(
    connection: &mut PgConnection,
    name: &str,
) -> Result<Option<ReplayRow>, sqlx::Error> {
    let row = sqlx::query(sql::LOCKED)
        .bind(name)
        .fetch_optional(connection)
        .await?;
    let Some(row) = row else {
        return Ok(None);
    };

    let definition: &str = row.try_get("definition")?;
    Ok(Some(ReplayRow {
        definition: serde_json::from_str(definition).unwrap_or_default(),
        position: row.try_get("position")?,
        last_id: row.try_get("last_id")?,
        at: row.try_get("began_at")?,
        open: row.try_get("open")?,
    }))
}
