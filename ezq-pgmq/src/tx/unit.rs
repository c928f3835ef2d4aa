//! The unit of work behind a handler's transaction: it is begun, written to, fenced and ended here.

use std::any::Any;
use std::fmt::Write as _;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ezq_core::engine::{BroadcastMessage, Delivery, Finished, Outgoing, SettleOutcome, UnitOfWork};
use ezq_core::message::QueueName;
use ezq_core::{Error, Result};
use sqlx::AssertSqlSafe;
use sqlx::postgres::{PgConnection, PgTransactionManager};
use sqlx_core::transaction::TransactionManager;
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::context::TxContext;
use super::faults::{self, NOT_CURRENT, Stage};
use super::fence::Fenced;
use crate::claim::cursor::ClaimRun;
use crate::connection::dedicated::{limit, timed};
use crate::connection::pool::{PoolLease, Waiter};
use crate::engine::PgmqEngine;
use crate::error::{self, missing};
use crate::publish::broadcast::{self, Copies};
use crate::publish::{self, ByQueue};
use crate::retention::removal::Removal;

/// How long a roll-back may take before the statement that it waits for is cancelled.
const PATIENCE: Duration = Duration::from_millis(50);
/// How long it may take after that.
const STOPPING: Duration = Duration::from_secs(2);

/// A connection inside a transaction.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) connection: PoolLease,
    /// What was claimed in the transaction stands in its old place again if that does not commit.
    claimed: Option<ClaimedHere>,
}

/// Has the next claim of a queue start at the front when it is dropped, unless its transaction committed.
struct ClaimedHere {
    engine: PgmqEngine,
    queue: QueueName,
    is_committed: bool,
    /// How many messages were claimed, which deleted them.
    count: usize,
}

impl Drop for ClaimedHere {
    fn drop(&mut self) {
        if !self.is_committed {
            self.engine.claim_cursors().forget(&self.queue);
        }
    }
}

impl std::fmt::Debug for ClaimedHere {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("ClaimedHere").field(&self.queue).finish()
    }
}

/// One handler's transaction on one delivery.
pub(crate) struct PgUnit {
    context: TxContext,
    /// Events for every subscribed queue.
    broadcasts: Vec<broadcast::Row>,
    pub(super) open: Arc<Mutex<Open>>,
}

impl PgUnit {
    /// Begins a transaction. The server ends it when it is idle for longer than its handler may
    /// run. Without a limit for the handler, the server's own setting applies.
    pub(crate) async fn begin(
        engine: &PgmqEngine,
        queue: &QueueName,
        handler_limit: Option<Duration>,
    ) -> Result<Self> {
        let name = format!("ezq-tx-{:016x}", rand::random::<u64>());
        // READ WRITE whatever the defaults of role or database: if it is read-only later, the
        // handler made it so.
        let mut begin = format!(
            "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL application_name = '{name}'; \
             SET LOCAL ezq.unit = '{name}'"
        );
        if let Some(time) = handler_limit {
            // Twice the handler's time: the server must not end one that is still within its limit.
            let idle_ms = time.saturating_mul(2).as_millis().clamp(10_000, 1 << 30);
            // Writing to a string cannot fail.
            let _ = write!(
                begin,
                "; SET LOCAL idle_in_transaction_session_timeout = {idle_ms}"
            );
        }

        let begun = limit(engine.patience(), async {
            // No user's text is part of it.
            Ok(Open {
                connection: engine.pool_leases().begin(begin).await?,
                claimed: None,
            })
        });

        let open = begun
            .await
            .map_err(|failure| error::of(failure, engine.place()))?;
        let context = TxContext {
            engine: engine.clone(),
            queue: queue.clone(),
            name,
        };

        Ok(Self {
            context,
            broadcasts: Vec::new(),
            open: Arc::new(Mutex::new(open)),
        })
    }
}

#[async_trait]
impl UnitOfWork for PgUnit {
    async fn claim(&mut self, max: usize) -> Result<Vec<Delivery>> {
        let TxContext { engine, queue, .. } = &self.context;
        let claim = engine.claim_of(queue, max).await?;
        let removal = engine.removal_of(queue).await?;
        let Some(open) = Arc::get_mut(&mut self.open) else {
            return Err(faults::not_given_back());
        };

        let cursors = engine.claim_cursors();
        let start = cursors.start(queue);
        let Open {
            connection,
            claimed,
        } = open.get_mut();
        let taking = claim.take(connection, (queue, removal), engine.plans(), start.due());
        let (took, deliveries) = limit(engine.patience(), timed(taking))
            .await
            .map_err(|failure| self.context.failed(failure, Stage::Writing(queue)))?;

        let last = deliveries.last().filter(|_| deliveries.len() >= max);
        let made_at = deliveries.iter().map(|one| one.leased_at).min();
        cursors.record(
            queue,
            &ClaimRun {
                start,
                ended: last.map(|delivery| delivery.due),
                made_at: made_at.map(|at| at - took),
                took,
                count: deliveries.len(),
            },
        );
        if !deliveries.is_empty() {
            let claimed = claimed.get_or_insert_with(|| ClaimedHere {
                engine: engine.clone(),
                queue: queue.clone(),
                is_committed: false,
                count: 0,
            });
            claimed.count += deliveries.len();
        }
        Ok(deliveries)
    }

    async fn has_made(&mut self, queue: &QueueName) -> bool {
        let Some(open) = Arc::get_mut(&mut self.open) else {
            return false;
        };
        self.context
            .engine
            .has_made_in(&mut open.get_mut().connection, queue)
            .await
    }

    fn broadcast(&mut self, message: BroadcastMessage) -> Result<()> {
        self.broadcasts.push(broadcast::Row::new(
            message,
            self.context.engine.encoding(),
        )?);
        Ok(())
    }

    async fn finish(
        self: Box<Self>,
        finished: Vec<Finished>,
        outgoing: Vec<Outgoing>,
    ) -> Result<SettleOutcome> {
        let Self {
            context,
            broadcasts,
            open,
        } = *self;
        let engine = &context.engine;
        let mut open = context.take_back(open).await?;
        engine.ready_for(&outgoing).await?;
        engine.ready_for_broadcasts(&broadcasts).await?;
        let ending = Ending {
            removal: engine.removal_of(&context.queue).await?,
            events: context.rows(outgoing)?,
            finished: finished
                .into_iter()
                .map(Fenced::new)
                .collect::<Result<_>>()?,
            broadcasts,
        };

        let mut stage = Stage::Settling(&context.queue);
        let written = limit(
            engine.patience(),
            context.write(&mut open.connection, &ending, &mut stage),
        );
        match written.await {
            Ok(Some(Written { next, copies })) => {
                // Leased ones were updated by their claim, and deleted.
                let mut dead_rows = 2 * ending.finished.len();
                if let Some(claimed) = &mut open.claimed {
                    claimed.is_committed = true;
                    dead_rows += claimed.count;
                }
                engine.note_dead_rows(&context.queue, dead_rows);
                open.connection.pass_to(next);
                for (queue, _) in &ending.events {
                    engine.announce(queue);
                }
                for (event_type, copies) in &copies {
                    engine.broadcast_done(event_type, copies);
                }
                Ok(SettleOutcome::Done)
            }
            Ok(None) => context.why_not_held(open, &ending.finished).await,
            Err(failure) => {
                context.roll_back(open).await;
                if !ending.broadcasts.is_empty() && missing::of_ezq(&failure).is_some() {
                    return Err(engine.broadcast_failed(failure));
                }
                Err(context.failed(failure, stage))
            }
        }
    }

    async fn abandon(self: Box<Self>) {
        let Self { context, open, .. } = *self;
        if let Ok(open) = context.take_back(open).await {
            context.roll_back(open).await;
        }
    }

    fn as_any(&mut self) -> &mut dyn Any {
        self
    }
}

/// What ends a transaction: all that is still to be written in it.
struct Ending {
    finished: Vec<Fenced>,
    removal: Removal,
    /// Events by queue.
    events: Vec<publish::QueueRows>,
    /// Events for every subscribed queue.
    broadcasts: Vec<broadcast::Row>,
}

/// What a committed transaction leaves to be done.
struct Written<'a> {
    /// Who gets the connection next.
    next: Option<Waiter>,
    /// What became of each broadcast, by type of event.
    copies: Vec<(&'a str, Copies)>,
}

impl TxContext {
    /// Events as rows, by queue.
    fn rows(&self, outgoing: Vec<Outgoing>) -> Result<Vec<publish::QueueRows>> {
        let mut events = ByQueue::default();
        for event in outgoing {
            let queue = event.queue.clone();
            let row = publish::Row::new(event, self.engine.encoding())?;
            events.push(queue, 0, row);
        }
        Ok(events.into_inner())
    }

    /// Settles, writes the events, and commits; `None` where the fence does not hold.
    async fn write<'a>(
        &'a self,
        connection: &mut PoolLease,
        ending: &'a Ending,
        stage: &mut Stage<'a>,
    ) -> Result<Option<Written<'a>>, sqlx::Error> {
        let Ending {
            finished,
            removal,
            events,
            broadcasts,
        } = ending;

        // The fence comes first: in another transaction, or in none, an insert would be stored by
        // itself. It also locks rows before dedupe keys, in the order in which settlements lock them.
        if !self.fence(connection, finished, *removal).await? {
            return Ok(None);
        }
        // What was claimed inside the transaction has no fence: a proof stands in for it.
        let proof = finished.is_empty().then(|| self.proof());
        if let Some(proof) = &proof
            && !(events.is_empty() && broadcasts.is_empty())
        {
            let proof = AssertSqlSafe(proof.clone());
            sqlx::raw_sql(proof).execute(&mut **connection).await?;
        }

        for (queue, rows) in events {
            *stage = Stage::Writing(queue);
            let rows: Vec<_> = rows.iter().map(|(_, row)| row.clone()).collect();
            publish::insert(connection, queue, &rows).await?;
        }
        *stage = Stage::Writing(&self.queue);
        let mut copies = Vec::new();
        for row in broadcasts {
            copies.push((row.event_type(), broadcast::insert(connection, row).await?));
        }

        *stage = Stage::Committing;
        let next = connection.commit(proof.as_deref()).await?;
        Ok(Some(Written { next, copies }))
    }

    /// Rolls back, and finds why the fence did not hold: only a lost lease is no fault of the handler.
    async fn why_not_held(&self, mut open: Open, finished: &[Fenced]) -> Result<SettleOutcome> {
        let stands = self.is_current(&mut open.connection).await;
        self.roll_back(open).await;
        if !stands? {
            return Err(faults::ended());
        }

        // Without what the handler did, the delivery may still be this worker's.
        if self.is_held(finished).await? {
            return Err(faults::own_message());
        }
        Ok(SettleOutcome::LeaseLost)
    }

    /// The connection that the handler returned. If it did not, its session is terminated.
    async fn take_back(&self, open: Arc<Mutex<Open>>) -> Result<Open> {
        if let Ok(open) = Arc::try_unwrap(open) {
            let open = open.into_inner();
            if open.connection.depth() == 1 {
                return Ok(open);
            }
        }
        self.signal("pg_terminate_backend").await;
        Err(faults::not_given_back())
    }

    /// Whether the connection is still in the transaction that was begun.
    async fn is_current(&self, connection: &mut PgConnection) -> Result<bool> {
        let asked = sqlx::query_scalar("SELECT pg_catalog.current_setting('ezq.unit', true) = $1")
            .bind(&self.name)
            .fetch_one(connection);
        let answer: Result<Option<bool>, _> = limit(self.engine.patience(), asked).await;
        let answer = answer.map_err(|failure| self.failed(failure, Stage::Writing(&self.queue)))?;
        Ok(answer.unwrap_or(false))
    }

    /// A statement that fails if the connection has left the transaction that was begun, or if a
    /// statement failed in it. `COMMIT` reports neither.
    fn proof(&self) -> String {
        let Self { name, .. } = self;
        format!(
            "SELECT (CASE WHEN pg_catalog.current_setting('ezq.unit', true) = '{name}' THEN '1' \
             ELSE '{NOT_CURRENT}' END)::int"
        )
    }

    async fn roll_back(&self, mut open: Open) {
        let ended = {
            let mut rollback = pin!(PgTransactionManager::rollback(&mut open.connection));
            let mut ended = timeout(PATIENCE, &mut rollback).await;
            if ended.is_err() {
                // A statement still runs: dropping its future did not stop it.
                self.signal("pg_cancel_backend").await;
                ended = timeout(STOPPING, &mut rollback).await;
            }

            ended.map(|ended| ended.is_ok())
        };

        if ended == Ok(true) {
            return open.connection.give_back();
        }

        drop(open);
        if ended.is_err() {
            self.signal("pg_terminate_backend").await;
        }
    }

    /// Signals the backend that holds the transaction, if one still does.
    async fn signal(&self, function: &str) {
        let statement =
            format!("SELECT {function}(pid) FROM pg_stat_activity WHERE application_name = $1");
        let asked = timeout(STOPPING, self.engine.urgently(&statement, &self.name)).await;
        let error = match asked {
            Ok(Ok(())) => return,
            Ok(Err(error)) => ezq_core::error::error_chain(&error),
            Err(_) => "the database does not answer".to_owned(),
        };
        ezq_core::private::warn!(queue = %self.queue, error, "a transaction's session cannot be stopped");
    }

    fn failed(&self, failure: sqlx::Error, stage: Stage<'_>) -> Error {
        let queue = stage.queue().unwrap_or(&self.queue);
        match faults::by_handler(failure, stage) {
            Ok(error) => error,
            Err(failure) => self.engine.failed(failure, queue),
        }
    }
}
