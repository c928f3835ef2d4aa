//! The positions of sources: a call takes the lock once, so that storing is one step.

use std::collections::btree_map::Entry;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::clock::{self, Micros};
use super::engine::MemoryEngine;
use super::store::Store;
use crate::broker::SourcePosition;
use crate::engine::{Ingested, Positions, SourceBatch, SourceReader, StoredBatch, StoredPosition};
use crate::error::Result;

#[async_trait]
impl Positions for MemoryEngine {
    async fn position(&self, source: &str, partition: &str) -> Result<Option<SourcePosition>> {
        let key = (source.to_owned(), partition.to_owned());
        let store = self.store();
        let stored = store.positions.positions.get(&key);
        Ok(stored.and_then(|(position, _)| *position))
    }

    async fn begin(
        &self,
        source: &str,
        partition: &str,
        at: Option<SourcePosition>,
    ) -> Result<Option<SourcePosition>> {
        let now = self.shared.clock.now();
        let key = (source.to_owned(), partition.to_owned());
        match self.store().positions.positions.entry(key) {
            Entry::Occupied(mut known) => {
                let (position, _) = known.get_mut();
                *position = position.or(at);
                Ok(*position)
            }
            Entry::Vacant(new) => Ok(new.insert((at, now)).0),
        }
    }

    async fn store(&self, source: &str, batches: &[SourceBatch]) -> Result<Vec<StoredBatch>> {
        let now = self.shared.clock.now();
        self.store().take_in(source, batches, now)
    }

    async fn elect_reader(&self, source: &str) -> Result<Option<Box<dyn SourceReader>>> {
        let mut store = self.store();
        let seats = &mut store.positions.seats;
        let seat = seats
            .entry(source.to_owned())
            .or_insert_with(|| Arc::new(Semaphore::new(1)));
        let taken = Arc::clone(seat).try_acquire_owned().ok();
        Ok(taken.map(|permit| Box::new(Seat(permit)) as Box<dyn SourceReader>))
    }

    async fn list(&self) -> Result<Vec<StoredPosition>> {
        let store = self.store();
        let all = store.positions.positions.iter();
        let listed = all.map(|((source, partition), (position, moved))| {
            StoredPosition::new(source, partition, *position, clock::to_time(*moved))
        });
        Ok(listed.collect())
    }
}

/// The seat of a reader, which is free again once this is dropped.
#[derive(Debug)]
struct Seat(#[expect(dead_code, reason = "kept for its drop")] OwnedSemaphorePermit);

#[async_trait]
impl SourceReader for Seat {
    async fn confirm(&mut self) -> Result<()> {
        Ok(())
    }
}

impl Store {
    /// Stores batches whose positions are known, all or none of them.
    fn take_in(
        &mut self,
        source: &str,
        batches: &[SourceBatch],
        now: Micros,
    ) -> Result<Vec<StoredBatch>> {
        let mut outcomes = Vec::with_capacity(batches.len());
        for batch in batches {
            let key = (source.to_owned(), batch.partition.clone());
            let stored = self.positions.positions.get(&key);
            let position = stored.and_then(|(position, _)| *position);

            let new = batch.after_stored(position);
            let last = new.last().map(|(last, _)| *last);
            outcomes.push(match position < batch.after {
                true => StoredBatch::SetBack { position },
                false => StoredBatch::Stored {
                    new: new.len(),
                    position: last.or(position),
                },
            });
            // Checked for all before anything changes, so that the step is atomic.
            for (_, ingested) in new {
                match ingested {
                    Ingested::Message(message) => self.admit(message)?,
                    Ingested::DeadLetter { queue, .. } => drop(self.queue(queue)?),
                }
            }
        }

        if outcomes.iter().any(StoredBatch::is_set_back) {
            return Ok(outcomes);
        }
        // Nothing fails from here on.
        for batch in batches {
            let key = (source.to_owned(), batch.partition.clone());
            let stored = self.positions.positions.entry(key).or_insert((None, now));
            let before = stored.0;
            if let Some((last, _)) = batch.after_stored(before).last() {
                *stored = (Some(*last), now);
            }
            for (_, ingested) in batch.after_stored(before) {
                self.keep(ingested.clone(), now)?;
            }
        }
        Ok(outcomes)
    }

    fn keep(&mut self, ingested: Ingested, now: Micros) -> Result<()> {
        match ingested {
            Ingested::Message(message) => self.insert(message, now).map(drop),
            Ingested::DeadLetter {
                queue,
                body,
                headers,
                reason,
            } => {
                self.queue(&queue)?.bury_new(body, headers, reason, now);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
impl MemoryEngine {
    /// Sets a position, as an operator does in a database.
    pub(crate) fn set_position(&self, source: &str, partition: &str, to: Option<SourcePosition>) {
        let now = self.shared.clock.now();
        let key = (source.to_owned(), partition.to_owned());
        self.store().positions.positions.insert(key, (to, now));
    }

    pub(crate) async fn list_positions(&self) -> Vec<Option<SourcePosition>> {
        let all = Positions::list(self).await.unwrap_or_default();
        all.iter().map(|one| one.position).collect()
    }
}
