//! One run of one handler: bounded in time, cut off when its lease is lost, in a span of its own.
//!
//! Invariant: no panic of the user's code gets past it, wherever that code is called.

use crate::text::bounded;
use crate::text::panic_text;
use std::future::{Future, poll_fn};
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::Instant;
use tracing::{Instrument, info_span};

use crate::delivery::received::Received;
use crate::dispatch::slots::Begins;
use crate::engine::{Outgoing, UnitOfWork};
use crate::error::{Error, ErrorKind, Result, error_chain};
use crate::handler::context::{Call, Context};
use crate::handler::outcome::{Action, HandlerError};
use crate::handler::{Handler, Invoke};
use crate::logging::warn;
use crate::message::settlement::HandlerName;
use crate::publish::publisher::{Draft, Publisher};
use crate::publish::services::Services;
use crate::publish::transaction::Transaction;

/// What one run of one handler came to.
pub(crate) enum Ran {
    /// It succeeded. Its transaction, if it has one, is still to be finished, with its events.
    Done(Vec<Outgoing>, Option<Box<dyn UnitOfWork>>),
    /// It succeeded, and its transaction has marked it done and published its events.
    Marked,
    /// It succeeded, and its transaction has settled the whole delivery.
    Settled,
    /// What its error asks for, and says.
    Failed(Action, String),
    Cancelled,
    /// The store kept it from running, or may have kept it from committing, with this error: no
    /// attempt of the handler, but counted on the message.
    PutOff(String),
}

/// Runs a handler once; the guard, if there is one, is let go once it was called.
pub(crate) async fn run(
    handler: &Handler,
    received: &Arc<Received>,
    services: &Arc<Services>,
    (attempt, timeout): (u32, Option<Duration>),
    begins: Option<Begins>,
) -> Ran {
    let cancelled = received.lease.cancel();
    if cancelled.is_cancelled() {
        return Ran::Cancelled;
    }
    let Invoke::One(function) = &handler.invoke else {
        return Ran::Cancelled;
    };
    let mut transaction = None;
    if handler.transactions > 0 {
        let begun = tokio::select! {
            begun = Transaction::begin(services, &received.queue, timeout) => begun,
            () = cancelled.cancelled() => return Ran::Cancelled,
        };
        match begun {
            Ok(begun) => transaction = Some(Arc::new(begun)),
            Err(error) => return hindered(handler, received, &error, Action::Retry),
        }
    }
    let context = Context {
        received: Arc::clone(received),
        handler: handler.name.clone(),
        attempt,
        deadline: timeout.and_then(|timeout| Instant::now().checked_add(timeout)),
    };
    let span = info_span!(
        parent: &received.parent,
        "ezq.handle",
        event_id = received.envelope.id(),
        event_type = received.envelope.event_type(),
        queue = %received.queue,
        handler = %handler.name,
        attempt,
        traceparent = received.traceparent(),
    );
    let (services, is_single) = (Arc::clone(services), true);
    let call = Call {
        context,
        services: Arc::clone(&services),
        transaction,
        is_single,
    };
    let transaction = call.transaction.clone();
    let invoke = || async {
        let first = handler.quickness.measure();
        let mut called = function(call);
        let mut begins = Some((first, begins));
        poll_fn(|context| {
            let polled = called.as_mut().poll(context);
            if let Some((first, _begins)) = begins.take() {
                first.ends(polled.is_ready());
            }
            polled
        })
        .await
    };
    let ran = guarded(&handler.name, invoke, timeout, cancelled.cancelled());
    let ran = match ran.instrument(span).await {
        Ok(None) => Ran::Cancelled,
        Ok(Some(drafts)) => {
            finished(handler, received, &services, transaction.as_ref(), drafts).await
        }
        Err((action, error)) => Ran::Failed(action, error),
    };
    if let (false, Some(transaction)) = (matches!(ran, Ran::Done(..)), transaction) {
        transaction.abandon().await;
    }
    ran
}

/// Calls the user's code and waits for it: what it gave, `None` if it was cancelled, or what its error
/// asks for. What panics because it is cancelled was cancelled.
pub(crate) async fn guarded<T, F: Future<Output = Result<T, HandlerError>>>(
    handler: &HandlerName,
    invoke: impl FnOnce() -> F,
    timeout: Option<Duration>,
    cancelled: impl Future<Output = ()>,
) -> Result<Option<T>, (Action, String)> {
    let mut is_cancelled = false;
    // All of it is the user's code: calling, dropping what is cut off, an error's text. Each future
    // lies here once, and what waits for it borrows it: one for each event is allocated.
    let guarded = AssertUnwindSafe(async {
        let mut said = pin!(async {
            invoke()
                .await
                .map_err(|error| (error.action, bounded(&error.to_string())))
        });
        let limited = async {
            let Some(timeout) = timeout else {
                return said.as_mut().await;
            };
            let timed_out = |_| Err((Action::Retry, format!("timed out after {timeout:?}")));
            tokio::time::timeout(timeout, said.as_mut())
                .await
                .unwrap_or_else(timed_out)
        };
        tokio::select! {
            biased;
            said = limited => said.map(Some),
            () = cancelled => {
                is_cancelled = true;
                Ok(None)
            }
        }
    });
    guarded.catch_unwind().await.unwrap_or_else(|panic| {
        let text = bounded(&format!("panicked: {}", panic_text(&*panic)));
        if !is_cancelled {
            return Err((Action::Retry, text));
        }
        warn!(%handler, error = %text, "a cancelled handler panicked when it was dropped");
        Ok(None)
    })
}

/// Makes messages of what a handler published and returned; its transaction takes no more.
async fn finished(
    handler: &Handler,
    received: &Arc<Received>,
    services: &Arc<Services>,
    transaction: Option<&Arc<Transaction>>,
    drafts: Vec<Draft>,
) -> Ran {
    let publisher = Publisher::caused_by(services, received);
    let returned: Result<Vec<Outgoing>> = drafts
        .into_iter()
        .map(|draft| publisher.finish(draft))
        .collect();
    let returned = match returned {
        Ok(returned) => returned,
        Err(error) => return Ran::Failed(Action::Fatal, bounded(&error_chain(&error))),
    };
    let Some(transaction) = transaction else {
        return Ran::Done(returned, None);
    };
    if let Err(error) = transaction.accept_returned(services, &returned).await {
        return hindered(handler, received, &error, Action::Fatal);
    }
    match transaction.close() {
        Some((unit, mut events)) => {
            events.extend(returned);
            Ran::Done(events, Some(unit))
        }
        None => Ran::PutOff("its transaction had ended".to_owned()),
    }
}

/// What an error of the store means for a handler: no attempt, if it passes.
pub(crate) fn hindered(
    handler: &Handler,
    received: &Received,
    error: &Error,
    otherwise: Action,
) -> Ran {
    let text = bounded(&error_chain(error));
    if !error.is_transient() && error.kind() != ErrorKind::QueueMissing {
        return Ran::Failed(otherwise, text);
    }
    warn!(
        queue = %received.queue,
        message_id = %received.receipt.message_id(),
        event_id = received.envelope.id(),
        handler = %handler.name,
        error = %text,
        "the store did not begin or commit a handler's transaction, or take its events: it runs again"
    );
    Ran::PutOff(text)
}
