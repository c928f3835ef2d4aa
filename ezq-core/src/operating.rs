//! Looking into queues and changing what is in them: what operators ask of an application.

use crate::dead_letters::DeadLetterQueue;
use crate::engine::BlockedKey;
use crate::history::HistoryRequest;
use crate::publisher::Published;
use crate::{App, Due, Error, ErrorKind, QueueName, QueueStats, Result};

impl App {
    /// Takes back a scheduled event; whether it was still there and never delivered.
    ///
    /// # Errors
    /// When the engine could not be asked.
    pub async fn cancel(&self, published: &Published) -> Result<bool> {
        self.engine(&published.queue).cancel(&published.queue, &published.id).await
    }

    /// Moves a scheduled event; whether it was still there and never delivered.
    ///
    /// # Errors
    /// When the engine could not be asked.
    pub async fn reschedule(&self, published: &Published, due: Due) -> Result<bool> {
        self.engine(&published.queue).reschedule(&published.queue, &published.id, due).await
    }

    /// How many messages a queue holds.
    ///
    /// # Errors
    /// When the engine could not be asked.
    pub async fn stats(&self, queue: &QueueName) -> Result<QueueStats> {
        self.engine(queue).stats(queue).await
    }

    /// Removes every message of a queue; how many there were.
    ///
    /// # Errors
    /// When the engine could not be asked.
    pub async fn purge(&self, queue: &QueueName) -> Result<u64> {
        self.engine(queue).purge(queue).await
    }

    /// Ordering keys that wait although events stand behind their first one: it is being handled,
    /// waits for a retry, or is not due yet. At most `limit`, in no order. On PGMQ, it reads the
    /// messages that are not due until it found so many, and counts what waits behind each.
    ///
    /// Once a delivery of a message was never settled, a later retry is told from a lease by what its
    /// handlers left in its headers. If they left nothing, as where another client consumes the queue,
    /// the message counts as leased until it is due.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] when the queue's engine does not order by key; else when it could
    /// not be asked.
    pub async fn blocked_keys(&self, queue: &QueueName, limit: usize) -> Result<Vec<BlockedKey>> {
        self.engine(queue).blocked_keys(queue, limit).await
    }

    /// The dead letters of a queue.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] when the queue's engine keeps none that can be looked at.
    pub fn dead_letters(&self, queue: &QueueName) -> Result<DeadLetterQueue<'_>> {
        let engine = self.engine(queue);
        let store = engine.dead_letters().ok_or_else(|| {
            let name = engine.capabilities().name;
            Error::new(ErrorKind::Unsupported, format!("the engine `{name}` lists no dead letters"))
        })?;
        Ok(DeadLetterQueue::new(store, queue))
    }

    /// Asks, when awaited, what is kept of an event: every copy of it in the queues, archives and
    /// dead letters, with its handlers' attempts and newest errors. Its id is
    /// [`Published::event_id`], and [`Context::event_id`](crate::Context::event_id) in a handler.
    ///
    /// Queues and dead letters are read through, archives by an index where there is one; no lock
    /// is taken. Nothing is kept of a handled event, unless its queue has an archive or a trail; see
    /// [`Retention`](crate::Retention).
    ///
    /// ```
    /// # use ezq_core::testing::TestApp;
    /// # use ezq_core::{CopyState, Event, Handler, Retention};
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Serialize, Deserialize)] struct Paid { order: i64 }
    /// # impl Event for Paid { const TYPE: &'static str = "paid"; }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> ezq_core::Result<()> {
    /// # async fn receipt(_: Paid) {}
    /// let app = TestApp::new(|app| {
    ///     app.register(Handler::on("receipt", receipt)).retention("ezq", Retention::ARCHIVE)
    /// })?;
    /// let paid = app.publish(&Paid { order: 7 }).await?;
    /// app.drain().await?;
    /// let history = app.history(&paid.event_id).await?;
    /// println!("{history}");
    /// assert!(matches!(history.copies[0].state, CopyState::Archived { .. }));
    /// # Ok(()) }
    /// ```
    pub fn history(&self, event_id: impl Into<String>) -> HistoryRequest<'_> {
        HistoryRequest::new(&self.inner.services.engines, event_id.into())
    }
}
