//! One queue of the memory engine, as plain data: no lock, no clock, no other queue.
//!
//! As in a PGMQ table, one time of each message is both its place in the queue and the time from which
//! it can be read. A lease moves it to the lease's end; a release moves it back.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use super::archive::Archived;
use super::clock::{self, Micros};
use super::dedupe_keys::DedupeKeys;
use super::keys::Keys;
use crate::engine::{
    BlockedKey, Blocker, DeadLetter, Delivery, Due, LeaseRequest, Leased, Position, QueueStats,
    Receipt, Token,
};
use crate::error::Result;
use crate::message::headers::Headers;
use crate::message::message_id::MessageId;
use crate::message::settlement::Progress;

/// The engine's name in logs and errors.
pub(super) const NAME: &str = "memory";

#[derive(Debug)]
pub(super) struct Queue {
    pub(super) dedupe: DedupeKeys,
    /// The number of the engine. It is part of each receipt, so that one of another engine is seen.
    engine: i64,
    /// Part of each receipt, so that receipts of a dropped queue of this name do not fit.
    generation: i64,
    pub(super) last_id: i64,
    pub(super) messages: HashMap<i64, Stored>,
    /// The place of every message.
    order: BTreeSet<(Micros, i64)>,
    keys: Keys,
    pub(super) dead: BTreeMap<i64, DeadLetter>,
    pub(super) last_dead_id: i64,
    /// Oldest first.
    pub(super) archived: VecDeque<Archived>,
}

#[derive(Debug)]
pub(super) struct Stored {
    pub(super) body: String,
    pub(super) headers: Headers,
    pub(super) enqueued_at: Micros,
    pub(super) due: Micros,
    pub(super) deliveries: u32,
    /// Whether its newest delivery was not settled. Its lease may have ended.
    open: bool,
}

/// A delivery that its receipt may still settle.
pub(super) struct Held {
    pub(super) id: i64,
    /// When the message became readable for it.
    pub(super) due: Micros,
}

impl Queue {
    pub(super) fn new(engine: i64, generation: i64) -> Self {
        Self {
            dedupe: DedupeKeys::default(),
            engine,
            generation,
            last_id: 0,
            messages: HashMap::new(),
            order: BTreeSet::new(),
            keys: Keys::default(),
            dead: BTreeMap::new(),
            last_dead_id: 0,
            archived: VecDeque::new(),
        }
    }

    pub(super) fn insert(
        &mut self,
        body: String,
        headers: Headers,
        due: Micros,
        enqueued_at: Micros,
    ) -> MessageId {
        self.last_id += 1;
        if let Some(key) = headers.key() {
            self.keys.insert(&key, self.last_id);
        }

        let stored = Stored {
            body,
            headers,
            enqueued_at,
            due,
            deliveries: 0,
            open: false,
        };

        self.messages.insert(self.last_id, stored);
        self.order.insert((due, self.last_id));
        MessageId::Number(self.last_id)
    }

    pub(super) fn lease(&mut self, request: &LeaseRequest, now: Micros) -> Leased {
        let limit = request
            .before
            .as_ref()
            .map_or((Micros::MAX, i64::MAX), in_order);
        let first = request
            .after
            .as_ref()
            .map_or((Micros::MIN, i64::MIN), |after| {
                let (due, id) = in_order(after);
                (due, id.saturating_add(1))
            });
        // Messages before this place are due, and before the place that was asked for.
        let ready = limit.min((now.saturating_add(1), i64::MIN));
        let places = self.claimable(first, ready, request.max, now);

        let next_due = if places.is_empty() {
            // Earlier places are due and blocked; they fall due no more.
            let later = first.max(ready).min(limit);
            let next = self
                .order
                .range(later..limit)
                .find(|(_, id)| self.unblocks(*id));
            next.map(|(due, _)| clock::between(now, *due))
        } else {
            None
        };
        let is_held_up = request.before.is_some()
            && places.is_empty()
            && self.order.range(first.min(ready)..ready).next().is_some();

        let until = lease_end(request.ttl, now);
        Leased {
            is_held_up,
            is_partial: false,
            deliveries: places
                .into_iter()
                .filter_map(|(due, id)| self.deliver(id, due, until, now))
                .collect(),
            next_due,
        }
    }

    /// Whether a worker holds the message of an id.
    pub(super) fn is_leased(&self, id: &MessageId, now: Micros) -> bool {
        let stored = id.as_number().and_then(|id| self.messages.get(&id));
        stored.is_some_and(|stored| stored.open && stored.due > now)
    }

    /// Leases the message of an id, if there is one.
    pub(super) fn lease_by_id(
        &mut self,
        id: &MessageId,
        ttl: Duration,
        now: Micros,
    ) -> Option<Delivery> {
        let id = id.as_number()?;
        let due = self.messages.get(&id)?.due;
        self.deliver(id, due, lease_end(ttl, now), now)
    }

    /// The places of the messages that can be handed out, in order. Of each key these are its first
    /// message and those that follow it, up to half of what is asked for, so that no key takes all.
    fn claimable(
        &self,
        first: (Micros, i64),
        ready: (Micros, i64),
        max: usize,
        now: Micros,
    ) -> Vec<(Micros, i64)> {
        let longest = (max / 2).max(1);
        // For each key: the last of its messages that is handed out, and how many are.
        let mut runs: HashMap<Cow<'_, str>, (i64, usize)> = HashMap::new();
        let mut places = Vec::new();

        for (due, id) in self.order.range(first.min(ready)..ready) {
            if places.len() >= max {
                break;
            }
            if let Some(key) = self.key(*id) {
                let run = runs.get(&key).copied();
                let follows = match run {
                    Some((last, length)) => {
                        length < longest && self.keys.next(&key, last) == Some(*id)
                    }
                    None => self.keys.first(&key) == Some(*id) && self.leased(&key, now).is_none(),
                };
                // The messages of the key behind this one do not follow either, and are skipped too.
                if !follows {
                    continue;
                }
                runs.insert(key, (*id, run.map_or(1, |(_, length)| length + 1)));
            }
            places.push((*due, *id));
        }

        places
    }

    fn key(&self, id: i64) -> Option<Cow<'_, str>> {
        self.messages.get(&id)?.headers.key()
    }

    /// When the last lease on a message of a key ends, if one is leased.
    fn leased(&self, key: &str, now: Micros) -> Option<Micros> {
        let dues = self
            .keys
            .open(key)
            .filter_map(|id| Some(self.messages.get(&id)?.due));
        dues.filter(|due| *due > now).max()
    }

    /// Whether a message can be handed out once this one falls due.
    fn unblocks(&self, id: i64) -> bool {
        self.key(id).is_none_or(|key| {
            self.keys.first(&key) == Some(id) || self.keys.open(&key).any(|open| open == id)
        })
    }

    pub(super) fn blocked(&self, limit: usize, now: Micros) -> Vec<BlockedKey> {
        let crowded = self.keys.firsts().filter(|(_, _, waiting)| *waiting > 0);
        let blocked = crowded.filter_map(|(key, head, waiting)| {
            let stored = self.messages.get(&head)?;
            let (blocker, until) = match self.leased(key, now) {
                Some(end) => (Blocker::Leased, end),
                // It can be handed out now.
                None if stored.due <= now => return None,
                None if stored.deliveries > 0 => (Blocker::Retry, stored.due),
                None => (Blocker::Delayed, stored.due),
            };

            Some(BlockedKey::new(
                key,
                MessageId::Number(head),
                blocker,
                clock::to_time(until),
                count(waiting),
            ))
        });
        blocked.take(limit).collect()
    }

    /// Records whether the newest delivery of a message is not settled.
    fn set_open(&mut self, id: i64, open: bool) {
        let Some(stored) = self.messages.get_mut(&id) else {
            return;
        };
        stored.open = open;
        if let Some(key) = stored.headers.key() {
            self.keys.set_open(&key, id, open);
        }
    }

    fn deliver(&mut self, id: i64, due: Micros, until: Micros, now: Micros) -> Option<Delivery> {
        self.place(id, until);
        self.set_open(id, true);
        let stored = self.messages.get_mut(&id)?;
        stored.deliveries = stored.deliveries.saturating_add(1);

        // The due time is no part of the fence: a release puts the message back to it.
        let fence = [self.engine, self.generation, stored.deliveries.into(), due];
        Some(Delivery {
            receipt: Receipt::new(MessageId::Number(id), Token::from_words(fence)),
            body: stored.body.clone(),
            headers: stored.headers.clone(),
            deliveries: stored.deliveries,
            enqueued_at: clock::to_time(stored.enqueued_at),
            due: clock::to_time(due),
            leased_at: clock::to_time(now),
        })
    }

    /// The message that a receipt may still settle. A lease that ended does not void the receipt; only
    /// another delivery or a settlement does.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidReceipt`](crate::ErrorKind::InvalidReceipt) if this engine did not make it.
    pub(super) fn held(&self, receipt: &Receipt) -> Result<Option<Held>> {
        let &MessageId::Number(id) = receipt.message_id() else {
            return Err(receipt.foreign_to(NAME));
        };
        let Some([engine, generation, deliveries, due]) = receipt.token().words() else {
            return Err(receipt.foreign_to(NAME));
        };
        if engine != self.engine {
            return Err(receipt.foreign_to(NAME));
        }

        let holds = self.messages.get(&id).is_some_and(|stored| {
            stored.open
                && generation == self.generation
                && deliveries == i64::from(stored.deliveries)
        });
        Ok(holds.then_some(Held { id, due }))
    }

    pub(super) fn extend(&mut self, receipt: &Receipt, ttl: Duration, now: Micros) -> bool {
        // A receipt of another engine holds no lease here.
        let Ok(Some(held)) = self.held(receipt) else {
            return false;
        };
        self.place(held.id, clock::after(now, ttl));
        true
    }

    pub(super) fn remove(&mut self, id: i64) -> bool {
        self.take(id).is_some()
    }

    /// Ends a delivery by a retry or a release: the message is readable from `due`, with the marks
    /// merged in.
    pub(super) fn give_back(&mut self, id: i64, due: Micros, progress: &Progress, covers: u32) {
        self.place(id, due);
        self.set_open(id, false);
        if let Some(stored) = self.messages.get_mut(&id) {
            stored.headers.give_back(progress);
            stored.headers.covered(covers);
        }
    }

    pub(super) fn cancel(&mut self, id: &MessageId) -> bool {
        self.undelivered(id).is_some_and(|id| self.remove(id))
    }

    pub(super) fn reschedule(&mut self, id: &MessageId, due: Due, now: Micros) -> bool {
        let Some(id) = self.undelivered(id) else {
            return false;
        };
        self.place(id, clock::due(now, due));
        true
    }

    /// The messages that were never delivered and are due later, and when.
    pub(super) fn scheduled(&self, now: Micros) -> impl Iterator<Item = (MessageId, Micros)> {
        let waiting = self
            .messages
            .iter()
            .filter(move |(_, stored)| stored.deliveries == 0 && stored.due > now);
        waiting.map(|(id, stored)| (MessageId::Number(*id), stored.due))
    }

    /// Makes the messages due that wait for a retry of a handler. Returns how many there were.
    pub(super) fn hasten(&mut self, now: Micros) -> u64 {
        let mut ids = Vec::new();
        for (id, stored) in &mut self.messages {
            if !stored.open && stored.due > now && stored.headers.end_pauses() {
                ids.push(*id);
            }
        }

        for id in &ids {
            self.place(*id, now);
        }
        count(ids.len())
    }

    pub(super) fn purge(&mut self) -> u64 {
        let held = count(self.messages.len());
        self.messages.clear();
        self.keys.clear();
        self.order.clear();
        held
    }

    pub(super) fn stats(&self, now: Micros) -> QueueStats {
        let due = self.order.range(..(now.saturating_add(1), i64::MIN));
        let ready = count(due.count());
        let delivered = self.order.iter().filter(|(due, id)| {
            *due > now && self.messages.get(id).is_some_and(|m| m.deliveries > 0)
        });
        let in_progress = count(delivered.count());
        let oldest = self.order.first().filter(|(due, _)| *due <= now);

        QueueStats {
            ready,
            in_progress,
            scheduled: count(self.order.len()) - ready - in_progress,
            dead: count(self.dead.len()),
            oldest_ready: oldest.map(|(due, _)| clock::between(*due, now)),
        }
    }

    /// The message of an id, if it was never delivered.
    fn undelivered(&self, id: &MessageId) -> Option<i64> {
        let id = id.as_number()?;
        let stored = self.messages.get(&id)?;
        (stored.deliveries == 0).then_some(id)
    }

    /// Moves a message to the place of a due time.
    pub(super) fn place(&mut self, id: i64, due: Micros) {
        if let Some(stored) = self.messages.get_mut(&id) {
            self.order.remove(&(stored.due, id));
            self.order.insert((due, id));
            stored.due = due;
        }
    }

    /// Removes a message and returns it.
    pub(super) fn take(&mut self, id: i64) -> Option<Stored> {
        let stored = self.messages.remove(&id)?;
        self.order.remove(&(stored.due, id));
        if let Some(key) = stored.headers.key() {
            self.keys.remove(&key, id);
        }
        Some(stored)
    }
}

/// When a lease ends. One of zero length would be none, so the shortest is a microsecond.
fn lease_end(ttl: Duration, now: Micros) -> Micros {
    clock::after(now, ttl.max(Duration::from_micros(1)))
}

/// A place in the form of `Queue::order`.
fn in_order(position: &Position) -> (Micros, i64) {
    (
        clock::to_micros(position.due),
        position.message_id.as_number().unwrap_or(i64::MIN),
    )
}

pub(super) fn count(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}
