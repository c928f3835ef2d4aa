//! One run of one handler: limited in time, cancelled when its lease is lost, in a span of its own.
//!
//! Invariant: no panic of the user's code gets past it, wherever that code is called.

use std::any::Any;
use std::future::{Future, poll_fn};
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{Either, select};
use tokio::time::{Instant, timeout_at};
use tracing::{Instrument, Span, info_span};

use crate::delivery::attempt::Attempt;
use crate::delivery::received::Received;
use crate::dispatch::admission::StartGuard;
use crate::dispatch::run_outcome::{Failure, RunOutcome};
use crate::engine::Outgoing;
use crate::error::{Error, ErrorKind, Result, error_chain};
use crate::handler::Handler;
use crate::handler::call::Call;
use crate::handler::context;
use crate::handler::invoke::Invoke;
use crate::handler::outcome::HandlerError;
use crate::logging::warn;
use crate::message::settlement::HandlerName;
use crate::observe::metrics::RunMetrics;
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
    if received.lease.is_cancelled() {
        return RunOutcome::Cancelled;
    }
    // The dispatcher sends no batch handler here: those run in `batch_attempt.rs`.
    let Invoke::One(function) = &handler.invoke else {
        return RunOutcome::Cancelled;
    };

    let mut transaction = None;
    if handler.transactions > 0 {
        // In a box, like everything below that only some runs wait for: the others need no room for it.
        match Box::pin(transaction_of(received, services, timeout)).await {
            Some(Ok(begun)) => transaction = Some(Arc::new(begun)),
            Some(Err(error)) => return store_failed(handler, received, error, HandlerError::retry),
            None => return RunOutcome::Cancelled,
        }
    }
    let waker = waker().await;

    // In a block: what is borrowed here would have room in the future until it ends.
    let completed = {
        let call = Call {
            context: context::Context {
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
        let limit = timeout.zip(call.context.deadline);
        let span = span(handler, received, attempt);

        let running = handler.metrics.begin(&handler.name, [&**received]);
        let first_poll = handler.quickness.measure();
        let begun = begin(waker, &span, || function(call));
        first_poll.ends(matches!(begun, Begun::Ended(_)));
        drop(start);

        // The common case: it has ended, and nothing is to be published or committed.
        if let Begun::Ended(Ok(drafts)) = &begun
            && drafts.is_empty()
            && transaction.is_none()
        {
            running.end();
            return RunOutcome::Done(Vec::new(), None);
        }
        let run = Run {
            handler,
            received,
            services,
            transaction,
        };
        Box::pin(run.complete(begun, (limit, span), running))
    };
    completed.await
}

/// A run after its first poll.
struct Run<'a> {
    handler: &'a Handler,
    received: &'a Arc<Received>,
    services: &'a Arc<Services>,
    transaction: Option<Arc<Transaction>>,
}

impl Run<'_> {
    /// Waits for its end, and takes what it returned.
    async fn complete(
        self,
        begun: Begun<'_, Vec<Draft>>,
        (limit, span): (Option<(Duration, Instant)>, Span),
        running: RunMetrics<'_>,
    ) -> RunOutcome {
        let answer = match begun {
            Begun::Ended(answer) => answer.map(Some),
            Begun::Panicked(failure) => Err(failure),
            Begun::Waits(called) => {
                let cancelled = self.received.lease.cancel().cancelled();
                let waiting = wait(&self.handler.name, limit, cancelled, called);
                waiting.instrument(span).await
            }
        };
        let outcome = match answer {
            Ok(None) => RunOutcome::Cancelled,
            Ok(Some(drafts)) => {
                // Only the handler's own time counts.
                running.end();
                self.finished(drafts).await
            }
            Err(failure) => RunOutcome::Failed(failure),
        };

        if !matches!(outcome, RunOutcome::Done(..))
            && let Some(transaction) = self.transaction
        {
            transaction.abandon().await;
        }
        outcome
    }

    /// Makes messages of what a handler published and returned. Its transaction takes no more.
    async fn finished(&self, drafts: Vec<Draft>) -> RunOutcome {
        let publisher = Publisher::caused_by(self.services, self.received);
        let returned: Result<Vec<Outgoing>> = drafts
            .into_iter()
            .map(|draft| publisher.finish(draft))
            .collect();
        let returned = match returned {
            Ok(returned) => returned,
            Err(error) => return RunOutcome::Failed(Failure::new(HandlerError::fatal(error))),
        };

        let Some(transaction) = &self.transaction else {
            return RunOutcome::Done(returned, None);
        };
        let accepted = transaction.accept_returned(self.services, &returned).await;
        if let Err(error) = accepted {
            return store_failed(self.handler, self.received, error, HandlerError::fatal);
        }
        match transaction.close() {
            Some((unit, mut events)) => {
                events.extend(returned);
                RunOutcome::Done(events, Some(unit))
            }
            None => RunOutcome::StoreFailed("its transaction had ended".to_owned()),
        }
    }
}

/// Begins the transaction of a run. `None` if the lease is lost first: another worker may have the
/// delivery, so nothing begins here.
async fn transaction_of(
    received: &Received,
    services: &Arc<Services>,
    timeout: Option<Duration>,
) -> Option<Result<Transaction>> {
    tokio::select! {
        begun = Transaction::begin(services, &received.queue, timeout) => Some(begun),
        () = received.lease.cancel().cancelled() => None,
    }
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

/// The user's code while it runs.
pub(super) type UserFuture<'f, T> =
    Pin<Box<dyn Future<Output = Result<T, HandlerError>> + Send + 'f>>;

/// What the first poll of the user's code came to.
pub(super) enum Begun<'f, T> {
    Ended(Result<T, Box<Failure>>),
    Panicked(Box<Failure>),
    Waits(UserFuture<'f, T>),
}

/// The waker of this task.
pub(super) async fn waker() -> Waker {
    poll_fn(|context| Poll::Ready(context.waker().clone())).await
}

/// Calls the user's code and polls it once, with the [waker] of this task.
///
/// Fast path. A run that ends here needs neither a timer nor a look at its cancellation. Benchmark case:
/// `dispatch`, 1,900 instructions an event.
pub(super) fn begin<'f, T>(
    waker: Waker,
    span: &Span,
    invoke: impl FnOnce() -> UserFuture<'f, T>,
) -> Begun<'f, T> {
    // All of it is the user's code: the call, the poll, the drop, an error's text.
    let called = AssertUnwindSafe(|| {
        let mut called = invoke();
        match called.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(answer) => Begun::Ended(answer.map_err(Failure::new)),
            Poll::Pending => Begun::Waits(called),
        }
    });
    catch_unwind(AssertUnwindSafe(|| span.in_scope(called)))
        .unwrap_or_else(|panic| Begun::Panicked(panicked(&*panic)))
}

/// Waits for the user's code, which was polled once with the waker of this task. `None` if it was
/// cancelled, even if it panics while it is dropped because of that.
pub(super) async fn wait<T>(
    handler: &HandlerName,
    limit: Option<(Duration, Instant)>,
    cancelled: impl Future<Output = ()>,
    called: UserFuture<'_, T>,
) -> Result<Option<T>, Box<Failure>> {
    let mut is_cancelled = false;
    // All of it is the user's code: the polls, the drop of what is cut off, an error's text.
    let guarded = AssertUnwindSafe(async {
        let mut called = called;
        let mut was_polled = true;
        let mut answer = pin!(async {
            // A second poll at once would be no use to it. The first poll here must be part of the same
            // poll of the task, or a wake-up is lost: so nothing below may put it off, as
            // `tokio::select!` does while the task has no budget left.
            let polled = poll_fn(|context| match mem::take(&mut was_polled) {
                true => Poll::Pending,
                false => called.as_mut().poll(context),
            });
            polled.await.map_err(Failure::new)
        });
        let limited = pin!(async {
            let Some((timeout, deadline)) = limit else {
                return answer.as_mut().await;
            };
            match timeout_at(deadline, answer.as_mut()).await {
                Ok(answer) => answer,
                Err(_) => Err(Failure::new(format!("timed out after {timeout:?}"))),
            }
        });

        // An answer that is there counts, though the lease is lost: its settlement is fenced.
        match select(limited, pin!(cancelled)).await {
            Either::Left((answer, _)) => answer.map(Some),
            Either::Right(((), _)) => {
                is_cancelled = true;
                Ok(None)
            }
        }
    });

    guarded.catch_unwind().await.unwrap_or_else(|panic| {
        let failure = panicked(&*panic);
        if !is_cancelled {
            return Err(failure);
        }
        let error = failure.text();
        warn!(%handler, error, "a cancelled handler panicked when it was dropped");
        Ok(None)
    })
}

fn panicked(panic: &(dyn Any + Send)) -> Box<Failure> {
    Failure::new(format!("panicked: {}", panic_text(panic)))
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
