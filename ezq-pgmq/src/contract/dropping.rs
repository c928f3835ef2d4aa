//! Dropping a queue, on a connection of its own: it may wait for others, and nothing must wait for it.

use ezq_core::Result;
use ezq_core::message::QueueName;
use sqlx::Connection as _;

use crate::engine::PgmqEngine;
use crate::schema::dropping::{self, QueueContents};

/// Whether a queue is dropped that holds events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum DropQueue {
    /// Only an empty queue is dropped: one without events, dead letters and archived events.
    IfEmpty,
    /// What it holds goes with it.
    WithEvents,
}

/// What became of a queue that was to be dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum DropOutcome {
    /// It is dropped, with what it held.
    Dropped(QueueContents),
    /// It holds something, and stays.
    HoldsEvents(QueueContents),
    /// The changes of this table are captured into it, and it stays: writes to the table would fail without
    /// it. Remove the [capture](crate::Captures::remove) first.
    Captured {
        /// The table, with its schema.
        table: String,
    },
    /// There is no such queue.
    NotFound,
}

impl PgmqEngine {
    /// What a queue holds; `None` if there is no such queue.
    ///
    /// # Errors
    /// When the database could not be asked.
    pub async fn queue_contents(&self, queue: &QueueName) -> Result<Option<QueueContents>> {
        let mut connection = self.connector().connect().await?;
        let counted = dropping::contents(&mut connection, queue).await;
        let _ = connection.close().await;
        counted.map_err(|failure| self.failed(failure, queue))
    }

    /// Drops a queue with its dead letters and its archive, and removes what ezq keeps of it:
    /// subscriptions, pauses, cancellations, replays, dedupe keys, and its trail.
    ///
    /// A consumer that runs makes the queue again, where it may: stop consumers first.
    ///
    /// # Errors
    /// - [`ErrorKind::Permission`](ezq_core::ErrorKind::Permission) unless the role owns the queue
    /// - [`ErrorKind::Transient`](ezq_core::ErrorKind::Transient) when the queue was in use for longer than
    ///   two seconds
    /// - Otherwise when the database could not be asked.
    ///
    /// # Cancel safety
    /// The queue is dropped or not. Dedupe keys and a trail that stay are harmless.
    pub async fn drop_queue(&self, queue: &QueueName, how: DropQueue) -> Result<DropOutcome> {
        let captured = self.captures().list().await?;
        let feeds = captured
            .iter()
            .find(|one| one.queue.as_ref() == Some(queue));
        if let Some(found) = feeds {
            let table = format!("{}.{}", found.schema, found.table);
            return Ok(DropOutcome::Captured { table });
        }

        let mut connection = self.connector().connect().await?;
        let with_events = how == DropQueue::WithEvents;
        let dropped = dropping::drop_queue(&mut connection, queue, with_events).await;
        let _ = connection.close().await;
        let outcome = match dropped.map_err(|failure| self.failed(failure, queue))? {
            None => DropOutcome::NotFound,
            Some((held, false)) => DropOutcome::HoldsEvents(held),
            Some((held, true)) => DropOutcome::Dropped(held),
        };
        self.inner.known.queues.forget(queue);
        self.inner.known.retentions.forget(queue);
        Ok(outcome)
    }
}
