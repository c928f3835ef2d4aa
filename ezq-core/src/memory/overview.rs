//! The overview of the memory engine's queues. Counting is cheap here, so it counts all and then cuts.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::OwnedSemaphorePermit;

use super::clock::{self, Micros};
use super::engine::MemoryEngine;
use super::queue::{Queue, count};
use crate::engine::{CopyState, Count, QueueCounts, QueueOverview, QueueTotals, Sampler};
use crate::error::Result;
use crate::message::queue_name::QueueName;

#[async_trait]
impl QueueOverview for MemoryEngine {
    async fn queues(&self) -> Result<Vec<QueueName>> {
        Ok(self.store().queue_names())
    }

    async fn counts(
        &self,
        queues: &[QueueName],
        cap: u64,
    ) -> Result<Vec<Result<Option<QueueCounts>>>> {
        let mut store = self.store();
        let now = self.shared.clock.now();
        let counts = queues
            .iter()
            .map(|queue| Ok(store.queue(queue).ok().map(|queue| queue.counts(cap, now))));
        Ok(counts.collect())
    }

    async fn elect_sampler(&self) -> Result<Option<Box<dyn Sampler>>> {
        let seat = Arc::clone(&self.shared.sampler);
        let taken = seat.try_acquire_owned().ok();
        Ok(taken.map(|permit| Box::new(Elected(permit)) as Box<dyn Sampler>))
    }
}

/// The seat, which is free again once this is dropped.
#[derive(Debug)]
struct Elected(#[expect(dead_code, reason = "kept for its drop")] OwnedSemaphorePermit);

#[async_trait]
impl Sampler for Elected {
    async fn confirm(&mut self) -> Result<()> {
        Ok(())
    }
}

impl Queue {
    fn counts(&self, cap: u64, now: Micros) -> QueueCounts {
        let at = clock::to_time(now);
        let stats = self.stats(now);
        let mut leased = 0;
        let mut retrying = 0;
        for stored in self.messages.values().filter(|stored| stored.due > now) {
            let due = clock::to_time(stored.due);
            match CopyState::of(due, stored.deliveries, &stored.headers, at) {
                CopyState::Leased { .. } => leased += 1,
                CopyState::Retrying { .. } => retrying += 1,
                _ => {}
            }
        }

        let is_capped = stats.in_progress.saturating_add(stats.scheduled) > cap;
        let later = |counted: u64| Count {
            value: counted.min(cap),
            is_capped,
        };
        let stored = u64::try_from(self.last_id).unwrap_or(0);
        let held = count(self.messages.len());
        QueueCounts {
            ready: Count::up_to(stats.ready, cap),
            leased: later(leased),
            retrying: later(retrying),
            scheduled: later(stats.scheduled),
            dead: Count::up_to(stats.dead, cap),
            oldest_ready: stats.oldest_ready,
            totals: Some(QueueTotals::new(stored, stored.saturating_sub(held))),
            ..QueueCounts::new(at)
        }
    }
}
