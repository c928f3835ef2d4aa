//! Dead letters: messages that were given up, kept with their reason until someone redrives or
//! discards them.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::Deserialize as _;
use serde_json::Value;

use super::MessageId;
use crate::error::Result;
use crate::message::headers::Headers;
use crate::message::queue_name::QueueName;
use crate::message::settlement::Reason;

/// One dead letter.
#[derive(Debug, Clone)]
pub struct DeadLetter {
    /// Its id among the queue's dead letters.
    pub id: MessageId,
    /// The id it had in its queue.
    pub original_id: Option<MessageId>,
    /// Why it died; `None` for a message that something other than ezq put there.
    pub reason: Option<Reason>,
    /// The body as it was.
    pub body: String,
    /// The headers, with every handler's mark and errors.
    pub headers: Headers,
    /// When it was first stored.
    pub enqueued_at: DateTime<Utc>,
    /// When it died.
    pub died_at: DateTime<Utc>,
}

/// What a message's headers tell of its death; what is odd or missing is none.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Death {
    /// Of what.
    pub reason: Option<Reason>,
    /// The id it had in its queue.
    pub message_id: Option<MessageId>,
    /// How often it was delivered until then.
    pub deliveries: Option<u32>,
    /// When it was first stored.
    pub enqueued_at: Option<DateTime<Utc>>,
    /// When it died.
    pub died_at: Option<DateTime<Utc>>,
}

impl Death {
    /// Reads the value of a header: [`DEAD`](crate::message::headers::DEAD) of a dead letter,
    /// [`REDRIVEN`](crate::message::headers::REDRIVEN) of what was redriven.
    #[must_use]
    pub fn read(value: &Value) -> Self {
        let time = |field: &str| value.get(field)?.as_str()?.parse().ok();
        let number = value.get("id").and_then(Value::as_i64);
        Self {
            reason: value
                .get("reason")
                .and_then(|reason| Reason::deserialize(reason).ok()),
            message_id: number.map(MessageId::Number),
            deliveries: value
                .get("deliveries")
                .and_then(|n| u32::deserialize(n).ok()),
            enqueued_at: time("enqueued_at"),
            died_at: time("died_at"),
        }
    }
}

/// What an engine that keeps dead letters can do with them.
#[async_trait]
pub trait DeadLetters: Send + Sync {
    /// The oldest dead letters of a queue, by id, at most `limit`, after an id if one is given.
    ///
    /// # Errors
    /// When the store cannot be read.
    async fn list(
        &self,
        queue: &QueueName,
        after: Option<&MessageId>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>>;

    /// One dead letter.
    ///
    /// # Errors
    /// When the store cannot be read.
    async fn find(&self, queue: &QueueName, id: &MessageId) -> Result<Option<DeadLetter>>;

    /// Moves dead letters back to their queue, one step each; handlers that were done stay done,
    /// those that failed start anew. A message keeps the time at which it was first stored, and what
    /// it had died of goes along ([`REDRIVEN`](crate::message::headers::REDRIVEN)). Returns the ids that were
    /// moved.
    ///
    /// # Errors
    /// When the store cannot be written; what was moved before stays moved.
    async fn redrive(&self, queue: &QueueName, ids: &[MessageId]) -> Result<Vec<MessageId>>;

    /// Removes dead letters for good. Returns the ids that were removed.
    ///
    /// # Errors
    /// When the store cannot be written.
    async fn discard(&self, queue: &QueueName, ids: &[MessageId]) -> Result<Vec<MessageId>>;
}
