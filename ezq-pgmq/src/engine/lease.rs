//! Leasing: a claim, and for messages with ordering keys a check who else holds their keys.

use std::collections::HashSet;
use std::time::Duration;

use chrono::{DateTime, Utc};
use ezq_core::Result;
use ezq_core::engine::{Delivery, Engine, LeaseRequest, Leased, Receipt, Settle};
use ezq_core::message::{MessageId, QueueName};

use super::PgmqEngine;
use crate::claim::cursor::{ClaimRun, Start};
use crate::claim::keys::contested;
use crate::claim::{self, Batch, Claim, Claimed, by_id};
use crate::connection::dedicated::{call, timed};
use crate::error;

/// For how long after a claim others are assumed to have leased something as well.
const SHARED: Duration = Duration::from_secs(2);
/// How often a claim is repeated that met another worker with the same key.
const TRIES: u32 = 5;

impl PgmqEngine {
    /// Claims messages whose keys no other worker holds.
    pub(crate) async fn lease_free(&self, request: &LeaseRequest) -> Result<Leased> {
        let queue = &request.queue;
        for tries in 1.. {
            let Batch {
                mut claimed,
                mut next_due,
                is_partial,
                ..
            } = self.claim_sendable(request).await?;
            // Two claims that ran at once may each have missed the other's message.
            let contested = self.contested(queue, &claimed).await?;
            if !contested.is_empty() {
                let back: Vec<(Receipt, Settle)> = claimed
                    .extract_if(.., |one| {
                        one.key.is_some_and(|key| contested.contains(&key))
                    })
                    .map(|one| (one.delivery.receipt, Settle::Release))
                    .collect();
                tracing::debug!(%queue, count = back.len(), "released messages whose keys another worker holds");
                // Released, so that events of the key stay in their order.
                self.settle(queue, back).await?;

                // Both workers give way when they meet: jitter keeps them from meeting again.
                let pause = Duration::from_millis(10).mul_f64(rand::random_range(0.1..1.0));
                if claimed.is_empty() && tries < TRIES {
                    tokio::time::sleep(pause).await;
                    continue;
                }

                next_due = Some(pause);
            }

            // What becomes due later may be what others have leased; where there is work, they share it.
            let leased_for = match claimed.is_empty() {
                true => next_due,
                false => Some(SHARED),
            };
            if let Some(time) = leased_for {
                self.inner.holders.note_leased(time);
            }

            let deliveries: Vec<_> = claimed.into_iter().map(|one| one.delivery).collect();
            let next_due = next_due.filter(|_| deliveries.is_empty());
            let is_held_up = deliveries.is_empty() && self.is_held_up(request).await?;

            let mut leased = Leased::new(deliveries);
            leased.next_due = next_due;
            leased.is_held_up = is_held_up;
            leased.is_partial = is_partial;
            return Ok(leased);
        }

        Ok(Leased::default())
    }

    /// Whether something is due before the place that bounded an empty claim.
    async fn is_held_up(&self, request: &LeaseRequest) -> Result<bool> {
        if request.before.is_none() {
            return Ok(false);
        }
        let inner = &self.inner;
        let queue = &request.queue;
        let shape = inner
            .known
            .queues
            .shape(queue, &inner.connections.control)
            .await?;
        let claim = Claim::new(request, shape, inner.settings.restart_grace);
        call!(inner.connections.claim, |connection| claim
            .is_held_up(connection))?
        .map_err(|failure| self.failed(failure, queue))
    }

    /// Claims messages, and reads them or not.
    pub(crate) async fn claim(&self, request: &LeaseRequest, reads: bool) -> Result<Batch> {
        let inner = &self.inner;
        let queue = &request.queue;
        let shape = inner
            .known
            .queues
            .shape(queue, &inner.connections.control)
            .await?;
        let mut claim = Claim::new(request, shape, inner.settings.restart_grace);
        claim.reads = reads;
        claim.sign = inner.lease_sign(queue, request.ttl).await;

        let partitions = self.partitions_of(queue).await?;
        // A partitioned queue always has the indexes, whatever it had when its shape was looked up.
        claim.shape.keyed |= partitions > 1;

        if let Some(after) = claim.after() {
            return self.claim_after(&claim, queue, after).await;
        }
        if partitions > 1 {
            return self.claim_partitioned(&claim, queue).await;
        }
        if claim.shape.keyed {
            return self.claim_keyed(&claim, queue).await;
        }

        let batch = match self.claim_unkeyed(&claim, request).await {
            // Ordering keys may be why it is slow.
            Err(error) if !inner.claims.unindexed.has(queue) && error::took_too_long(&error) => {
                inner.claims.unindexed.add(queue);
                self.claim_unkeyed(&claim, request).await?
            }
            result => result?,
        };

        self.index_if_keyed(queue, &batch).await;
        Ok(batch)
    }

    /// Claims from a queue with indexes over its keys, or from one of its partitions.
    pub(super) async fn claim_keyed(&self, claim: &Claim, queue: &QueueName) -> Result<Batch> {
        let inner = &self.inner;
        // Its indexes are complete now.
        inner.claims.unindexed.remove(queue);
        // A copy, so that no lock is held across the claim.
        let mut walk = inner.claims.key_walks.of(&claim.table);
        let batch = call!(inner.connections.claim, |connection| claim
            .run_keyed(connection, &mut walk))?
        .map_err(|failure| self.failed(failure, queue));
        inner.claims.key_walks.keep(&claim.table, walk);
        batch
    }

    /// Claims behind a place, in the order of places. It does not start at the front, so its time
    /// says nothing about the front.
    async fn claim_after(
        &self,
        claim: &Claim,
        queue: &QueueName,
        after: (Option<DateTime<Utc>>, i64),
    ) -> Result<Batch> {
        let inner = &self.inner;
        if claim.shape.keyed {
            return call!(inner.connections.claim, |connection| claim
                .run_in_order(connection, after, true))?
            .map_err(|failure| self.failed(failure, queue));
        }

        if inner.claims.unindexed.has(queue) {
            return call!(self.inner.connections.control, |connection| claim
                .run_in_order(connection, after, false))?
            .map_err(|failure| self.failed(failure, queue));
        }

        let batch = call!(inner.connections.claim, |connection| claim
            .run(connection, None))?
        .map_err(|failure| self.failed(failure, queue))?;
        self.index_if_keyed(queue, &batch).await;
        Ok(batch)
    }

    /// Has the indexes created for a queue in which keys are met for the first time.
    async fn index_if_keyed(&self, queue: &QueueName, batch: &Batch) {
        let inner = &self.inner;
        if batch.claimed.iter().any(|one| one.key.is_some()) {
            // Another process published them, or a caller's transaction did.
            inner.known.queues.forget(queue);
            inner.claims.unindexed.add(queue);
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
    }

    /// Leases one message, due or not.
    ///
    /// # Errors
    /// [`ErrorKind::LeaseLost`](ezq_core::ErrorKind::LeaseLost) where a worker has it.
    pub(crate) async fn lease_one(
        &self,
        queue: &QueueName,
        id: &MessageId,
        ttl: Duration,
    ) -> Result<Option<Delivery>> {
        let inner = &self.inner;
        let shape = inner
            .known
            .queues
            .shape(queue, &inner.connections.control)
            .await?;
        let request = LeaseRequest::new(queue.clone(), 1, ttl).keys(1);

        let claim = Claim::new(&request, shape, inner.settings.restart_grace);
        let claimed = call!(self.inner.connections.control, |connection| by_id::run(
            connection, &claim, id
        ))?
        .map_err(|failure| self.failed(failure, queue))?;
        match claimed {
            by_id::Claimed::Leased(delivery) => Ok(Some(*delivery)),
            by_id::Claimed::Absent => Ok(None),
            by_id::Claimed::Held => Err(LeaseRequest::held(queue, id)),
        }
    }

    /// Reads a message that was leased unread.
    pub(crate) async fn read(&self, queue: &QueueName, delivery: &mut Delivery) -> Result<()> {
        let id = delivery.receipt.message_id().as_number();
        let read = call!(self.inner.connections.claim, |connection| claim::read(
            connection, queue, id
        ))?
        .map_err(|failure| self.failed(failure, queue))?;
        if let Some((body, headers)) = read {
            (delivery.body, delivery.headers) = (body, headers);
        }
        Ok(())
    }

    /// Claims from a queue that has no indexes over keys: it has no keys, or had none until now.
    async fn claim_unkeyed(&self, claim: &Claim, request: &LeaseRequest) -> Result<Batch> {
        let inner = &self.inner;
        let queue = &request.queue;
        if inner.claims.unindexed.has(queue) {
            // This scans much, and is planned for that.
            return call!(self.inner.connections.control, |connection| inner
                .claims
                .unindexed
                .claim(connection, queue, claim))?
            .map_err(|failure| self.failed(failure, queue));
        }

        let start = inner.claims.cursors.start(queue);
        let mut batch = self.claim_from(claim, request, start).await?;
        if start == Start::Front || !batch.claimed.is_empty() {
            return Ok(batch);
        }
        // A consumer that stops once it has found nothing must miss nothing.
        if request.before.is_some() || request.is_exhaustive {
            return self.claim_from(claim, request, Start::Front).await;
        }

        let front_in = inner.claims.cursors.front_in(queue).unwrap_or_default();
        batch.next_due = Some(batch.next_due.map_or(front_in, |due| due.min(front_in)));
        batch.is_partial = true;
        Ok(batch)
    }

    async fn claim_from(
        &self,
        claim: &Claim,
        request: &LeaseRequest,
        start: Start,
    ) -> Result<Batch> {
        let inner = &self.inner;
        let queue = &request.queue;
        let (took, batch) = call!(inner.connections.claim, |connection| timed(
            claim.run(connection, start.due())
        ))?
        .map_err(|failure| self.failed(failure, queue))?;
        // A bounded claim leaves what is due behind its bound.
        let made_at = batch.made_at.filter(|_| request.before.is_none());
        let run = ClaimRun {
            start,
            ended: batch.last_of(request.max),
            made_at: made_at.map(|at| at - took),
            took,
            count: batch.claimed.len(),
        };
        inner.claims.cursors.record(queue, &run);
        Ok(batch)
    }

    /// Those of the claimed keys of which another worker has a message as well.
    async fn contested(&self, queue: &QueueName, claimed: &[Claimed]) -> Result<HashSet<i64>> {
        let keyed = claimed.iter().filter_map(|one| {
            let id = one.delivery.receipt.message_id().as_number()?;
            Some((one.key?, id))
        });
        let (keys, ids): (HashSet<i64>, Vec<i64>) = keyed.unzip();
        if keys.is_empty() {
            return Ok(keys);
        }

        let keys: Vec<i64> = keys.into_iter().collect();
        let is_indexed = self
            .inner
            .known
            .queues
            .shape(queue, &self.inner.connections.control)
            .await?
            .keyed;

        let contested = call!(self.inner.connections.claim, |connection| contested::find(
            connection, queue, is_indexed, &keys, &ids
        ))?
        .map_err(|failure| self.failed(failure, queue))?;
        Ok(contested.into_iter().collect())
    }
}
