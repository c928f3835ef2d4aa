//! Which queues are known to exist, and what their tables look like.
//!
//! A queue is looked up once and remembered until a statement finds it gone. Creating takes ezq's
//! advisory lock, so that two processes do not create one queue at once; looking takes nothing, so
//! that a role without rights on the schema can start.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use ezq_core::{QueueName, Result};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection, Row};

use crate::error;
use crate::install::LOCK_KEY;
use crate::link::{Link, limit};

const PROBE: &str = "
    SELECT to_regclass('pgmq.q_' || $1) IS NOT NULL AS has_queue,
           to_regclass('pgmq.q_' || $2) IS NOT NULL AS has_dead,
           EXISTS (SELECT FROM pg_catalog.pg_attribute
                   WHERE attrelid = to_regclass('pgmq.q_' || $1)
                     AND attname = 'last_read_at' AND NOT attisdropped) AS has_last_read";

/// What a queue's table has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    /// The column `last_read_at`, of PGMQ 1.10 and newer.
    pub(crate) last_read: bool,
}

#[derive(Default)]
pub(crate) struct Queues {
    known: Mutex<HashMap<QueueName, Shape>>,
}

struct Found {
    queue: bool,
    dead: bool,
    shape: Shape,
}

impl Queues {
    /// The shape of a queue, looked up when it is not known.
    pub(crate) async fn shape(&self, queue: &QueueName, link: &Link) -> Result<Shape> {
        if let Some(shape) = self.known(queue) {
            return Ok(shape);
        }
        let found = find(queue, link).await?;
        if !found.queue {
            return Err(error::queue_missing(queue));
        }
        if found.dead {
            self.remember(queue, found.shape);
        }
        Ok(found.shape)
    }

    /// Creates a queue and its dead letters where they are absent and `manage` allows it.
    pub(crate) async fn ensure(&self, queue: &QueueName, link: &Link, manage: bool) -> Result<()> {
        if self.known(queue).is_some() {
            return Ok(());
        }
        let mut found = find(queue, link).await?;
        if !(found.queue && found.dead) {
            if !manage {
                return Err(error::queue_missing(queue));
            }
            create(queue, link).await?;
            tracing::info!(%queue, "created the queue");
            found = find(queue, link).await?;
        }
        self.remember(queue, found.shape);
        Ok(())
    }

    /// What was known about a queue no longer holds.
    pub(crate) fn forget(&self, queue: &QueueName) {
        self.lock().remove(queue);
    }

    fn known(&self, queue: &QueueName) -> Option<Shape> {
        self.lock().get(queue).copied()
    }

    fn remember(&self, queue: &QueueName, shape: Shape) {
        self.lock().insert(queue.clone(), shape);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<QueueName, Shape>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn find(queue: &QueueName, link: &Link) -> Result<Found> {
    let mut link = link.checkout().await?;
    let (place, patience) = (link.place().clone(), link.timeout());
    let probe = sqlx::query(PROBE)
        .bind(queue.as_str().to_owned())
        .bind(queue.dead_letters())
        .fetch_one(link.connection());
    let result = limit(patience, probe).await;
    let row = link.end(result).map_err(|failure| error::of(failure, &place))?;
    let read =
        |column: &str| row.try_get::<bool, _>(column).map_err(|failure| error::of(failure, &place));
    Ok(Found {
        queue: read("has_queue")?,
        dead: read("has_dead")?,
        shape: Shape { last_read: read("has_last_read")? },
    })
}

/// Creates what is absent of a queue, its archive and its dead letters.
pub(crate) async fn create(queue: &QueueName, link: &Link) -> Result<()> {
    let mut link = link.checkout().await?;
    let (place, patience) = (link.place().clone(), link.timeout());
    let result = limit(patience, create_locked(link.connection(), queue)).await;
    link.end(result).map_err(|failure| error::of(failure, &place))
}

async fn create_locked(
    connection: &mut PgConnection,
    queue: &QueueName,
) -> Result<(), sqlx::Error> {
    let mut tx = connection.begin().await?;
    sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(LOCK_KEY).execute(&mut *tx).await?;
    for name in [queue.as_str().to_owned(), queue.dead_letters()] {
        // A queue that stands is left alone: its owner may be another role.
        let absent = "to_regclass('pgmq.q_' || $1) IS NULL OR to_regclass('pgmq.a_' || $1) IS NULL";
        let statement = format!("SELECT pgmq.create($1) WHERE {absent}");
        sqlx::query(AssertSqlSafe(statement)).bind(name).execute(&mut *tx).await?;
    }
    tx.commit().await
}
