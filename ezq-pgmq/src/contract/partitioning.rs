//! Giving a queue another number of partitions, on a connection of its own: it waits for others, and
//! nothing must wait for it.

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::time::{Duration, Instant};

use chrono::DateTime;
use ezq_core::engine::{AuditAction, AuditEntry, Count, Signature};
use ezq_core::message::QueueName;
use ezq_core::{Error, ErrorKind, Result};
use sqlx::Connection as _;
use sqlx::postgres::PgConnection;

use crate::admin::audit;
use crate::config::MOST_PARTITIONS;
use crate::engine::PgmqEngine;
use crate::error;
use crate::message::encoding::Encoding;
use crate::schema::partitions::{self, Change};
use crate::sql::BEGIN;

/// Moving so many events blocks the queue for about a second.
const AT_MOST: u64 = 50_000;
/// For how long a queue that is in use is asked for.
const PATIENCE: Duration = Duration::from_secs(30);
/// The pause between two attempts: so long others use the queue undisturbed.
const PAUSE: Duration = Duration::from_millis(500);

/// How a queue is partitioned, and what would have to be moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Partitions {
    /// How many partitions the queue has; 1 if it is one table.
    pub count: u32,
    /// How many events it holds, whatever their state; counted up to 1,000,000.
    pub events: Count,
}

/// What became of a queue that was to have another number of partitions.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PartitionOutcome {
    /// It has them.
    Partitioned {
        /// How many it had before.
        before: u32,
        /// How many events were moved.
        moved: u64,
    },
    /// It had that number already.
    Unchanged,
    /// It holds more events than may be moved, and is as it was.
    TooManyEvents,
    /// There is no such queue.
    NotFound,
}

impl PgmqEngine {
    /// How many partitions a queue has, and how many events; `None` if there is no such queue.
    ///
    /// # Errors
    /// When the database could not be asked.
    pub async fn partitions(&self, queue: &QueueName) -> Result<Option<Partitions>> {
        let mut connection = self.connector().connect().await?;
        let looked = partitions::look(&mut connection, queue, 1_000_000).await;
        let _ = connection.close().await;
        let found = looked.map_err(|failure| self.failed(failure, queue))?;
        Ok(found.map(|(count, events)| Partitions { count, events }))
    }

    /// Gives a queue another number of partitions when awaited, 1 to 16; with 1 it is a table as PGMQ makes
    /// it. Events keep their ids and all else; none is lost, none is stored twice, and events of one
    /// ordering key stay in their order. While events are moved, consumers and transactions of yours wait;
    /// publishes of ezq's own fail after a second with a transient error.
    ///
    /// One transaction does it, so a process that is killed meanwhile has changed all or nothing. It begins
    /// when no other transaction uses the queue. What consumers hold stays theirs, and they settle it as usual.
    ///
    /// The table is made anew under its name, with its columns, indexes and rights. A queue is refused if its
    /// table has what would be lost, such as triggers, row policies, views, foreign keys or a publication, and
    /// if it is another role's: indexes and checks are that role's code, and would run with your rights.
    pub fn partition_queue<'a>(
        &'a self,
        queue: &'a QueueName,
        partitions: u32,
    ) -> PartitionRequest<'a> {
        PartitionRequest {
            engine: self,
            queue,
            partitions,
            at_most: AT_MOST,
            patience: PATIENCE,
            signature: Signature::new(self.place().role.clone()),
        }
    }
}

/// A queue that gets another number of partitions when this is awaited. It is recorded in the audit trail,
/// in the same transaction.
///
/// # Errors
/// - [`ErrorKind::Configuration`] for a number that is not 1 to 16
/// - [`ErrorKind::Unsupported`] if the table has what would be lost, or is another role's; the message names it
/// - [`ErrorKind::Transient`] when the queue was in use for the whole [patience](Self::patience)
/// - [`ErrorKind::Permission`] unless the role may create tables in the schema `pgmq`
/// - [`ErrorKind::SchemaMissing`] if the role may not write the audit trail: the error says what to run
/// - Otherwise when the database could not be asked.
///
/// # Cancel safety
/// The queue has the new number of partitions or the old one, whole.
#[must_use = "nothing is changed until this is awaited"]
#[derive(Debug)]
pub struct PartitionRequest<'a> {
    engine: &'a PgmqEngine,
    queue: &'a QueueName,
    partitions: u32,
    at_most: u64,
    patience: Duration,
    signature: Signature,
}

impl<'a> PartitionRequest<'a> {
    /// How many events may be moved: the queue stands still for as long as that takes. Defaults to 50,000.
    pub fn at_most(mut self, events: u64) -> Self {
        self.at_most = events;
        self
    }

    /// For how long to try while transactions use the queue. An attempt first waits for a vacuum, which holds
    /// up nobody, and then half a second for transactions, behind which whoever comes later waits. Defaults to
    /// 30 s.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Who does it. Defaults to the role of the connection.
    pub fn by(mut self, who: impl Into<String>) -> Self {
        self.signature.by = who.into();
        self
    }

    /// Why. Defaults to no reason.
    pub fn reason(mut self, reason: impl Into<String>) -> Self {
        self.signature.reason = Some(reason.into());
        self
    }

    async fn run(self) -> Result<PartitionOutcome> {
        let Self { engine, queue, .. } = self;
        if !(1..=MOST_PARTITIONS).contains(&self.partitions) {
            let text = format!("a queue may have 1 to {MOST_PARTITIONS} partitions");
            return Err(Error::new(ErrorKind::Configuration, text));
        }

        let inner = &engine.inner;
        let connections = &inner.connections;
        let manage = inner.settings.manage_schema;
        let trail = &inner.tables.operations;
        trail
            .ensure(&connections.control, &connections.connector, manage)
            .await?;

        let changed = self.until_free().await;
        inner.known.queues.forget(queue);
        inner.claims.partitions.forget(queue);
        match changed.map_err(|failure| engine.operations_failed(failure, queue))? {
            Change::Done(before, moved) => Ok(PartitionOutcome::Partitioned { before, moved }),
            Change::None => Ok(PartitionOutcome::Unchanged),
            Change::TooMany => Ok(PartitionOutcome::TooManyEvents),
            Change::NoQueue => Ok(PartitionOutcome::NotFound),
            Change::Refused(why) => {
                let text = format!("the queue `{queue}` cannot be partitioned: {why}");
                Err(Error::new(ErrorKind::Unsupported, text))
            }
        }
    }

    /// Tries until no transaction holds the queue, or the patience ends.
    async fn until_free(&self) -> Result<Change, sqlx::Error> {
        let begun = Instant::now();
        loop {
            // A connection for each attempt: one whose statement was given up may still be working.
            let connected = self.engine.connector().connect().await;
            let mut connection =
                connected.map_err(|error| sqlx::Error::Configuration(Box::new(error)))?;
            let changed = self.attempt(&mut connection, self.engine.encoding()).await;
            let _ = connection.close().await;

            match changed {
                Err(failure)
                    if (error::is_locked(&failure) || error::is_conflict(&failure))
                        && begun.elapsed() < self.patience =>
                {
                    tokio::time::sleep(PAUSE.mul_f64(rand::random_range(0.5..1.5))).await;
                }
                result => return result,
            }
        }
    }

    async fn attempt(
        &self,
        connection: &mut PgConnection,
        encoding: Encoding,
    ) -> Result<Change, sqlx::Error> {
        let mut tx = connection.begin_with(BEGIN).await?;
        let change = partitions::change(&mut tx, self.queue, self.partitions, self.at_most).await?;
        let Change::Done(before, moved) = change else {
            return Ok(change);
        };

        let at = DateTime::UNIX_EPOCH;
        let queue = self.queue.clone();
        let signature = self.signature.clone();
        let mut entry = AuditEntry::new(at, signature, AuditAction::Partition, queue);
        entry.subject = Some(format!("{before} to {}", self.partitions));
        entry.count = Some(moved);
        audit::write(&mut tx, &entry, encoding).await?;
        tx.commit().await?;
        Ok(change)
    }
}

impl<'a> IntoFuture for PartitionRequest<'a> {
    type Output = Result<PartitionOutcome>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'a>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}
