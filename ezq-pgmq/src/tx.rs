//! `Tx`: the transaction in which a handler's writes, its events and its acknowledgement commit
//! together.
//!
//! The transaction names itself, in two settings that last as long as it does: by its
//! `application_name` the server's process is found when a statement is to be stopped, and by
//! `ezq.unit` the fence knows that it still is the same transaction.

use std::any::Any;
use std::ops::{Deref, DerefMut};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ezq_core::engine::UnitOfWork;
use ezq_core::{
    Call, Error, ErrorKind, Extract, HandlerError, Outgoing, Progress, Provided, QueueName,
    Receipt, Result, SettleOutcome,
};
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnection, PgTransactionManager};
use sqlx::{AssertSqlSafe, Postgres, SqlSafeStr};
use sqlx_core::transaction::TransactionManager;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::timeout;

use crate::engine::PgmqEngine;
use crate::link::limit;
use crate::publish::{self, ByQueue};
use crate::{error, sql};

/// How long a roll-back may take before the statement it waits for is stopped.
const PATIENCE: Duration = Duration::from_millis(50);
/// How long it may take then.
const STOPPING: Duration = Duration::from_secs(2);

/// The transaction of a handler, as an extractor: what the handler writes through it commits
/// together with the events it publishes and with the acknowledgement, or not at all.
///
/// It is a [`PgConnection`] on the application's pool, inside a transaction that ezq begins before
/// the handler and commits after it, under the fence of the delivery's receipt: a worker that lost
/// its lease commits nothing. So what it writes is written once for each event, however often the
/// event is delivered. What the handler does elsewhere is not covered.
///
/// The handler hands it back by dropping it: keep it inside the handler, and leave `BEGIN`,
/// `COMMIT` and `ROLLBACK` to ezq. Savepoints (`(&mut *tx).begin()`) are yours.
///
/// ```no_run
/// use ezq_pgmq::Tx;
///
/// # struct Paid { order: i64 }
/// async fn book(event: Paid, mut tx: Tx) -> Result<(), sqlx::Error> {
///     sqlx::query("update orders set paid = true where id = $1")
///         .bind(event.order)
///         .execute(&mut *tx)
///         .await?;
///     Ok(())
/// }
/// ```
#[derive(Debug)]
pub struct Tx {
    open: OwnedMutexGuard<Open>,
}

impl Deref for Tx {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.open.connection
    }
}

impl DerefMut for Tx {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.open.connection
    }
}

impl Extract for Tx {
    const TRANSACTION: bool = true;

    fn check(provided: &Provided<'_>) -> Result<()> {
        let capabilities = provided.capabilities;
        if capabilities.transactions {
            return Ok(());
        }
        let name = capabilities.name;
        let text = format!("the engine `{name}` has no transactions: `Tx` needs events on PGMQ");
        Err(Error::new(ErrorKind::Unsupported, text))
    }

    async fn extract(call: &Call) -> Result<Self, HandlerError> {
        let lend = |unit: &mut dyn UnitOfWork| {
            let unit = unit.as_any().downcast_mut::<PgUnit>()?;
            Arc::clone(&unit.open).try_lock_owned().ok()
        };
        let open = call.unit_of_work(lend).flatten().ok_or_else(|| {
            let text = "there is no transaction of PGMQ to take: a handler takes `Tx` once";
            HandlerError::fatal(Error::new(ErrorKind::Unsupported, text))
        })?;
        Ok(Self { open })
    }
}

/// A connection inside a transaction.
#[derive(Debug)]
struct Open {
    connection: PoolConnection<Postgres>,
}

impl Open {
    fn depth(&self) -> usize {
        PgTransactionManager::get_transaction_depth(&self.connection)
    }
}

/// What nobody ended is ended by closing the connection: its state is unknown.
impl Drop for Open {
    fn drop(&mut self) {
        if self.depth() > 0 {
            self.connection.close_on_drop();
        }
    }
}

/// One handler's transaction on one delivery.
pub(crate) struct PgUnit {
    session: Session,
    open: Arc<Mutex<Open>>,
}

/// What is known of a transaction beside its connection.
struct Session {
    engine: PgmqEngine,
    queue: QueueName,
    receipt: Receipt,
    name: String,
}

impl PgUnit {
    /// Begins a transaction, which the server ends when it stays idle for longer than its handler
    /// may run.
    pub(crate) async fn begin(
        engine: &PgmqEngine,
        queue: &QueueName,
        receipt: &Receipt,
        handler_limit: Option<Duration>,
    ) -> Result<Self> {
        let name = format!("ezq-tx-{:016x}", rand::random::<u64>());
        let idle_ms = handler_limit.map_or(0, |time| (2 * time).as_millis().clamp(10_000, 1 << 30));
        let begin = format!(
            "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL application_name = '{name}'; \
             SET LOCAL ezq.unit = '{name}'; \
             SET LOCAL idle_in_transaction_session_timeout = {idle_ms}"
        );
        let begun = limit(engine.patience(), async {
            let mut open = Open { connection: engine.pool().acquire().await? };
            // The name and the number are ours.
            let begin = AssertSqlSafe(begin).into_sql_str();
            PgTransactionManager::begin(&mut open.connection, Some(begin)).await?;
            Ok(open)
        });
        let open = begun.await.map_err(|failure| error::of(failure, engine.place()))?;
        let (engine, queue, receipt) = (engine.clone(), queue.clone(), receipt.clone());
        let session = Session { engine, queue, receipt, name };
        Ok(Self { session, open: Arc::new(Mutex::new(open)) })
    }
}

#[async_trait]
impl UnitOfWork for PgUnit {
    async fn finish(
        self: Box<Self>,
        mark: Progress,
        last: bool,
        outgoing: Vec<Outgoing>,
    ) -> Result<SettleOutcome> {
        let Self { session, open } = *self;
        let mut open = session.take_back(open).await?;
        let mut events = ByQueue::default();
        for event in outgoing {
            let queue = event.queue.clone();
            events.push(queue, 0, publish::Row::new(event)?);
        }
        let events = events.into_inner();
        let patience = session.engine.patience();
        let connection = &mut *open.connection;
        let written = limit(patience, async {
            for (queue, rows) in &events {
                let rows: Vec<_> = rows.iter().map(|(_, row)| row.clone()).collect();
                publish::insert(connection, queue, &rows).await?;
            }
            let held = session.fence(connection, &mark, last).await?;
            if held {
                PgTransactionManager::commit(connection).await?;
            }
            Ok(held)
        });
        match written.await {
            Ok(true) => {
                for (queue, _) in &events {
                    session.engine.announce(queue);
                }
                Ok(SettleOutcome::Done)
            }
            Ok(false) => {
                let stands = session.is_current(&mut open.connection).await;
                session.roll_back(open).await;
                if stands? { Ok(SettleOutcome::LeaseLost) } else { Err(ended()) }
            }
            Err(failure) => {
                session.roll_back(open).await;
                Err(session.failed(failure))
            }
        }
    }

    async fn abandon(self: Box<Self>) {
        let Self { session, open } = *self;
        if let Ok(open) = session.take_back(open).await {
            session.roll_back(open).await;
        }
    }

    fn as_any(&mut self) -> &mut dyn Any {
        self
    }
}

impl Session {
    /// The connection that the handler gave back. If it did not, its session is ended.
    async fn take_back(&self, open: Arc<Mutex<Open>>) -> Result<Open> {
        if let Ok(open) = Arc::try_unwrap(open) {
            let open = open.into_inner();
            if open.depth() == 1 {
                return Ok(open);
            }
        }
        self.signal("pg_terminate_backend").await;
        let text = "the handler did not give its `Tx` back: keep it inside the handler, and end its \
                    savepoints, before the handler returns";
        Err(Error::new(ErrorKind::Engine, text))
    }

    /// Acknowledges the message, or merges a mark into it, if the receipt still holds.
    async fn fence(
        &self,
        connection: &mut PgConnection,
        mark: &Progress,
        last: bool,
    ) -> Result<bool, sqlx::Error> {
        let (table, fence) = (sql::table(&self.queue), sql::fence("q"));
        let held = format!(
            "q.msg_id = $1 AND {fence} = $2 AND q.tableoid::bigint = $3 \
             AND current_setting('ezq.unit', true) = $4"
        );
        let statement = if last {
            format!("DELETE FROM {table} q WHERE {held}")
        } else {
            let object = sql::headers_object("q.headers");
            format!("UPDATE {table} q SET headers = ({object}) || $5::jsonb WHERE {held}")
        };
        let [fence, rel, _] = self.receipt.token();
        let mut query = sqlx::query(AssertSqlSafe(statement))
            .bind(self.receipt.message_id().as_number())
            .bind(fence)
            .bind(rel)
            .bind(&self.name);
        if !last {
            query = query.bind(serde_json::Value::Object(mark.to_headers()));
        }
        Ok(query.execute(connection).await?.rows_affected() > 0)
    }

    /// Whether the connection still is in the transaction that was begun.
    async fn is_current(&self, connection: &mut PgConnection) -> Result<bool> {
        let asked = sqlx::query_scalar("SELECT current_setting('ezq.unit', true) = $1")
            .bind(&self.name)
            .fetch_one(connection);
        let answer: Option<bool> =
            limit(self.engine.patience(), asked).await.map_err(|failure| self.failed(failure))?;
        Ok(answer.unwrap_or(false))
    }

    async fn roll_back(&self, mut open: Open) {
        {
            let mut rollback = pin!(PgTransactionManager::rollback(&mut open.connection));
            if timeout(PATIENCE, &mut rollback).await.is_ok_and(|done| done.is_ok()) {
                return;
            }
            // A statement still runs: dropping its future did not stop it.
            self.signal("pg_cancel_backend").await;
            if timeout(STOPPING, &mut rollback).await.is_ok_and(|done| done.is_ok()) {
                return;
            }
        }
        open.connection.close_on_drop();
        drop(open);
        self.signal("pg_terminate_backend").await;
    }

    /// Sends a signal to the server's process that holds the transaction, if one still does.
    async fn signal(&self, function: &str) {
        let statement =
            format!("SELECT {function}(pid) FROM pg_stat_activity WHERE application_name = $1");
        if let Err(error) = self.engine.control(&statement, &self.name).await {
            tracing::warn!(queue = %self.queue, %error, "a transaction's session cannot be stopped");
        }
    }

    fn failed(&self, failure: sqlx::Error) -> Error {
        if error::is_aborted(&failure) {
            let text = "a statement of the handler failed in its `Tx`, and the handler returned no \
                        error: return it, or run the statement in a savepoint";
            return Error::new(ErrorKind::Engine, text).with_source(failure);
        }
        self.engine.failed(failure, &self.queue)
    }
}

fn ended() -> Error {
    let text = "the handler ended its transaction itself: leave BEGIN, COMMIT and ROLLBACK to ezq";
    Error::new(ErrorKind::Engine, text)
}
