//! The cancellations, on the connection for rare calls.

use async_trait::async_trait;
use ezq_core::engine::{CancelOrder, Cancellations, QueueCancellations};
use ezq_core::message::{MessageId, QueueName};
use ezq_core::{Error, Result};
use tokio::sync::watch;

use crate::admin::cancellations;
use crate::connection::dedicated::call;
use crate::engine::{PgmqEngine, call_part};
use crate::error::missing;
use crate::schema::{Part, out_of_reach};

impl PgmqEngine {
    fn cancelling_failed(&self, failure: sqlx::Error, queue: &QueueName) -> Error {
        // Before the rights: a queue that is missing is no matter of ezq's own table.
        if missing::of_pgmq(&failure).is_some() {
            return self.failed(failure, queue);
        }
        let part = match missing::is_denied(&failure, "audit") {
            true => Part::Operations,
            false => Part::Cancellations,
        };
        out_of_reach(failure, part, self.place())
    }
}

#[async_trait]
impl Cancellations for PgmqEngine {
    async fn ask(&self, queue: &QueueName, id: &MessageId, order: &CancelOrder) -> Result<bool> {
        let inner = &self.inner;
        let encoding = self.encoding();
        let is_asked =
            call_part!(inner, cancellations and operations, |connection| cancellations::ask(
                connection, queue, id, order, encoding
            ))?
            .map_err(|failure| self.cancelling_failed(failure, queue))?;
        // This process need not wait for the notification.
        inner.wake.orders.changed();
        Ok(is_asked)
    }

    async fn watch(&self, queue: &QueueName) -> Result<watch::Receiver<QueueCancellations>> {
        let inner = &self.inner;
        inner.start_hearing_orders();
        let control = &inner.connections.control;
        let watcher = inner
            .wake
            .orders
            .watch_cancellations(queue, control)
            .await?;

        if let Err(failure) = inner.listen().await {
            // The listener connects again, and a look every few seconds needs none.
            tracing::debug!(%failure, "cancellations are heard late for now");
        }
        Ok(watcher)
    }

    async fn finish(&self, queue: &QueueName, ids: &[MessageId]) -> Result<()> {
        let inner = &self.inner;
        let finished = call!(inner.connections.control, |connection| {
            cancellations::finish(connection, queue, ids)
        })?;
        match finished {
            // Without the table there is nothing to forget.
            Err(failure) if missing::of_ezq(&failure).is_some() => return Ok(()),
            finished => finished.map_err(|failure| self.cancelling_failed(failure, queue))?,
        }
        inner.wake.orders.changed();
        Ok(())
    }

    async fn letter_of(&self, queue: &QueueName, id: &MessageId) -> Result<Option<MessageId>> {
        call!(self.inner.connections.control, |connection| {
            cancellations::letter_of(connection, queue, id)
        })?
        .map_err(|failure| self.failed(failure, queue))
    }
}
