//! One run of a batch handler: on one transaction, if it has one, and with one answer for each event.

use crate::handler::outcome::HandlerError;
use crate::text::bounded;
use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::future::{join_all, select_all};
use tokio::time::Instant;
use tracing::field::{DebugValue, debug};
use tracing::{Instrument, info_span};

use crate::delivery::received::Received;
use crate::dispatch::attempt::{Ran, guarded, hindered};
use crate::dispatch::batcher::Means;
use crate::dispatch::commit::{CommitError, Fenced, commit};
use crate::dispatch::dispatcher::done;
use crate::dispatch::slots::Begins;
use crate::engine::Outgoing;
use crate::error::{Error, Result, error_chain};
use crate::handler::Handler;
use crate::handler::batch::BatchCall;
use crate::handler::context::{Call, Context};
use crate::handler::outcome::Action;
use crate::message::settlement::{HandlerMark, Progress};
use crate::publish::publisher::{Draft, Publisher};
use crate::publish::transaction::Transaction;

/// How many trace contexts the span of a batch names: a log line repeats its span's fields.
const MAX_TRACEPARENTS: usize = 16;

/// A delivery in a batch.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) received: Arc<Received>,
    pub(crate) attempt: u32,
    /// The handler's mark, should it succeed.
    pub(crate) done: HandlerMark,
    /// No other handler takes the event: a transaction that finishes it acknowledges it.
    pub(crate) is_sole: bool,
}

impl Member {
    pub(crate) fn is_cancelled(&self) -> bool {
        self.received.lease.cancel().is_cancelled()
    }

    /// What the handler's transaction writes on the message; `None` if it acknowledges it.
    fn mark(&self, handler: &Handler) -> Option<Progress> {
        (!self.is_sole).then(|| Progress([(handler.name.clone(), self.done.clone())].into()))
    }
}

/// What became of one event, as far as the handler is concerned.
type Said = Result<Vec<Outgoing>, (Action, String)>;

/// Runs the handler once; one answer each, or what the batch as a whole came to: then nothing of it
/// stands that the handler's transaction covers. What is not stored needs no mark or acknowledgement
/// in that.
pub(crate) async fn run(
    means: Means<'_>,
    members: &[Member],
    begins: Vec<Begins>,
    is_inline: bool,
) -> Result<Vec<Ran>, Ran> {
    let Some(first) = members.first() else {
        return Ok(Vec::new());
    };
    if members.iter().any(Member::is_cancelled) {
        return Err(Ran::Cancelled);
    }
    let Means {
        handler,
        services,
        timeout,
        ..
    } = means;
    if handler.transactions == 0 {
        let (shared, each) = call(means, members, None, begins).await?;
        return without_transaction(means, members, shared, each).await;
    }
    let begun = tokio::select! {
        begun = Transaction::begin(services, &first.received.queue, timeout) => begun,
        () = cancelled(members, true) => return Err(Ran::Cancelled),
    };
    let transaction = match begun {
        Ok(begun) => Arc::new(begun),
        Err(error) => return hindrance(means, members, &error, Action::Retry),
    };
    let result = match call(means, members, Some(&transaction), begins).await {
        Ok((shared, each)) => finish(means, members, &transaction, shared, each, is_inline).await,
        Err(ran) => Err(ran),
    };
    transaction.abandon().await;
    result
}

/// Runs the handler on a batch that its transaction has claimed: whether all of it is done and
/// committed.
pub(crate) async fn run_claimed(
    means: Means<'_>,
    members: &[Member],
    transaction: &Arc<Transaction>,
) -> bool {
    let called = call(means, members, Some(transaction), Vec::new()).await;
    let Ok((shared, each)) = called else {
        return false;
    };
    if each.iter().any(Result::is_err) {
        return false;
    }
    let ran = finish(means, members, transaction, shared, each, true).await;
    ran.is_ok_and(|ran| ran.iter().all(|ran| matches!(ran, Ran::Settled)))
}

/// The mark of a handler that is done at the first attempt.
pub(crate) fn first_time() -> HandlerMark {
    done(None)
}

/// Calls the handler: the events of the batch as a whole, and what became of each event. The guards
/// are let go once it was called.
async fn call(
    means: Means<'_>,
    members: &[Member],
    transaction: Option<&Arc<Transaction>>,
    begins: Vec<Begins>,
) -> Result<(Vec<Outgoing>, Vec<Said>), Ran> {
    let Means {
        handler,
        services,
        timeout,
        ..
    } = means;
    let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let context = |member: &Member| Context {
        received: Arc::clone(&member.received),
        handler: handler.name.clone(),
        attempt: member.attempt,
        deadline,
    };
    let contexts: Vec<Context> = members.iter().map(context).collect();
    let (services, transaction) = (Arc::clone(services), transaction.cloned());
    let context = contexts[0].clone();
    let span = info_span!(
        parent: &context.received.parent,
        "ezq.handle_batch",
        queue = %context.queue(),
        handler = %handler.name,
        count = contexts.len(),
        traceparents = traceparents(members),
    );
    let is_single = contexts.len() == 1;
    let cancelled = cancelled(members, transaction.is_some());
    let call = Call {
        context,
        services: Arc::clone(&services),
        transaction,
        is_single,
    };
    let invoke = || async {
        let mut called = (means.invoke)(BatchCall { call, contexts });
        let results = Begins::with(begins, Pin::new(&mut called)).await?;
        // An error's text is the user's code.
        let said = |result: Result<Vec<Draft>, HandlerError>| {
            result.map_err(|error| (error.action, bounded(&error.to_string())))
        };
        Ok((
            results.shared,
            results.each.into_iter().map(said).collect::<Vec<_>>(),
        ))
    };
    let called = guarded(&handler.name, invoke, timeout, cancelled);
    let (shared, each) = match called.instrument(span).await {
        Ok(Some(said)) => said,
        Ok(None) => return Err(Ran::Cancelled),
        Err((action, error)) => return Err(Ran::Failed(action, error)),
    };
    let refused = |error: Error| (Action::Fatal, bounded(&error_chain(&error)));
    let publisher = Publisher::new(Arc::clone(&services));
    let shared: Result<Vec<_>> = shared
        .into_iter()
        .map(|draft| publisher.finish(draft))
        .collect();
    let shared = shared
        .map_err(refused)
        .map_err(|(action, error)| Ran::Failed(action, error))?;
    let finish = |(member, drafts): (&Member, Result<Vec<Draft>, _>)| {
        let publisher = Publisher::caused_by(&services, &member.received);
        let outgoing: Result<Vec<_>> = drafts?
            .into_iter()
            .map(|draft| publisher.finish(draft))
            .collect();
        outgoing.map_err(refused)
    };
    Ok((shared, members.iter().zip(each).map(finish).collect()))
}

/// The trace contexts that a batch's events came with, each once.
fn traceparents(members: &[Member]) -> Option<DebugValue<BTreeSet<&str>>> {
    let found = members
        .iter()
        .filter_map(|member| member.received.traceparent());
    let mut distinct = BTreeSet::new();
    for traceparent in found {
        if distinct.len() == MAX_TRACEPARENTS {
            break;
        }
        distinct.insert(traceparent);
    }

    (!distinct.is_empty()).then(|| debug(distinct))
}

/// Fires when the batch is of no use any more: for one that commits as a whole, when one lease is
/// lost; otherwise when all are.
fn cancelled(members: &[Member], any: bool) -> impl Future<Output = ()> + use<> {
    let tokens = members
        .iter()
        .map(|member| member.received.lease.cancel().clone());
    let tokens: Vec<_> = tokens
        .map(|token| Box::pin(token.cancelled_owned()))
        .collect();
    async move {
        if any {
            select_all(tokens).await;
        } else {
            join_all(tokens).await;
        }
    }
}

/// Each event of the batch is settled by itself, and events of the batch as a whole are of all of
/// them. So these are stored before any is settled: a worker that dies in between publishes too much,
/// never too little. Where one event alone is done, they go out with its settlement.
async fn without_transaction(
    means: Means<'_>,
    members: &[Member],
    mut shared: Vec<Outgoing>,
    each: Vec<Said>,
) -> Result<Vec<Ran>, Ran> {
    let is_of_several = each.iter().filter(|said| said.is_ok()).count() > 1;
    if is_of_several && !shared.is_empty() {
        let published = tokio::select! {
            published = means.services.publish_returned(std::mem::take(&mut shared)) => published,
            () = cancelled(members, false) => return Err(Ran::Cancelled),
        };
        if let Err(error) = published {
            return hindrance(means, members, &error, Action::Retry);
        }
    }
    let mut shared = Some(shared);
    let ran = |said: Said| match said {
        Ok(outgoing) => Ran::Done([shared.take().unwrap_or_default(), outgoing].concat(), None),
        Err((action, error)) => Ran::Failed(action, error),
    };
    Ok(each.into_iter().map(ran).collect())
}

/// Commits what was done, with the marks or acknowledgements of the events that are done; what the
/// transaction itself has claimed needs neither.
async fn finish(
    means: Means<'_>,
    members: &[Member],
    transaction: &Transaction,
    shared: Vec<Outgoing>,
    each: Vec<Said>,
    is_claimed: bool,
) -> Result<Vec<Ran>, Ran> {
    let returned = each.iter().flatten().flatten().cloned();
    let returned: Vec<Outgoing> = shared.into_iter().chain(returned).collect();
    if let Err(error) = transaction.accept_returned(means.services, &returned).await {
        return hindrance(means, members, &error, Action::Fatal);
    }
    let done = members.iter().zip(&each).filter(|(_, said)| said.is_ok());
    let done: Vec<&Member> = done.map(|(member, _)| member).collect();
    let Some((unit, mut outgoing)) = transaction.close().filter(|_| !done.is_empty()) else {
        let put_off = |_| Ran::PutOff("its transaction had ended".to_owned());
        let failed =
            |said: Said| said.map_or_else(|(action, error)| Ran::Failed(action, error), put_off);
        return Ok(each.into_iter().map(failed).collect());
    };
    outgoing.extend(returned);

    // What the transaction claimed itself has no lease.
    let fenced = done.iter().filter(|_| !is_claimed).map(|member| Fenced {
        received: &member.received,
        mark: member.mark(means.handler),
    });
    let mut fenced: Vec<Fenced<'_>> = fenced.collect();

    // A cancellation of some events is no reason to roll the others back here: the fence decides.
    match commit(means.services, unit, &mut fenced, outgoing, None).await {
        Ok(()) => {
            let ran = |(member, said): (&Member, Said)| match said {
                Ok(_) if member.is_sole => Ran::Settled,
                Ok(_) => Ran::Marked,
                Err((action, error)) => Ran::Failed(action, error),
            };
            Ok(members.iter().zip(each).map(ran).collect())
        }
        Err(CommitError::Cancelled) => Err(Ran::Cancelled),
        Err(CommitError::LeaseLost) => {
            // Which of several leases was lost is not known: each event runs again alone.
            if let [member] = members {
                member.received.lease.cancel().cancel();
            }
            Err(Ran::Cancelled)
        }
        Err(CommitError::Failed(error)) => hindrance(means, members, &error, Action::Retry),
    }
}

/// What an error of the store means for a batch: no attempt of any event's, if it passes.
fn hindrance(
    means: Means<'_>,
    members: &[Member],
    error: &Error,
    otherwise: Action,
) -> Result<Vec<Ran>, Ran> {
    let Some(first) = members.first() else {
        return Ok(Vec::new());
    };
    match hindered(means.handler, &first.received, error, otherwise) {
        Ran::PutOff(error) => Ok(members.iter().map(|_| Ran::PutOff(error.clone())).collect()),
        failed => Err(failed),
    }
}
