//! Who is subscribed to what in the memory engine.

use crate::engine::Outgoing;
use crate::error::Error;
use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;

use super::MemoryEngine;
use super::clock::{self, Micros};
use super::store::Store;
use crate::engine::{BroadcastMessage, Broadcasts, EventParty, PublishOutcome, QueueSubscription};
use crate::error::Result;
use crate::event::pattern::Pattern;
use crate::message::queue_name::QueueName;

#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    // By queue, pattern and application: since when.
    standing: BTreeMap<(QueueName, Pattern, String), Micros>,
    parties: BTreeSet<EventParty>,
}

impl Subscriptions {
    fn queues(&self, event_type: &str) -> BTreeSet<QueueName> {
        let matching = self
            .standing
            .keys()
            .filter(|(_, pattern, _)| pattern.matches(event_type));
        matching.map(|(queue, ..)| queue.clone()).collect()
    }
}

impl Store {
    fn broadcast(
        &mut self,
        message: &BroadcastMessage,
        now: Micros,
    ) -> Result<Vec<(QueueName, PublishOutcome)>> {
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
        let mut stored = |(copy, refused): (Outgoing, Option<Error>)| {
            let queue = copy.queue.clone();
            let outcome = match refused {
                Some(error) => PublishOutcome::Failed(error),
                None => self.publish(copy, now),
            };
            (queue, outcome)
        };
        Ok(copies.into_iter().map(&mut stored).collect())
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
        let mut remove = |(queue, pattern): &(QueueName, Pattern)| {
            standing.remove(&(queue.clone(), pattern.clone(), app.to_owned()))
        };
        Ok(which
            .iter()
            .map(|one| u64::from(remove(one).is_some()))
            .sum())
    }

    async fn subscriptions(&self) -> Result<Vec<QueueSubscription>> {
        let mut store = self.store();
        let standing = store.subscriptions.standing.clone();
        let tell = |((queue, pattern, app), since): (&(QueueName, Pattern, String), &Micros)| {
            let queue_exists = store.queue(queue).is_ok();
            let told = QueueSubscription::new(app, queue, pattern, clock::to_time(*since));
            QueueSubscription {
                queue_exists,
                ..told
            }
        };
        Ok(standing.iter().map(tell).collect())
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
        let of_type = |party: &&EventParty| party.event_type == event_type;
        Ok(store
            .subscriptions
            .parties
            .iter()
            .filter(of_type)
            .cloned()
            .collect())
    }
    async fn said_by(&self, app: &str) -> Result<Vec<EventParty>> {
        let store = self.store();
        let of_app = |party: &&EventParty| party.app == app;
        Ok(store
            .subscriptions
            .parties
            .iter()
            .filter(of_app)
            .cloned()
            .collect())
    }

    async fn forget(&self, parties: &[EventParty]) -> Result<u64> {
        let known = &mut self.store().subscriptions.parties;
        Ok(parties
            .iter()
            .map(|party| u64::from(known.remove(party)))
            .sum())
    }
}
