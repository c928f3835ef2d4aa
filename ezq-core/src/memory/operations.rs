//! Acting on stored messages, operations on all that match, and the audit trail of the memory engine.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde_json::json;

use super::clock::{self, Micros};
use super::engine::MemoryEngine;
use super::queue::{Queue, count};
use super::store::Store;
use crate::engine::{
    ActOutcome, AuditAction, AuditEntry, AuditPage, AuditRequest, EventAction, EventRef,
    EventState, Operation, OperationStatus, Operations, PageCursor, Preview, Selection, Signature,
};
use crate::error::Result;
use crate::message::headers::{HANDLER_PREFIX, Headers, REPLAY, RETURNED};
use crate::message::message_id::MessageId;
use crate::message::queue_name::QueueName;
use crate::message::settlement::{HandlerMark, HandlerState};

/// How many messages one step of an operation acts on.
const STEP: usize = 100;

#[async_trait]
impl Operations for MemoryEngine {
    async fn act(
        &self,
        queue: &QueueName,
        action: &EventAction,
        events: &[EventRef],
        signature: &Signature,
    ) -> Result<Vec<ActOutcome>> {
        let mut store = self.store();
        let now = self.shared.clock.now();
        store.check_action(queue, action)?;

        let mut outcomes = Vec::with_capacity(events.len());
        for event in events {
            let outcome = store.act(queue, action, event, now)?;
            if outcome == ActOutcome::Done {
                store.operated.record(AuditEntry {
                    event: Some(event.clone()),
                    target: action.target().cloned(),
                    count: Some(1),
                    ..entry(now, signature, action.into(), queue)
                });
            }
            outcomes.push(outcome);
        }
        store.wake_after(queue, action);
        Ok(outcomes)
    }

    async fn preview(&self, selection: &Selection) -> Result<Preview> {
        let mut store = self.store();
        let now = self.shared.clock.now();
        let queue = store.queue(&selection.queue)?;
        let last = selection
            .last
            .clone()
            .or_else(|| queue.newest(selection.state));
        let selection = Selection {
            last: last.clone(),
            ..selection.clone()
        };
        let found = queue.selected(&selection, None, now);
        Ok(Preview::new(count(found.len()), last))
    }

    async fn start(
        &self,
        id: &str,
        action: &EventAction,
        selection: &Selection,
        signature: &Signature,
    ) -> Result<Operation> {
        action.check(selection.state)?;
        let mut store = self.store();
        let now = self.shared.clock.now();
        if let Some(begun) = store.operated.operations.get(id) {
            return Ok(begun.clone());
        }
        store.check_action(&selection.queue, action)?;

        let queue = store.queue(&selection.queue)?;
        let mut selection = selection.clone();
        selection.last = selection.last.or_else(|| queue.newest(selection.state));
        let total = count(queue.selected(&selection, None, now).len());

        let at = clock::to_time(now);
        let mut operation = Operation::new(id, action.clone(), selection, signature.clone(), at);
        operation.total = Some(total);
        store.operated.record(AuditEntry {
            count: Some(total),
            ..AuditEntry::of_operation(at, signature.clone(), action.into(), &operation)
        });
        let operations = &mut store.operated.operations;
        operations.insert(id.to_owned(), operation.clone());
        Ok(operation)
    }

    async fn step(&self, id: &str) -> Result<Operation> {
        let mut store = self.store();
        let now = self.shared.clock.now();
        let mut operation = store.operated.operation(id)?.clone();
        if !operation.is_running() {
            return Ok(operation);
        }

        let Selection { queue, state, .. } = &operation.selection;
        let position = operation.position.as_ref().and_then(MessageId::as_number);
        let mut found = store
            .queue(queue)?
            .selected(&operation.selection, position, now);
        let is_last = found.len() <= STEP;
        found.truncate(STEP);

        for id in &found {
            let id = MessageId::Number(*id);
            let event = match state {
                EventState::Dead => EventRef::Dead(id),
                _ => EventRef::Waiting(id),
            };
            match store.act(queue, &operation.action, &event, now)? {
                ActOutcome::Done => operation.done += 1,
                _ => operation.skipped += 1,
            }
        }
        store.wake_after(queue, &operation.action);

        operation.position = match is_last {
            true => operation.selection.last.clone(),
            false => found.last().copied().map(MessageId::Number),
        };
        let at = clock::to_time(now);
        operation.moved_at = at;
        if is_last {
            operation.status = OperationStatus::Ended;
            operation.ended_at = Some(at);
            let signature = operation.signature.clone();
            store.operated.record(AuditEntry {
                count: Some(operation.done),
                ..AuditEntry::of_operation(at, signature, AuditAction::EndOperation, &operation)
            });
        }
        *store.operated.operation(id)? = operation.clone();
        Ok(operation)
    }

    async fn stop(&self, id: &str, signature: &Signature) -> Result<Operation> {
        self.turn(id, signature, OperationStatus::Stopped)
    }

    async fn proceed(&self, id: &str, signature: &Signature) -> Result<Operation> {
        self.turn(id, signature, OperationStatus::Running)
    }

    async fn list_operations(&self, limit: usize) -> Result<Vec<Operation>> {
        let store = self.store();
        let mut all: Vec<Operation> = store.operated.operations.values().cloned().collect();
        all.sort_by(|a, b| (b.began_at, &b.id).cmp(&(a.began_at, &a.id)));
        all.truncate(limit);
        Ok(all)
    }

    async fn find_operation(&self, id: &str) -> Result<Option<Operation>> {
        Ok(self.store().operated.operations.get(id).cloned())
    }

    async fn record_act(&self, entry: &AuditEntry) -> Result<String> {
        let at = self.now();
        let number = self.store().operated.record(AuditEntry {
            at,
            ..entry.clone()
        });
        Ok(number.to_string())
    }

    async fn record_count(&self, id: &str, count: u64) -> Result<()> {
        let trail = &mut self.store().operated.trail;
        let Ok(number) = id.parse() else {
            return Ok(());
        };
        if count == 0 {
            trail.remove(&number);
        } else if let Some(entry) = trail.get_mut(&number) {
            entry.count = Some(count);
        }
        Ok(())
    }

    async fn audit(&self, request: &AuditRequest) -> Result<AuditPage> {
        let store = self.store();
        let before = match &request.after {
            None => u64::MAX,
            Some(cursor) => cursor.as_str().parse().map_err(|_| cursor.refused())?,
        };

        let older = store.operated.trail.range(..before).rev();
        let mut meant = older.filter(|(_, entry)| request.matches(entry));
        let page: Vec<_> = meant.by_ref().take(request.limit.max(1)).collect();
        let last = page.last().map(|(place, _)| *place);
        let next = last.filter(|_| meant.next().is_some());
        let entries = page.into_iter().map(|(_, entry)| entry.clone());
        Ok(AuditPage::new(
            entries.collect(),
            next.map(|place| PageCursor::new(place.to_string())),
        ))
    }
}

impl MemoryEngine {
    /// Stops an operation that runs, or lets one run that was stopped.
    fn turn(&self, id: &str, signature: &Signature, to: OperationStatus) -> Result<Operation> {
        let (from, action) = match to {
            OperationStatus::Stopped => (OperationStatus::Running, AuditAction::StopOperation),
            _ => (OperationStatus::Stopped, AuditAction::ResumeOperation),
        };
        let mut store = self.store();
        let at: DateTime<Utc> = self.now();
        let operation = store.operated.operation(id)?;
        if operation.status != from {
            return Ok(operation.clone());
        }

        operation.status = to;
        operation.moved_at = at;
        let turned = operation.clone();
        store.operated.record(AuditEntry {
            count: Some(turned.done),
            ..AuditEntry::of_operation(at, signature.clone(), action, &turned)
        });
        Ok(turned)
    }
}

impl Store {
    /// Checks that the queues of an action exist.
    fn check_action(&mut self, queue: &QueueName, action: &EventAction) -> Result<()> {
        action.check_queue(queue)?;
        self.queue(queue)?;
        action
            .target()
            .map_or(Ok(()), |to| self.queue(to).map(drop))
    }

    fn act(
        &mut self,
        name: &QueueName,
        action: &EventAction,
        event: &EventRef,
        now: Micros,
    ) -> Result<ActOutcome> {
        action.check_event(event)?;
        let queue = self.queue(name)?;
        let id = match event {
            EventRef::Waiting(id) => id,
            EventRef::Dead(id) => {
                let is_done = match action {
                    EventAction::Move { to } => {
                        let Some((body, headers, at)) = queue.take_dead(id) else {
                            return Ok(ActOutcome::Missing);
                        };
                        self.queue(to)?.insert(body, headers, now, at);
                        true
                    }
                    EventAction::Redrive => queue.redrive(id, now),
                    _ => queue.discard(id),
                };
                return Ok(outcome(is_done));
            }
        };

        if queue.is_leased(id, now) {
            return Ok(ActOutcome::Leased);
        }
        let Some(number) = id.as_number() else {
            return Ok(ActOutcome::Missing);
        };
        match action {
            EventAction::RetryNow => Ok(outcome(queue.make_due(number, now))),
            EventAction::Move { to } => {
                let Some(stored) = queue.take(number) else {
                    return Ok(ActOutcome::Missing);
                };
                let headers = moved(name, number, &stored.headers, &stored.body);
                let due = match stored.deliveries {
                    0 => stored.due.max(now),
                    _ => now,
                };
                let to = self.queue(to)?;
                to.insert(stored.body, headers, due, stored.enqueued_at);
                Ok(ActOutcome::Done)
            }
            _ => Ok(outcome(queue.remove(number))),
        }
    }

    /// Wakes whoever waits for what an action has made due, also behind a removed message of a key.
    fn wake_after(&mut self, queue: &QueueName, action: &EventAction) {
        self.wake(queue);
        if let Some(to) = action.target() {
            self.wake(to);
        }
    }
}

impl Queue {
    /// The newest message, or dead letter.
    fn newest(&self, state: EventState) -> Option<MessageId> {
        let newest = match state {
            EventState::Dead => self.last_dead_id,
            _ => self.last_id,
        };
        (newest > 0).then_some(MessageId::Number(newest))
    }

    /// The numbers of what a selection means behind a number, in order.
    fn selected(&self, selection: &Selection, after: Option<i64>, now: Micros) -> Vec<i64> {
        let Selection {
            queue,
            state,
            filter,
            last,
        } = selection;
        let last = last.as_ref().and_then(MessageId::as_number).unwrap_or(0);
        let at = clock::to_time(now);
        let copies = match state {
            EventState::Dead => self.dead_copies(queue),
            _ => self.live_copies(queue, now),
        };

        let meant = copies.into_iter().filter(|((_, id), copy)| {
            after.is_none_or(|after| *id > after)
                && *id <= last
                && EventState::of(copy, at) == Some(*state)
                && filter.matches(copy)
        });
        let mut ids: Vec<i64> = meant.map(|((_, id), _)| id).collect();
        ids.sort_unstable();
        ids
    }

    /// Makes a message due that waits. Returns whether there was one.
    fn make_due(&mut self, id: i64, now: Micros) -> bool {
        let Some(stored) = self.messages.get_mut(&id) else {
            return false;
        };
        stored.headers.end_pauses();
        let due = stored.due.min(now);
        self.place(id, due);
        true
    }
}

fn outcome(is_done: bool) -> ActOutcome {
    match is_done {
        true => ActOutcome::Done,
        false => ActOutcome::Missing,
    }
}

fn entry(now: Micros, signature: &Signature, action: AuditAction, queue: &QueueName) -> AuditEntry {
    AuditEntry::new(
        clock::to_time(now),
        signature.clone(),
        action,
        queue.clone(),
    )
}

/// The headers of a message that goes to another queue: only the marks of handlers that are done stay. An
/// event in the flat form, whose id is its place, keeps that in a header.
fn moved(queue: &QueueName, id: i64, headers: &Headers, body: &str) -> Headers {
    let mut entries = headers.as_object().clone();
    entries.retain(|key, value| {
        if key.starts_with(HANDLER_PREFIX) {
            let mark = serde_json::from_value::<HandlerMark>(value.clone());
            return mark.is_ok_and(|mark| mark.state == HandlerState::Done);
        }
        key != RETURNED
    });
    if body.contains("\"_type\"") && !entries.contains_key(REPLAY) {
        let origin = json!({ "queue": queue.as_str(), "id": id });
        entries.insert(REPLAY.to_owned(), origin);
    }
    Headers::from_value(entries.into())
}
