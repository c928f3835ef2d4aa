//! The archive of one queue in memory, and the queue's copies of one event: the part of [`Queue`] that
//! keeps messages after their acknowledgement.

use std::time::Duration;

use super::clock::{self, Micros};
// cycle: a queue holds its archive, which keeps messages as the queue stored them.
use super::queue::{Queue, Stored};
use crate::codec::wire::{Origin, decode, flat_id};
use crate::engine::history::{CopyState, EventCopy};
use crate::engine::names::identify;
use crate::engine::{DeadLetter, Death};
use crate::event::is_control;
use crate::message::headers::{DEAD, Headers, REDRIVEN};
use crate::message::message_id::MessageId;
use crate::message::queue_name::QueueName;
use crate::message::retention::Retention;

/// An acknowledged message that an archive or a trail keeps.
#[derive(Debug)]
pub(super) struct Archived {
    id: i64,
    stored: Stored,
    at: Micros,
    retention: Retention,
}

impl Queue {
    /// Removes a message, and keeps it if the queue has an archive or a trail.
    pub(super) fn acknowledge(
        &mut self,
        id: i64,
        name: &QueueName,
        retention: Retention,
        now: Micros,
    ) {
        let Some(stored) = self.take(id) else { return };
        if retention != Retention::Delete && !is_control_event(name, id, &stored) {
            // No task sweeps the archive: what is too old goes when something new comes.
            self.forget_archived(retention.keep(), now);
            self.archived.push_back(Archived {
                id,
                stored,
                at: now,
                retention,
            });
        }
    }

    /// Removes what was archived longer ago than `keep`.
    pub(super) fn forget_archived(&mut self, keep: Option<Duration>, now: Micros) {
        let Some(keep) = keep else { return };
        while self
            .archived
            .front()
            .is_some_and(|oldest| clock::after(oldest.at, keep) < now)
        {
            self.archived.pop_front();
        }
    }

    /// Every copy of an event: in the queue, in its archive, and in its dead letters.
    pub(super) fn copies(&self, name: &QueueName, event_id: &str, now: Micros) -> Vec<EventCopy> {
        let copy_of = |id: MessageId, stored: &Stored, state: CopyState| {
            let Stored {
                body,
                headers,
                enqueued_at,
                deliveries,
                ..
            } = stored;
            let event_type = find(name, body, headers, &id, event_id)?;
            let published_at = clock::to_time(*enqueued_at);

            // A trail keeps a line, as on a database.
            let is_kept = !matches!(state, CopyState::Handled { .. });
            let copy = EventCopy::new(name, id, published_at, headers, state);
            Some(EventCopy {
                event_type,
                body: is_kept.then(|| body.clone()),
                deliveries: *deliveries,
                ..copy
            })
        };

        let waiting = self.messages.iter().filter_map(|(id, stored)| {
            let due = clock::to_time(stored.due);
            let now = clock::to_time(now);
            let state = CopyState::of(due, stored.deliveries, &stored.headers, now);
            copy_of(MessageId::Number(*id), stored, state)
        });
        let archived = self.archived.iter().filter_map(
            |Archived {
                 id,
                 stored,
                 at,
                 retention,
             }| {
                let at = clock::to_time(*at);
                let state = match retention.is_archive() {
                    true => CopyState::Archived { at },
                    false => CopyState::Handled { at },
                };
                copy_of(MessageId::Number(*id), stored, state)
            },
        );
        let dead = self
            .dead
            .values()
            .filter_map(|letter| find_dead(name, letter, event_id));

        waiting.chain(archived).chain(dead).collect()
    }
}

/// A dead letter if it is the event with this id.
fn find_dead(queue: &QueueName, letter: &DeadLetter, event_id: &str) -> Option<EventCopy> {
    let copy = dead_copy(queue, letter);
    let DeadLetter { body, headers, .. } = letter;
    let event_type = find(queue, body, headers, &copy.message_id, event_id)?;
    let deliveries = headers
        .value(DEAD)
        .and_then(|dead| Death::read(dead).deliveries);
    Some(EventCopy {
        event_type,
        deliveries: deliveries.unwrap_or(0),
        ..copy
    })
}

/// A dead letter as a copy of its event, without the event's type.
pub(super) fn dead_copy(queue: &QueueName, letter: &DeadLetter) -> EventCopy {
    let state = CopyState::Dead {
        letter: letter.id.clone(),
        at: letter.died_at,
        reason: letter.reason.clone(),
    };
    let message_id = letter.original_id.as_ref().unwrap_or(&letter.id).clone();
    EventCopy::new(
        queue,
        message_id,
        letter.enqueued_at,
        &letter.headers,
        state,
    )
    .body(letter.body.clone())
}

/// The type name of a message that is the event with this id. The flat form has its id by its place,
/// which after a redrive is that of the first message.
fn find(
    queue: &QueueName,
    body: &str,
    headers: &Headers,
    id: &MessageId,
    event_id: &str,
) -> Option<Option<String>> {
    let first = headers
        .value(REDRIVEN)
        .and_then(|death| Death::read(death).message_id);
    let ids = first.iter().chain([id]);
    ids.map(|id| flat_id(queue, id))
        .find_map(|flat_id| identify(body, headers, event_id, &flat_id))
}

fn is_control_event(queue: &QueueName, id: i64, stored: &Stored) -> bool {
    let origin = Origin {
        queue,
        message_id: &MessageId::Number(id),
        enqueued_at: clock::to_time(stored.enqueued_at),
        headers: &stored.headers,
    };
    decode(&stored.body, origin).is_ok_and(|envelope| is_control(envelope.event_type()))
}
