//! The cancellations of the memory engine.

use async_trait::async_trait;
use tokio::sync::watch;

use super::engine::MemoryEngine;
use crate::engine::{
    AuditEntry, CancelOrder, Cancellation, Cancellations, EventRef, QueueCancellations, Signature,
};
use crate::error::Result;
use crate::message::message_id::MessageId;
use crate::message::queue_name::QueueName;

/// How many of the newest dead letters are looked at.
const LETTERS: usize = 10_000;

#[async_trait]
impl Cancellations for MemoryEngine {
    async fn ask(&self, queue: &QueueName, id: &MessageId, order: &CancelOrder) -> Result<bool> {
        let mut store = self.store();
        let messages = &store.queue(queue)?.messages;
        let Some(number) = id.as_number().filter(|id| messages.contains_key(id)) else {
            return Ok(false);
        };

        let id = MessageId::Number(number);
        let now = self.now();
        let signature = Signature::new(&order.by).reason(order.reason.clone());
        store.operated.record(AuditEntry {
            event: Some(EventRef::Waiting(id.clone())),
            count: Some(1),
            ..AuditEntry::new(now, signature, order.what.into(), queue.clone())
        });
        let asked = Cancellation::new(id, order.clone(), now);
        store.cancellations.ask(queue, number, asked);
        Ok(true)
    }

    async fn watch(&self, queue: &QueueName) -> Result<watch::Receiver<QueueCancellations>> {
        Ok(self.store().cancellations.watch(queue))
    }

    async fn finish(&self, queue: &QueueName, ids: &[MessageId]) -> Result<()> {
        self.store().cancellations.finish(queue, ids);
        Ok(())
    }

    async fn letter_of(&self, queue: &QueueName, id: &MessageId) -> Result<Option<MessageId>> {
        let mut store = self.store();
        let mut newest = store.queue(queue)?.dead.values().rev().take(LETTERS);
        let letter = newest.find(|letter| {
            let original = letter.original_id.as_ref().and_then(MessageId::as_number);
            original.is_some() && original == id.as_number()
        });
        Ok(letter.map(|letter| letter.id.clone()))
    }
}
