//! Which queues exist, and what their tables have.
//!
//! A queue is looked up once and remembered until a statement finds it gone. Creating takes ezq's
//! lock, so that two processes do not create one queue at once. Looking up takes no lock and no
//! rights, so that a role without rights on the schema can start.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ezq_core::error::error_chain;
use ezq_core::message::QueueName;
use ezq_core::{Error, Result};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection, Row};
use tokio::task::JoinSet;

use crate::connection::dedicated::{Dedicated, call};
use crate::error;
use crate::schema::lock::LOCK_KEY;
use crate::schema::partitions::Change;
use crate::schema::{key_index, partitions, stale_keys};
use crate::sql::{self, archive};

const PROBE: &str = "
    SELECT to_regclass('pgmq.' || quote_ident('q_' || $1)) IS NOT NULL AS has_queue,
           to_regclass('pgmq.' || quote_ident('q_' || $2)) IS NOT NULL AS has_dead,
           EXISTS (SELECT FROM pg_catalog.pg_attribute
                   WHERE attrelid = to_regclass('pgmq.' || quote_ident('q_' || $1))
                     AND attname = 'last_read_at' AND NOT attisdropped) AS has_last_read";
const STANDS: &str = "
    SELECT to_regclass('pgmq.' || quote_ident('q_' || $1)) IS NOT NULL,
           to_regclass('pgmq.' || quote_ident('a_' || $1)) IS NOT NULL";
/// When to try again to index a queue's keys: after a transient error, and after one that someone
/// has to fix.
const SOON: Duration = Duration::from_secs(15);
const LATER: Duration = Duration::from_secs(3600);
/// When to check again whether another process still builds indexes.
const TURN: Duration = Duration::from_secs(5);

/// What a queue's table has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    /// The column `last_read_at`, of PGMQ 1.10 and newer.
    pub(crate) last_read: bool,
    /// The indexes over its ordering keys.
    pub(crate) keyed: bool,
}

#[derive(Default)]
pub(crate) struct Queues {
    known: Mutex<HashMap<QueueName, Shape>>,
    /// How many partitions the program wants queues to have, and all others.
    partitions: HashMap<QueueName, u32>,
    default_partitions: u32,
    index_backoff: IndexBackoff,
    /// Tasks that build indexes. They end with the engine.
    builds: Mutex<JoinSet<()>>,
}

/// Queues whose indexes could not be created, or are being built, and when to try again.
#[derive(Clone, Default)]
struct IndexBackoff(Arc<Mutex<HashMap<QueueName, Instant>>>);

impl IndexBackoff {
    fn is_due(&self, queue: &QueueName) -> bool {
        self.lock()
            .get(queue)
            .is_none_or(|until| Instant::now() >= *until)
    }

    fn until(&self, queue: &QueueName, pause: Duration) {
        self.lock().insert(queue.clone(), Instant::now() + pause);
    }

    /// Logs what to run by hand.
    fn refused(&self, queue: &QueueName, error: Option<&Error>) {
        let passes = error.is_some_and(Error::is_transient);
        self.until(queue, if passes { SOON } else { LATER });
        let sql = format!("{}{}", sql::PIN, key_index::script(queue));
        let error = error.map(|error| error_chain(error));
        ezq_core::private::warn!(
            %queue, error, sql, "ordering keys are slow until these indexes are created"
        );
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<QueueName, Instant>> {
        // Times of next attempts: one insert each, so that a panic leaves them whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct QueueTables {
    queue: bool,
    dead: bool,
    shape: Shape,
}

impl Queues {
    /// With the numbers of partitions that the program declares.
    pub(crate) fn new(partitions: &[(QueueName, u32)], default_partitions: u32) -> Self {
        Self {
            partitions: partitions.iter().cloned().collect(),
            default_partitions,
            ..Self::default()
        }
    }

    /// The shape of a queue, looked up if it is not known.
    pub(crate) async fn shape(&self, queue: &QueueName, control: &Dedicated) -> Result<Shape> {
        if let Some(shape) = self.known(queue) {
            return Ok(shape);
        }
        let found = find(queue, control).await?;
        if !found.queue {
            return Err(error::queue_missing(queue));
        }
        self.remember_if_whole(queue, &found);
        Ok(found.shape)
    }

    /// Creates a queue and its dead letters where they are absent and `manage` allows it.
    pub(crate) async fn ensure(
        &self,
        queue: &QueueName,
        control: &Dedicated,
        manage: bool,
    ) -> Result<()> {
        if self.known(queue).is_some() {
            return Ok(());
        }

        let mut found = find(queue, control).await?;
        if !(found.queue && found.dead) {
            if !manage {
                return Err(error::queue_missing(queue));
            }
            let declared = self.partitions.get(queue).copied();
            let partitions = declared.unwrap_or(self.default_partitions);
            create(queue, partitions, control).await?;
            tracing::info!(%queue, "created the queue");
            found = find(queue, control).await?;
        }
        self.check_partitions(queue, control).await?;

        self.remember(queue, found.shape);
        Ok(())
    }

    /// Warns of a queue with another number of partitions than the program declares. It works as well: the
    /// number is nothing that publishers or consumers rely on.
    async fn check_partitions(&self, queue: &QueueName, control: &Dedicated) -> Result<()> {
        let Some(&declared) = self.partitions.get(queue) else {
            return Ok(());
        };
        let stored = call!(control, |connection| partitions::count(connection, queue))?
            .map_err(|failure| error::of(failure, control.place()))?;
        if stored != declared {
            ezq_core::private::warn!(
                %queue, declared, stored,
                "the queue has another number of partitions than the program declares: run \
                 `ezq queue partition {queue} {declared}`, or declare the number that it has"
            );
        }
        Ok(())
    }

    /// Whether a caller's transaction has created the queue, and no other session sees it yet.
    pub(crate) async fn is_made_in(
        &self,
        transaction: &mut PgConnection,
        queue: &QueueName,
        control: &Dedicated,
    ) -> Result<bool> {
        if self.known(queue).is_some() {
            return Ok(false);
        }

        let asked = sqlx::query_scalar("SELECT pg_catalog.to_regclass($1) IS NOT NULL")
            .bind(sql::table(queue))
            .fetch_one(transaction);
        let stands_here: bool = asked
            .await
            .map_err(|failure| error::of(failure, control.connector().place()))?;

        Ok(stands_here && !find(queue, control).await?.queue)
    }

    /// Creates the indexes over a queue's ordering keys where they are absent and `manage` allows
    /// it. A failure is logged, and no error: without indexes keys are kept as well, only slowly.
    pub(crate) async fn index_keys(&self, queue: &QueueName, control: &Dedicated, manage: bool) {
        let indexed = self.known(queue).is_some_and(|shape| shape.keyed);
        if indexed || !self.index_backoff.is_due(queue) {
            return;
        }

        // The next message with a key tries again.
        let Ok(found) = find(queue, control).await else {
            return;
        };

        if !found.queue || found.shape.keyed {
            return self.remember_if_whole(queue, &found);
        }

        if !manage {
            return self.index_backoff.refused(queue, None);
        }

        match index(queue, control).await {
            Ok(true) => {
                tracing::info!(%queue, "indexed the queue's ordering keys");
                self.forget(queue);
            }
            Ok(false) => self.index_beside(queue, control),
            Err(error) => self.index_backoff.refused(queue, Some(&error)),
        }
    }

    /// Has a task build the indexes of a large queue.
    fn index_beside(&self, queue: &QueueName, control: &Dedicated) {
        // No other attempt until the task has ended.
        self.index_backoff.until(queue, LATER);
        let index_backoff = self.index_backoff.clone();
        let connector = control.connector().clone();
        let queue = queue.clone();
        let mut builds = self.builds.lock().unwrap_or_else(PoisonError::into_inner);

        // A set keeps ended tasks until they are joined.
        while builds.try_join_next().is_some() {}
        builds.spawn(async move {
            tracing::debug!(%queue, "indexing the ordering keys of a large queue");
            loop {
                match key_index::create_beside(&connector, &queue).await {
                    Ok(true) => break,
                    // The other process may be building for another queue.
                    Ok(false) => {
                        tokio::time::sleep(TURN.mul_f64(rand::random_range(0.5..1.0))).await
                    }
                    Err(error) => return index_backoff.refused(&queue, Some(&error)),
                }
            }

            tracing::info!(%queue, "indexed the queue's ordering keys");
            index_backoff.until(&queue, Duration::ZERO);
        });
    }

    fn remember_if_whole(&self, queue: &QueueName, found: &QueueTables) {
        if found.queue && found.dead {
            self.remember(queue, found.shape);
        }
    }

    /// Forgets what was known about a queue.
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
        // A cache: what a panic leaves behind is asked for again.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn find(queue: &QueueName, control: &Dedicated) -> Result<QueueTables> {
    let row = call!(control, |connection| async {
        let statement = format!("{PROBE}, {} AS has_keys", key_index::PROBE);
        sqlx::query(AssertSqlSafe(statement))
            .bind(queue.as_str())
            .bind(queue.dead_letters())
            .fetch_one(connection)
            .await
    })?;
    let row = row.map_err(|failure| error::of(failure, control.place()))?;

    let read = |column: &str| {
        row.try_get::<bool, _>(column)
            .map_err(|failure| error::of(failure, control.place()))
    };

    Ok(QueueTables {
        queue: read("has_queue")?,
        dead: read("has_dead")?,
        shape: Shape {
            last_read: read("has_last_read")?,
            keyed: read("has_keys")?,
        },
    })
}

async fn index(queue: &QueueName, control: &Dedicated) -> Result<bool> {
    let created = call!(control, |connection| key_index::create_on_small(
        connection, queue
    ))?;
    created.map_err(|failure| error::of(failure, control.place()))
}

/// Creates what is absent of a queue, its archive and its dead letters.
pub(crate) async fn create(queue: &QueueName, partitions: u32, control: &Dedicated) -> Result<()> {
    let created = call!(control, |connection| create_locked(
        connection, queue, partitions
    ))?;
    let refused = created.map_err(|failure| error::of(failure, control.place()))?;
    if let Some(why) = refused {
        ezq_core::private::warn!(
            %queue, partitions, why, "the queue was created as one table: it cannot be partitioned"
        );
    }
    Ok(())
}

/// Returns why the queue was created without its partitions, if so.
async fn create_locked(
    connection: &mut PgConnection,
    queue: &QueueName,
    partitions: u32,
) -> Result<Option<String>, sqlx::Error> {
    let names = [queue.as_str().to_owned(), queue.dead_letters()];
    for name in &names {
        // Outside of the transaction first: a queue may have millions of keys.
        stale_keys::free_absent(&mut *connection, name).await?;
    }

    let mut tx = connection.begin().await?;
    // Many processes may start at once, and wait for each other here.
    sqlx::query("SET LOCAL lock_timeout = '20s'")
        .execute(&mut *tx)
        .await?;
    sqlx::query("SELECT pg_advisory_xact_lock($1)")
        .bind(LOCK_KEY)
        .execute(&mut *tx)
        .await?;

    let mut refused = None;
    for name in &names {
        // An existing queue is left alone: another role may own it.
        let stands: (bool, bool) = sqlx::query_as(STANDS)
            .bind(name)
            .fetch_one(&mut *tx)
            .await?;
        let (has_queue, has_archive) = stands;
        if !has_queue {
            // Again under the lock: keys may have been taken since.
            stale_keys::free_absent(&mut tx, name).await?;
        }

        if !(has_queue && has_archive) {
            sqlx::query("SELECT pgmq.create($1)")
                .bind(name)
                .execute(&mut *tx)
                .await?;
        }

        // Otherwise new messages would get numbers that the archive already holds.
        if has_archive && !has_queue {
            let behind = archive::number_behind_archive(name);
            sqlx::query(AssertSqlSafe(behind)).execute(&mut *tx).await?;
        }

        // Without partitions the queue works as well.
        if !has_queue && *name == queue.as_str() && partitions > 1 {
            refused = match partitions::divide_new(&mut tx, queue, partitions).await? {
                Change::Done(..) | Change::None => None,
                Change::Refused(why) => Some(why),
                Change::TooMany => Some("something has filled it at once".to_owned()),
                Change::NoQueue => Some("`pgmq.create` has not made its table".to_owned()),
            };
        }
    }

    tx.commit().await?;
    Ok(refused)
}
