//! The faulty engine's transactions, broadcasts, schedules and presence.

use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use ezq_core::engine::{
    BroadcastMessage, Broadcasts, Engine as _, EventParty, Finished, Fired, Firing, KeptSchedules,
    QueueSubscription, Registration, ScheduleStore, UnitOfWork,
};
use ezq_core::engine::{
    ConsumerPresence, Delivery, Outgoing, Presence, PublishOutcome, SeenConsumer, Settle,
    SettleOutcome,
};
use ezq_core::event::Pattern;
use ezq_core::message::QueueName;
use ezq_core::{Error, ErrorKind, Result};

use super::{Call, Faulty, next};

/// A transaction in name: it settles what it finishes.
pub(super) struct Transaction(pub(super) Faulty);

#[async_trait]
impl UnitOfWork for Transaction {
    async fn claim(&mut self, _: usize) -> Result<Vec<Delivery>> {
        self.0.answer(Call::Claim).await;
        Err(Error::new(
            ErrorKind::Unsupported,
            "the engine cannot claim inside a transaction",
        ))
    }

    async fn finish(
        self: Box<Self>,
        finished: Vec<Finished>,
        outgoing: Vec<Outgoing>,
    ) -> Result<SettleOutcome> {
        self.0.answer(Call::Commit).await;
        let trip = Duration::from_millis(self.0.faults.trip.load(Ordering::SeqCst));
        tokio::time::sleep(trip).await;
        tokio::time::sleep(trip).await;

        let queue = QueueName::default();
        let settle = |done: Finished| {
            (
                done.receipt,
                Settle::Ack {
                    outgoing: Vec::new(),
                },
            )
        };

        let settlements = finished.into_iter().map(settle).collect();
        self.0.memory.publish(outgoing).await?;
        Ok(self.0.memory.settle(&queue, settlements).await?.remove(0))
    }

    async fn abandon(self: Box<Self>) {}

    fn as_any(&mut self) -> &mut dyn std::any::Any {
        self
    }
}

#[async_trait]
impl Broadcasts for Faulty {
    async fn ready(&self) -> Result<()> {
        self.memory.ready().await
    }

    async fn subscribe(&self, app: &str, queue: &QueueName, patterns: &[Pattern]) -> Result<u64> {
        self.answer(Call::Subscribe).await;
        self.memory.subscribe(app, queue, patterns).await
    }

    async fn unsubscribe(&self, app: &str, which: &[(QueueName, Pattern)]) -> Result<u64> {
        self.memory.unsubscribe(app, which).await
    }

    async fn subscriptions(&self) -> Result<Vec<QueueSubscription>> {
        self.memory.subscriptions().await
    }

    async fn broadcast(
        &self,
        message: BroadcastMessage,
    ) -> Result<Vec<(QueueName, PublishOutcome)>> {
        self.memory.broadcast(message).await
    }

    async fn record(&self, parties: &[EventParty]) -> Result<()> {
        self.memory.record(parties).await
    }

    async fn parties(&self, event_type: &str) -> Result<Vec<EventParty>> {
        self.memory.parties(event_type).await
    }

    async fn parties_of(&self, app: &str) -> Result<Vec<EventParty>> {
        self.memory.parties_of(app).await
    }

    async fn forget(&self, parties: &[EventParty]) -> Result<u64> {
        self.memory.forget(parties).await
    }
}

#[async_trait]
impl ScheduleStore for Faulty {
    async fn look(&self, mine: &[(&str, &str)]) -> Result<KeptSchedules> {
        self.answer(Call::LookAtSchedules).await;
        self.faults.looks.fetch_add(1, Ordering::SeqCst);
        next(&self.faults.schedules)?;
        self.memory.look(mine).await
    }

    async fn register(&self, new: Registration<'_>, instead_of: Option<&str>) -> Result<bool> {
        self.faults.looks.fetch_add(1, Ordering::SeqCst);
        next(&self.faults.schedules)?;
        self.memory.register(new, instead_of).await
    }

    async fn store_event(&self, name: &str, definition: &str, event: Option<&str>) -> Result<()> {
        self.memory.store_event(name, definition, event).await
    }

    async fn stored_event(&self, name: &str) -> Result<Option<String>> {
        self.memory.stored_event(name).await
    }

    async fn fire(&self, firing: Firing<'_>) -> Result<Fired> {
        self.faults.looks.fetch_add(1, Ordering::SeqCst);
        next(&self.faults.schedules)?;
        self.memory.fire(firing).await
    }

    async fn pause(&self, name: &str, pause: bool) -> Result<bool> {
        ScheduleStore::pause(&self.memory, name, pause).await
    }

    async fn remove(&self, name: &str) -> Result<bool> {
        ScheduleStore::remove(&self.memory, name).await
    }
}

#[async_trait]
impl Presence for Faulty {
    async fn note(&self, running: &[ConsumerPresence]) -> Result<()> {
        if self.faults.unnotable.load(Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::SchemaMissing, "a fault of the test"));
        }
        self.faults.notes.fetch_add(1, Ordering::SeqCst);
        self.memory.note(running).await
    }

    async fn remove(&self, id: &str) -> Result<()> {
        Presence::remove(&self.memory, id).await
    }

    async fn consumers(&self) -> Result<Vec<SeenConsumer>> {
        self.memory.consumers().await
    }
}
