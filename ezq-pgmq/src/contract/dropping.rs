//! Dropping a queue, on a connection of its own: it may wait for others, and nothing must wait for it.

use std::future::{Future, IntoFuture};
use std::pin::Pin;

use chrono::DateTime;
use ezq_core::Result;
use ezq_core::engine::{AuditAction, AuditEntry, Signature};
use ezq_core::message::QueueName;
use sqlx::Connection as _;
use sqlx::postgres::PgConnection;

use crate::admin::audit;
use crate::engine::PgmqEngine;
use crate::message::encoding::Encoding;
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

    /// Drops a queue when awaited, with its dead letters and its archive, and removes what ezq keeps of
    /// it: subscriptions, pauses, cancellations, replays, dedupe keys, and its trail. What operators did to
    /// it stays in the audit trail.
    ///
    /// A consumer that runs makes the queue again, where it may: stop consumers first.
    pub fn drop_queue<'a>(&'a self, queue: &'a QueueName, how: DropQueue) -> DropQueueRequest<'a> {
        DropQueueRequest {
            engine: self,
            queue,
            how,
            signature: Signature::new(self.place().role.clone()),
        }
    }
}

/// A queue that is dropped when this is awaited. It is recorded in the audit trail, in the same transaction.
///
/// # Errors
/// - [`ErrorKind::Permission`](ezq_core::ErrorKind::Permission) unless the role owns the queue
/// - [`ErrorKind::SchemaMissing`](ezq_core::ErrorKind::SchemaMissing) if the role may not write the trail:
///   the error says what to run
/// - [`ErrorKind::Transient`](ezq_core::ErrorKind::Transient) when the queue was in use for longer than
///   two seconds
/// - Otherwise when the database could not be asked.
///
/// # Cancel safety
/// The queue is dropped or not. Dedupe keys and a trail that stay are harmless.
#[must_use = "nothing is dropped until this is awaited"]
#[derive(Debug)]
pub struct DropQueueRequest<'a> {
    engine: &'a PgmqEngine,
    queue: &'a QueueName,
    how: DropQueue,
    signature: Signature,
}

impl<'a> DropQueueRequest<'a> {
    /// Who drops it. Defaults to the role of the connection.
    pub fn by(mut self, who: impl Into<String>) -> Self {
        self.signature.by = who.into();
        self
    }

    /// Why. Defaults to no reason.
    pub fn reason(mut self, reason: impl Into<String>) -> Self {
        self.signature.reason = Some(reason.into());
        self
    }

    async fn run(self) -> Result<DropOutcome> {
        let Self {
            engine, queue, how, ..
        } = self;
        let captured = engine.captures().list().await?;
        let feeds = captured
            .iter()
            .find(|one| one.queue.as_ref() == Some(queue));
        if let Some(found) = feeds {
            let table = format!("{}.{}", found.schema, found.table);
            return Ok(DropOutcome::Captured { table });
        }

        let inner = &engine.inner;
        let connections = &inner.connections;
        let trail = &inner.tables.operations;
        let manage = inner.settings.manage_schema;
        trail
            .ensure(&connections.control, &connections.connector, manage)
            .await?;

        let mut connection = engine.connector().connect().await?;
        let with_events = how == DropQueue::WithEvents;
        let at = DateTime::UNIX_EPOCH;
        let entry = AuditEntry::new(at, self.signature, AuditAction::DropQueue, queue.clone());
        let encoding = engine.encoding();
        let dropped = drop_and_record(&mut connection, queue, with_events, &entry, encoding).await;
        let _ = connection.close().await;
        let outcome = match dropped.map_err(|failure| engine.operations_failed(failure, queue))? {
            None => DropOutcome::NotFound,
            Some((held, false)) => DropOutcome::HoldsEvents(held),
            Some((held, true)) => DropOutcome::Dropped(held),
        };
        inner.known.queues.forget(queue);
        inner.known.retentions.forget(queue);
        Ok(outcome)
    }
}

impl<'a> IntoFuture for DropQueueRequest<'a> {
    type Output = Result<DropOutcome>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'a>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

async fn drop_and_record(
    connection: &mut PgConnection,
    queue: &QueueName,
    with_events: bool,
    entry: &AuditEntry,
    encoding: Encoding,
) -> Result<Option<(QueueContents, bool)>, sqlx::Error> {
    let mut tx = connection.begin().await?;
    let dropped = dropping::drop_queue(&mut tx, queue, with_events).await?;
    if !matches!(dropped, Some((_, true))) {
        return Ok(dropped);
    }
    audit::write(&mut tx, entry, encoding).await?;
    tx.commit().await?;
    dropping::forget(connection, queue).await?;
    Ok(dropped)
}
