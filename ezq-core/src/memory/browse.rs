//! Browsing the memory engine's queues. It looks at all messages and keeps those of the page.

use std::cmp::Reverse;

use async_trait::async_trait;

use super::archive::dead_copy;
use super::clock::{self, Micros};
use super::engine::MemoryEngine;
use super::queue::{Queue, Stored};
use crate::codec::wire::plain_type;
use crate::engine::{
    Browse, CopyState, EventCopy, EventPage, EventState, Failure, Failures, PageCursor, PageRequest,
};
use crate::error::Result;
use crate::message::headers::{CE_TYPE, CODEC, Headers};
use crate::message::message_id::MessageId;
use crate::message::queue_name::QueueName;
use crate::message::settlement::HandlerState;

/// The place of a message, or of a dead letter: when it is due, and its number.
type Place = (Micros, i64);

#[async_trait]
impl Browse for MemoryEngine {
    async fn page(&self, request: &PageRequest) -> Result<EventPage> {
        let after = match &request.after {
            Some(cursor) => read(cursor).ok_or_else(|| cursor.refused())?,
            None => (Micros::MIN, i64::MIN),
        };
        let mut store = self.store();
        let now = self.shared.clock.now();
        let at = clock::to_time(now);
        let queue = store.queue(&request.queue)?;

        let mut places = match request.state {
            EventState::Dead => queue.dead_copies(&request.queue),
            _ => queue.live_copies(&request.queue, now),
        };
        places.retain(|(place, copy)| {
            *place > after && EventState::of(copy, at) == Some(request.state)
        });
        places.sort_by_key(|(place, _)| *place);

        // As on a database: so many are looked at, and the page ends where that ends.
        let has_more = places.len() > request.scan.max(1);
        places.truncate(request.scan.max(1));
        let looked_at = places.last().map(|(place, _)| *place);
        places.retain(|(_, copy)| request.filter.matches(copy));
        let is_full = places.len() >= request.limit.max(1);
        places.truncate(request.limit.max(1));

        let last = match is_full {
            true => places.last().map(|(place, _)| *place),
            false => looked_at.filter(|_| has_more),
        };
        let events = places.into_iter().map(|(_, copy)| copy);
        Ok(EventPage::new(events.collect(), last.map(cursor)))
    }

    async fn failures(&self, name: &QueueName, scan: usize) -> Result<Failures> {
        let mut store = self.store();
        let now = self.shared.clock.now();
        let at = clock::to_time(now);
        let queue = store.queue(name)?;

        let mut dead = queue.dead_copies(name);
        dead.sort_by_key(|(place, _)| Reverse(*place));
        let mut due_later = queue.live_copies(name, now);
        due_later.retain(|((due, _), _)| *due > now);
        due_later.sort_by_key(|(place, _)| *place);
        let is_complete = dead.len() <= scan && due_later.len() <= scan;

        let retrying = due_later
            .into_iter()
            .take(scan)
            .filter(|(_, copy)| EventState::of(copy, at) == Some(EventState::Retrying));
        let looked_at = dead.into_iter().take(scan).chain(retrying);
        let found = looked_at.flat_map(|(_, copy)| failures_of(copy));
        Ok(Failures::new(found.collect(), is_complete))
    }

    async fn newest(&self, name: &QueueName) -> Result<Option<i64>> {
        let mut store = self.store();
        Ok(store.queue(name)?.messages.keys().copied().max())
    }

    async fn numbered_after(
        &self,
        name: &QueueName,
        after: i64,
        except: &[i64],
        limit: usize,
    ) -> Result<Vec<EventCopy>> {
        let mut store = self.store();
        let now = self.shared.clock.now();
        let mut found = store.queue(name)?.live_copies(name, now);
        found.retain(|((_, id), _)| *id > after && !except.contains(id));
        found.sort_by_key(|((_, id), _)| *id);
        found.truncate(limit);
        Ok(found.into_iter().map(|(_, copy)| copy).collect())
    }
}

/// What a copy failed of.
fn failures_of(copy: EventCopy) -> Vec<Failure> {
    let waiting = copy.handlers.iter();
    match copy.state {
        CopyState::Dead {
            letter,
            at,
            reason: Some(reason),
        } => vec![Failure::new(reason.handler, reason.error, true, at, letter)],
        CopyState::Dead { .. } => Vec::new(),
        _ => waiting
            .filter(|(_, mark)| mark.state == HandlerState::Retry)
            .filter_map(|(name, mark)| {
                let newest = mark.errors.last()?;
                let id = copy.message_id.clone();
                let name = Some(name.clone());
                Some(Failure::new(name, &*newest.error, false, newest.at, id))
            })
            .collect(),
    }
}

fn cursor((due, id): Place) -> PageCursor {
    PageCursor::new(format!("{due}.{id}"))
}

fn read(cursor: &PageCursor) -> Option<Place> {
    let (due, id) = cursor.as_str().split_once('.')?;
    Some((due.parse().ok()?, id.parse().ok()?))
}

impl Queue {
    pub(super) fn live_copies(&self, name: &QueueName, now: Micros) -> Vec<(Place, EventCopy)> {
        let live = self.messages.iter().map(|(id, stored)| {
            let Stored {
                body,
                headers,
                enqueued_at,
                due,
                deliveries,
                ..
            } = stored;
            let state = CopyState::of(
                clock::to_time(*due),
                *deliveries,
                headers,
                clock::to_time(now),
            );
            let published_at = clock::to_time(*enqueued_at);
            let copy = EventCopy::new(name, MessageId::Number(*id), published_at, headers, state);
            let copy = copy
                .deliveries(*deliveries)
                .event_type(event_type(body, headers))
                .body(body.clone());
            ((*due, *id), copy)
        });
        live.collect()
    }

    pub(super) fn dead_copies(&self, name: &QueueName) -> Vec<(Place, EventCopy)> {
        let dead = self.dead.iter().map(|(number, letter)| {
            let event_type = event_type(&letter.body, &letter.headers);
            ((0, *number), dead_copy(name, letter).event_type(event_type))
        });
        dead.collect()
    }
}

/// The type of a message: in its headers if a codec wrote it, else in its body, else in its headers.
fn event_type(body: &str, headers: &Headers) -> Option<String> {
    let beside = || headers.text(CE_TYPE).map(str::to_owned);
    match headers.text(CODEC) {
        Some(_) => beside(),
        None => plain_type(body)
            .filter(|name| !name.is_empty())
            .or_else(beside),
    }
}
