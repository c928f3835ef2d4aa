//! Leases of pooled connections, for one call or one transaction.
//!
//! A pool pings a connection that is returned, and waits for the answer without a limit. A
//! connection that died without notice would keep its place until the kernel gives up, a quarter of
//! an hour over the network. So connections are returned within a limit. A lease that is not [given
//! back](PoolLease::give_back), because a call failed or its future was dropped, closes its
//! connection: it may still be working.
//!
//! Fast path: if all connections of ezq's own pool are in use, a free one passes directly to the
//! next waiter. This saves the ping, a fifth of the round trips of a short transaction. If the
//! waiter wants a transaction, one round trip commits the old one and begins the new one. After
//! [`MAX_HANDOVERS`] the connection goes back to the pool, for those who wait there. Benchmark
//! case: `consume_tx`, which needs three round trips for an event in place of four: 7,294 events/s,
//! and 5,961 if each connection goes back to the pool.
//!
//! If connections are free, one that comes back outside of a transaction [rests](Pool::rest) for a moment. So
//! whoever publishes one event after another uses the same again, without a ping in between. Benchmark case:
//! `publish_one`, 1.34 of `pgmq.send`, and 1.13 if each connection goes back to the pool.

use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnection, PgTransactionManager};
use sqlx::{AssertSqlSafe, PgPool, Postgres, SqlSafeStr};
use sqlx_core::transaction::TransactionManager;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

use crate::connection::connector::Connector;
use crate::connection::measured::{ConnectionMetrics, Counted};
use crate::connection::runtime;
use crate::error;

/// How long returning a connection may take.
const RETURNING: Duration = Duration::from_secs(5);
/// How often a connection is passed on before it goes back to the pool.
const MAX_HANDOVERS: u8 = 32;
/// For how long one rests at least before it goes back to the pool; at most for twice as long.
const RESTING: Duration = Duration::from_millis(10);

/// The pool, and who waits for a connection of it.
#[derive(Debug)]
pub(crate) struct Pool {
    pool: PgPool,
    /// Whether connections are passed on. The hooks of an application's pool must see each
    /// connection come and go.
    hands_on: bool,
    /// Knows the current options for ezq's own pool.
    connector: Connector,
    waiting: Mutex<VecDeque<Waiter>>,
    resting: Mutex<Resting>,
    /// Where the task runs that returns connections from their rest; none rests without it.
    runtime: Option<Handle>,
    metrics: ConnectionMetrics,
}

/// Connections that are free, and not back in the pool yet; the newest last.
#[derive(Debug, Default)]
struct Resting {
    connections: Vec<Rested>,
    /// A task returns those that nobody uses.
    is_watched: bool,
}

#[derive(Debug)]
struct Rested {
    lease: PoolLease,
    since: Instant,
}

/// Someone who waits for a connection.
#[derive(Debug)]
pub(crate) struct Waiter {
    /// The statements that begin the transaction for which it is wanted.
    begin: Option<String>,
    sender: oneshot::Sender<PoolLease>,
}

impl Pool {
    pub(crate) fn new(pool: PgPool, is_own: bool, connector: Connector) -> Self {
        Self {
            pool,
            hands_on: is_own,
            connector,
            waiting: Mutex::default(),
            resting: Mutex::default(),
            runtime: Handle::try_current().ok(),
            metrics: ConnectionMetrics::new("pool"),
        }
    }

    pub(crate) fn driver(&self) -> &PgPool {
        &self.pool
    }

    /// A connection, as soon as the pool has one or another lease ends.
    pub(crate) async fn acquire(self: &Arc<Self>) -> Result<PoolLease, sqlx::Error> {
        self.wait(None).await
    }

    /// The same, inside a transaction that the statements begin.
    pub(crate) async fn begin(
        self: &Arc<Self>,
        statements: String,
    ) -> Result<PoolLease, sqlx::Error> {
        let mut lease = self.wait(Some(&statements)).await?;
        if lease.depth() == 0 {
            let statements = AssertSqlSafe(statements).into_sql_str();
            PgTransactionManager::begin(&mut lease, Some(statements)).await?;
        }
        Ok(lease)
    }

    async fn wait(self: &Arc<Self>, begin: Option<&str>) -> Result<PoolLease, sqlx::Error> {
        if self.connector.runtime.has_ended() {
            return Err(sqlx::Error::Configuration(Box::new(runtime::ended())));
        }

        let rested = self.resting().connections.pop();
        if let Some(Rested { mut lease, .. }) = rested {
            lease.handovers += 1;
            lease.busy = Some(self.metrics.busy());
            return Ok(lease);
        }

        // Acquiring from the pool may open a connection, which must not be dropped halfway: without
        // need nobody waits here.
        if !self.hands_on || !self.is_exhausted() {
            return self.take().await.map(|connection| self.lease(connection));
        }

        let (sender, mut receiver) = oneshot::channel();
        {
            let mut waiting = self.waiting();
            // These got one from the pool.
            while waiting
                .front()
                .is_some_and(|first| first.sender.is_closed())
            {
                waiting.pop_front();
            }

            waiting.push_back(Waiter {
                begin: begin.map(str::to_owned),
                sender,
            });
        }

        tokio::select! {
            biased;
            acquired = self.take() => {
                receiver.close();
                if let Ok(handed) = receiver.try_recv() {
                    handed.give_back();
                }
                acquired.map(|connection| self.lease(connection))
            }

            Ok(handed) = &mut receiver => Ok(handed),
        }
    }

    /// A connection of the pool. If it has to be opened, the password may have changed.
    async fn take(&self) -> Result<PoolConnection<Postgres>, sqlx::Error> {
        // Boxed: acquiring may open a connection, whose future is large.
        match Box::pin(self.pool.acquire()).await {
            // An application's pool has its options from the application.
            Err(refused) if self.hands_on && error::is_login(&refused) => {
                self.pool.set_connect_options(self.connector.options());
                Box::pin(self.pool.acquire()).await
            }
            acquired => acquired,
        }
        .inspect_err(|_| self.metrics.failed())
    }

    fn lease(self: &Arc<Self>, connection: PoolConnection<Postgres>) -> PoolLease {
        self.metrics.sized(self.pool.size());
        PoolLease {
            busy: Some(self.metrics.busy()),
            connection,
            pool: Arc::clone(self),
            handovers: 0,
            given_back: false,
            rolls_back: false,
        }
    }

    /// Whether all connections are in use.
    fn is_exhausted(&self) -> bool {
        self.pool.size() >= self.pool.options().get_max_connections() && self.pool.num_idle() == 0
    }

    /// The first who still waits, if the connection may be passed on.
    fn next(&self, lease: &PoolLease) -> Option<Waiter> {
        if lease.handovers >= MAX_HANDOVERS || !self.is_exhausted() || self.pool.is_closed() {
            return None;
        }
        let mut waiting = self.waiting();
        std::iter::from_fn(|| waiting.pop_front()).find(|next| !next.sender.is_closed())
    }

    /// Whether the connection may rest. At this moment the application finds another one in its pool; else it
    /// waits for the end of the rest.
    fn may_rest(&self, lease: &PoolLease) -> bool {
        let most = self.pool.options().get_max_connections();
        self.hands_on
            && lease.handovers < MAX_HANDOVERS
            && (self.pool.num_idle() > 0 || self.pool.size() < most)
            && !self.pool.is_closed()
    }

    /// Keeps a connection for a moment. Whoever needs one takes it; else it goes back to the pool.
    fn rest(self: &Arc<Self>, runtime: &Handle, mut lease: PoolLease) {
        lease.busy = None;
        let since = Instant::now();
        let is_watched = {
            let mut resting = self.resting();
            resting.connections.push(Rested { lease, since });
            std::mem::replace(&mut resting.is_watched, true)
        };

        // Not under the lock: where the runtime ends, this drops the watch.
        if !is_watched {
            let watch = RestingWatch {
                pool: Arc::clone(self),
                is_done: false,
            };
            runtime.spawn(watch.run());
        }
    }

    fn resting(&self) -> MutexGuard<'_, Resting> {
        // A panic leaves whole connections behind: each step is one push or one removal.
        self.resting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<Waiter>> {
        // A panic leaves a whole queue behind: each step is one push or one pop.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the connections that have rested long enough. If the runtime ends, it drops them, since a
/// connection may only be dropped within one.
struct RestingWatch {
    pool: Arc<Pool>,
    /// Nothing rests any more, or another watch has what does.
    is_done: bool,
}

impl RestingWatch {
    async fn run(mut self) {
        while !self.is_done {
            sleep(RESTING).await;
            let over: Vec<Rested> = {
                let mut resting = self.pool.resting();
                let over = resting
                    .connections
                    .extract_if(.., |rested| rested.since.elapsed() >= RESTING)
                    .collect();
                self.is_done = resting.connections.is_empty();
                resting.is_watched = !self.is_done;
                over
            };

            over.into_iter().for_each(|one| one.lease.return_to_pool());
        }
    }
}

impl Drop for RestingWatch {
    fn drop(&mut self) {
        if self.is_done {
            return;
        }
        let connections = {
            let mut resting = self.pool.resting();
            resting.is_watched = false;
            std::mem::take(&mut resting.connections)
        };
        drop(connections);
    }
}

#[derive(Debug)]
pub(crate) struct PoolLease {
    connection: PoolConnection<Postgres>,
    pool: Arc<Pool>,
    handovers: u8,
    given_back: bool,
    /// A roll-back waits to be sent with the next statement.
    rolls_back: bool,
    busy: Option<Counted>,
}

impl PoolLease {
    /// How many transactions and savepoints are open.
    pub(crate) fn depth(&self) -> usize {
        PgTransactionManager::get_transaction_depth(self)
    }

    /// Commits the transaction, and begins that of the next waiter, to whom the lease must then be
    /// [passed](Self::pass_to). A statement that proves something may go before; if it fails,
    /// nothing is committed.
    pub(crate) async fn commit(
        &mut self,
        proof: Option<&str>,
    ) -> Result<Option<Waiter>, sqlx::Error> {
        let next = self.pool.next(self);
        let begin = next.as_ref().and_then(|next| next.begin.as_deref());
        let committed = match (proof, begin) {
            (None, None) => PgTransactionManager::commit(self).await,
            (proof, begin) => {
                // The depth stays the same: one transaction ends, and one begins.
                let proof = proof.unwrap_or_default();
                let begin = begin.unwrap_or("BEGIN");
                let all = AssertSqlSafe(format!("{proof}; COMMIT; {begin}"));
                sqlx::raw_sql(all).execute(&mut **self).await.map(|_| ())
            }
        };

        if let Err(failure) = committed {
            // It keeps its place at the front of the queue.
            if let Some(next) = next {
                self.pool.waiting().push_front(next);
            }
            return Err(failure);
        }

        Ok(next)
    }

    pub(crate) fn pass_to(mut self, next: Option<Waiter>) {
        let Some(next) = next else {
            return self.give_back();
        };
        if next.begin.is_none() {
            // The waiter wants no transaction, but one was begun.
            PgTransactionManager::start_rollback(&mut self);
            self.rolls_back = true;
        }
        self.handovers += 1;
        if let Err(lease) = next.sender.send(self) {
            lease.give_back();
        }
    }

    /// Gives the connection to the next waiter, or back to the pool, in the background.
    pub(crate) fn give_back(mut self) {
        // Ends a transaction that was begun for nobody, or for someone who is gone.
        self.rolls_back |= self.depth() > 0;
        PgTransactionManager::start_rollback(&mut self);
        let next = self.pool.next(&self);
        if next.is_some() {
            return self.pass_to(next);
        }

        let pool = Arc::clone(&self.pool);
        match &pool.runtime {
            // A roll-back reaches the server with the ping.
            Some(runtime) if !self.rolls_back && pool.may_rest(&self) => pool.rest(runtime, self),
            _ => self.return_to_pool(),
        }
    }

    fn return_to_pool(mut self) {
        self.given_back = true;
        let returned = self.connection.return_to_pool();
        // If the limit passes, dropping this closes the connection and frees its place.
        tokio::spawn(async move { timeout(RETURNING, returned).await });
    }

    /// Gives the connection back if it can be used again after a call with this result.
    pub(crate) fn end<T>(self, result: Result<T, sqlx::Error>) -> Result<T, sqlx::Error> {
        if result.as_ref().err().is_none_or(error::keeps_connection) {
            self.give_back();
        }
        result
    }
}

impl Deref for PoolLease {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.connection
    }
}

impl DerefMut for PoolLease {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.connection
    }
}

impl Drop for PoolLease {
    fn drop(&mut self) {
        if !self.given_back {
            self.connection.close_on_drop();
        }
    }
}

#[cfg(feature = "embedded")]
#[cfg(test)]
mod tests;
