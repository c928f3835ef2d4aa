//! A connection of the application's pool, for one call or one transaction.
//!
//! A pool asks a connection that comes back whether it still stands, and waits for the answer without
//! a limit: one that died in silence would occupy its place for as long as the kernel goes on trying,
//! a quarter of an hour over the network. So it goes back within a limit. What is not
//! [given back](Pooled::give_back), because a call failed or its future was dropped, is closed: what
//! it was doing is unknown.
//!
//! Where the pool is ezq's own, a connection goes straight to who waits for one, and spares both the
//! question: a fifth of the round trips of a short transaction. If that one waits for a transaction,
//! one round trip commits and begins. Every so often the connection goes back all the same, so that
//! whoever waits at the pool itself gets its turn.

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

use crate::error;

/// How long the pool may ask a connection that comes back.
const RETURNING: Duration = Duration::from_secs(5);
/// How often a connection is handed on before it goes back.
const HANDS: u8 = 32;

/// The application's pool, and who waits for a connection of it.
#[derive(Debug)]
pub(crate) struct Lender {
    pool: PgPool,
    /// The hooks of a pool that is not ezq's are to see each connection come and go.
    hands_on: bool,
    waiting: Mutex<VecDeque<Waiting>>,
}

/// Who waits for a connection.
#[derive(Debug)]
pub(crate) struct Waiting {
    /// The statements that begin the transaction for which it is wanted.
    begin: Option<String>,
    sender: oneshot::Sender<Pooled>,
}

impl Lender {
    pub(crate) fn new(pool: PgPool, hands_on: bool) -> Self {
        Self { pool, hands_on, waiting: Mutex::default() }
    }

    pub(crate) fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// A connection, as soon as the pool has one or another's use of one ends.
    pub(crate) async fn acquire(self: &Arc<Self>) -> Result<Pooled, sqlx::Error> {
        self.wait(None).await
    }

    /// The same, inside a transaction that the statements begin.
    pub(crate) async fn begin(self: &Arc<Self>, statements: String) -> Result<Pooled, sqlx::Error> {
        let mut pooled = self.wait(Some(&statements)).await?;
        if pooled.depth() == 0 {
            let statements = AssertSqlSafe(statements).into_sql_str();
            PgTransactionManager::begin(&mut pooled, Some(statements)).await?;
        }
        Ok(pooled)
    }

    async fn wait(self: &Arc<Self>, begin: Option<&str>) -> Result<Pooled, sqlx::Error> {
        // Waiting at the pool may be opening a connection, which is not to be dropped halfway.
        if !self.hands_on || !self.is_exhausted() {
            return self.pool.acquire().await.map(|connection| self.lend(connection));
        }
        let (sender, mut receiver) = oneshot::channel();
        self.waiting().push_back(Waiting { begin: begin.map(str::to_owned), sender });
        tokio::select! {
            biased;
            acquired = self.pool.acquire() => {
                receiver.close();
                if let Ok(handed) = receiver.try_recv() {
                    handed.give_back();
                }
                acquired.map(|connection| self.lend(connection))
            }
            Ok(handed) = &mut receiver => Ok(handed),
        }
    }

    fn lend(self: &Arc<Self>, connection: PoolConnection<Postgres>) -> Pooled {
        Pooled { connection, lender: Arc::clone(self), hands: 0, given_back: false }
    }

    /// Whether every connection that there may be is in use.
    fn is_exhausted(&self) -> bool {
        self.pool.size() >= self.pool.options().get_max_connections() && self.pool.num_idle() == 0
    }

    /// The first who still waits, if the connection may be handed on.
    fn next(&self, pooled: &Pooled) -> Option<Waiting> {
        if pooled.hands >= HANDS || !self.is_exhausted() || self.pool.is_closed() {
            return None;
        }
        let mut waiting = self.waiting();
        std::iter::from_fn(|| waiting.pop_front()).find(|next| !next.sender.is_closed())
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, VecDeque<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
pub(crate) struct Pooled {
    connection: PoolConnection<Postgres>,
    lender: Arc<Lender>,
    hands: u8,
    given_back: bool,
}

impl Pooled {
    /// How many transactions and savepoints are open.
    pub(crate) fn depth(&self) -> usize {
        PgTransactionManager::get_transaction_depth(self)
    }

    /// Commits the transaction, and begins that of the next one who waits for a connection, to whom
    /// it is to be [passed](Self::pass_to).
    pub(crate) async fn commit(&mut self) -> Result<Option<Waiting>, sqlx::Error> {
        let next = self.lender.next(self);
        if let Some(begin) = next.as_ref().and_then(|next| next.begin.as_deref()) {
            // The depth stays as it is: one transaction ends, and one begins.
            let both = AssertSqlSafe(format!("COMMIT; {begin}"));
            sqlx::raw_sql(both).execute(&mut **self).await?;
        } else {
            PgTransactionManager::commit(self).await?;
        }
        Ok(next)
    }

    pub(crate) fn pass_to(mut self, next: Option<Waiting>) {
        let Some(next) = next else { return self.give_back() };
        self.hands += 1;
        if let Err(pooled) = next.sender.send(self) {
            pooled.give_back();
        }
    }

    /// Gives the connection to who waits for one, or back, in the background.
    pub(crate) fn give_back(mut self) {
        // Of a transaction that was begun for someone who is gone.
        PgTransactionManager::start_rollback(&mut self);
        let next = self.lender.next(&self);
        if next.is_some() {
            return self.pass_to(next);
        }
        self.given_back = true;
        let returned = self.connection.return_to_pool();
        // Dropped before it is through, it closes the connection and frees its place.
        tokio::spawn(async move { timeout(RETURNING, returned).await });
    }

    /// Gives the connection back if it can be used again after what a call came to.
    pub(crate) fn end<T>(self, result: Result<T, sqlx::Error>) -> Result<T, sqlx::Error> {
        if result.as_ref().err().is_none_or(error::keeps_connection) {
            self.give_back();
        }
        result
    }
}

impl Deref for Pooled {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.connection
    }
}

impl DerefMut for Pooled {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.connection
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        if !self.given_back {
            self.connection.close_on_drop();
        }
    }
}
