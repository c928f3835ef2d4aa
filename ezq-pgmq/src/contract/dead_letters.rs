//! The store of dead letters. Each method is a call on the connection for rare calls.

use async_trait::async_trait;
use ezq_core::Result;
use ezq_core::engine::{DeadLetter, DeadLetters};
use ezq_core::message::{MessageId, QueueName};

use crate::admin::dead_letters;
use crate::connection::dedicated::call;
use crate::engine::PgmqEngine;

#[async_trait]
impl DeadLetters for PgmqEngine {
    async fn list(
        &self,
        queue: &QueueName,
        after: Option<&MessageId>,
        limit_to: usize,
    ) -> Result<Vec<DeadLetter>> {
        call!(self.inner.connections.control, |connection| {
            dead_letters::list(connection, queue, after, limit_to)
        })?
        .map_err(|failure| self.failed(failure, queue))
    }

    async fn find(&self, queue: &QueueName, id: &MessageId) -> Result<Option<DeadLetter>> {
        call!(self.inner.connections.control, |connection| {
            dead_letters::find(connection, queue, id)
        })?
        .map_err(|failure| self.failed(failure, queue))
    }

    async fn redrive(&self, queue: &QueueName, ids: &[MessageId]) -> Result<Vec<MessageId>> {
        let moved = call!(self.inner.connections.control, |connection| {
            dead_letters::redrive(connection, queue, queue, ids)
        })?
        .map_err(|failure| self.failed(failure, queue))?;
        if !moved.is_empty() {
            self.inner.announce(queue);
        }
        Ok(moved)
    }

    async fn discard(&self, queue: &QueueName, ids: &[MessageId]) -> Result<Vec<MessageId>> {
        call!(self.inner.connections.control, |connection| {
            dead_letters::discard(connection, queue, ids)
        })?
        .map_err(|failure| self.failed(failure, queue))
    }
}
