//! Turns the outcomes of a delivery's handlers into one settlement.
//!
//! All handlers of the event count, not only those that ran now. In this order:
//!
//! 1. A handler's transaction has settled the delivery: nothing is left to settle. Only the last
//!    handler that is not done may do that, so no other outcome is lost.
//! 2. A handler is due again, was cut off, or is paused: the message is retried, or released if this
//!    delivery changed nothing. That holds even if another handler is dead.
//! 3. A handler is dead: the message becomes a dead letter, with the reason of the first such one.
//! 4. Every handler is done: the message is acknowledged.
//!
//! The pause before a retry is what the handler's error asks for, or else what its retry policy says.
//! Of several handlers the one that is due first counts.
//!
//! Marks that a handler's transaction has committed count for this decision. They are kept apart
//! from the others, since the settlement need not write them again.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use tracing::{debug, info};

use crate::clock::after;
use crate::config::UnknownTypes;
use crate::delivery::received::Received;
use crate::dispatch::dispatcher::Dispatcher;
use crate::dispatch::log::{log_dead_letter, log_delivery};
use crate::dispatch::registry::types;
use crate::dispatch::run_outcome::{Failure, RunOutcome};
use crate::dispatch::work::Work;
use crate::engine::{Outgoing, Settle};
use crate::handler::Handler;
use crate::handler::outcome::HandlerErrorKind;
use crate::logging::{error, warn};
use crate::message::settlement::{
    ErrorRecord, HandlerMark, HandlerName, HandlerState, Progress, Reason, ReasonKind,
};
use crate::observe::metrics::AttemptOutcome;

/// Where the handlers of a delivery stand together.
#[derive(Default)]
struct Standing<'a> {
    /// When the next handler is due; `None` if all are done or dead.
    next_due: Option<DateTime<Utc>>,
    /// The first handler that gave up.
    dead: Option<(&'a HandlerName, &'a HandlerMark)>,
}

impl Dispatcher {
    /// What becomes of a delivery whose due handlers ran. `None` if a transaction has settled it.
    pub(super) fn conclude(
        &self,
        work: &Work,
        handlers: &[Arc<Handler>],
        mut known: Progress,
        ran: Vec<(&Handler, RunOutcome)>,
    ) -> Option<Settle> {
        let received = &work.received;
        // The common case needs no marks. Without this, an event takes 2,300 instructions more (benchmark
        // case `dispatch`).
        let is_done = ran
            .iter()
            .all(|(_, outcome)| matches!(outcome, RunOutcome::Done(..)));
        if is_done && ran.len() == handlers.len() {
            return Some(acknowledge(received, ran));
        }

        let now = received.clock.now();
        let mut marks = Progress::default();
        let mut committed = Progress::default();
        let mut held = BTreeMap::new();
        let mut outgoing = Vec::new();
        let mut store_failure = None;

        for (handler, outcome) in ran {
            let name = &handler.name;
            let earlier = known.0.get(name);
            let attempted = |outcome| {
                let metrics = &handler.metrics;
                metrics.attempted(name, types(handler), received, outcome);
            };
            let mark = match outcome {
                RunOutcome::Cancelled => {
                    attempted(AttemptOutcome::Cancelled);
                    continue;
                }
                RunOutcome::Settled => {
                    attempted(AttemptOutcome::Done);
                    return None;
                }
                // Nothing ran, so no attempt is counted.
                RunOutcome::Held => {
                    held.insert(name, work.admission.paused.held_until(name, now));
                    HandlerMark::held_after(earlier, received.deliveries)
                }
                RunOutcome::StoreFailed(error) => {
                    attempted(AttemptOutcome::StoreFailed);
                    store_failure = store_failure.or(Some(error));
                    continue;
                }
                RunOutcome::Marked => {
                    attempted(AttemptOutcome::Done);
                    let mark = HandlerMark::done_after(earlier);
                    committed.0.insert(name.clone(), mark);
                    continue;
                }
                RunOutcome::Done(events, _) => {
                    attempted(AttemptOutcome::Done);
                    outgoing.extend(events);
                    HandlerMark::done_after(earlier)
                }
                RunOutcome::Failed(failure) => {
                    let mark = self.failed(handler, received, &failure, earlier, now);
                    attempted(failed_as(&mark, &failure));
                    mark
                }
            };
            marks.0.insert(name.clone(), mark);
        }

        known.0.extend(marks.0.clone());
        known.0.extend(committed.0);
        let standing = Standing::of(handlers, &known, &held, now);
        let settle = settle(received, &standing, marks, outgoing, now);
        Some(match store_failure {
            Some(error) => self.store_failed(work, settle, error),
            None => settle,
        })
    }

    /// The mark of a handler that did not finish.
    fn failed(
        &self,
        handler: &Handler,
        received: &Received,
        failure: &Failure,
        earlier: Option<&HandlerMark>,
        now: DateTime<Utc>,
    ) -> HandlerMark {
        let name = &handler.name;
        let kind = failure.error().kind();
        let own_policy = self.retry_policy(handler, received);
        let earlier = earlier
            .cloned()
            .unwrap_or_else(|| HandlerMark::new(HandlerState::Retry));
        let attempts = HandlerMark::attempt_after(Some(&earlier));

        let (policy, exhausted) = match (kind, &self.config.unknown_types) {
            (HandlerErrorKind::Snooze(pause), _) => {
                log_delivery!(debug, received, handler = %name, ?pause, "handler snoozed");
                return HandlerMark {
                    state: HandlerState::Retry,
                    due: Some(after(now, pause)),
                    held: None,
                    ..earlier
                };
            }
            (HandlerErrorKind::Discard, _)
            | (HandlerErrorKind::NewerVersion, UnknownTypes::Skip) => {
                log_delivery!(info, received, handler = %name, reason = failure.text(), "event discarded");
                return HandlerMark::done_after(Some(&earlier));
            }
            (HandlerErrorKind::NewerVersion, UnknownTypes::Retry(policy)) => {
                (policy, ReasonKind::NewerVersion)
            }
            _ => (&own_policy, ReasonKind::MaxAttempts),
        };

        let reason = match kind {
            HandlerErrorKind::Fatal => Some(ReasonKind::Fatal),
            HandlerErrorKind::Undecodable => Some(ReasonKind::Undecodable),
            HandlerErrorKind::NewerVersion
                if self.config.unknown_types == UnknownTypes::DeadLetter =>
            {
                Some(ReasonKind::NewerVersion)
            }
            _ => (attempts >= policy.max_attempts).then_some(exhausted),
        };

        // A custom backoff is asked only if there is a next attempt.
        let due = reason.is_none().then(|| {
            let pause = match kind {
                HandlerErrorKind::RetryAfter(pause) => pause,
                _ => policy.backoff.next_delay(attempts, failure.error(), name),
            };
            after(now, pause)
        });

        let mut errors = earlier.errors;
        let record = ErrorRecord {
            at: now,
            attempt: attempts,
            error: failure.text().to_owned(),
        };
        record.add_to(&mut errors);

        HandlerMark {
            state: if reason.is_some() {
                HandlerState::Dead
            } else {
                HandlerState::Retry
            },
            reason,
            attempts,
            due,
            errors,
            held: None,
        }
    }
}

/// The settlement of a delivery whose handlers have all run and are done.
fn acknowledge(received: &Received, ran: Vec<(&Handler, RunOutcome)>) -> Settle {
    let mut outgoing = Vec::new();
    for (handler, outcome) in ran {
        let metrics = &handler.metrics;
        metrics.attempted(
            &handler.name,
            types(handler),
            received,
            AttemptOutcome::Done,
        );
        if let RunOutcome::Done(events, _) = outcome {
            outgoing.extend(events);
        }
    }
    Settle::Ack { outgoing }
}

/// What a failure came to, for the metrics.
fn failed_as(mark: &HandlerMark, failure: &Failure) -> AttemptOutcome {
    match (mark.state, failure.error().kind()) {
        (HandlerState::Dead, _) => AttemptOutcome::Dead,
        (HandlerState::Done, _) => AttemptOutcome::Discarded,
        (HandlerState::Retry, HandlerErrorKind::Snooze(_)) => AttemptOutcome::Snoozed,
        (HandlerState::Retry, _) => AttemptOutcome::Retried,
    }
}

/// Draws the settlement from where all handlers of a delivery stand now.
fn settle(
    received: &Received,
    standing: &Standing<'_>,
    marks: Progress,
    outgoing: Vec<Outgoing>,
    now: DateTime<Utc>,
) -> Settle {
    log_failures(received, &marks, standing, now);

    if let Some(next_due) = standing.next_due {
        let after = (next_due - now).to_std().unwrap_or_default();
        if marks.0.is_empty() && after.is_zero() {
            return Settle::Release;
        }
        return Settle::Retry {
            after,
            progress: marks,
            outgoing,
        };
    }

    let Some((name, mark)) = standing.dead else {
        return Settle::Ack { outgoing };
    };
    let last = mark.errors.last();
    let reason = Reason {
        kind: mark.reason.unwrap_or(ReasonKind::Fatal),
        handler: Some(name.clone()),
        error: last.map(|last| last.error.clone()).unwrap_or_default(),
        attempts: mark.attempts,
    };
    dead_letter(received, reason, marks, outgoing)
}

impl<'a> Standing<'a> {
    /// `held` says until when the event is put aside for handlers that are paused.
    fn of(
        handlers: &[Arc<Handler>],
        known: &'a Progress,
        held: &BTreeMap<&HandlerName, DateTime<Utc>>,
        now: DateTime<Utc>,
    ) -> Self {
        let mut standing = Self::default();
        for handler in handlers {
            let Some((name, mark)) = known.0.get_key_value(&handler.name) else {
                // It was cancelled: it is due at once.
                standing.next_due = Some(now);
                continue;
            };

            match mark.state {
                HandlerState::Done => {}
                HandlerState::Dead => standing.dead = standing.dead.or(Some((name, mark))),
                HandlerState::Retry => {
                    let due = mark.due.unwrap_or(now);
                    let due = held.get(name).map_or(due, |until| due.max(*until));
                    let earlier = standing.next_due.unwrap_or(due);
                    standing.next_due = Some(earlier.min(due));
                }
            }
        }
        standing
    }
}

/// Logs the handlers that failed. The one whose failure ends the delivery is logged with the dead
/// letter.
fn log_failures(
    received: &Received,
    marks: &Progress,
    standing: &Standing<'_>,
    now: DateTime<Utc>,
) {
    for (name, mark) in &marks.0 {
        // The errors of one that is put aside are those of earlier deliveries.
        let Some(last) = mark.errors.last().filter(|_| mark.held.is_none()) else {
            continue;
        };
        let attempt = mark.attempts;
        let error = &last.error;
        let ends_delivery =
            standing.next_due.is_none() && standing.dead.is_none_or(|(dead, _)| dead == name);

        match mark.state {
            HandlerState::Retry => {
                let retry_in = mark.due.map(|due| (due - now).to_std().unwrap_or_default());
                log_delivery!(warn, received, handler = %name, attempt, %error, ?retry_in, "handler failed");
            }
            HandlerState::Dead if !ends_delivery => {
                log_delivery!(error, received, handler = %name, attempt, %error, "handler gave up");
            }
            HandlerState::Dead | HandlerState::Done => {}
        }
    }
}

/// Gives a delivery up.
pub(super) fn dead_letter(
    received: &Received,
    reason: Reason,
    progress: Progress,
    outgoing: Vec<Outgoing>,
) -> Settle {
    let message_id = received.receipt.message_id();
    log_dead_letter(
        &received.queue,
        message_id,
        Some(&received.envelope),
        &reason,
    );
    Settle::DeadLetter {
        reason,
        progress,
        outgoing,
    }
}
