//! Which consumers run on a memory engine, and when each was last noted.

use std::time::Duration;

use async_trait::async_trait;

use super::clock;
use super::engine::MemoryEngine;
use crate::engine::{ConsumerPresence, Presence, SeenConsumer};
use crate::error::Result;

/// What was not noted for so long is forgotten.
const KEPT: Duration = Duration::from_secs(24 * 3600);

#[async_trait]
impl Presence for MemoryEngine {
    async fn note(&self, running: &[ConsumerPresence]) -> Result<()> {
        let mut store = self.store();
        let now = self.shared.clock.now();
        for consumer in running {
            let noted = (consumer.clone(), now);
            store.consumers.insert(consumer.id.clone(), noted);
        }
        store
            .consumers
            .retain(|_, (_, seen)| clock::between(*seen, now) <= KEPT);
        Ok(())
    }

    async fn remove(&self, id: &str) -> Result<()> {
        self.store().consumers.remove(id);
        Ok(())
    }

    async fn consumers(&self) -> Result<Vec<SeenConsumer>> {
        let store = self.store();
        let now = self.shared.clock.now();
        let noted = store.consumers.values().map(|(consumer, seen)| {
            SeenConsumer::new(consumer.clone(), clock::between(*seen, now))
        });
        let mut seen: Vec<SeenConsumer> = noted.filter(|one| one.seen_ago <= KEPT).collect();
        seen.sort_by(|a, b| a.consumer.place().cmp(&b.consumer.place()));
        Ok(seen)
    }
}
