//! Failures of the store: a handler's transaction that cannot begin or commit, events that another
//! engine does not take.
//!
//! Such a failure is no attempt of a handler, whose fault it is not. It is counted all the same, so
//! that nothing runs for ever. The message keeps the count under a name of its own, since a commit
//! whose answer was lost may have written the handler's mark already. The pauses grow, and in the end
//! the message becomes a dead letter.

use std::time::Duration;

use crate::dispatch::conclude::dead_letter;
use crate::dispatch::dispatcher::Dispatcher;
use crate::dispatch::work::Work;
use crate::engine::Settle;
use crate::handler::outcome::HandlerError;
use crate::handler::retry::Backoff;
use crate::message::settlement::{
    ErrorRecord, HandlerMark, HandlerName, HandlerState, Progress, Reason, ReasonKind,
};

/// Under this name a message keeps how often the store failed it.
const STORE: &str = "ezq::store";
/// With the default `max_deliveries` of 20 it takes an hour, on average, until an event is given up.
const BACKOFF: Backoff = Backoff::exponential(Duration::from_secs(1), Duration::from_secs(600));

impl Dispatcher {
    /// What becomes of a delivery for which the store failed: it comes again later than `settle` says,
    /// or is given up after `max_deliveries` such failures.
    pub(crate) fn store_failed(&self, work: &Work, settle: Settle, error: String) -> Settle {
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
        let attempts = HandlerMark::attempt_after(earlier.as_ref());
        let is_too_often = attempts > self.config.max_deliveries;
        let state = if is_too_often {
            HandlerState::Dead
        } else {
            HandlerState::Retry
        };

        let mut errors = earlier.map(|mark| mark.errors).unwrap_or_default();
        let record = ErrorRecord {
            at: work.received.clock.now(),
            attempt: attempts,
            error: error.clone(),
        };
        record.add_to(&mut errors);

        let handler_error = HandlerError::retry(error.clone());
        let retry_in = BACKOFF.next_delay(attempts, &handler_error, &received.queue);
        let mark = HandlerMark {
            attempts,
            errors,
            ..HandlerMark::new(state)
        };
        progress.0.insert(name, mark);

        if is_too_often {
            let reason = Reason {
                kind: ReasonKind::StoreFailed,
                handler: None,
                error,
                attempts,
            };
            return dead_letter(received, reason, progress, outgoing);
        }
        Settle::Retry {
            after: due_in.max(retry_in),
            progress,
            outgoing,
        }
    }
}
