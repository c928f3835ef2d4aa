//! Dropping a queue: its tables, and what ezq's own tables say of it.

use ezq_core::engine::Count;
use ezq_core::message::QueueName;
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;

use crate::schema::lock::{LOCK, LOCK_KEY};
use crate::schema::stale_keys;
use crate::sql::{archive, dead_table, table};

/// Users of the queue wait behind this while it waits for theirs.
const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '2s'";
/// Where counts stop.
const CAP: u64 = 10_000;
/// How many lines of the trail one statement removes.
const STEP: u32 = 10_000;

/// Tables of ezq's own whose rows on a queue go with it, in one transaction. Each has few rows of one
/// queue.
const OWN: [&str; 4] = ["subscriptions", "controls", "cancellations", "replays"];

/// What a queue holds. Each count stops at 10,000.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueContents {
    /// Events, whatever their state.
    pub events: Count,
    /// Dead letters.
    pub dead: Count,
    /// Handled events in its archive.
    pub archived: Count,
}

impl QueueContents {
    /// Whether there is nothing.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.events.is_zero() && self.dead.is_zero() && self.archived.is_zero()
    }
}

/// Counts what a queue holds; `None` if there is no such queue.
pub(crate) async fn contents(
    connection: &mut PgConnection,
    queue: &QueueName,
) -> Result<Option<QueueContents>, sqlx::Error> {
    if !stands(&mut *connection, &table(queue)).await? {
        return Ok(None);
    }
    Ok(Some(QueueContents {
        events: count(&mut *connection, &table(queue)).await?,
        dead: count(&mut *connection, &dead_table(queue)).await?,
        archived: count(&mut *connection, &archive::table(queue)).await?,
    }))
}

async fn stands(connection: &mut PgConnection, table: &str) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("SELECT pg_catalog.to_regclass($1) IS NOT NULL")
        .bind(table)
        .fetch_one(connection)
        .await
}

async fn count(connection: &mut PgConnection, table: &str) -> Result<Count, sqlx::Error> {
    if !stands(&mut *connection, table).await? {
        return Ok(Count::default());
    }
    let statement = format!(
        "SELECT count(*) FROM (SELECT FROM {table} LIMIT {}) t",
        CAP + 1
    );
    let counted: i64 = sqlx::query_scalar(AssertSqlSafe(statement))
        .fetch_one(connection)
        .await?;
    Ok(Count::up_to(counted.unsigned_abs(), CAP))
}

/// Drops a queue in a transaction, unless it holds something and `with_events` is false. Returns what it
/// held, and whether it was dropped; `None` if there is no such queue.
pub(crate) async fn drop_queue(
    tx: &mut PgConnection,
    queue: &QueueName,
    with_events: bool,
) -> Result<Option<(QueueContents, bool)>, sqlx::Error> {
    sqlx::query(LOCK_TIMEOUT).execute(&mut *tx).await?;
    sqlx::query(LOCK).bind(LOCK_KEY).execute(&mut *tx).await?;

    // Locked before it is counted: what is published meanwhile must not be lost unseen.
    for table in [table(queue), dead_table(queue), archive::table(queue)] {
        if stands(&mut *tx, &table).await? {
            let lock = format!("LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE");
            sqlx::query(AssertSqlSafe(lock)).execute(&mut *tx).await?;
        }
    }
    let Some(held) = contents(&mut *tx, queue).await? else {
        return Ok(None);
    };
    if !held.is_empty() && !with_events {
        return Ok(Some((held, false)));
    }

    for name in [queue.as_str().to_owned(), queue.dead_letters()] {
        sqlx::query("SELECT pgmq.drop_queue($1)")
            .bind(name)
            .execute(&mut *tx)
            .await?;
    }
    for own in OWN {
        if stands(&mut *tx, &format!("ezq.{own}")).await? {
            let statement = format!("DELETE FROM ezq.{own} WHERE queue = $1");
            sqlx::query(AssertSqlSafe(statement))
                .bind(queue.as_str())
                .execute(&mut *tx)
                .await?;
        }
    }
    Ok(Some((held, true)))
}

/// Removes the dedupe keys and the trail of a queue that was dropped. These may be millions, so they go in
/// steps. Rows that stay are harmless: a queue that is created again begins without them.
pub(crate) async fn forget(
    connection: &mut PgConnection,
    queue: &QueueName,
) -> Result<(), sqlx::Error> {
    stale_keys::free_absent(&mut *connection, queue.as_str()).await?;
    forget_trail(connection, queue).await
}

async fn forget_trail(connection: &mut PgConnection, queue: &QueueName) -> Result<(), sqlx::Error> {
    if !stands(&mut *connection, "ezq.trail").await? {
        return Ok(());
    }
    let statement = format!(
        "DELETE FROM ezq.trail WHERE ctid = ANY (ARRAY(
           SELECT ctid FROM ezq.trail WHERE queue = $1 LIMIT {STEP}))"
    );
    loop {
        let query = sqlx::query(AssertSqlSafe(statement.clone())).bind(queue.as_str());
        if query.execute(&mut *connection).await?.rows_affected() == 0 {
            return Ok(());
        }
    }
}
