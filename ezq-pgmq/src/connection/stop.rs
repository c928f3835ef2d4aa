//! Stopping statements on pooled connections that are no longer waited for.
//!
//! The pool may be the application's, so ezq must not change its sessions, and a statement to set a
//! limit would add a round trip to each event. So ezq's statements carry a mark of this process. By
//! the mark the server finds those that run for longer than anyone waits, and stops them: what a
//! call gave up is not done later.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use ezq_core::message::QueueName;
use sqlx::Row as _;
use tokio::time::timeout;

use crate::connection::dedicated::Dedicated;
use crate::error;
use crate::sql::units::micros;

/// How long the server may take to stop a statement.
const ASKING: Duration = Duration::from_secs(2);

/// Stops the statements that begin with the mark `$1` and are at least `$2` µs old. Returns what
/// each waited for. A commit that waits for a synchronous standby is left alone: cancelled, it
/// would report success without the standby.
const STOP: &str = "
    SELECT pg_catalog.pg_blocking_pids(s.pid), pg_catalog.pg_cancel_backend(s.pid)
    FROM pg_catalog.pg_stat_activity s
    WHERE pg_catalog.starts_with(s.query, $1) AND s.state = 'active'
      AND s.wait_event IS DISTINCT FROM 'SyncRep'
      AND s.query_start <= pg_catalog.clock_timestamp() - $2 * interval '1 us'";

/// Stops statements that take longer than `patience`.
#[derive(Clone)]
pub(crate) struct Stopper {
    pub(crate) urgent: Arc<Dedicated>,
    pub(crate) patience: Duration,
}

/// The mark at the beginning of this process's statements on a queue, or without one, of those on
/// ezq's own functions.
pub(crate) fn mark(queue: Option<&QueueName>) -> String {
    static PROCESS: LazyLock<u64> = LazyLock::new(rand::random);
    let queue = queue.map_or("*", QueueName::as_str);
    format!("/* ezq {:016x} {queue} */ ", *PROCESS)
}

impl Stopper {
    /// Waits for a statement as long as it may take, then has it stopped by its mark.
    pub(crate) async fn limit<T>(
        &self,
        mark: &str,
        statement: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, sqlx::Error> {
        let mut statement = std::pin::pin!(statement);
        if let Ok(result) = timeout(self.patience, &mut statement).await {
            return result;
        }

        let holders = timeout(ASKING, self.stop(mark))
            .await
            .ok()
            .flatten()
            .unwrap_or_default();

        // It has finished just now, or reports that it was stopped.
        match timeout(ASKING, statement).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(_)) | Err(_) => Err(error::given_up_for(self.patience, holders)),
        }
    }

    async fn stop(&self, mark: &str) -> Option<Vec<i32>> {
        let mut checkout = self.urgent.checkout().await.ok()?;
        // Statements that are a little younger began together with this one.
        let age = self.patience.mul_f64(0.9);
        let query = sqlx::query(STOP).bind(mark).bind(micros(age));
        let stopped = query.fetch_all(checkout.connection()).await;
        let stopped = checkout.end(stopped).ok()?;

        let mut holders = Vec::new();
        for row in &stopped {
            holders.extend(row.try_get::<Vec<i32>, _>(0).unwrap_or_default());
        }
        Some(holders)
    }
}
