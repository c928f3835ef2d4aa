//! Gathers deliveries into batches, and gives each its own answer.
//!
//! The first delivery of a batch leads it: it waits until the batch is full or of age, runs the
//! handler, and answers the others. A batch that fails is run again event by event.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};
use futures_util::stream::{self, StreamExt};
use tokio::sync::{Semaphore, SemaphorePermit, oneshot};
use tokio::time::sleep;

use crate::dispatch::attempt::Ran;
use crate::dispatch::batch_attempt::{Member, run};
use crate::dispatch::dispatcher::Dispatcher;
use crate::dispatch::gathering::{Gathering, Waiting};
use crate::dispatch::limits::{Place, Waits};
use crate::dispatch::slots::{Begins, Slots};
use crate::handler::batch::{BatchLimits, InvokeBatch};
use crate::handler::{Handler, Invoke};
use crate::logging::warn;
use crate::message::queue_name::QueueName;
use crate::message::settlement::HandlerName;
use crate::publish::services::Services;

/// What a batch is run with.
#[derive(Clone, Copy)]
pub(crate) struct Means<'a> {
    pub(crate) handler: &'a Handler,
    pub(crate) invoke: &'a InvokeBatch,
    pub(crate) services: &'a Arc<Services>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) turns: Option<&'a Semaphore>,
}

impl Dispatcher {
    /// How many deliveries of a queue may wait for batches, beside those that are handled.
    pub(crate) fn batch_room(&self, queue: &QueueName) -> usize {
        let handlers = self.registry.of(queue).iter();
        let sizes = handlers.filter_map(|handler| Some(self.batches.get(&handler.name)?.size));
        sizes.fold(0, usize::saturating_add)
    }

    /// The handler of a queue and the size of its batches, if it is the only one, and takes batches
    /// and a transaction.
    pub(crate) fn sole_batch(&self, queue: &QueueName) -> Option<(Means<'_>, usize)> {
        let is_ordinary = |handler: &&Arc<Handler>| !handler.takes_control();
        let mut handlers = self.registry.of(queue).iter().filter(is_ordinary);
        let (handler, None) = (handlers.next()?, handlers.next()) else {
            return None;
        };
        let (Invoke::Batch(invoke), 1) = (&handler.invoke, handler.transactions) else {
            return None;
        };
        let size = self.batches.get(&handler.name)?.size;
        Some((self.means(handler, invoke), size))
    }

    pub(crate) fn means<'a>(&'a self, handler: &'a Handler, invoke: &'a InvokeBatch) -> Means<'a> {
        let timeout = self
            .options(handler)
            .timeout
            .unwrap_or(self.config.handler_timeout);
        let turns = self.limits.get(&handler.name);
        Means {
            handler,
            invoke,
            services: &self.services,
            timeout,
            turns,
        }
    }
}

/// Runs a batch handler on a delivery, together with others unless it is to be alone.
pub(crate) async fn run_in_batch(
    means: Means<'_>,
    limits: BatchLimits,
    member: Member,
    alone: bool,
    (slots, place): (&Arc<Slots>, Option<&Place<'_>>),
) -> Ran {
    let cancelled = member.received.lease.cancel().clone();
    let limited = means
        .turns
        .and_then(|_| slots.limited.index(&means.handler.name));
    let waits = place.map(|place| place.gathers(limited.is_some()));
    let begins = slots.to_call(limited);
    if alone || limits.size <= 1 {
        // In a box, as below: one delivery of a batch runs it, and the others need no room for it.
        let each = Box::pin(run_each(means, vec![member], (waits, vec![begins]), slots));
        return each.await.pop().unwrap_or(Ran::Cancelled);
    }
    let handler = &means.handler.name;
    let (answer, answered) = oneshot::channel();
    let waiting = Waiting {
        member,
        answer,
        begins,
    };
    let (gathering, leads) = slots.gather(handler, limits.size, waiting);
    if !leads {
        // Who led the batch is gone with its consumer.
        let gone = || {
            cancelled.cancel();
            Ran::Cancelled
        };
        let ran = answered.await.unwrap_or_else(|_| gone());
        drop(waits);
        return ran;
    }
    let lead = Lead {
        slots,
        handler,
        gathering: &gathering,
    };
    tokio::select! {
        () = gathering.closed() => {}
        () = sleep(limits.wait) => {}
        // Nothing new begins: all of it goes back.
        () = slots.stopped() => {}
    }
    drop(lead);
    Box::pin(run_together(means, gathering.take(), waits, slots)).await;
    answered.await.unwrap_or(Ran::Cancelled)
}

/// The lead of a batch: when it ends, for whatever reason, nobody joins the batch any more.
struct Lead<'a> {
    slots: &'a Slots,
    handler: &'a HandlerName,
    gathering: &'a Arc<Gathering>,
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        self.slots.gatherings.leave(self.handler, self.gathering);
    }
}

/// Runs a batch and answers its members.
async fn run_together(
    means: Means<'_>,
    waiting: Vec<Waiting>,
    waits: Option<Waits<'_>>,
    slots: &Slots,
) {
    let mut members = Vec::with_capacity(waiting.len());
    let mut answers = Vec::with_capacity(waiting.len());
    let mut begins = Vec::with_capacity(waiting.len());
    for one in waiting {
        if one.member.is_cancelled() {
            // One that lost its lease must not take the others along.
            let _ = one.answer.send(Ran::Cancelled);
            continue;
        }
        members.push(one.member);
        answers.push(one.answer);
        begins.push(one.begins);
    }
    let ran = run_each(means, members, (waits, begins), slots).await;
    for (answer, ran) in answers.into_iter().zip(ran) {
        // A member whose consumer is gone waits for nothing.
        let _ = answer.send(ran);
    }
}

/// Runs the handler on a batch, and if that fails on each event alone; one answer each. It takes no
/// place of the consumer's until the handler may run.
async fn run_each(
    means: Means<'_>,
    members: Vec<Member>,
    (waits, begins): (Option<Waits<'_>>, Vec<Begins>),
    slots: &Slots,
) -> Vec<Ran> {
    let Some(handlers_turn) = turn(means, &members, slots).await else {
        return members.iter().map(|_| Ran::Cancelled).collect();
    };
    drop(waits);
    let result = run(means, &members, begins, false).await;
    let settled = |each: &Vec<Ran>| each.iter().all(|ran| matches!(ran, Ran::Settled));
    slots.prove(result.as_ref().is_ok_and(settled));
    let failure = match result {
        Ok(each) => return each,
        Err(failure) if members.len() == 1 => return vec![failure],
        Err(failure) => failure,
    };
    if let Ran::Failed(_, error) = &failure {
        let (handler, count) = (&means.handler.name, members.len());
        warn!(%handler, count, error, "a batch failed: its events are handled one by one");
    }
    drop(handlers_turn);
    run_singly(means, &members, slots).await
}

/// Runs the handler on each event by itself, beside each other as far as the consumer's concurrency
/// and the handler's own limit allow, so that one that hangs does not hold up the rest.
async fn run_singly(means: Means<'_>, members: &[Member], slots: &Slots) -> Vec<Ran> {
    let mut singly: Vec<BoxFuture<'_, (usize, Ran)>> = Vec::with_capacity(members.len());
    for (index, member) in members.iter().enumerate() {
        singly.push(Box::pin(async move {
            (index, run_alone(means, member, slots).await)
        }));
    }
    let mut ran: Vec<(usize, Ran)> = stream::iter(singly)
        .buffer_unordered(slots.concurrency())
        .collect()
        .await;
    ran.sort_by_key(|(index, _)| *index);
    ran.into_iter().map(|(_, ran)| ran).collect()
}

async fn run_alone(means: Means<'_>, member: &Member, slots: &Slots) -> Ran {
    let alone = std::slice::from_ref(member);
    let Some(_turn) = turn(means, alone, slots).await else {
        return Ran::Cancelled;
    };
    match run(means, alone, Vec::new(), false).await {
        Ok(mut ran) => ran.pop().unwrap_or(Ran::Cancelled),
        Err(failure) => failure,
    }
}

/// The handler's turn, where it has a limit; none at all when the consumer stops before, or nobody
/// waits for it any more.
async fn turn<'a>(
    means: Means<'a>,
    members: &[Member],
    slots: &Slots,
) -> Option<Option<SemaphorePermit<'a>>> {
    if slots.is_stopped() || members.is_empty() {
        return None;
    }
    let Some(turns) = means.turns else {
        return Some(None);
    };
    let cancelled = members
        .iter()
        .map(|member| member.received.lease.cancel().cancelled());
    tokio::select! {
        biased;
        turn = turns.acquire() => turn.ok().map(Some),
        () = slots.stopped() => None,
        _ = join_all(cancelled) => None,
    }
}
