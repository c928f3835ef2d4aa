//! The dead letters of the memory engine.

use async_trait::async_trait;

use super::MemoryEngine;
use crate::engine::{DeadLetter, DeadLetters};
use crate::error::Result;
use crate::message::message_id::MessageId;
use crate::message::queue_name::QueueName;

#[async_trait]
impl DeadLetters for MemoryEngine {
    async fn list(
        &self,
        queue: &QueueName,
        after: Option<&MessageId>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>> {
        Ok(self.store().queue(queue)?.dead(after, limit))
    }

    async fn find(&self, queue: &QueueName, id: &MessageId) -> Result<Option<DeadLetter>> {
        Ok(self.store().queue(queue)?.dead_letter(id))
    }

    async fn redrive(&self, queue: &QueueName, ids: &[MessageId]) -> Result<Vec<MessageId>> {
        let mut store = self.store();
        let now = self.shared.clock.now();
        let letters = store.queue(queue)?;
        let moved: Vec<_> = ids
            .iter()
            .filter(|id| letters.redrive(id, now))
            .cloned()
            .collect();

        if !moved.is_empty() {
            store.wake(queue);
        }
        Ok(moved)
    }

    async fn discard(&self, queue: &QueueName, ids: &[MessageId]) -> Result<Vec<MessageId>> {
        let mut store = self.store();
        let letters = store.queue(queue)?;
        let discarded = ids.iter().filter(|id| letters.discard(id));
        Ok(discarded.cloned().collect())
    }
}
