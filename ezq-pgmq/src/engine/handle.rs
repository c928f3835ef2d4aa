//! What transactions, captures and replays ask of the engine.

use std::time::Duration;

use ezq_core::engine::{Engine as _, LeaseRequest, Outgoing};
use ezq_core::message::QueueName;
use ezq_core::{Error, ErrorKind, Result};
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;
use tokio::time::timeout;

use super::PgmqEngine;
use crate::claim::Claim;
use crate::claim::cursor::ClaimCursors;
use crate::config::Place;
use crate::connection::connector::{Connector, Planning};
use crate::connection::dedicated::call;
use crate::connection::plans::Plans;
use crate::error;
use crate::message::encoding::Encoding;
use crate::retention::removal::Removal;

/// Makes one [call] on a part of ezq's own tables, or on several (`one and other`), which are created first where they are absent. The call is repeated once if they were dropped in the
/// meantime.
macro_rules! call_part {
    ($inner:expr, $part:ident $(and $other:ident)*, |$connection:ident| $statements:expr) => {{
        let inner = &$inner;
        let mut is_first = true;
        loop {
            let is_ready = async {
                for part in [&inner.tables.$part, $(&inner.tables.$other)*] {
                    part.ensure(
                        &inner.connections.control,
                        &inner.connections.connector,
                        inner.settings.manage_schema,
                    )
                    .await?;
                }
                Ok(())
            };
            if let Err(error) = is_ready.await {
                break Err(error);
            }

            match $crate::connection::dedicated::call!(inner.connections.control, |$connection| {
                $statements
            }) {
                Ok(Err(failure))
                    if is_first && $crate::error::missing::of_ezq(&failure).is_some() =>
                {
                    is_first = false;
                    inner.tables.$part.forget();
                    $(inner.tables.$other.forget();)*
                }
                result => break result,
            }
        }
    }};
}
pub(crate) use call_part;

impl PgmqEngine {
    /// Whether a table of ezq's own is absent. What only reads asks this first: it creates nothing, and
    /// its role may lack the right to.
    pub(crate) async fn is_absent(&self, table: &str) -> Result<bool> {
        call!(self.inner.connections.control, |connection| {
            query_absent(connection, table)
        })?
        .map_err(|failure| error::of(failure, self.place()))
    }
}

async fn query_absent(connection: &mut PgConnection, table: &str) -> Result<bool, sqlx::Error> {
    // Unlike `to_regclass`, the catalogue answers a role without rights on the schema as well.
    sqlx::query_scalar(
        "SELECT NOT EXISTS (
           SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
           WHERE n.nspname = 'ezq' AND c.relname = $1)",
    )
    .bind(table)
    .fetch_one(connection)
    .await
}

/// What a caller's transaction needs of the engine.
impl PgmqEngine {
    /// Makes sure of a queue in which the caller's transaction will store messages, as
    /// [`Engine::ensure_queue`](ezq_core::engine::Engine::ensure_queue) does. A queue that the
    /// transaction itself has created is left as it is: no other session sees it yet, and creating
    /// it elsewhere would wait for the transaction's end.
    ///
    /// # Errors
    /// As for [`Engine::ensure_queue`](ezq_core::engine::Engine::ensure_queue), and the database's
    /// errors on the caller's connection.
    pub async fn ensure_queue_in(
        &self,
        connection: &mut PgConnection,
        queue: &QueueName,
    ) -> Result<()> {
        let queues = &self.inner.known.queues;
        let control = &self.inner.connections.control;
        if queues.is_made_in(connection, queue, control).await? {
            return Ok(());
        }
        self.ensure_queue(queue).await
    }
}

/// What a handler's transaction needs of its engine.
impl PgmqEngine {
    /// Opens connections for one call.
    pub(crate) fn connector(&self) -> &Connector {
        &self.inner.connections.connector
    }

    /// Whether schemas, tables and functions may be created.
    pub(crate) fn manages_schema(&self) -> bool {
        self.inner.settings.manage_schema
    }

    /// Whether a handler's transaction has created a queue that no other session sees yet. If this
    /// cannot be asked, the end of the transaction reports why.
    pub(crate) async fn has_made_in(
        &self,
        connection: &mut PgConnection,
        queue: &QueueName,
    ) -> bool {
        let queues = &self.inner.known.queues;
        let control = &self.inner.connections.control;
        let asked = timeout(
            self.patience(),
            queues.is_made_in(connection, queue, control),
        );
        matches!(asked.await, Ok(Ok(true)))
    }

    /// Creates the indexes for ordering keys of a queue, where that is possible.
    pub(crate) async fn index_keys(&self, queue: &QueueName) {
        let inner = &self.inner;
        inner
            .known
            .queues
            .index_keys(
                queue,
                &inner.connections.control,
                inner.settings.manage_schema,
            )
            .await;
    }

    /// Makes sure of the table of replays. It is checked each time: replays are rare.
    pub(crate) async fn ready_to_replay(&self) -> Result<()> {
        let inner = &self.inner;
        inner.tables.replays.forget();
        inner
            .tables
            .replays
            .ensure(
                &inner.connections.control,
                &inner.connections.connector,
                inner.settings.manage_schema,
            )
            .await
    }

    /// Makes sure of the audit trail, after an entry could not be written.
    pub(crate) async fn ready_to_record(&self) -> Result<()> {
        let inner = &self.inner;
        let trail = &inner.tables.operations;
        trail.forget();
        trail
            .ensure(
                &inner.connections.control,
                &inner.connections.connector,
                inner.settings.manage_schema,
            )
            .await
    }

    /// The state of cached plans of statements in the pool's transactions.
    pub(crate) fn claim_cursors(&self) -> &ClaimCursors {
        &self.inner.claims.cursors
    }

    pub(crate) fn plans(&self) -> &Plans {
        &self.inner.plans
    }

    pub(crate) fn encoding(&self) -> Encoding {
        self.inner.settings.encoding
    }

    pub(crate) fn place(&self) -> &Place {
        self.inner.connections.connector.place()
    }

    pub(crate) fn patience(&self) -> Duration {
        self.inner.connections.connector.patience(Planning::Free)
    }

    /// A claim for a transaction of the pool.
    pub(crate) async fn claim_of(&self, queue: &QueueName, max: usize) -> Result<Claim> {
        let inner = &self.inner;
        let shape = inner
            .known
            .queues
            .shape(queue, &inner.connections.control)
            .await?;
        if shape.keyed {
            let text = "messages with ordering keys cannot be claimed in a transaction";
            return Err(Error::new(ErrorKind::Unsupported, text));
        }

        let ttl = Duration::from_secs(1);
        let request = LeaseRequest::new(queue.clone(), max, ttl).keys(max);

        Ok(Claim::new(&request, shape, inner.settings.restart_grace))
    }

    /// How acknowledged messages leave a queue.
    pub(crate) async fn removal_of(&self, queue: &QueueName) -> Result<Removal> {
        let inner = &self.inner;
        inner
            .known
            .retentions
            .removal(
                queue,
                &inner.connections.control,
                inner.settings.manage_schema,
            )
            .await
    }

    /// Makes sure that events with dedupe keys can be stored.
    pub(crate) async fn ready_for(&self, outgoing: &[Outgoing]) -> Result<()> {
        self.inner.ready_for(outgoing.iter()).await
    }

    /// Notes that a transaction has left dead rows in a queue.
    pub(crate) fn note_dead_rows(&self, queue: &QueueName, rows: usize) {
        self.inner.note_dead_rows(queue, rows);
    }

    pub(crate) fn announce(&self, queue: &QueueName) {
        self.inner.announce(queue);
    }

    /// Runs a statement with one value that must not wait for others.
    pub(crate) async fn urgently(&self, statement: &str, value: &str) -> Result<()> {
        let done = call!(self.inner.connections.urgent, |connection| sqlx::query(
            AssertSqlSafe(statement.to_owned())
        )
        .bind(value)
        .execute(connection))?;
        done.map(drop)
            .map_err(|failure| error::of(failure, self.place()))
    }

    pub(crate) fn failed(&self, failure: sqlx::Error, queue: &QueueName) -> Error {
        self.inner.note(&failure, queue);
        error::on_queue(failure, queue, self.inner.connections.connector.place())
    }
}
