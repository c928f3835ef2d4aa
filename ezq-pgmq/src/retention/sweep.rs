//! Removing expired messages from archives and trails, in the background and on request.
//!
//! A transaction removes few rows, so that nothing waits for it and the shared connection is soon
//! free. Processes share the work by a lock that none waits for: whoever holds it sweeps the queue,
//! and the others skip it.

use std::sync::Arc;
use std::time::Duration;

use ezq_core::Result;
use ezq_core::message::{QueueName, Retention};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection};

use crate::connection::dedicated::{Dedicated, call};
use crate::error::{self, missing};
use crate::retention::{Retentions, trail};
use crate::sql::units::micros;
use crate::sql::{BEGIN, archive};

/// The most rows that one transaction removes.
const BATCH: u64 = 1000;

/// The key of the lock under which an archive is swept, without the table's oid.
const LOCK_KEY: i64 = 0x65_7a_71_02 << 32;

/// Sweeps. Clones share what is known of retentions.
#[derive(Clone)]
pub(crate) struct Sweeper {
    pub(crate) control: Arc<Dedicated>,
    pub(crate) retentions: Arc<Retentions>,
    pub(crate) interval: Duration,
}

impl Sweeper {
    /// Whether any archive or trail has a limit of age.
    pub(crate) fn has_work(&self) -> bool {
        !self.retentions.aged().is_empty()
    }

    /// Sweeps once per interval until the task is stopped. Jitter keeps a fleet out of step.
    pub(crate) async fn run_forever(self) {
        loop {
            tokio::time::sleep(self.interval.mul_f64(rand::random_range(0.5..1.0))).await;
            match self.run().await {
                Ok(0) => {}
                Ok(removed) => tracing::debug!(removed, "swept what is past its time"),
                Err(error) => {
                    ezq_core::private::warn!(?error, "sweeping failed, will try again")
                }
            }
        }
    }

    /// Sweeps everything once and returns how many were removed. A failure does not stop other
    /// queues from being swept.
    pub(crate) async fn run(&self) -> Result<u64> {
        let mut swept = Swept::default();
        for (queue, retention) in self.retentions.aged() {
            swept.add(self.queue(&queue, retention).await);
        }
        swept.into_result()
    }

    async fn queue(&self, queue: &QueueName, retention: Retention) -> Result<u64> {
        let Some(keep) = retention.keep() else {
            return Ok(0);
        };

        let mut removed = 0;
        loop {
            let removal = call!(self.control, |connection| async {
                if retention.is_archive() {
                    expire(connection, queue, keep).await
                } else {
                    trail::expire(connection, queue, keep, BATCH).await
                }
            });

            let count = match removal? {
                Ok(count) => count,
                // There is no archive or trail yet, or none any more.
                Err(failure) if is_absent(&failure, queue) => 0,
                Err(failure) => return Err(error::of(failure, self.control.place())),
            };

            removed += count;
            if count < BATCH {
                return Ok(removed);
            }
        }
    }
}

/// The queue's archive or the trail does not exist. A table that a trigger asks for does not count.
fn is_absent(failure: &sqlx::Error, queue: &QueueName) -> bool {
    missing::is(failure, &format!("pgmq.a_{queue}")) || missing::is(failure, trail::TABLE)
}

/// Removes the oldest expired messages, unless another process is at it. Only one session deletes
/// from an archive, so the rows need no order.
async fn expire(
    connection: &mut PgConnection,
    queue: &QueueName,
    keep: Duration,
) -> Result<u64, sqlx::Error> {
    let table = archive::table(queue);
    let mut tx = connection.begin_with(BEGIN).await?;

    // Locked before the statement that reads, so that it sees what others have removed.
    let lock = format!(
        "SELECT pg_catalog.pg_try_advisory_xact_lock($1 + '{table}'::regclass::oid::bigint)"
    );
    let is_ours = sqlx::query_scalar(AssertSqlSafe(lock))
        .bind(LOCK_KEY)
        .fetch_one(&mut *tx);
    if !is_ours.await? {
        tx.rollback().await?;
        return Ok(0);
    }

    let statement = format!(
        "DELETE FROM {table} WHERE msg_id = ANY (ARRAY(
           SELECT msg_id FROM {table}
           WHERE archived_at < pg_catalog.statement_timestamp() - $1 * interval '1 us'
           ORDER BY archived_at LIMIT $2))"
    );

    let removed = sqlx::query(AssertSqlSafe(statement))
        .bind(micros(keep))
        .bind(i64::try_from(BATCH).unwrap_or(i64::MAX))
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(removed.rows_affected())
}

/// The results of several sweeps.
#[derive(Default)]
struct Swept {
    removed: u64,
    failed: Option<ezq_core::Error>,
}

impl Swept {
    fn add(&mut self, result: Result<u64>) {
        match result {
            Ok(removed) => self.removed += removed,
            Err(error) => self.failed = self.failed.take().or(Some(error)),
        }
    }

    fn into_result(self) -> Result<u64> {
        self.failed.map_or(Ok(self.removed), Err)
    }
}
