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

use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnection, PgTransactionManager};
use sqlx::{AssertSqlSafe, PgPool, Postgres, SqlSafeStr};
use sqlx_core::transaction::TransactionManager;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::connection::connector::Connector;
use crate::connection::measured::{ConnectionMetrics, Counted};
use crate::connection::runtime;
use crate::error;

/// How long returning a connection may take.
const RETURNING: Duration = Duration::from_secs(5);
/// How often a connection is passed on before it goes back to the pool.
const MAX_HANDOVERS: u8 = 32;

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
    metrics: ConnectionMetrics,
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
            _busy: self.metrics.busy(),
            connection,
            pool: Arc::clone(self),
            handovers: 0,
            given_back: false,
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

    fn waiting(&self) -> std::sync::MutexGuard<'_, VecDeque<Waiter>> {
        // A panic leaves a whole queue behind: each step is one push or one pop.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
pub(crate) struct PoolLease {
    connection: PoolConnection<Postgres>,
    pool: Arc<Pool>,
    handovers: u8,
    given_back: bool,
    _busy: Counted,
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
        }
        self.handovers += 1;
        if let Err(lease) = next.sender.send(self) {
            lease.give_back();
        }
    }

    /// Gives the connection to the next waiter, or back to the pool, in the background.
    pub(crate) fn give_back(mut self) {
        // Ends a transaction that was begun for nobody, or for someone who is gone.
        PgTransactionManager::start_rollback(&mut self);
        let next = self.pool.next(&self);
        if next.is_some() {
            return self.pass_to(next);
        }
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
mod tests {
    use sqlx::postgres::PgPoolOptions;
    use tokio::task::JoinSet;

    use super::*;
    use crate::config::PgmqConfig;
    use crate::embedded::EmbeddedPostgres;

    async fn pool(connections: u32) -> Arc<Pool> {
        let url = EmbeddedPostgres::shared().await.unwrap().url();
        let pool = PgPoolOptions::new()
            .max_connections(connections)
            .test_before_acquire(false);
        let connector = Connector::new(&PgmqConfig::url(&url).unwrap());
        Arc::new(Pool::new(
            pool.connect(&url).await.unwrap(),
            true,
            connector,
        ))
    }

    fn begin(name: &str) -> String {
        format!("BEGIN; SET LOCAL application_name = '{name}'")
    }

    async fn name(connection: &mut PgConnection) -> String {
        let asked = sqlx::query_scalar("SELECT current_setting('application_name')");
        asked.fetch_one(connection).await.unwrap()
    }

    async fn is_in_transaction(connection: &mut PgConnection) -> bool {
        sqlx::raw_sql("SAVEPOINT here")
            .execute(connection)
            .await
            .is_ok()
    }

    /// One use of a connection, of one kind or another.
    async fn use_one(pool: &Arc<Pool>, n: u32) {
        if n.is_multiple_of(7) {
            let mut lease = pool.acquire().await.unwrap();
            assert_eq!(lease.depth(), 0);
            assert!(!is_in_transaction(&mut lease).await);
            return lease.give_back();
        }
        if n.is_multiple_of(11) {
            let mut direct = pool.pool.acquire().await.unwrap();
            return assert!(!is_in_transaction(&mut direct).await);
        }
        let own = format!("unit-{n}");
        let mut lease = pool.begin(begin(&own)).await.unwrap();
        assert_eq!(name(&mut lease).await, own);
        if n.is_multiple_of(13) {
            // As one that was begun for someone who is gone.
            return lease.give_back();
        }
        let next = lease.commit(None).await.unwrap();
        lease.pass_to(next);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn whoever_has_a_connection_has_it_alone_and_in_its_own_transaction() {
        let pool = pool(3).await;
        let mut tasks = JoinSet::new();
        for n in 1..=2000_u32 {
            let pool = Arc::clone(&pool);
            tasks.spawn(async move {
                if n.is_multiple_of(5) {
                    // Gives up at any point.
                    let patience = Duration::from_micros(rand::random_range(0..20_000));
                    let _ = timeout(patience, use_one(&pool, n)).await;
                } else {
                    use_one(&pool, n).await;
                }
            });
        }
        let all = async { while tasks.join_next().await.transpose().unwrap().is_some() {} };
        timeout(Duration::from_secs(60), all)
            .await
            .expect("nobody is left waiting");
        // What went back in the background is there again.
        let mut free = Vec::new();
        for _ in 0..3 {
            free.push(
                timeout(Duration::from_secs(10), pool.pool.acquire())
                    .await
                    .unwrap()
                    .unwrap(),
            );
        }
        for connection in &mut free {
            assert!(!name(connection).await.starts_with("unit-"));
        }
    }

    #[tokio::test]
    async fn who_waits_keeps_its_turn_when_a_commit_fails() {
        let pool = pool(1).await;
        let mut fails = pool.begin(begin("fails")).await.unwrap();
        let deferred = "CREATE TEMP TABLE once (n int UNIQUE DEFERRABLE INITIALLY DEFERRED);
                        INSERT INTO once VALUES (1), (1)";
        sqlx::raw_sql(deferred).execute(&mut *fails).await.unwrap();
        let mut tasks = JoinSet::new();
        let order = Arc::new(Mutex::new(Vec::new()));
        for n in 0..5 {
            let held = Arc::clone(&pool);
            let order = Arc::clone(&order);
            tasks.spawn(async move {
                let mut lease = held.begin(begin("waits")).await.unwrap();
                order.lock().unwrap().push(n);
                let next = lease.commit(None).await.unwrap();
                lease.pass_to(next);
            });
            while pool.waiting().len() <= n {
                tokio::task::yield_now().await;
            }
        }
        assert!(fails.commit(None).await.is_err());
        PgTransactionManager::rollback(&mut fails).await.unwrap();
        fails.give_back();
        while tasks.join_next().await.transpose().unwrap().is_some() {}
        assert_eq!(*order.lock().unwrap(), [0, 1, 2, 3, 4]);
    }

    #[tokio::test]
    async fn who_waits_no_longer_is_forgotten() {
        let pool = pool(1).await;
        let held = pool.acquire().await.unwrap();
        for _ in 0..100 {
            let waits = timeout(Duration::from_micros(10), pool.begin(begin("waits")));
            assert!(waits.await.is_err());
        }
        assert_eq!(pool.waiting().len(), 1);
        held.give_back();
        pool.begin(begin("waits")).await.unwrap().give_back();
    }
}
