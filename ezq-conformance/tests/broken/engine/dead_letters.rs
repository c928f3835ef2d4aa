//! The dead letters of the broken engine.

use async_trait::async_trait;
use ezq_core::Result;
use ezq_core::engine::{DeadLetter, DeadLetters};
use ezq_core::message::{MessageId, QueueName};

use super::Broken;
use super::fault::Fault;

#[async_trait]
impl DeadLetters for Broken {
    async fn list(
        &self,
        queue: &QueueName,
        after: Option<&MessageId>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>> {
        let after = after.filter(|_| !self.is(Fault::ListsFromTheStart));
        self.inner.list(queue, after, limit).await
    }

    async fn find(&self, queue: &QueueName, id: &MessageId) -> Result<Option<DeadLetter>> {
        self.inner.find(queue, id).await
    }

    async fn redrive(&self, queue: &QueueName, ids: &[MessageId]) -> Result<Vec<MessageId>> {
        if self.is(Fault::RedrivesNothing) {
            return Ok(ids.to_vec());
        }
        self.inner.redrive(queue, ids).await
    }

    async fn discard(&self, queue: &QueueName, ids: &[MessageId]) -> Result<Vec<MessageId>> {
        if self.is(Fault::DiscardsNothing) {
            return Ok(ids.to_vec());
        }
        self.inner.discard(queue, ids).await
    }
}
