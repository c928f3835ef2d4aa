//! What is paused in a consumer's queue: the coordinator learns it, and a handler that is about to begin
//! asks.
//!
//! - While the queue is paused nothing begins. What was about to goes back to its place.
//! - A handler that is paused is left out, and the event is put aside for it. That is no attempt. The
//!   event's other handlers run.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, TimeDelta, Utc};

use crate::clock::after;
use crate::dispatch::run_outcome::RunOutcome;
use crate::handler::Handler;
use crate::message::settlement::HandlerName;

/// For how long an event is put aside at least, and at most. In between it is the age of the pause: so an
/// event is met again less and less often while the pause lasts.
const HELD: [TimeDelta; 2] = [TimeDelta::minutes(1), TimeDelta::hours(1)];

/// The handlers that are paused, and since when.
pub(crate) type PausedHandlers = BTreeMap<HandlerName, DateTime<Utc>>;

/// What is paused in the queue of one consumer.
#[derive(Debug, Default)]
pub(crate) struct Paused {
    /// Set if anything is paused, so that the common case costs one load.
    is_any: AtomicBool,
    is_queue: AtomicBool,
    handlers: Mutex<PausedHandlers>,
}

/// Why a handler does not begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotBegun {
    /// The consumer stops, the lease is lost, or the queue is paused: the event goes back.
    Cancelled,
    /// The handler is paused: the event is put aside for it.
    Held,
}

impl From<NotBegun> for RunOutcome {
    fn from(why: NotBegun) -> Self {
        match why {
            NotBegun::Cancelled => Self::Cancelled,
            NotBegun::Held => Self::Held,
        }
    }
}

impl Paused {
    /// Learns what is paused now.
    pub(crate) fn set(&self, is_queue: bool, handlers: PausedHandlers) {
        let is_any = is_queue || !handlers.is_empty();
        *self.handlers() = handlers;
        self.is_queue.store(is_queue, Ordering::Release);
        // Last: who sees it finds the rest. A run that begins at this moment begins before the pause.
        self.is_any.store(is_any, Ordering::Release);
    }

    /// Whether nothing of the queue may begin.
    pub(crate) fn is_queue(&self) -> bool {
        self.is_queue.load(Ordering::Acquire)
    }

    /// Whether a handler is paused.
    pub(super) fn holds(&self, handler: &Handler) -> bool {
        self.is_any.load(Ordering::Acquire)
            && !handler.takes_control()
            && self.handlers().contains_key(&handler.name)
    }

    /// Whether a handler may begin now. Those of control events always may: they end a consumer.
    pub(super) fn check(&self, handler: &Handler) -> Result<(), NotBegun> {
        if !self.is_any.load(Ordering::Acquire) || handler.takes_control() {
            return Ok(());
        }
        if self.is_queue() {
            return Err(NotBegun::Cancelled);
        }
        match self.handlers().contains_key(&handler.name) {
            true => Err(NotBegun::Held),
            false => Ok(()),
        }
    }

    /// Whether a handler may begin now.
    pub(crate) fn allows(&self, handler: &Handler) -> bool {
        self.check(handler).is_ok()
    }

    /// Until when an event is put aside for a handler that is paused.
    pub(super) fn held_until(&self, handler: &HandlerName, now: DateTime<Utc>) -> DateTime<Utc> {
        let [least, most] = HELD;
        let since = self.handlers().get(handler).copied();
        // A pause that ended just now: whoever ends it makes the event due again.
        let age = since.map_or(least, |since| now - since);
        let pause = age.clamp(least, most).to_std().unwrap_or_default();
        after(now, pause)
    }

    fn handlers(&self) -> MutexGuard<'_, PausedHandlers> {
        // A map is replaced as a whole, so a panic leaves a whole one behind.
        self.handlers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_older_a_pause_the_longer_an_event_is_put_aside() {
        let paused = Paused::default();
        let name = HandlerName::from("mail");
        let since = Utc::now();
        paused.set(false, [(name.clone(), since)].into());

        let pause_at = |minutes: i64| {
            let now = since + TimeDelta::minutes(minutes);
            (paused.held_until(&name, now) - now).num_minutes()
        };
        assert_eq!(
            [0, 1, 7, 59, 60, 10_000].map(pause_at),
            [1, 1, 7, 59, 60, 60]
        );
    }
}
