//! The dead letters of the memory engine: how a message becomes one, and how it comes back.

use async_trait::async_trait;
use serde_json::{Value, json};

use super::clock::{self, Micros};
use super::engine::MemoryEngine;
use super::queue::Queue;
use crate::engine::{DeadLetter, DeadLetters};
use crate::error::Result;
use crate::message::headers::{DEAD, HANDLER_PREFIX, Headers, REDRIVEN, RETURNED};
use crate::message::message_id::MessageId;
use crate::message::queue_name::QueueName;
use crate::message::settlement::{HandlerMark, HandlerState, Progress, Reason};

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

impl Queue {
    pub(super) fn bury(&mut self, id: i64, progress: &Progress, reason: Reason, now: Micros) {
        let Some(mut stored) = self.take(id) else {
            return;
        };

        stored.headers.merge(progress);
        let death = json!({
            // A reason is plain data: writing it as JSON cannot fail.
            "reason": serde_json::to_value(&reason).unwrap_or_default(),
            "id": id,
            "deliveries": stored.deliveries,
            "enqueued_at": clock::to_time(stored.enqueued_at),
            "died_at": clock::to_time(now),
        });
        stored.headers.insert(DEAD, death);

        self.last_dead_id += 1;
        let letter = DeadLetter {
            original_id: Some(MessageId::Number(id)),
            reason: Some(reason),
            enqueued_at: clock::to_time(stored.enqueued_at),
            ..DeadLetter::new(
                MessageId::Number(self.last_dead_id),
                stored.body,
                stored.headers,
                clock::to_time(now),
            )
        };
        self.dead.insert(self.last_dead_id, letter);
    }

    /// Keeps as a dead letter what was never a message of the queue.
    pub(super) fn bury_new(
        &mut self,
        body: String,
        mut headers: Headers,
        reason: Reason,
        now: Micros,
    ) {
        let time = clock::to_time(now);
        let death = json!({
            "reason": serde_json::to_value(&reason).unwrap_or_default(),
            "deliveries": 0,
            "enqueued_at": time,
            "died_at": time,
        });
        headers.insert(DEAD, death);

        self.last_dead_id += 1;
        let id = MessageId::Number(self.last_dead_id);
        let letter = DeadLetter {
            reason: Some(reason),
            enqueued_at: time,
            ..DeadLetter::new(id, body, headers, time)
        };
        self.dead.insert(self.last_dead_id, letter);
    }

    pub(super) fn dead(&self, after: Option<&MessageId>, limit: usize) -> Vec<DeadLetter> {
        let first = after.and_then(MessageId::as_number).unwrap_or(0);
        let letters = self.dead.range(first.saturating_add(1)..);
        letters
            .take(limit)
            .map(|(_, letter)| shown(letter))
            .collect()
    }

    pub(super) fn dead_letter(&self, id: &MessageId) -> Option<DeadLetter> {
        self.dead.get(&id.as_number()?).map(shown)
    }

    pub(super) fn redrive(&mut self, id: &MessageId, now: Micros) -> bool {
        let Some((body, headers, enqueued_at)) = self.take_dead(id) else {
            return false;
        };
        self.insert(body, headers, now, enqueued_at);
        true
    }

    /// Removes a dead letter. Returns body, headers and time of storage of the message that it becomes.
    pub(super) fn take_dead(&mut self, id: &MessageId) -> Option<(String, Headers, Micros)> {
        let letter = id.as_number().and_then(|id| self.dead.remove(&id))?;
        let enqueued_at = clock::to_micros(letter.enqueued_at);
        Some((letter.body, revive(&letter.headers), enqueued_at))
    }

    pub(super) fn discard(&mut self, id: &MessageId) -> bool {
        id.as_number()
            .is_some_and(|id| self.dead.remove(&id).is_some())
    }
}

/// A dead letter as callers see it: without the header on its death, which is in its fields.
fn shown(letter: &DeadLetter) -> DeadLetter {
    let mut entries = letter.headers.as_object().clone();
    entries.remove(DEAD);
    DeadLetter {
        headers: Headers::from_value(entries.into()),
        ..letter.clone()
    }
}

/// The headers of a dead letter that is redriven: the marks of handlers that are done stay, and its
/// death is kept as the header [`REDRIVEN`].
fn revive(headers: &Headers) -> Headers {
    let mut entries = headers.as_object().clone();
    entries.retain(|key, value| {
        if key.starts_with(HANDLER_PREFIX) {
            let mark = serde_json::from_value::<HandlerMark>(value.clone());
            return mark.is_ok_and(|mark| mark.state == HandlerState::Done);
        }
        ![DEAD, RETURNED, REDRIVEN].contains(&key.as_str())
    });

    if let Some(mut death) = headers.value(DEAD).and_then(Value::as_object).cloned() {
        // After several redrives, id and time are those of the first message.
        let earlier = headers.value(REDRIVEN).and_then(Value::as_object);
        for (key, value) in earlier.into_iter().flatten() {
            if ["id", "enqueued_at"].contains(&key.as_str()) {
                death.insert(key.clone(), value.clone());
            }
        }
        entries.insert(REDRIVEN.to_owned(), death.into());
    }
    Headers::from_value(entries.into())
}
