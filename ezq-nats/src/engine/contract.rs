//! [`JetStreamEngine`], and the engine contract on it.

use std::sync::Arc;
use std::time::Duration;

use ezq_core::engine::{
    Capabilities, DeadLetters, Due, Engine, ExtendOutcome, LeaseRequest, Leased, Outgoing,
    PublishOutcome, QueueStats, Receipt, Settle, SettleOutcome,
};
use ezq_core::message::{MessageId, QueueName};
use ezq_core::{Error, ErrorKind, Result, async_trait};
use tokio::sync::watch;

use super::leases::key_of;
use super::state::State;

/// Queues on JetStream: an engine for handlers whose events Postgres should not carry. It needs NATS 2.12 or
/// newer.
///
/// Two things differ from PGMQ, and the crate's README says what they leave open: there are no
/// transactions, and only a worker's own clock keeps it from settling what another one has.
#[derive(Clone)]
pub struct JetStreamEngine {
    state: Arc<State>,
}

impl JetStreamEngine {
    pub(super) fn new(state: Arc<State>) -> Self {
        Self { state }
    }

    pub(super) fn state(&self) -> &State {
        &self.state
    }

    /// The error for what is done by a message's number, which changes here when a message falls due.
    fn not_by_id(&self) -> Error {
        let name = self.state.capabilities.name;
        let text = format!("the engine `{name}` neither cancels nor moves a message by its id");
        Error::new(ErrorKind::Unsupported, text)
    }
}

#[async_trait]
impl Engine for JetStreamEngine {
    fn capabilities(&self) -> &Capabilities {
        &self.state.capabilities
    }

    async fn ensure_queue(&self, queue: &QueueName) -> Result<()> {
        self.state.ensure(queue).await
    }

    fn check(&self, message: &Outgoing) -> Result<()> {
        self.state.check(message)
    }

    async fn publish(&self, messages: Vec<Outgoing>) -> Result<Vec<PublishOutcome>> {
        self.state.publish(messages).await
    }

    async fn lease(&self, request: LeaseRequest) -> Result<Leased> {
        self.state.lease(&request).await
    }

    async fn wakeups(&self, queue: &QueueName) -> Result<Option<watch::Receiver<u64>>> {
        self.state.wakeups(queue).await.map(Some)
    }

    fn wake(&self, queue: &QueueName) {
        self.state.wake_here(queue);
    }

    async fn settle(
        &self,
        queue: &QueueName,
        settlements: Vec<(Receipt, Settle)>,
    ) -> Result<Vec<SettleOutcome>> {
        self.state.settle(queue, settlements).await
    }

    async fn extend(
        &self,
        queue: &QueueName,
        receipts: &[Receipt],
        ttl: Duration,
    ) -> Result<Vec<ExtendOutcome>> {
        let mut outcomes = Vec::with_capacity(receipts.len());
        let mut kept = Vec::with_capacity(receipts.len());
        // The server would renew a lease for anybody, so only what this process holds is renewed.
        for receipt in receipts {
            let live = key_of(queue, receipt).and_then(|key| {
                let all = self.state.leases.held();
                let held = all.get(&key)?;
                let is_own = held.message.id == *receipt.message_id();
                let is_live = held.is_live(tokio::time::Instant::now());
                let ack = held.message.ack.clone();
                (is_own && is_live).then_some((key, ack))
            });
            outcomes.push(match live {
                Some(_) => ExtendOutcome::Extended,
                None => ExtendOutcome::LeaseLost,
            });
            kept.extend(live);
        }

        self.state.renew(&kept, Some(ttl)).await?;
        self.state.leases.changed.notify_one();
        Ok(outcomes)
    }

    async fn cancel(&self, _: &QueueName, _: &MessageId) -> Result<bool> {
        Err(self.not_by_id())
    }

    async fn reschedule(&self, _: &QueueName, _: &MessageId, _: Due) -> Result<bool> {
        Err(self.not_by_id())
    }

    async fn purge(&self, queue: &QueueName) -> Result<u64> {
        self.state.purge(queue).await
    }

    async fn stats(&self, queue: &QueueName) -> Result<QueueStats> {
        self.state.stats(queue).await
    }

    async fn lag(&self, queue: &QueueName) -> Result<Option<Duration>> {
        self.state.lag(queue).await
    }

    async fn health_check(&self) -> Result<()> {
        self.state.connection.health_check().await
    }

    fn dead_letters(&self) -> Option<&dyn DeadLetters> {
        Some(self)
    }

    async fn close(&self) {
        self.state.connection.close().await;
    }
}

impl std::fmt::Debug for JetStreamEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JetStreamEngine")
            .field("address", &self.state.address())
            .field("namespace", &self.state.settings.namespace)
            .finish_non_exhaustive()
    }
}
