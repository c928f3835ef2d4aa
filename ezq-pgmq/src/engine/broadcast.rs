//! Broadcasting: by itself through the pool, and in a caller's transaction.

use std::time::Duration;

use ezq_core::engine::{BroadcastMessage, PublishOutcome};
use ezq_core::message::QueueName;
use ezq_core::{Error, ErrorKind, Result};
use sqlx::postgres::PgConnection;

use super::{Inner, PgmqEngine};
use crate::connection::dedicated::limit;
use crate::connection::stop::mark;
use crate::error::{self, missing};
use crate::message::storable;
use crate::publish::CONFLICT_TRIES;
use crate::publish::broadcast::{self, Copies, Row};

impl Inner {
    pub(crate) async fn ready_to_broadcast(&self) -> Result<()> {
        self.tables
            .broadcasts
            .ensure(
                &self.connections.control,
                &self.connections.connector,
                self.settings.manage_schema,
            )
            .await
    }

    /// Makes sure of the tables that broadcasts need, including that of dedupe keys if one has a
    /// key.
    pub(crate) async fn ready_for_broadcasts(&self, rows: &[Row]) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        self.ready_to_broadcast().await?;
        if rows.iter().any(Row::is_deduped) {
            self.ready_for_keys().await?;
        }
        Ok(())
    }

    /// The error of a broadcast. If one of ezq's own tables is gone, what is known of them is
    /// forgotten.
    fn broadcast_failed(&self, failure: sqlx::Error) -> Error {
        if error::is_data(&failure) {
            return storable::refused_with(failure, "its body or headers");
        }
        if let Some(name) = dropped(&failure) {
            self.tables.broadcasts.forget();
            self.tables.dedupe_keys.forget();
            let text = format!("`{name}` was dropped just now: broadcast again");
            return Error::new(ErrorKind::Transient, text).with_source(failure);
        }
        error::of(failure, self.connections.connector.place())
    }

    pub(crate) async fn store_copies(&self, row: &Row) -> Result<Copies> {
        let mut tries = 0;
        loop {
            self.ready_for_broadcasts(std::slice::from_ref(row)).await?;
            let stored = async {
                let mut connection = limit(
                    self.connections.stopper.patience,
                    self.connections.pool.acquire(),
                )
                .await?;
                let insertion = async {
                    let stored = self.insert_copies(&mut connection, row).await;
                    connection.end(stored)
                };
                self.connections.stopper.limit(&mark(None), insertion).await
            };

            let failure = match stored.await {
                Ok(copies) => return Ok(copies),
                Err(failure) => failure,
            };

            // A queue may be gone.
            self.known.recipients.forget(row.event_type());
            tries += 1;
            let passes = error::is_conflict(&failure) || dropped(&failure).is_some();
            let error = self.broadcast_failed(failure);

            if !passes || tries == CONFLICT_TRIES {
                return Err(error);
            }

            // Doubles with each try: the other transaction may take a while.
            tokio::time::sleep(Duration::from_millis(5 << tries)).await;
        }
    }

    /// Stores the copies: in the queues of the last broadcast of this type, or else wherever the function
    /// finds that they belong.
    async fn insert_copies(
        &self,
        connection: &mut PgConnection,
        row: &Row,
    ) -> Result<Copies, sqlx::Error> {
        if row.is_deduped() {
            return broadcast::insert(connection, row).await;
        }

        let recipients = &self.known.recipients;
        if let Some(queues) = recipients.of(row.event_type())
            && let Some(copies) = broadcast::insert_known(connection, row, &queues).await?
        {
            return Ok(copies);
        }

        let copies = broadcast::insert(connection, row).await?;
        recipients.learn(row.event_type(), &copies);
        Ok(copies)
    }

    /// Wakes consumers of the queues that got a copy.
    pub(crate) fn announce_copies(&self, copies: &Copies) {
        for queue in stored(copies) {
            self.announce(queue);
        }
    }
}

/// The table or function that a broadcast needs and that is gone. One that a trigger asks for does
/// not count.
fn dropped(failure: &sqlx::Error) -> Option<&str> {
    missing::of_ezq(failure).or_else(|| missing::of_pgmq(failure))
}

pub(crate) fn stored(copies: &Copies) -> impl Iterator<Item = &QueueName> {
    copies.iter().filter_map(|(queue, outcome)| match outcome {
        PublishOutcome::Stored(_) => Some(queue),
        _ => None,
    })
}

impl PgmqEngine {
    /// Stores a copy of an event in every subscribed queue, in the caller's transaction. All copies
    /// become visible when it commits, and none if it does not. Returns what became of each, by
    /// queue. The statement itself reads the subscriptions.
    ///
    /// Events are broadcast with [`PublishWithin`](crate::PublishWithin), which comes down to this.
    ///
    /// # Errors
    /// After an error of the database the transaction can only be rolled back.
    /// - [`ErrorKind::InvalidEvent`] when the store cannot keep the event, found before anything is
    ///   sent
    /// - [`ErrorKind::SchemaMissing`] without ezq's own tables, found before anything is sent
    /// - the database's errors otherwise, such as [`ErrorKind::Permission`] where the role may not
    ///   write to one of the queues
    pub async fn broadcast_in(
        &self,
        connection: &mut PgConnection,
        message: BroadcastMessage,
    ) -> Result<Vec<(QueueName, PublishOutcome)>> {
        let inner = &self.inner;
        let row = Row::new(message, inner.settings.encoding)?;
        inner
            .ready_for_broadcasts(std::slice::from_ref(&row))
            .await?;
        inner.start_notifying();
        let copies = broadcast::insert_in(connection, &row).await;
        let (copies, writer) = copies.map_err(|failure| inner.broadcast_failed(failure))?;

        if let Some(writer) = writer {
            for queue in stored(&copies) {
                inner.wake.announce_after(writer, queue);
            }
        }

        Ok(copies)
    }

    /// Makes sure that a handler's broadcasts can be stored.
    pub(crate) async fn ready_for_broadcasts(&self, rows: &[Row]) -> Result<()> {
        self.inner.ready_for_broadcasts(rows).await
    }

    /// Announces what a handler's committed transaction has broadcast, and warns of queues that got
    /// no copy.
    pub(crate) fn broadcast_done(&self, event_type: &str, copies: &Copies) {
        self.inner.announce_copies(copies);
        if copies.is_empty() {
            ezq_core::private::warn_of_nobody(event_type);
        }
        for (queue, outcome) in copies {
            if let PublishOutcome::Failed(error) = outcome {
                let error = ezq_core::error::error_chain(error);
                ezq_core::private::warn!(%queue, error, "a subscribed queue gets no copy");
            }
        }
    }

    pub(crate) fn broadcast_failed(&self, failure: sqlx::Error) -> Error {
        self.inner.broadcast_failed(failure)
    }
}
