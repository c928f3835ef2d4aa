//! Seats: a part that one process has at a time. A session holds an advisory lock, which ends with it.

use std::time::Duration;

use async_trait::async_trait;
use ezq_core::Result;
use ezq_core::engine::{Sampler, SourceReader};
use sqlx::postgres::{PgArguments, PgConnection};
use sqlx::query::QueryScalar;
use sqlx::{Connection as _, Postgres};

use crate::config::Place;
use crate::connection::dedicated;
use crate::engine::PgmqEngine;
use crate::error;

/// A session that holds the lock of a seat.
pub(super) struct Seat {
    session: PgConnection,
    limit: Duration,
    place: Place,
}

impl Seat {
    /// Opens a session and takes a lock in it, by a query that says whether it was free.
    pub(super) async fn take(
        engine: &PgmqEngine,
        try_lock: QueryScalar<'static, Postgres, bool, PgArguments>,
    ) -> Result<Option<Self>> {
        let connector = engine.connector();
        let mut session = connector.connect().await?;
        let limit = connector.connect_timeout();
        let is_free = dedicated::limit(limit, try_lock.fetch_one(&mut session)).await;
        if !is_free.map_err(|failure| error::of(failure, connector.place()))? {
            let _ = session.close().await;
            return Ok(None);
        }

        Ok(Some(Self {
            session,
            limit,
            place: connector.place().clone(),
        }))
    }

    /// A session that answers has its locks.
    async fn answers(&mut self) -> Result<()> {
        dedicated::limit(self.limit, self.session.ping())
            .await
            .map_err(|failure| error::of(failure, &self.place))
    }
}

#[async_trait]
impl Sampler for Seat {
    async fn confirm(&mut self) -> Result<()> {
        self.answers().await
    }
}

#[async_trait]
impl SourceReader for Seat {
    async fn confirm(&mut self) -> Result<()> {
        self.answers().await
    }
}
