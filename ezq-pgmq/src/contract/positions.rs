//! The positions of sources. Storing has a connection of its own, other calls have that for rare ones.

use async_trait::async_trait;
use ezq_core::broker::SourcePosition;
use ezq_core::engine::{
    Ingested, Positions, SourceBatch, SourceReader, StoredBatch, StoredPosition,
};
use ezq_core::message::QueueName;
use ezq_core::{Error, Result};

use super::seat::Seat;
use crate::connection::dedicated::call;
use crate::engine::{PgmqEngine, call_part};
use crate::error::{self, missing};
use crate::message::storable;
use crate::publish::intake::{self, Intake, TakenIn};
use crate::schema::{Part, out_of_reach};

impl PgmqEngine {
    fn positions_failed(&self, failure: sqlx::Error) -> Error {
        if missing::of_ezq(&failure).is_some() {
            // The next call creates it again.
            self.inner.tables.positions.forget();
        }
        out_of_reach(failure, Part::Positions, self.place())
    }

    /// The error of a transaction that stores messages of these batches.
    fn intake_failed(&self, failure: sqlx::Error, batches: &[SourceBatch]) -> Error {
        if error::is_data(&failure) {
            return storable::refused_with(failure, "its body or headers");
        }
        let queue = batches.iter().flat_map(queues_of).next();
        // Which table is missing decides who has to make it again.
        match queue {
            Some(queue) if missing::of_pgmq(&failure).is_some() => self.failed(failure, queue),
            _ => self.positions_failed(failure),
        }
    }
}

#[async_trait]
impl Positions for PgmqEngine {
    async fn position(&self, source: &str, partition: &str) -> Result<Option<SourcePosition>> {
        let place = (source, partition);
        let encoding = self.encoding();
        call_part!(self.inner, positions, |connection| {
            intake::position(connection, place, encoding)
        })?
        .map_err(|failure| self.positions_failed(failure))
    }

    async fn begin(
        &self,
        source: &str,
        partition: &str,
        at: Option<SourcePosition>,
    ) -> Result<Option<SourcePosition>> {
        let place = (source, partition);
        let encoding = self.encoding();
        call_part!(self.inner, positions, |connection| {
            intake::begin(connection, place, at, encoding)
        })?
        .map_err(|failure| self.positions_failed(failure))
    }

    async fn store(&self, source: &str, batches: &[SourceBatch]) -> Result<Vec<StoredBatch>> {
        let intake = Intake::new(source, batches, self.encoding())?;
        // Created before the first message with a key is claimed, where that is possible.
        for queue in batches.iter().flat_map(keyed_queues_of) {
            self.index_keys(queue).await;
        }

        let connections = &self.inner.connections;
        let stored = call!(connections.intake, |connection| intake.store(connection))?;
        let TakenIn { outcomes, queues } =
            stored.map_err(|failure| self.intake_failed(failure, batches))?;
        // Only now: before the commit nobody would see anything.
        for queue in &queues {
            self.inner.announce(queue);
        }
        Ok(outcomes)
    }

    async fn elect_reader(&self, source: &str) -> Result<Option<Box<dyn SourceReader>>> {
        let seat = Seat::take(self, intake::take_seat(source, self.encoding())).await?;
        Ok(seat.map(|seat| Box::new(seat) as Box<dyn SourceReader>))
    }

    async fn list(&self) -> Result<Vec<StoredPosition>> {
        // Listing creates nothing.
        if self.is_absent("positions").await? {
            return Ok(Vec::new());
        }
        call_part!(self.inner, positions, |connection| intake::list(connection))?
            .map_err(|failure| self.positions_failed(failure))
    }
}

fn queues_of(batch: &SourceBatch) -> impl Iterator<Item = &QueueName> {
    batch
        .messages
        .iter()
        .filter_map(|(_, ingested)| match ingested {
            Ingested::Message(message) => Some(&message.queue),
            Ingested::DeadLetter { queue, .. } => Some(queue),
            _ => None,
        })
}

/// The queue of the first message with a key: a batch goes to one queue.
fn keyed_queues_of(batch: &SourceBatch) -> Option<&QueueName> {
    let mut keyed = batch
        .messages
        .iter()
        .filter_map(|(_, ingested)| match ingested {
            Ingested::Message(message) if message.headers.key().is_some() => Some(&message.queue),
            _ => None,
        });
    keyed.next()
}
