//! The engine: connections, what is known about queues, and the tasks that wake consumers.

mod broadcast;
mod deduping;
mod handle;
mod lease;
mod unsendable;

pub(crate) use broadcast::stored;
pub(crate) use handle::call_part;

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ezq_core::{Capabilities, Error, ErrorKind, Outgoing, PublishOutcome, QueueName, Result};
use sqlx::PgPool;
use sqlx::postgres::PgConnection;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use crate::claim::cursor::ClaimCursors;
use crate::claim::keys::unindexed::Unindexed;
use crate::claim::keys::walk::KeyWalks;
use crate::config::PgmqConfig;
use crate::connection::connector::{Connector, Planning, own_pool};
use crate::connection::dedicated::Dedicated;
use crate::connection::plans::Plans;
use crate::connection::pool::Pool;
use crate::connection::pooler;
use crate::connection::stop::Stopper;
use crate::error::{self, missing};
use crate::message::encoding::Encoding;
use crate::publish::group_commit::GroupCommit;
use crate::publish::store::Store;
use crate::publish::{self, ByQueue, Row, key_lock};
use crate::retention::Retentions;
use crate::retention::sweep::Sweeper;
use crate::schema::queues::Queues;
use crate::schema::{Part, Schema, install};
use crate::settle::LockedRows;
use crate::wake::{Wake, listen};

/// `jsonb` takes no more in one text or array.
const MAX_BODY: usize = 268_435_455;

/// The engine on PGMQ. A clone is another handle to the same engine.
///
/// Claiming, renewing, settling, listening, what must not wait (health) and what is rare have a
/// connection each, opened when first used and opened again when it breaks, and a few more while a
/// statement waits for another session's lock; publishing uses the [pool](Self::pool).
#[derive(Clone)]
pub struct PgmqEngine {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) connector: Connector,
    pub(crate) capabilities: Capabilities,
    pub(crate) encoding: Encoding,
    pub(crate) manage_schema: bool,
    pub(crate) restart_grace: Option<Duration>,
    pub(crate) pool: Arc<Pool>,
    pub(crate) owns_pool: bool,
    pub(crate) claim: Dedicated,
    pub(crate) settle: Dedicated,
    pub(crate) renew: Dedicated,
    /// For what is rare, and may take its time.
    pub(crate) control: Arc<Dedicated>,
    /// For what must not wait: health, and stopping statements.
    pub(crate) urgent: Arc<Dedicated>,
    pub(crate) stopper: Stopper,
    pub(crate) locked: LockedRows,
    pub(crate) group_commit: GroupCommit,
    pub(crate) queues: Queues,
    pub(crate) retentions: Arc<Retentions>,
    pub(crate) sweeper: Sweeper,
    pub(crate) schema: Schema,
    pub(crate) timetable: Schema,
    pub(crate) subscriptions: Schema,
    pub(crate) replays: Schema,
    pub(crate) key_walks: KeyWalks,
    pub(crate) unindexed: Unindexed,
    pub(crate) cursors: ClaimCursors,
    pub(crate) plans: Plans,
    pub(crate) wake: Arc<Wake>,
    tasks: Mutex<Tasks>,
}

#[derive(Default)]
struct Tasks {
    running: JoinSet<()>,
    notifies: bool,
    sweeps: bool,
    listening: Option<watch::Receiver<listen::State>>,
    closed: bool,
    swept: Option<Instant>,
}

impl PgmqEngine {
    /// Connects, checks PGMQ, and installs it where it is absent and may be.
    ///
    /// # Errors
    /// Within the connect timeout, to which an installation adds its own time but not that for which
    /// it waits, each saying what to do:
    /// [`ErrorKind::Connection`] when the server cannot be reached, [`ErrorKind::Permission`] when
    /// it refuses the login, [`ErrorKind::DatabaseMissing`], [`ErrorKind::Unsupported`] where a
    /// pooler hands sessions around between transactions, [`ErrorKind::Permission`] where the schema
    /// `pgmq` or `ezq` belongs to a stranger, and [`ErrorKind::PgmqMissing`] when PGMQ
    /// is absent and cannot be installed, or is older than [`OLDEST_PGMQ`](crate::OLDEST_PGMQ).
    pub async fn connect(config: PgmqConfig) -> Result<Self> {
        ezq_core::private::check_runtime()?;
        config.validate()?;
        let connector = Connector::new(&config);
        let deadline = Instant::now() + connector.connect_timeout();
        let mut first = connector.open(Planning::Free).await?;
        let refused = pooler::refuse(&mut first.connection, &connector);
        let late = |_| {
            Err(error::timed_out(
                connector.place(),
                connector.connect_timeout(),
            ))
        };
        timeout_at(deadline, refused).await.unwrap_or_else(late)?;
        let manage = config.manage_schema;
        install::ensure(&mut first.connection, &connector, manage, deadline).await?;
        let encoding = first.encoding;
        let urgent = Arc::new(Dedicated::new(connector.clone(), Planning::Urgent, None));
        let dedicated =
            |planning| Dedicated::new(connector.clone(), planning, Some(Arc::clone(&urgent)));
        let control = dedicated(Planning::Free).with(first);
        let owns_pool = config.pool.is_none();
        let pool = config
            .pool
            .clone()
            .unwrap_or_else(|| own_pool(&config, &connector));
        let pool = Arc::new(Pool::new(pool, owns_pool, connector.clone()));
        let mut capabilities = Capabilities::new("pgmq");
        capabilities.durable = true;
        capabilities.delayed = true;
        capabilities.dedupe = true;
        capabilities.ordered = true;
        capabilities.archive = true;
        capabilities.transactions = true;
        capabilities.keys = true;
        capabilities.schedules = true;
        capabilities.max_body = Some(MAX_BODY);
        let retentions = Arc::<Retentions>::default();
        for (queue, retention) in &config.retention {
            retentions.set(queue, *retention);
        }
        let control = Arc::new(control);
        let sweeper = Sweeper {
            control: Arc::clone(&control),
            retentions: Arc::clone(&retentions),
            interval: config.sweep_interval,
        };
        let patience = connector.patience(Planning::Free);
        let stopper = Stopper {
            urgent: Arc::clone(&urgent),
            patience,
        };
        let group_commit = GroupCommit::new(Store {
            pool: Arc::clone(&pool),
            place: connector.place().clone(),
            stopper: stopper.clone(),
        });
        let inner = Inner {
            capabilities,
            encoding,
            manage_schema: config.manage_schema,
            restart_grace: config.restart_grace,
            pool,
            owns_pool,
            claim: dedicated(Planning::ByIndex),
            settle: dedicated(Planning::ByIndex),
            renew: dedicated(Planning::ByIndex),
            control,
            urgent,
            stopper,
            group_commit,
            queues: Queues::default(),
            retentions,
            sweeper,
            schema: Schema::new(Part::Engine),
            timetable: Schema::new(Part::Schedules),
            subscriptions: Schema::new(Part::Broadcast),
            replays: Schema::new(Part::Replays),
            key_walks: KeyWalks::default(),
            unindexed: Unindexed::default(),
            cursors: ClaimCursors::default(),
            plans: Plans::default(),
            wake: Arc::default(),
            locked: LockedRows::default(),
            tasks: Mutex::default(),
            connector,
        };
        inner.start_sweeping();
        inner.connector.runtime.watch(&mut inner.tasks().running);
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Removes from the archives what is older than they keep, now; how many messages. The engine
    /// does so by itself [every minute](PgmqConfig::sweep_interval), for the queues whose
    /// [retention](PgmqConfig::retention) has a limit.
    ///
    /// A thousand rows a transaction at most. Where another process sweeps a queue just now, it is
    /// left to that.
    ///
    /// # Errors
    /// What kept the first archive that failed from being swept; the others were.
    ///
    /// # Cancel safety
    /// What was removed stays removed.
    pub async fn sweep(&self) -> Result<u64> {
        self.inner.sweeper.run().await
    }

    /// The pool that publishing uses: the application's, or the engine's own.
    #[must_use]
    pub fn pool(&self) -> &PgPool {
        self.inner.pool.driver()
    }

    pub(crate) fn pool_leases(&self) -> &Arc<Pool> {
        &self.inner.pool
    }

    /// Stores messages in the caller's transaction, in their order: they become visible when it
    /// commits, and never if it does not. One outcome each, known at once: none is
    /// [`PublishOutcome::Failed`].
    ///
    /// The transaction takes no lock but on its own rows, and may be prepared for a two-phase commit.
    /// Consumers are woken by this process, which asks the server whether the transaction has
    /// committed: after 5 ms, and from then on after a quarter of the time that it has been open, for
    /// ten minutes at most.
    ///
    /// A roll-back frees the dedupe keys too; until the transaction ends, others who publish with
    /// one of them wait. Transactions that publish several times with keys, in different orders,
    /// may end in a deadlock, of which Postgres fails one.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidEvent`] when the store cannot keep one of the messages, found before
    /// anything is sent in all but rare cases, [`ErrorKind::SchemaMissing`] where dedupe keys have
    /// no table, found before anything is sent; [`ErrorKind::QueueMissing`] and the database's
    /// errors otherwise. After an error of the database the transaction can only be rolled back.
    pub async fn publish_in(
        &self,
        connection: &mut PgConnection,
        messages: Vec<Outgoing>,
    ) -> Result<Vec<PublishOutcome>> {
        let place = self.inner.connector.place();
        let mut outcomes = unanswered(&messages);
        self.inner.ready_for(messages.iter()).await?;
        let mut queues = ByQueue::default();
        for (index, message) in messages.into_iter().enumerate() {
            let queue = message.queue.clone();
            queues.push(queue, index, Row::new(message, self.inner.encoding)?);
        }
        self.inner.start_notifying();
        for (queue, rows) in queues.into_inner() {
            let (places, rows): (Vec<usize>, Vec<Row>) = rows.into_iter().unzip();
            let stored = publish::insert_in(connection, &queue, &rows).await;
            let (stored, writer) = stored.map_err(|failure| {
                self.inner.note(&failure, &queue);
                if error::is_data(&failure) {
                    return crate::message::storable::refused_with(failure, "its body or headers");
                }
                error::on_queue(failure, &queue, place)
            })?;
            let is_new = stored
                .iter()
                .any(|outcome| matches!(outcome, PublishOutcome::Stored(_)));
            for (index, outcome) in places.into_iter().zip(stored) {
                outcomes[index] = Some(outcome);
            }
            if is_new && let Some(writer) = writer {
                self.inner.wake.announce_after(writer, &queue);
            }
        }
        outcomes.into_iter().collect::<Option<_>>().ok_or_else(lost)
    }
}

fn unanswered(messages: &[Outgoing]) -> Vec<Option<PublishOutcome>> {
    messages.iter().map(|_| None).collect()
}

fn lost() -> Error {
    Error::new(
        ErrorKind::Engine,
        "the database gave fewer ids than messages",
    )
}

impl PgmqEngine {
    /// Takes the lock of an ordering key until the caller's transaction ends. Whoever publishes an
    /// event of the key behind it waits, if it takes the lock, too: so the order of the key is that
    /// in which the transactions commit. Without it two that run at once may be seen in either order,
    /// and a later event may be handled before the earlier one was committed.
    ///
    /// # Errors
    /// The database's errors; after one the transaction can only be rolled back.
    pub async fn lock_key(
        &self,
        connection: &mut PgConnection,
        queue: &QueueName,
        key: &str,
    ) -> Result<()> {
        let locked = key_lock::take(connection, queue, key).await;
        locked.map_err(|failure| error::of(failure, self.inner.connector.place()))
    }
}

impl Inner {
    pub(crate) async fn publish(&self, messages: Vec<Outgoing>) -> Result<Vec<PublishOutcome>> {
        let mut outcomes = unanswered(&messages);
        let mut broken = None;
        let mut no_keys = self.ready_for(messages.iter()).await.err();
        let mut queues = ByQueue::default();
        for (index, message) in messages.into_iter().enumerate() {
            let queue = message.queue.clone();
            match (Row::new(message, self.encoding), &mut no_keys) {
                (Ok(row), Some(error)) if row.dedupe.is_some() => {
                    let again = error.without_source();
                    let error = std::mem::replace(error, again);
                    outcomes[index] = Some(PublishOutcome::Failed(error));
                    broken = broken.or(Some(index));
                }
                (Ok(row), _) => queues.push(queue, index, row),
                (Err(error), _) => outcomes[index] = Some(PublishOutcome::Failed(error)),
            }
        }
        // Or known to be stored already.
        let mut stored_any = false;
        for (queue, rows) in queues.into_inner() {
            let (places, rows): (Vec<usize>, Vec<Row>) = rows.into_iter().unzip();
            if rows.iter().any(Row::is_keyed) {
                self.queues
                    .index_keys(&queue, &self.control, self.manage_schema)
                    .await;
            }
            let results = self.store(&queue, rows).await;
            let mut stored_here = false;
            for (index, outcome) in places.into_iter().zip(results) {
                match &outcome {
                    PublishOutcome::Stored(_) => stored_here = true,
                    PublishOutcome::Duplicate(_) => stored_any = true,
                    PublishOutcome::Failed(error) => {
                        if error.kind() == ErrorKind::QueueMissing {
                            self.queues.forget(&queue);
                        }
                        if error.kind() != ErrorKind::InvalidEvent {
                            broken = broken.or(Some(index));
                        }
                    }
                }
                outcomes[index] = Some(outcome);
            }
            if stored_here {
                stored_any = true;
                self.announce(&queue);
            }
        }
        // Nothing is stored, and not for what the messages hold: the call as a whole failed.
        if let Some(index) = broken
            && !stored_any
            && let Some(PublishOutcome::Failed(error)) = outcomes[index].take()
        {
            return Err(error);
        }
        let outcomes = outcomes.into_iter();
        Ok(outcomes
            .map(|o| o.unwrap_or_else(|| PublishOutcome::Failed(lost())))
            .collect())
    }

    pub(crate) fn announce(&self, queue: &QueueName) {
        self.start_notifying();
        self.wake.announce(queue);
    }

    pub(crate) fn announce_all(&self, queues: &HashSet<QueueName>) {
        for queue in queues {
            self.announce(queue);
        }
    }

    /// What an error says about a queue's table is remembered by forgetting.
    pub(crate) fn note(&self, failure: &sqlx::Error, queue: &QueueName) {
        if missing::is_table(failure) || error::is_reshaped(failure) {
            self.queues.forget(queue);
            self.retentions.forget(queue);
            self.schema.forget();
        }
    }

    fn start_notifying(&self) {
        let mut tasks = self.tasks();
        if !tasks.notifies && !tasks.closed {
            tasks.notifies = true;
            let wake = self.wake.clone();
            let control = self.control.clone();
            tasks.running.spawn(wake.notify_forever(control));
        }
    }

    /// Once there is something that ages.
    pub(crate) fn start_sweeping(&self) {
        let mut tasks = self.tasks();
        if !tasks.sweeps && !tasks.closed && self.sweeper.has_work() {
            tasks.sweeps = true;
            tasks.running.spawn(self.sweeper.clone().run_forever());
        }
    }

    pub(crate) async fn listen(&self) -> Result<()> {
        // What a look finds is announced to others, too.
        self.start_notifying();
        let state = {
            let mut tasks = self.tasks();
            if tasks.closed {
                return Err(Error::new(ErrorKind::Connection, "the engine is closed"));
            }
            match &tasks.listening {
                Some(state) => state.clone(),
                None => {
                    let (sender, state) = watch::channel(listen::State::Connecting);
                    let (connector, wake) = (self.connector.clone(), self.wake.clone());
                    tasks
                        .running
                        .spawn(listen::forever(connector, wake, sender));
                    tasks.listening = Some(state.clone());
                    state
                }
            }
        };
        listen::ready(state).await
    }

    pub(crate) async fn close(&self) {
        let mut running = {
            let mut tasks = self.tasks();
            tasks.closed = true;
            std::mem::take(&mut tasks.running)
        };
        running.shutdown().await;
        self.wake.finish(&self.control).await;
        for connections in [
            &self.claim,
            &self.settle,
            &self.renew,
            &*self.control,
            &*self.urgent,
        ] {
            connections.close().await;
        }
        if self.owns_pool {
            self.pool.driver().close().await;
        }
    }

    fn tasks(&self) -> MutexGuard<'_, Tasks> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for PgmqEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PgmqEngine")
            .field("place", &self.inner.connector.place().to_string())
            .finish_non_exhaustive()
    }
}
