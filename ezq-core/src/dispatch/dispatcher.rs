//! Runs the handlers of one delivery and draws one settlement from what they said.
//!
//! It knows no engine. A handler that fails, panics or takes too long stops no other, and only the
//! handlers that did not finish run again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::join_all;
use tokio::sync::Semaphore;
use tracing::{debug, info};

use crate::clock::{EngineClock, after};
use crate::config::{Config, UnknownTypes};
use crate::delivery::received::Received;
use crate::dispatch::attempt::{self, Ran};
use crate::dispatch::batch_attempt::Member;
use crate::dispatch::batcher::run_in_batch;
use crate::dispatch::commit_order::CommitOrder;
use crate::dispatch::in_place::in_a_task;
use crate::dispatch::limits::Place;
use crate::dispatch::registry::Registry;
use crate::dispatch::slots::{Slots, Suspect};
use crate::dispatch::unknown::Strangers;
use crate::engine::{MessageId, Outgoing, Settle};
use crate::event::envelope::Envelope;
use crate::handler::batch::BatchLimits;
use crate::handler::outcome::Action;
use crate::handler::retry::{Backoff, RetryPolicy};
use crate::handler::{Handler, HandlerOptions, Invoke};
use crate::logging::{error, warn};
use crate::message::headers::MAX_ATTEMPTS;
use crate::message::queue_name::QueueName;
use crate::message::settlement::{
    ERRORS_KEPT, ErrorRecord, HandlerMark, HandlerName, HandlerState, Progress, Reason, ReasonKind,
};
use crate::publish::services::Services;

/// More handlers than these are not quick together.
const QUICK_AT_ONCE: usize = 4;

/// The handlers of an application, with what they run under.
#[derive(Debug)]
pub(crate) struct Dispatcher {
    pub(crate) registry: Registry,
    pub(crate) services: Arc<Services>,
    pub(crate) config: Arc<Config>,
    pub(crate) strangers: Strangers,
    pub(crate) limits: HashMap<HandlerName, Semaphore>,
    pub(crate) batches: HashMap<HandlerName, BatchLimits>,
}

/// A delivery ready to be dispatched.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) received: Arc<Received>,
    pub(crate) clock: EngineClock,
    pub(crate) slots: Arc<Slots>,
    /// Set while it runs, if it may kill its worker.
    pub(crate) suspect: Mutex<Option<Suspect>>,
}

/// A line of the log about a delivery, with what names it.
macro_rules! say {
    ($level:ident, $received:expr, $($rest:tt)+) => {
        $level!(
            queue = %$received.queue,
            message_id = %$received.receipt.message_id(),
            event_id = $received.envelope.id(),
            event_type = $received.envelope.event_type(),
            $($rest)+
        )
    };
}

impl Dispatcher {
    pub(crate) fn new(registry: Registry, services: Arc<Services>, config: Arc<Config>) -> Self {
        let (limits, batches) = (HashMap::new(), HashMap::new());
        let strangers = Strangers::default();
        let mut dispatcher = Self {
            registry,
            services,
            config,
            strangers,
            limits,
            batches,
        };
        let limit = |handler: &Arc<Handler>| {
            let limit = dispatcher.options(handler).concurrency?;
            Some((
                handler.name.clone(),
                Semaphore::new(limit.min(Semaphore::MAX_PERMITS)),
            ))
        };
        dispatcher.limits = dispatcher
            .registry
            .handlers()
            .iter()
            .filter_map(limit)
            .collect();
        let batch = |handler: &Arc<Handler>| {
            let limits = dispatcher.options(handler).batch();
            let is_batch = matches!(handler.invoke, Invoke::Batch(_));
            is_batch.then(|| (handler.name.clone(), limits))
        };
        dispatcher.batches = dispatcher
            .registry
            .handlers()
            .iter()
            .filter_map(batch)
            .collect();
        dispatcher
    }

    /// Runs what is due of a delivery's handlers; what is to become of it, or `None` when the last
    /// handler's transaction has settled it. A delivery that was cancelled before anything changed
    /// is to be released.
    pub(crate) async fn dispatch(&self, work: &Work) -> Option<Settle> {
        let received = &work.received;
        let mut known = Progress::from_headers(&received.headers);
        let handlers = self.registry.find(&received.queue, &received.envelope);
        let handlers = &*handlers;
        if handlers.is_empty() {
            return Some(self.unknown(work));
        }
        let now = work.clock.now();
        let is_due = |handler: &&Arc<Handler>| is_due(handler, &known, now);
        let due: Vec<&Arc<Handler>> = handlers.iter().filter(is_due).collect();
        if !are_quick(&due) {
            in_a_task().await;
        }
        let order = CommitOrder::of(handlers, received, &self.services, &known);
        let place = self.place(&due, work);
        let begin = |count| {
            if let Some(place) = &place {
                place.begin(count);
            }
        };
        let run = async |handler: &Arc<Handler>| {
            let ran = self.run(handler, work, &known, place.as_deref()).await;
            let ran = match &order {
                Some(order) => order.finish(handler, ran).await,
                None => ran,
            };
            if let Some(place) = &place {
                place.ended();
            }
            ran
        };
        let mut ran = Vec::with_capacity(due.len());
        if let [handler] = due[..] {
            begin(1);
            ran.push((handler, run(handler).await));
        } else {
            for group in due.chunk_by(|a, b| a.order == b.order) {
                begin(group.len());
                let runs = group.iter().map(|handler| run(handler));
                ran.extend(group.iter().copied().zip(join_all(runs).await));
            }
        }
        drop(order);
        let mut marks = Progress::default();
        let mut marked = Progress::default();
        let mut outgoing = Vec::new();
        let mut hindrance = None;
        let now = work.clock.now();
        for (handler, ran) in ran {
            let mark = match ran {
                Ran::Cancelled => continue,
                Ran::Settled => return None,
                Ran::PutOff(error) => {
                    hindrance = hindrance.or(Some(error));
                    continue;
                }
                Ran::Marked => {
                    let mark = done(known.0.get(&handler.name));
                    marked.0.insert(handler.name.clone(), mark);
                    continue;
                }
                Ran::Done(events, _) => {
                    outgoing.extend(events);
                    done(known.0.get(&handler.name))
                }
                Ran::Failed(action, error) => {
                    let earlier = known.0.get(&handler.name);
                    self.failed(handler, received, (action, error), earlier, now)
                }
            };
            marks.0.insert(handler.name.clone(), mark);
        }
        known.0.extend(marks.0.clone());
        known.0.extend(marked.0);
        let settle = conclude(received, handlers, &known, marks, outgoing, now);
        Some(match hindrance {
            Some(error) => self.hindered(work, settle, error),
            None => settle,
        })
    }

    /// Runs the handlers of a control event; their errors are only logged.
    pub(crate) async fn control(&self, work: &Work) -> Vec<Outgoing> {
        let none = Progress::default();
        let received = &work.received;
        let handlers = self.registry.find(&received.queue, &received.envelope);
        let runs = handlers
            .iter()
            .map(|handler| self.run(handler, work, &none, None));
        let mut outgoing = Vec::new();
        for (handler, ran) in handlers.iter().zip(join_all(runs).await) {
            match ran {
                Ran::Done(events, _) => outgoing.extend(events),
                Ran::Failed(_, error) => {
                    say!(warn, received, handler = %handler.name, error, "handler failed");
                }
                Ran::Cancelled | Ran::Marked | Ran::Settled | Ran::PutOff(_) => {}
            }
        }
        outgoing
    }

    /// Runs one handler; within a consumer it has a place there.
    pub(crate) async fn run(
        &self,
        handler: &Handler,
        work: &Work,
        known: &Progress,
        place: Option<&Place<'_>>,
    ) -> Ran {
        let attempt = next_attempt(known.0.get(&handler.name));
        let timeout = self
            .options(handler)
            .timeout
            .unwrap_or(self.config.handler_timeout);
        if let (Invoke::Batch(invoke), Some(limits)) =
            (&handler.invoke, self.batches.get(&handler.name))
        {
            let received = &work.received;
            let takers = self.registry.find(&received.queue, &received.envelope);
            let member = Member {
                received: Arc::clone(received),
                attempt,
                done: done(known.0.get(&handler.name)),
                is_sole: takers.len() == 1,
            };
            // One that failed, or that may have killed its worker, must not do it to others.
            let alone = attempt > 1 || received.unsettled_deliveries() > 1;
            let means = self.means(handler, invoke);
            return run_in_batch(means, *limits, member, alone, (&work.slots, place)).await;
        }
        let limit = self.limits.get(&handler.name);
        // One that waits for nothing is called as soon as its delivery is polled.
        let waits = limit.is_some() || handler.transactions > 0;
        let limited = limit.and_then(|_| work.slots.limited.index(&handler.name));
        let begins = waits.then(|| work.slots.to_call(limited));
        let cancelled = work.received.lease.cancel();
        let _permit = match (limit, place) {
            (None, _) => None,
            (Some(limit), Some(place)) => match place.permit(limit, cancelled).await {
                None => return Ran::Cancelled,
                permit => permit,
            },
            (Some(limit), None) => tokio::select! {
                biased;
                permit = limit.acquire() => permit.ok(),
                () = work.slots.stopped() => return Ran::Cancelled,
                () = cancelled.cancelled() => return Ran::Cancelled,
            },
        };
        attempt::run(
            handler,
            &work.received,
            &self.services,
            (attempt, timeout),
            begins,
        )
        .await
    }

    pub(crate) fn options(&self, handler: &Handler) -> HandlerOptions {
        match self.config.handlers.get(&handler.name) {
            Some(over) => over.or(handler.options),
            None => handler.options,
        }
    }

    fn policy(&self, handler: &Handler, received: &Received) -> RetryPolicy {
        let mut policy = self.options(handler).retry(self.config.retry);
        if let Some(attempts) = received.headers.number(MAX_ATTEMPTS) {
            policy.max_attempts = attempts.max(1);
        }
        policy
    }

    /// The mark of a handler that did not finish.
    fn failed(
        &self,
        handler: &Handler,
        received: &Received,
        (action, error): (Action, String),
        earlier: Option<&HandlerMark>,
        now: DateTime<Utc>,
    ) -> HandlerMark {
        let name = &handler.name;
        let policy = self.policy(handler, received);
        let earlier = earlier
            .cloned()
            .unwrap_or_else(|| mark(HandlerState::Retry));
        let attempts = next_attempt(Some(&earlier));
        let (policy, exhausted) = match (action, self.config.unknown_types) {
            (Action::Snooze(pause), _) => {
                say!(debug, received, handler = %name, ?pause, "handler snoozed");
                return HandlerMark {
                    state: HandlerState::Retry,
                    due: Some(after(now, pause)),
                    ..earlier
                };
            }
            (Action::Discard, _) | (Action::NewerVersion, UnknownTypes::Skip) => {
                say!(info, received, handler = %name, reason = error, "event discarded");
                return done(Some(&earlier));
            }
            (Action::NewerVersion, UnknownTypes::Retry(policy)) => {
                (policy, ReasonKind::NewerVersion)
            }
            _ => (policy, ReasonKind::MaxAttempts),
        };
        let retry_in = match action {
            Action::RetryAfter(pause) => pause,
            _ => pause(policy.backoff, attempts, &error),
        };
        let mut errors = earlier.errors;
        remember(
            &mut errors,
            ErrorRecord {
                at: now,
                attempt: attempts,
                error,
            },
        );
        let reason = match action {
            Action::Fatal => Some(ReasonKind::Fatal),
            Action::Undecodable => Some(ReasonKind::Undecodable),
            Action::NewerVersion if self.config.unknown_types == UnknownTypes::DeadLetter => {
                Some(ReasonKind::NewerVersion)
            }
            _ => (attempts >= policy.max_attempts).then_some(exhausted),
        };
        if reason.is_some() {
            return HandlerMark {
                state: HandlerState::Dead,
                reason,
                attempts,
                due: None,
                errors,
            };
        }
        HandlerMark {
            state: HandlerState::Retry,
            reason: None,
            attempts,
            due: Some(after(now, retry_in)),
            errors,
        }
    }
}

/// Whether handlers are likely to be done with at once. What takes a transaction or batches waits.
fn are_quick(due: &[&Arc<Handler>]) -> bool {
    let is_quick = |handler: &&Arc<Handler>| {
        let waits = handler.transactions > 0 || matches!(handler.invoke, Invoke::Batch(_));
        !waits && handler.quickness.is_quick()
    };
    due.len() <= QUICK_AT_ONCE && due.iter().all(is_quick)
}

/// Whether a handler is to run on a delivery now.
pub(crate) fn is_due(handler: &Handler, known: &Progress, now: DateTime<Utc>) -> bool {
    match known.0.get(&handler.name) {
        None => true,
        Some(mark) if mark.state == HandlerState::Retry => {
            // What the store rounds must not put a handler off to another delivery.
            mark.due
                .is_none_or(|due| due <= now + TimeDelta::milliseconds(20))
        }
        Some(_) => false,
    }
}

/// How long to wait after a failed attempt. A function of the user's that panics is taken for the
/// default: an event must not be lost to it.
pub(crate) fn pause(backoff: Backoff, attempt: u32, error: &str) -> Duration {
    let random = rand::random();
    std::panic::catch_unwind(|| backoff.delay(attempt, error, random))
        .unwrap_or_else(|_| Backoff::default().delay(attempt, error, random))
}

/// Draws one settlement from where all handlers of a delivery stand, now.
fn conclude(
    received: &Received,
    handlers: &[Arc<Handler>],
    known: &Progress,
    marks: Progress,
    outgoing: Vec<Outgoing>,
    now: DateTime<Utc>,
) -> Settle {
    let mut next: Option<DateTime<Utc>> = None;
    let mut dead = None;
    for handler in handlers {
        match known.0.get(&handler.name) {
            // It was cancelled: it is due at once.
            None => next = Some(now),
            Some(mark) => match mark.state {
                HandlerState::Done => {}
                HandlerState::Dead => dead = dead.or(Some((&handler.name, mark))),
                HandlerState::Retry => {
                    let due = mark.due.unwrap_or(now);
                    next = Some(next.map_or(due, |next| next.min(due)));
                }
            },
        }
    }
    for (name, mark) in &marks.0 {
        if let (HandlerState::Retry, Some(last)) = (mark.state, mark.errors.last()) {
            let retry_in = mark.due.map(|due| (due - now).to_std().unwrap_or_default());
            let (attempt, error) = (mark.attempts, &last.error);
            say!(warn, received, handler = %name, attempt, %error, ?retry_in, "handler failed");
        }
        if let (HandlerState::Dead, Some(last), true) = (
            mark.state,
            mark.errors.last(),
            next.is_some() || dead.is_some_and(|(d, _)| d != name),
        ) {
            let (attempt, error) = (mark.attempts, &last.error);
            say!(error, received, handler = %name, attempt, %error, "handler gave up");
        }
    }
    if let Some(next) = next {
        let after = (next - now).to_std().unwrap_or_default();
        if marks.0.is_empty() && after.is_zero() {
            return Settle::Release;
        }
        return Settle::Retry {
            after,
            progress: marks,
            outgoing,
        };
    }
    match dead {
        None => Settle::Ack { outgoing },
        Some((name, mark)) => {
            let reason = Reason {
                kind: mark.reason.unwrap_or(ReasonKind::Fatal),
                handler: Some(name.clone()),
                error: mark
                    .errors
                    .last()
                    .map(|last| last.error.clone())
                    .unwrap_or_default(),
                attempts: mark.attempts,
            };
            buried(received, reason, marks, outgoing)
        }
    }
}

pub(crate) fn buried(
    received: &Received,
    reason: Reason,
    progress: Progress,
    outgoing: Vec<Outgoing>,
) -> Settle {
    let Received {
        queue,
        receipt,
        envelope,
        ..
    } = received;
    log_dead_letter(queue, receipt.message_id(), Some(envelope), &reason);
    Settle::DeadLetter {
        reason,
        progress,
        outgoing,
    }
}

/// Says, once for each, that a message is given up.
pub(crate) fn log_dead_letter(
    queue: &QueueName,
    message_id: &MessageId,
    envelope: Option<&Envelope>,
    reason: &Reason,
) {
    error!(
        %queue,
        %message_id,
        event_id = envelope.map(Envelope::id),
        event_type = envelope.map(Envelope::event_type),
        reason = %reason.kind,
        handler = reason.handler.as_ref().map(HandlerName::as_str),
        attempts = reason.attempts,
        error = %reason.error,
        "event moves to the dead letters"
    );
}

pub(crate) fn mark(state: HandlerState) -> HandlerMark {
    HandlerMark {
        state,
        reason: None,
        attempts: 0,
        due: None,
        errors: Vec::new(),
    }
}

/// Adds an error to those that a mark keeps.
pub(crate) fn remember(errors: &mut Vec<ErrorRecord>, record: ErrorRecord) {
    errors.push(record);
    errors.drain(..errors.len().saturating_sub(ERRORS_KEPT));
}

/// Which attempt comes after what a handler's mark says; anyone may have written it.
pub(crate) fn next_attempt(mark: Option<&HandlerMark>) -> u32 {
    mark.map_or(0, |mark| mark.attempts).saturating_add(1)
}

/// The mark of a handler that succeeded; what failed before stays told.
pub(crate) fn done(earlier: Option<&HandlerMark>) -> HandlerMark {
    let errors = earlier.map(|mark| mark.errors.clone()).unwrap_or_default();
    HandlerMark {
        attempts: next_attempt(earlier),
        errors,
        ..mark(HandlerState::Done)
    }
}
