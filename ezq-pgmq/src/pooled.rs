//! A connection of the application's pool, for one call or one transaction.
//!
//! A pool asks a connection that comes back whether it still stands, and waits for the answer without
//! a limit: one that died in silence would occupy its place for as long as the kernel goes on trying,
//! a quarter of an hour over the network. So it goes back within a limit. What is not
//! [given back](Pooled::give_back), because a call failed or its future was dropped, is closed: what
//! it was doing is unknown.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::PgConnection;
use sqlx::{PgPool, Postgres};
use tokio::time::timeout;

use crate::error;

/// How long the pool may ask a connection that comes back.
const RETURNING: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(crate) struct Pooled {
    connection: PoolConnection<Postgres>,
    given_back: bool,
}

impl Pooled {
    pub(crate) async fn acquire(pool: &PgPool) -> Result<Self, sqlx::Error> {
        Ok(Self { connection: pool.acquire().await?, given_back: false })
    }

    /// Gives the connection back, in the background.
    pub(crate) fn give_back(mut self) {
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
