//! Claiming from a partitioned queue; see [`partitions`](crate::claim::partitions).

use ezq_core::message::QueueName;
use ezq_core::{ErrorKind, Result};

use super::PgmqEngine;
use crate::claim::{Batch, Claim};
use crate::connection::dedicated::call;
use crate::schema::partitions;

/// After so many empty partitions a claim looks into all that are left at once.
const MOST_EMPTY: usize = 2;

impl PgmqEngine {
    /// How many partitions a queue has; 1 if it is not partitioned. Looked up once a minute.
    pub(super) async fn partitions_of(&self, queue: &QueueName) -> Result<u32> {
        let inner = &self.inner;
        if let Some(known) = inner.claims.partitions.count(queue) {
            return Ok(known);
        }

        // On the connection of the claim itself: another one may be busy.
        let count = call!(inner.connections.claim, |connection| partitions::count(
            connection, queue
        ))?
        .map_err(|failure| self.failed(failure, queue))?;
        inner.claims.partitions.learn(queue, count);
        Ok(count)
    }

    /// Claims from one partition after another while there is a backlog, and else from all at once.
    pub(super) async fn claim_partitioned(
        &self,
        claim: &Claim,
        queue: &QueueName,
    ) -> Result<Batch> {
        let state = &self.inner.claims.partitions;
        // A place bounds the claim in all partitions alike, so they are searched as one.
        let round = match claim.is_bounded() {
            true => Vec::new(),
            false => state.round(queue),
        };

        let mut batch = Batch::default();
        let mut empty = 0;
        for (index, table) in round {
            let part = claim.of_partition(table, &batch);
            match self.claim_keyed(&part, queue).await {
                Ok(mut found) => {
                    empty += usize::from(found.claimed.is_empty());
                    batch.claimed.append(&mut found.claimed);
                }
                // What was claimed before is leased already.
                Err(_) if !batch.claimed.is_empty() => break,
                // The queue was partitioned anew.
                Err(error) if error.kind() == ErrorKind::QueueMissing => {
                    state.forget(queue);
                    break;
                }
                // Rights on the queue were granted when it had its partitions already.
                Err(error) if error.kind() == ErrorKind::Permission => {
                    state.deny(queue);
                    break;
                }
                Err(error) => return Err(error),
            }

            let is_full = batch.count() >= claim.max;
            state.claimed(queue, is_full, Some(index));
            if is_full || empty == MOST_EMPTY {
                break;
            }
        }
        if !batch.claimed.is_empty() {
            batch.sort();
            return Ok(batch);
        }

        // Only a look into all partitions tells that nothing is due, and when something will be.
        let batch = self.claim_keyed(claim, queue).await?;
        if !claim.is_bounded() {
            state.claimed(queue, batch.count() >= claim.max, None);
        }
        Ok(batch)
    }
}
