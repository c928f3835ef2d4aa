//! One run of one handler: limited in time, cancelled when its lease is lost, in a span of its own.
//!
//! Invariant: no panic of the user's code gets past it, wherever that code is called.

use std::future::{Future, poll_fn};
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::Instant;
use tracing::{Instrument, Span, info_span};

use crate::delivery::attempt::Attempt;
use crate::delivery::received::Received;
use crate::dispatch::admission::StartGuard;
use crate::dispatch::run_outcome::{Failure, RunOutcome};
use crate::engine::Outgoing;
use crate::error::{Error, ErrorKind, Result, error_chain};
use crate::handler::Handler;
use crate::handler::call::Call;
use crate::handler::context::Context;
use crate::handler::invoke::Invoke;
use crate::handler::outcome::HandlerError;
use crate::logging::warn;
use crate::message::settlement::HandlerName;
use crate::publish::draft::Draft;
use crate::publish::publisher::Publisher;
use crate::publish::services::Services;
use crate::publish::transaction::Transaction;
use crate::text::{bounded, panic_text};

/// Runs a handler once. `start` counts it as not begun until its first poll has ended.
pub(super) async fn run(
    handler: &Handler,
    received: &Arc<Received>,
    services: &Arc<Services>,
    (attempt, timeout): (u32, Option<Duration>),
    start: Option<StartGuard>,
) -> RunOutcome {
    let cancelled = received.lease.cancel();
    if cancelled.is_cancelled() {
        return RunOutcome::Cancelled;
    }
    // The dispatcher sends no batch handler here: those run in `batch_attempt.rs`.
    let Invoke::One(function) = &handler.invoke else {
        return RunOutcome::Cancelled;
    };

    let mut transaction = None;
    if handler.transactions > 0 {
        let begun = tokio::select! {
            begun = Transaction::begin(services, &received.queue, timeout) => begun,
            // The lease is lost, so another worker may have the delivery: nothing begins here.
            () = cancelled.cancelled() => return RunOutcome::Cancelled,
        };
        match begun {
            Ok(begun) => transaction = Some(Arc::new(begun)),
            Err(error) => return store_failed(handler, received, error, HandlerError::retry),
        }
    }

    let call = Call {
        context: Context {
            attempt: Attempt {
                received: Arc::clone(received),
                number: attempt,
            },
            handler: handler.name.clone(),
            deadline: timeout.and_then(|timeout| Instant::now().checked_add(timeout)),
        },
        services: Arc::clone(services),
        transaction: transaction.clone(),
        is_single: true,
        additions: None,
    };
    let span = span(handler, received, attempt);

    let cut_off = cancelled.cancelled();
    let called = guarded(&handler.name, timeout, cut_off, || async {
        let first_poll = handler.quickness.measure();
        let mut called = function(call);
        let mut begins = Some((first_poll, start));
        poll_fn(|context| {
            let polled = called.as_mut().poll(context);
            // Only the first poll is measured, and the guard ends with it.
            if let Some((first_poll, _start)) = begins.take() {
                first_poll.ends(polled.is_ready());
            }
            polled
        })
        .await
    });
    let running = handler.metrics.begin(&handler.name, [&**received]);
    let outcome = match called.instrument(span).await {
        Ok(None) => RunOutcome::Cancelled,
        Ok(Some(drafts)) => {
            // Only the handler's own time counts.
            running.end();
            finished(handler, received, services, transaction.as_ref(), drafts).await
        }
        Err(failure) => RunOutcome::Failed(failure),
    };

    if let (false, Some(transaction)) = (matches!(outcome, RunOutcome::Done(..)), transaction) {
        transaction.abandon().await;
    }
    outcome
}

fn span(handler: &Handler, received: &Received, attempt: u32) -> Span {
    info_span!(
        parent: &received.parent,
        "ezq.handle",
        event_id = received.envelope.id(),
        event_type = received.envelope.event_type(),
        queue = %received.queue,
        handler = %handler.name,
        attempt,
        traceparent = received.traceparent(),
    )
}

/// Calls the user's code and waits for it. `None` if it was cancelled, even if it panics while it is
/// dropped because of that.
pub(super) async fn guarded<T, F: Future<Output = Result<T, HandlerError>>>(
    handler: &HandlerName,
    timeout: Option<Duration>,
    cancelled: impl Future<Output = ()>,
    invoke: impl FnOnce() -> F,
) -> Result<Option<T>, Box<Failure>> {
    let mut is_cancelled = false;
    // All of it is the user's code: the call, the drop of what is cut off, an error's text.
    //
    // The future of an attempt is allocated for each event, so it must stay small. Wrappers borrow
    // the inner future: one that takes it by value would hold it a second time.
    let guarded = AssertUnwindSafe(async {
        let mut answer = pin!(async { invoke().await.map_err(Failure::new) });
        let limited = async {
            let Some(timeout) = timeout else {
                return answer.as_mut().await;
            };
            match tokio::time::timeout(timeout, answer.as_mut()).await {
                Ok(answer) => answer,
                Err(_) => Err(Failure::new(format!("timed out after {timeout:?}"))),
            }
        };

        tokio::select! {
            // An answer that is there counts, though the lease is lost: its settlement is fenced.
            biased;
            answer = limited => answer.map(Some),
            () = cancelled => {
                is_cancelled = true;
                Ok(None)
            }
        }
    });

    guarded.catch_unwind().await.unwrap_or_else(|panic| {
        let failure = Failure::new(format!("panicked: {}", panic_text(&*panic)));
        if !is_cancelled {
            return Err(failure);
        }
        let error = failure.text();
        warn!(%handler, error, "a cancelled handler panicked when it was dropped");
        Ok(None)
    })
}

/// Makes messages of what a handler published and returned. Its transaction takes no more.
async fn finished(
    handler: &Handler,
    received: &Arc<Received>,
    services: &Arc<Services>,
    transaction: Option<&Arc<Transaction>>,
    drafts: Vec<Draft>,
) -> RunOutcome {
    let publisher = Publisher::caused_by(services, received);
    let returned: Result<Vec<Outgoing>> = drafts
        .into_iter()
        .map(|draft| publisher.finish(draft))
        .collect();
    let returned = match returned {
        Ok(returned) => returned,
        Err(error) => return RunOutcome::Failed(Failure::new(HandlerError::fatal(error))),
    };

    let Some(transaction) = transaction else {
        return RunOutcome::Done(returned, None);
    };
    if let Err(error) = transaction.accept_returned(services, &returned).await {
        return store_failed(handler, received, error, HandlerError::fatal);
    }
    match transaction.close() {
        Some((unit, mut events)) => {
            events.extend(returned);
            RunOutcome::Done(events, Some(unit))
        }
        None => RunOutcome::StoreFailed("its transaction had ended".to_owned()),
    }
}

/// What an error of the store means for a handler. A transient one counts as no attempt. Any other is
/// a failure, of which `otherwise` says what it asks for.
pub(super) fn store_failed(
    handler: &Handler,
    received: &Received,
    error: Error,
    otherwise: fn(Error) -> HandlerError,
) -> RunOutcome {
    if !error.is_transient() && error.kind() != ErrorKind::QueueMissing {
        return RunOutcome::Failed(Failure::new(otherwise(error)));
    }

    let text = bounded(&error_chain(&error));
    warn!(
        queue = %received.queue,
        message_id = %received.receipt.message_id(),
        event_id = received.envelope.id(),
        handler = %handler.name,
        error = %text,
        "the store did not begin or commit a handler's transaction, or take its events: the \
         handler runs again"
    );
    RunOutcome::StoreFailed(text)
}
