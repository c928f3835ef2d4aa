//! The pauses of the memory engine.

use async_trait::async_trait;
use tokio::sync::watch;

use super::clock::Micros;
use super::engine::MemoryEngine;
use super::queue::{Queue, Stored, count};
use crate::codec::wire::plain_type;
use crate::engine::{
    AuditAction, AuditEntry, Pause, PauseTarget, Pauses, QueuePauses, Signature, TypeSearch,
};
use crate::error::Result;
use crate::message::headers::CE_TYPE;
use crate::message::message_id::MessageId;
use crate::message::queue_name::QueueName;
use crate::message::settlement::{HandlerName, Progress};

impl Queue {
    /// Makes the messages due that are put aside for a paused handler. Returns how many there were.
    fn release_held(&mut self, handler: &HandlerName, now: Micros) -> u64 {
        let messages = self.messages.iter();
        let held = messages.filter(|(_, stored)| stored.due > now && is_held(stored, handler));
        let ids: Vec<i64> = held.map(|(id, _)| *id).collect();

        for id in &ids {
            self.place(*id, now);
        }
        count(ids.len())
    }

    /// The messages behind a number, in the order of their numbers.
    fn behind(&self, after: i64) -> Vec<(i64, &Stored)> {
        let behind = self.messages.iter().filter(|(id, _)| **id > after);
        let mut behind: Vec<(i64, &Stored)> = behind.map(|(id, stored)| (*id, stored)).collect();
        behind.sort_by_key(|(id, _)| *id);
        behind
    }
}

#[async_trait]
impl Pauses for MemoryEngine {
    async fn pause(&self, target: &PauseTarget, by: &str, reason: Option<&str>) -> Result<bool> {
        let mut store = self.store();
        store.queue(&target.queue)?;
        let pauses = &mut store.pauses.pauses;
        if pauses.contains_key(target) {
            return Ok(false);
        }

        let pause = Pause::new(target.clone(), self.now(), by).reason(reason.map(str::to_owned));
        let signature = Signature::new(by).reason(pause.reason.clone());
        let at = pause.since;
        pauses.insert(target.clone(), pause);
        let entry = AuditEntry {
            handler: target.handler.clone(),
            ..AuditEntry::new(at, signature, AuditAction::Pause, target.queue.clone())
        };
        store.operated.record(entry);
        store.pauses.tell(&target.queue);
        Ok(true)
    }

    async fn resume(&self, target: &PauseTarget, by: &str) -> Result<bool> {
        let mut store = self.store();
        let was_paused = store.pauses.pauses.remove(target).is_some();
        if was_paused {
            let by = Signature::new(by);
            let entry = AuditEntry {
                handler: target.handler.clone(),
                ..AuditEntry::new(self.now(), by, AuditAction::Resume, target.queue.clone())
            };
            store.operated.record(entry);
            store.pauses.tell(&target.queue);
        }
        Ok(was_paused)
    }

    async fn list(&self) -> Result<Vec<Pause>> {
        Ok(self.store().pauses.pauses.values().cloned().collect())
    }

    async fn watch(&self, queue: &QueueName) -> Result<watch::Receiver<QueuePauses>> {
        Ok(self.store().pauses.watch(queue))
    }

    async fn release_held(&self, queue: &QueueName, handler: &HandlerName) -> Result<u64> {
        let mut store = self.store();
        let now = self.shared.clock.now();
        let released = store.queue(queue)?.release_held(handler, now);
        if released > 0 {
            store.wake(queue);
        }
        Ok(released)
    }

    async fn search(
        &self,
        queue: &QueueName,
        types: &[&str],
        mut so_far: TypeSearch,
    ) -> Result<TypeSearch> {
        let mut store = self.store();
        let now = self.shared.clock.now();
        let queue = store.queue(queue)?;

        let reached = so_far.reached.as_ref().and_then(MessageId::as_number);
        for (id, stored) in queue.behind(reached.unwrap_or(0)) {
            if is_of_type(stored, types) {
                so_far.found.push(MessageId::Number(id));
            }
            so_far.reached = Some(MessageId::Number(id));
        }

        let due_of = |id: &MessageId| Some(queue.messages.get(&id.as_number()?)?.due);
        so_far.found.retain(|id| due_of(id).is_some());
        let mut due: Vec<(Micros, MessageId)> = so_far
            .found
            .iter()
            .filter_map(|id| Some((due_of(id)?, id.clone())))
            .filter(|(due, _)| *due <= now)
            .collect();
        due.sort();
        so_far.due = due.into_iter().map(|(_, id)| id).collect();
        Ok(so_far)
    }
}

/// Whether a message was put aside for a handler, and not delivered since.
fn is_held(stored: &Stored, handler: &HandlerName) -> bool {
    let marks = Progress::from_headers(&stored.headers);
    let held = marks.get(handler).and_then(|mark| mark.held);
    held == Some(stored.deliveries)
}

/// Whether a message is of one of these types: by its header, or else by its body.
fn is_of_type(stored: &Stored, types: &[&str]) -> bool {
    let is_one = |name: &str| types.contains(&name);
    match stored.headers.text(CE_TYPE) {
        Some(name) => is_one(name),
        None => plain_type(&stored.body).is_some_and(|name| is_one(&name)),
    }
}
