//! One run of a batch handler: on one transaction, if it has one, and with one answer for each event.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::{Instant, timeout};
use tracing::field::{DebugValue, debug};
use tracing::{Instrument, Span, info_span};

use crate::dispatch::admission::StartGuard;
use crate::dispatch::attempt::{Begun, UserFuture, begin, store_failed, wait, waker};
use crate::dispatch::batch_member::Member;
use crate::dispatch::batch_runner::BatchRunner;
use crate::dispatch::commit::{CommitError, Fenced, commit};
use crate::dispatch::in_place::guard_start;
use crate::dispatch::lost_lease;
use crate::dispatch::run_outcome::{Failure, RunOutcome};
use crate::engine::Outgoing;
use crate::error::{Error, Result};
use crate::handler::batch::{BatchCall, BatchResults};
use crate::handler::call::Call;
use crate::handler::context::Context;
use crate::handler::outcome::HandlerError;
use crate::publish::draft::Draft;
use crate::publish::publisher::Publisher;
use crate::publish::transaction::Transaction;

/// How many trace contexts the span of a batch names: a log line repeats its span's fields.
const MAX_TRACEPARENTS: usize = 16;

/// How long a batch without a transaction may go on for its other events when an operator cancels one: what
/// it did for them counts. After that they are handled one by one.
const GRACE: Duration = Duration::from_secs(2);

/// What the handler said of one event: the events it returned for it, or its failure.
type EventResult = Result<Vec<Outgoing>, Box<Failure>>;

/// What the handler said of a batch.
struct Returned {
    /// Events of the batch as a whole.
    shared: Vec<Outgoing>,
    /// One result for each event, in their order.
    each: Vec<EventResult>,
}

/// Runs the handler once. `Ok` has one outcome for each event. `Err` is the outcome of the batch as a
/// whole: then nothing that its transaction covers has taken effect.
///
/// Events of an inline dispatch are not stored, so the transaction writes no mark for them and
/// acknowledges nothing.
pub(super) async fn run(
    runner: BatchRunner<'_>,
    members: &[Member],
    starts: Vec<StartGuard>,
    is_inline: bool,
) -> Result<Vec<RunOutcome>, RunOutcome> {
    let Some(first) = members.first() else {
        return Ok(Vec::new());
    };
    if members.iter().any(Member::is_cancelled) {
        return Err(RunOutcome::Cancelled);
    }

    if runner.handler.transactions == 0 {
        let returned = call(runner, members, None, starts).await?;
        return without_transaction(runner, members, returned).await;
    }

    let begun = tokio::select! {
        begun = Transaction::begin(runner.services, &first.received().queue, runner.timeout) => begun,
        // The batch commits as a whole, so it cannot commit without this one.
        () = cancelled(members, true) => return Err(RunOutcome::Cancelled),
    };
    let transaction = match begun {
        Ok(begun) => Arc::new(begun),
        Err(error) => return batch_store_failed(runner, members, error, HandlerError::retry),
    };

    let result = match call(runner, members, Some(&transaction), starts).await {
        Ok(returned) => finish(runner, members, &transaction, returned, is_inline).await,
        Err(outcome) => Err(outcome),
    };
    // Nothing is left to abandon if it was committed.
    transaction.abandon().await;
    result
}

/// Runs the handler on a batch that its transaction has claimed. True if all of it is done and
/// committed.
pub(crate) async fn run_claimed(
    runner: BatchRunner<'_>,
    members: &[Member],
    transaction: &Arc<Transaction>,
) -> bool {
    let called = call(runner, members, Some(transaction), Vec::new()).await;
    let Ok(returned) = called else {
        return false;
    };
    if returned.each.iter().any(Result::is_err) {
        return false;
    }

    let outcomes = finish(runner, members, transaction, returned, true).await;
    outcomes.is_ok_and(|outcomes| {
        outcomes
            .iter()
            .all(|outcome| matches!(outcome, RunOutcome::Settled))
    })
}

/// Calls the handler, and makes messages of what it returned. The guards are dropped once it was
/// called.
async fn call(
    runner: BatchRunner<'_>,
    members: &[Member],
    transaction: Option<&Arc<Transaction>>,
    starts: Vec<StartGuard>,
) -> Result<Returned, RunOutcome> {
    let contexts = contexts(runner, members);
    let call = Call {
        context: contexts[0].clone(),
        services: Arc::clone(runner.services),
        transaction: transaction.cloned(),
        is_single: contexts.len() == 1,
        additions: None,
    };
    let span = span(runner, members);

    let limit = runner.timeout.zip(call.context.deadline);
    let waker = waker().await;
    let received = members.iter().map(|member| &**member.received());
    let running = runner.handler.metrics.begin(&runner.handler.name, received);
    let begun = begin(waker, &span, || -> UserFuture<'_, _> {
        Box::pin(async {
            let mut starts = Some(starts);
            let mut called = (runner.invoke)(BatchCall { call, contexts });
            let BatchResults { shared, each } =
                guard_start(&mut starts, Pin::new(&mut called)).await?;
            // An error's text is the user's code, so it is written here, where a panic is caught.
            let each = each.into_iter().map(|result| result.map_err(Failure::new));
            Ok((shared, each.collect::<Vec<_>>()))
        })
    });
    let answer = match begun {
        Begun::Ended(answer) => answer.map(Some),
        Begun::Panicked(failure) => Err(failure),
        Begun::Waits(called) => {
            let cancelled = cancelled(members, transaction.is_some());
            let waiting = wait(&runner.handler.name, limit, cancelled, called);
            waiting.instrument(span).await
        }
    };
    running.end();
    match answer {
        Ok(Some((shared, each))) => messages(runner, members, shared, each),
        Ok(None) => Err(RunOutcome::Cancelled),
        Err(failure) => Err(RunOutcome::Failed(failure)),
    }
}

/// What surrounds the run, for each event.
fn contexts(runner: BatchRunner<'_>, members: &[Member]) -> Vec<Context> {
    let deadline = runner
        .timeout
        .and_then(|timeout| Instant::now().checked_add(timeout));
    let contexts = members.iter().map(|member| Context {
        attempt: member.attempt.clone(),
        handler: runner.handler.name.clone(),
        deadline,
    });
    contexts.collect()
}

fn span(runner: BatchRunner<'_>, members: &[Member]) -> Span {
    let first = members[0].received();
    info_span!(
        parent: &first.parent,
        "ezq.handle_batch",
        queue = %first.queue,
        handler = %runner.handler.name,
        count = members.len(),
        traceparents = traceparents(members),
    )
}

/// The trace contexts that a batch's events came with, each once.
fn traceparents(members: &[Member]) -> Option<DebugValue<BTreeSet<&str>>> {
    let found = members
        .iter()
        .filter_map(|member| member.received().traceparent());
    let mut distinct = BTreeSet::new();
    for traceparent in found {
        if distinct.len() == MAX_TRACEPARENTS {
            break;
        }
        distinct.insert(traceparent);
    }

    (!distinct.is_empty()).then(|| debug(distinct))
}

/// Makes messages of the events that the handler returned.
fn messages(
    runner: BatchRunner<'_>,
    members: &[Member],
    shared: Vec<Draft>,
    each: Vec<Result<Vec<Draft>, Box<Failure>>>,
) -> Result<Returned, RunOutcome> {
    // No single event is the cause of what is returned for the batch as a whole.
    let publisher = Publisher::new(Arc::clone(runner.services));
    let shared = finish_drafts(&publisher, shared).map_err(RunOutcome::Failed)?;

    let each = members.iter().zip(each).map(|(member, drafts)| {
        let publisher = Publisher::caused_by(runner.services, member.received());
        finish_drafts(&publisher, drafts?)
    });
    Ok(Returned {
        shared,
        each: each.collect(),
    })
}

/// Makes messages of drafts. One that is no valid event is a failure that no retry mends.
fn finish_drafts(publisher: &Publisher, drafts: Vec<Draft>) -> EventResult {
    let finished: Result<Vec<Outgoing>> = drafts
        .into_iter()
        .map(|draft| publisher.finish(draft))
        .collect();
    finished.map_err(|error| Failure::new(HandlerError::fatal(error)))
}

/// Ends when the batch is of no use any more. With `any`, for a batch that commits as a whole, that is
/// when one event is cancelled or its lease is lost. Otherwise that is when all are; or when an operator
/// cancels one, and the batch does not end in time for the others.
fn cancelled(members: &[Member], any: bool) -> impl Future<Output = ()> + use<> {
    let leases = members
        .iter()
        .map(|member| Arc::clone(&member.received().lease));
    let mut left: FuturesUnordered<_> = leases
        .map(|lease| async move { lease.cancelled().await })
        .collect();

    async move {
        while let Some(by_order) = left.next().await {
            if any {
                return;
            }
            if by_order {
                let all = async { while left.next().await.is_some() {} };
                // Whether or not all are cancelled in this time, the batch is of no use after it.
                let _ = timeout(GRACE, all).await;
                return;
            }
        }
    }
}

/// Ends a run without a transaction, in which each event is settled by itself.
///
/// Events of the batch as a whole belong to all of its events, so they are stored before any of these
/// is settled: a worker that dies in between publishes too much, never too little. Where only one
/// event is done, they go out with its settlement.
async fn without_transaction(
    runner: BatchRunner<'_>,
    members: &[Member],
    returned: Returned,
) -> Result<Vec<RunOutcome>, RunOutcome> {
    let Returned { mut shared, each } = returned;
    let done = each.iter().filter(|result| result.is_ok()).count();
    if done > 1 && !shared.is_empty() {
        let published = tokio::select! {
            published = runner.services.publish_returned(std::mem::take(&mut shared)) => published,
            // Another worker may have every event by now, and publishes for them.
            () = cancelled(members, false) => return Err(RunOutcome::Cancelled),
        };
        if let Err(error) = published {
            return batch_store_failed(runner, members, error, HandlerError::retry);
        }
    }

    let mut shared = Some(shared);
    let outcomes = each.into_iter().map(|result| match result {
        Ok(outgoing) => {
            // With the first event that is done, and with no other.
            let shared = shared.take().unwrap_or_default();
            RunOutcome::Done([shared, outgoing].concat(), None)
        }
        Err(failure) => RunOutcome::Failed(failure),
    });
    Ok(outcomes.collect())
}

/// Commits what was done, with the marks or acknowledgements of the events that are done. What the
/// transaction itself has claimed needs neither.
async fn finish(
    runner: BatchRunner<'_>,
    members: &[Member],
    transaction: &Transaction,
    returned: Returned,
    is_claimed: bool,
) -> Result<Vec<RunOutcome>, RunOutcome> {
    let Returned { shared, each } = returned;
    let of_events = each.iter().flatten().flatten().cloned();
    let events: Vec<Outgoing> = shared.into_iter().chain(of_events).collect();
    if let Err(error) = transaction.accept_returned(runner.services, &events).await {
        return batch_store_failed(runner, members, error, HandlerError::fatal);
    }

    let is_any_done = each.iter().any(Result::is_ok);
    let Some((unit, mut outgoing)) = transaction.close().filter(|_| is_any_done) else {
        let outcomes = each.into_iter().map(|result| match result {
            Ok(_) => RunOutcome::StoreFailed("its transaction had ended".to_owned()),
            Err(failure) => RunOutcome::Failed(failure),
        });
        return Ok(outcomes.collect());
    };
    outgoing.extend(events);

    let done = members
        .iter()
        .zip(&each)
        .filter(|(_, result)| result.is_ok());
    let fenced = done.filter(|_| !is_claimed).map(|(member, _)| Fenced {
        received: member.received(),
        mark: member.mark(runner.handler),
    });
    let mut fenced: Vec<Fenced<'_>> = fenced.collect();

    // A cancellation of some events is no reason to roll the others back here: the fence decides.
    match commit(runner.services, unit, &mut fenced, outgoing, None).await {
        Ok(()) => {
            let outcomes = members
                .iter()
                .zip(each)
                .map(|(member, result)| match result {
                    Ok(_) if member.is_sole => RunOutcome::Settled,
                    Ok(_) => RunOutcome::Marked,
                    Err(failure) => RunOutcome::Failed(failure),
                });
            Ok(outcomes.collect())
        }
        Err(CommitError::Cancelled) => Err(RunOutcome::Cancelled),
        Err(CommitError::LeaseLost) => {
            let deliveries = members.iter().map(|member| &**member.received());
            Err(lost_lease::while_committing(deliveries))
        }
        Err(CommitError::Failed(error)) => {
            batch_store_failed(runner, members, error, HandlerError::retry)
        }
    }
}

/// What an error of the store means for a batch. One that may pass is no attempt of any event.
fn batch_store_failed(
    runner: BatchRunner<'_>,
    members: &[Member],
    error: Error,
    otherwise: fn(Error) -> HandlerError,
) -> Result<Vec<RunOutcome>, RunOutcome> {
    let Some(first) = members.first() else {
        return Ok(Vec::new());
    };
    match store_failed(runner.handler, first.received(), error, otherwise) {
        RunOutcome::StoreFailed(error) => Ok(members
            .iter()
            .map(|_| RunOutcome::StoreFailed(error.clone()))
            .collect()),
        failed => Err(failed),
    }
}
