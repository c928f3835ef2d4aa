//! Broadcasting on the memory engine.

use async_trait::async_trait;

use super::clock::{self, Micros};
use super::engine::MemoryEngine;
use super::store::Store;
use crate::engine::{BroadcastMessage, Broadcasts, EventParty, PublishOutcome, QueueSubscription};
use crate::error::Result;
use crate::event::pattern::Pattern;
use crate::message::queue_name::QueueName;

impl Store {
    fn broadcast(
        &mut self,
        message: &BroadcastMessage,
        now: Micros,
    ) -> Result<Vec<(QueueName, PublishOutcome)>> {
        // All copies are checked before any is stored: broadcasting stores all of them or none.
        let mut copies = Vec::new();
        for queue in self.subscriptions.queues(&message.event_type) {
            let copy = message.copy(&queue);
            let refused = match self.queue(&queue) {
                Ok(_) => {
                    self.admit(&copy)?;
                    None
                }
                Err(missing) => Some(missing),
            };
            copies.push((copy, refused));
        }

        let outcomes = copies.into_iter().map(|(copy, refused)| {
            let queue = copy.queue.clone();
            let outcome = match refused {
                Some(error) => PublishOutcome::Failed(error),
                None => self.publish(copy, now),
            };
            (queue, outcome)
        });
        Ok(outcomes.collect())
    }
}

#[async_trait]
impl Broadcasts for MemoryEngine {
    async fn ready(&self) -> Result<()> {
        Ok(())
    }

    async fn subscribe(&self, app: &str, queue: &QueueName, patterns: &[Pattern]) -> Result<u64> {
        let mut store = self.store();
        let now = self.shared.clock.now();
        let mut added = 0;
        for pattern in patterns {
            let key = (queue.clone(), pattern.clone(), app.to_owned());
            store.subscriptions.standing.entry(key).or_insert_with(|| {
                added += 1;
                now
            });
        }
        Ok(added)
    }

    async fn unsubscribe(&self, app: &str, which: &[(QueueName, Pattern)]) -> Result<u64> {
        let standing = &mut self.store().subscriptions.standing;
        let removed = which.iter().map(|(queue, pattern)| {
            let key = (queue.clone(), pattern.clone(), app.to_owned());
            u64::from(standing.remove(&key).is_some())
        });
        Ok(removed.sum())
    }

    async fn subscriptions(&self) -> Result<Vec<QueueSubscription>> {
        let mut store = self.store();
        let standing = store.subscriptions.standing.clone();
        let subscriptions = standing.iter().map(|((queue, pattern, app), since)| {
            let since = clock::to_time(*since);
            QueueSubscription {
                queue_exists: store.queue(queue).is_ok(),
                ..QueueSubscription::new(app, queue, pattern, since)
            }
        });
        Ok(subscriptions.collect())
    }

    async fn broadcast(
        &self,
        message: BroadcastMessage,
    ) -> Result<Vec<(QueueName, PublishOutcome)>> {
        let mut store = self.store();
        let now = self.shared.clock.now();
        store.broadcast(&message, now)
    }

    async fn record(&self, parties: &[EventParty]) -> Result<()> {
        self.store()
            .subscriptions
            .parties
            .extend(parties.iter().cloned());
        Ok(())
    }

    async fn parties(&self, event_type: &str) -> Result<Vec<EventParty>> {
        let store = self.store();
        let parties = store.subscriptions.parties.iter();
        Ok(parties
            .filter(|party| party.event_type == event_type)
            .cloned()
            .collect())
    }

    async fn parties_of(&self, app: &str) -> Result<Vec<EventParty>> {
        let store = self.store();
        let parties = store.subscriptions.parties.iter();
        Ok(parties.filter(|party| party.app == app).cloned().collect())
    }

    async fn forget(&self, parties: &[EventParty]) -> Result<u64> {
        let known = &mut self.store().subscriptions.parties;
        Ok(parties
            .iter()
            .map(|party| u64::from(known.remove(party)))
            .sum())
    }
}
