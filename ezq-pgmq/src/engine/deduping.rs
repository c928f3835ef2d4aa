//! What publishing with dedupe keys needs beside its statement: a table, and a sweep now and then.

use std::time::Duration;

use ezq_core::Result;
use ezq_core::engine::{Outgoing, PublishOutcome};
use ezq_core::message::QueueName;
use tokio::time::Instant;

use super::Inner;
use crate::error::missing;
use crate::publish::{Row, dedupe};

/// The longest that ended keys stay, while there are publishers with keys.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

impl Inner {
    /// Makes sure of the table of dedupe keys, if any message has a key.
    pub(crate) async fn ready_for<'m>(
        &self,
        mut messages: impl Iterator<Item = &'m Outgoing>,
    ) -> Result<()> {
        if messages.any(|message| message.dedupe.is_some()) {
            self.ready_for_keys().await?;
        }
        Ok(())
    }

    pub(crate) async fn ready_for_keys(&self) -> Result<()> {
        self.tables
            .dedupe_keys
            .ensure(
                &self.connections.control,
                &self.connections.connector,
                self.settings.manage_schema,
            )
            .await?;
        self.sweep_soon();
        Ok(())
    }

    /// Stores rows of one queue. If the table of keys was dropped, nothing was stored: the table is
    /// made again and the rows are stored again.
    pub(crate) async fn store(&self, queue: &QueueName, rows: Vec<Row>) -> Vec<PublishOutcome> {
        if rows.iter().all(|row| row.dedupe.is_none()) {
            return self.group_commit.store(queue, rows).await;
        }

        let outcomes = self.group_commit.run(queue, &rows).await;
        let is_dropped = matches!(
            outcomes.first(),
            Some(PublishOutcome::Failed(error)) if missing::told_of_ezq(error)
        );
        if is_dropped {
            self.tables.dedupe_keys.forget();
            if self.ready_for_keys().await.is_ok() {
                return self.group_commit.run(queue, &rows).await;
            }
        }

        outcomes
    }

    fn sweep_soon(&self) {
        let now = Instant::now();
        let mut tasks = self.tasks();
        let recent = tasks.swept.is_some_and(|last| now - last < SWEEP_EVERY);
        if recent || tasks.closed {
            return;
        }
        tasks.swept = Some(now);
        // A set keeps ended tasks until they are joined.
        while tasks.running.try_join_next().is_some() {}
        tasks
            .running
            .spawn(dedupe::sweep_all(self.connections.control.clone()));
    }
}
