//! One page of a replay: its copies and its new position, in one transaction.

use ezq_core::Result;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _, Row as _};

use super::failure::{failed_on, gone};
use super::options::Options;
use super::row::locked;
use super::sql;
use crate::connection::dedicated::limit;
use crate::engine::PgmqEngine;

/// How many archived messages one statement reads.
const PAGE: u32 = 500;

/// Runs one page. Returns whether it was the last, and how many events were replayed.
pub(super) async fn step(
    connection: &mut PgConnection,
    engine: &PgmqEngine,
    name: &str,
    options: &Options,
    rate: Option<u32>,
) -> Result<(bool, u64)> {
    let on_queue = |failure| failed_on(failure, engine, options);
    let patience = engine.patience();
    // The lock on the replay's row keeps two runs from doing one page.
    let mut tx = connection.begin().await.map_err(on_queue)?;
    let found = locked(&mut tx, name).await.map_err(on_queue)?;
    let begun = match found {
        Some(begun) => begun,
        None => {
            let begin = sqlx::query(AssertSqlSafe(sql::begin(&options.queue)))
                .bind(name)
                .bind(options.queue.as_str())
                .bind(options.target.as_str())
                .bind(options.definition().to_string());
            begin.execute(&mut *tx).await.map_err(on_queue)?;
            locked(&mut tx, name)
                .await
                .map_err(on_queue)?
                .ok_or_else(|| gone(name))?
        }
    };

    if let Err(other) = options.check(name, &begun.definition) {
        // A dropped transaction ends with the next use of the connection, and would lock the row
        // until then.
        tx.rollback().await.map_err(on_queue)?;
        return Err(other);
    }

    // With a limit, a page is at most what one second may replay.
    let page = rate.unwrap_or(PAGE).min(PAGE);
    let statement = options.bind(sql::step(&options.queue, &options.target), &begun);
    let statement = statement.bind(i64::from(page)).bind(name.to_owned());
    let row = limit(patience, statement.fetch_one(&mut *tx))
        .await
        .map_err(on_queue)?;
    let is_finished = row.try_get("is_finished").map_err(on_queue)?;
    let count: i64 = row.try_get("count").map_err(on_queue)?;
    tx.commit().await.map_err(on_queue)?;

    Ok((is_finished, u64::try_from(count).unwrap_or(0)))
}
