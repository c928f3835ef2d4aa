//! What is wrong with the broadcasts of a broken engine.

use async_trait::async_trait;
use ezq_core::Result;
use ezq_core::engine::{
    BroadcastMessage, Broadcasts, Due, Engine as _, EventParty, PublishOutcome, QueueSubscription,
};
use ezq_core::event::Pattern;
use ezq_core::message::QueueName;
use ezq_core::message::headers::Headers;

use crate::engine::{Broken, Fault, refused};

#[async_trait]
impl Broadcasts for Broken {
    async fn ready(&self) -> Result<()> {
        Ok(())
    }

    async fn subscribe(&self, app: &str, queue: &QueueName, patterns: &[Pattern]) -> Result<u64> {
        let added = self.inner.subscribe(app, queue, patterns).await?;
        Ok(if self.is(Fault::AddsAgain) {
            patterns.len() as u64
        } else {
            added
        })
    }

    async fn unsubscribe(&self, app: &str, which: &[(QueueName, Pattern)]) -> Result<u64> {
        if self.is(Fault::KeepsSubscriptions) {
            return Ok(which.len() as u64);
        }
        self.inner.unsubscribe(app, which).await
    }

    async fn subscriptions(&self) -> Result<Vec<QueueSubscription>> {
        self.inner.subscriptions().await
    }

    async fn broadcast(
        &self,
        mut message: BroadcastMessage,
    ) -> Result<Vec<(QueueName, PublishOutcome)>> {
        match self.fault {
            Fault::DelaysAreEarly => message.due = Due::Now,
            Fault::DropsHeaders => message.headers = Headers::new(),
            Fault::IgnoresDedupeKeys => message.dedupe = None,
            _ => {}
        }

        if self.is(Fault::MeansPrefixes) {
            let mut copies = Vec::new();
            for one in self.inner.subscriptions().await? {
                let prefix = one.pattern.as_str().trim_end_matches(['*', '#']);
                if message.event_type.starts_with(prefix) {
                    let copy = vec![message.copy(&one.queue)];
                    let outcome = self.inner.publish(copy).await?.remove(0);
                    copies.push((one.queue, outcome));
                }
            }

            return Ok(copies);
        }

        if self.is(Fault::CopiesInPart) {
            let first = self.inner.subscriptions().await?.into_iter().next();
            if let Some(first) = first {
                let mut part = message.copy(&first.queue);
                part.body.truncate(2);
                self.inner.publish(vec![part]).await?;
            }
        }

        let copies = self.inner.broadcast(message.clone()).await?;
        let missing =
            |copy: &(QueueName, PublishOutcome)| matches!(copy.1, PublishOutcome::Failed(_));
        if self.is(Fault::NeedsEveryQueue) && copies.iter().any(missing) {
            return Err(refused());
        }
        Ok(copies)
    }

    async fn record(&self, parties: &[EventParty]) -> Result<()> {
        if self.is(Fault::ForgetsParties) {
            return Ok(());
        }
        self.inner.record(parties).await
    }

    async fn parties(&self, event_type: &str) -> Result<Vec<EventParty>> {
        self.inner.parties(event_type).await
    }

    async fn parties_of(&self, app: &str) -> Result<Vec<EventParty>> {
        self.inner.parties_of(app).await
    }

    async fn forget(&self, parties: &[EventParty]) -> Result<u64> {
        self.inner.forget(parties).await
    }
}
