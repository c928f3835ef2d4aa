//! What the store keeps from happening: a handler's transaction that cannot begin or commit, events
//! that another engine does not take.
//!
//! It is no attempt of a handler, whose fault it is not. But nothing runs for ever uncounted: the
//! message keeps how often it happened, under a name of its own, since a commit whose answer was
//! lost may have written the handler's mark already. The pauses grow, and in the end it dies.

use std::time::Duration;

use crate::dispatch::dispatcher::{Dispatcher, Work, buried, mark, next_attempt, pause, remember};
use crate::engine::Settle;
use crate::handler::retry::Backoff;
use crate::message::settlement::{
    ErrorRecord, HandlerMark, HandlerName, HandlerState, Progress, Reason, ReasonKind,
};

/// Under this name a message keeps how often the store hindered its handling.
const STORE: &str = "ezq::store";
/// With the default `max_deliveries` of 20 it is an hour, on average, until an event is given up.
const BACKOFF: Backoff = Backoff::exponential(Duration::from_secs(1), Duration::from_secs(600));

impl Dispatcher {
    /// What becomes of a delivery whose handling the store hindered: it comes again later than it
    /// would have, or dies once that has happened too often.
    pub(crate) fn hindered(&self, work: &Work, settle: Settle, error: String) -> Settle {
        let received = &work.received;
        let (due_in, mut progress, outgoing) = match settle {
            Settle::Retry {
                after,
                progress,
                outgoing,
            } => (after, progress, outgoing),
            _ => (Duration::ZERO, Progress::default(), Vec::new()),
        };
        let name = HandlerName::from(STORE);
        let earlier = Progress::from_headers(&received.headers).0.remove(&name);
        let attempts = next_attempt(earlier.as_ref());
        let mut errors = earlier.map(|mark| mark.errors).unwrap_or_default();
        let record = ErrorRecord {
            at: work.clock.now(),
            attempt: attempts,
            error: error.clone(),
        };
        remember(&mut errors, record);
        let is_too_often = attempts > self.config.max_deliveries;
        let state = if is_too_often {
            HandlerState::Dead
        } else {
            HandlerState::Retry
        };
        let retry_in = pause(BACKOFF, attempts, &error);
        progress.0.insert(
            name,
            HandlerMark {
                attempts,
                errors,
                ..mark(state)
            },
        );
        if is_too_often {
            let reason = Reason {
                kind: ReasonKind::StoreFailed,
                handler: None,
                error,
                attempts,
            };
            return buried(received, reason, progress, outgoing);
        }
        Settle::Retry {
            after: due_in.max(retry_in),
            progress,
            outgoing,
        }
    }
}
