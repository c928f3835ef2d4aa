//! The engine itself: each method takes the lock and asks the store.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use tokio::sync::{Semaphore, watch};

use super::clock::{self, Clock};
use super::queue::NAME;
use super::store::{Published, Store};
use crate::engine::history::History;
use crate::engine::{
    BlockedKey, Broadcasts, Browse, Cancellations, Capabilities, DeadLetter, DeadLetters, Delivery,
    Due, Engine, ExtendOutcome, LeaseRequest, Leased, Operations, Outgoing, Pauses, Positions,
    Presence, PublishOutcome, QueueOverview, QueueStats, Receipt, ScheduleStore, Settle,
    SettleOutcome,
};
use crate::error::Result;
use crate::message::message_id::MessageId;
use crate::message::queue_name::QueueName;
use crate::message::retention::Retention;

/// An engine that keeps its queues in this process.
///
/// A clone shares the queues, like a second client of one server. The engine's clock is the wall
/// clock at its creation, moved by tokio's clock since. Under `tokio::time::pause`, leases end and
/// delayed messages fall due as the test advances the time.
///
/// ```
/// use ezq_core::engine::{Engine, Outgoing};
/// use ezq_core::memory::MemoryEngine;
/// use ezq_core::message::QueueName;
/// use ezq_core::message::headers::Headers;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> ezq_core::Result<()> {
/// let engine = MemoryEngine::new();
/// let queue = QueueName::new("orders")?;
/// engine.ensure_queue(&queue).await?;
/// let message = Outgoing::new(queue.clone(), "{}", Headers::new());
/// engine.publish(vec![message]).await?;
/// assert_eq!(engine.published(&queue).len(), 1);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct MemoryEngine {
    pub(super) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(super) struct Shared {
    capabilities: Capabilities,
    pub(super) clock: Clock,
    /// The seat of the one that samples the queues.
    pub(super) sampler: Arc<Semaphore>,
    store: Mutex<Store>,
}

impl Default for MemoryEngine {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryEngine {
    /// An engine without queues and without a limit on bodies.
    #[must_use]
    pub fn new() -> Self {
        Self::with_limit(None)
    }

    /// An engine without queues that refuses bodies of more than this many bytes.
    #[must_use]
    pub fn with_body_limit(bytes: usize) -> Self {
        Self::with_limit(Some(bytes))
    }

    fn with_limit(max_body: Option<usize>) -> Self {
        let capabilities = Capabilities {
            delayed: true,
            movable: true,
            dedupe: true,
            ordered: true,
            archive: true,
            keys: true,
            schedules: true,
            exact_bodies: true,
            max_body,
            ..Capabilities::new(NAME)
        };

        let shared = Shared {
            capabilities,
            clock: Clock::new(),
            sampler: Arc::new(Semaphore::new(1)),
            store: Mutex::new(Store::new(max_body)),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// The current time by the engine's clock.
    #[must_use]
    pub fn now(&self) -> DateTime<Utc> {
        clock::to_time(self.shared.clock.now())
    }

    /// Every message that was published to a queue so far, oldest first: by [`Engine::publish`] and
    /// by settlements, whether or not it was handled since.
    #[must_use]
    pub fn published(&self, queue: &QueueName) -> Vec<Published> {
        self.store()
            .published()
            .iter()
            .filter(|published| published.message.queue == *queue)
            .cloned()
            .collect()
    }

    /// Every message that was published so far, to any queue, oldest first.
    #[must_use]
    pub fn all_published(&self) -> Vec<Published> {
        self.store().published().to_vec()
    }

    /// Clears the record of published messages; the queues stay as they are. For long runs, in
    /// which the record would grow without end.
    pub fn forget_published(&self) {
        self.store().forget_published();
    }

    /// Drops a queue with its messages and dead letters, as an operator might do under running
    /// consumers. Returns whether it existed.
    #[must_use = "tells whether there was such a queue"]
    pub fn remove_queue(&self, queue: &QueueName) -> bool {
        self.store().remove_queue(queue)
    }

    /// The messages that were never delivered and are due later, and when.
    pub(crate) fn scheduled(&self) -> Vec<((QueueName, MessageId), DateTime<Utc>)> {
        let store = self.store();
        let now = self.shared.clock.now();
        let queues = store.queues().iter();
        let scheduled = queues.flat_map(|(name, queue)| {
            let waiting = queue.scheduled(now);
            waiting.map(|(id, due)| ((name.clone(), id), clock::to_time(due)))
        });
        scheduled.collect()
    }

    /// The dead letters of all queues.
    pub(crate) fn all_dead(&self) -> Vec<(QueueName, DeadLetter)> {
        let store = self.store();
        let queues = store.queues().iter();
        let dead = queues.flat_map(|(name, queue)| {
            let letters = queue.dead(None, usize::MAX).into_iter();
            letters.map(|letter| (name.clone(), letter))
        });
        dead.collect()
    }

    /// Makes the messages due that wait for a retry of a handler. Returns how many there were.
    pub(crate) fn hasten(&self, queue: &QueueName) -> Result<u64> {
        let mut store = self.store();
        let now = self.shared.clock.now();
        Ok(store.queue(queue)?.hasten(now))
    }

    /// The queues.
    // A poisoned lock is usable: every step checks first and changes afterwards, so a panic leaves
    // whole queues behind.
    pub(super) fn store(&self) -> MutexGuard<'_, Store> {
        self.shared
            .store
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Engine for MemoryEngine {
    fn capabilities(&self) -> &Capabilities {
        &self.shared.capabilities
    }

    async fn ensure_queue(&self, queue: &QueueName) -> Result<()> {
        self.store().ensure_queue(queue);
        Ok(())
    }

    fn set_retention(&self, queue: &QueueName, retention: Retention) -> Result<()> {
        self.store().set_retention(queue, retention);
        Ok(())
    }

    async fn publish(&self, messages: Vec<Outgoing>) -> Result<Vec<PublishOutcome>> {
        let mut store = self.store();
        let now = self.shared.clock.now();
        Ok(messages
            .into_iter()
            .map(|message| store.publish(message, now))
            .collect())
    }

    async fn lease(&self, request: LeaseRequest) -> Result<Leased> {
        let mut store = self.store();
        let now = self.shared.clock.now();
        let queue = store.queue(&request.queue)?;
        Ok(queue.lease(&request, now))
    }

    async fn wakeups(&self, queue: &QueueName) -> Result<Option<watch::Receiver<u64>>> {
        Ok(Some(self.store().wakeups(queue)))
    }

    async fn settle(
        &self,
        queue: &QueueName,
        settlements: Vec<(Receipt, Settle)>,
    ) -> Result<Vec<SettleOutcome>> {
        let mut store = self.store();
        let now = self.shared.clock.now();
        store.queue(queue)?;
        let outcomes = settlements
            .into_iter()
            .map(|(receipt, settle)| store.settle(queue, receipt, settle, now));
        Ok(outcomes.collect())
    }

    async fn extend(
        &self,
        queue: &QueueName,
        receipts: &[Receipt],
        ttl: Duration,
    ) -> Result<Vec<ExtendOutcome>> {
        let mut store = self.store();
        let now = self.shared.clock.now();
        let queue = store.queue(queue)?;
        let outcomes = receipts.iter().map(|receipt| {
            if queue.extend(receipt, ttl, now) {
                ExtendOutcome::Extended
            } else {
                ExtendOutcome::LeaseLost
            }
        });
        Ok(outcomes.collect())
    }

    async fn cancel(&self, queue: &QueueName, id: &MessageId) -> Result<bool> {
        Ok(self.store().queue(queue)?.cancel(id))
    }

    async fn reschedule(&self, queue: &QueueName, id: &MessageId, due: Due) -> Result<bool> {
        let mut store = self.store();
        let now = self.shared.clock.now();
        let moved = store.queue(queue)?.reschedule(id, due, now);
        if moved {
            store.wake(queue);
        }
        Ok(moved)
    }

    async fn lease_by_id(
        &self,
        queue: &QueueName,
        id: &MessageId,
        ttl: Duration,
    ) -> Result<Option<Delivery>> {
        let mut store = self.store();
        // Read under the lock, here and in each method: no earlier step sees a later time.
        let now = self.shared.clock.now();
        let held = store.queue(queue)?;
        if held.is_leased(id, now) {
            return Err(LeaseRequest::held(queue, id));
        }
        Ok(held.lease_by_id(id, ttl, now))
    }

    async fn purge(&self, queue: &QueueName) -> Result<u64> {
        Ok(self.store().queue(queue)?.purge())
    }

    async fn stats(&self, queue: &QueueName) -> Result<QueueStats> {
        let mut store = self.store();
        let now = self.shared.clock.now();
        Ok(store.queue(queue)?.stats(now))
    }

    async fn blocked_keys(&self, queue: &QueueName, limit: usize) -> Result<Vec<BlockedKey>> {
        let mut store = self.store();
        let now = self.shared.clock.now();
        Ok(store.queue(queue)?.blocked(limit, now))
    }

    async fn health_check(&self) -> Result<()> {
        Ok(())
    }

    async fn history(&self, event_id: &str, queue: Option<&QueueName>) -> Result<History> {
        Ok(self
            .store()
            .history(event_id, queue, self.shared.clock.now()))
    }

    fn dead_letters(&self) -> Option<&dyn DeadLetters> {
        Some(self)
    }

    fn schedules(&self) -> Option<&dyn ScheduleStore> {
        Some(self)
    }

    fn browse(&self) -> Option<&dyn Browse> {
        Some(self)
    }

    fn operations(&self) -> Option<&dyn Operations> {
        Some(self)
    }

    fn positions(&self) -> Option<&dyn Positions> {
        Some(self)
    }

    fn presence(&self) -> Option<&dyn Presence> {
        Some(self)
    }

    fn overview(&self) -> Option<&dyn QueueOverview> {
        Some(self)
    }

    fn pauses(&self) -> Option<&dyn Pauses> {
        Some(self)
    }

    fn cancellations(&self) -> Option<&dyn Cancellations> {
        Some(self)
    }

    fn broadcasts(&self) -> Option<&dyn Broadcasts> {
        Some(self)
    }
}
