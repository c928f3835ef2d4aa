//! Gathers deliveries into batches, and gives each its own answer.
//!
//! # How a batch is gathered
//!
//! Deliveries for a `Batch` handler are gathered for each queue. The first one leads: it waits
//! until the batch is full or its wait is over, runs the handler, and answers the others. A delivery
//! takes no place of the consumer's concurrency while all of its remaining handlers wait for
//! batches or limits.
//!
//! A batch that fails is run again event by event, as many at once as the consumer handles. A
//! message that failed before, or that may have killed its worker, comes alone.
//!
//! # Claiming inside the transaction
//!
//! Where the only handler of a queue takes batches and a transaction, and there is a backlog, one
//! statement inside the handler's transaction claims and acknowledges. It does not raise `read_ct`,
//! so it runs only after a leased batch has succeeded. Whatever is out of the ordinary in it (a
//! control event, a mark, an earlier delivery, an ordering key) rolls it back, for the leased path
//! to handle. Two such transactions run side by side. Their claims are checked one after the other,
//! so that neither passes what the other found.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use futures_util::future::{BoxFuture, join_all};
use futures_util::stream::{self, StreamExt};
use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::dispatch::admission::{Admission, StartGuard};
use crate::dispatch::batch_attempt::run;
use crate::dispatch::batch_member::Member;
use crate::dispatch::batch_runner::BatchRunner;
use crate::dispatch::open_batches::{Entry, OpenBatch};
use crate::dispatch::paused::NotBegun;
use crate::dispatch::permit::{Permit, permit};
use crate::dispatch::place::{Place, WaitingHandler};
use crate::dispatch::run_outcome::RunOutcome;
use crate::dispatch::staying_keys::StayingKeys;
use crate::handler::batch::BatchLimits;
use crate::logging::warn;
use crate::message::settlement::HandlerName;

/// Runs a batch handler on a delivery, together with others unless it is to be alone.
pub(super) async fn run_in_batch(
    runner: BatchRunner<'_>,
    limits: BatchLimits,
    member: Member,
    is_alone: bool,
    (admission, place): (&Arc<Admission>, Option<&Place<'_>>),
) -> RunOutcome {
    let handler = &runner.handler.name;
    let cancelled = member.received().lease.cancel().clone();
    let backlog = runner.limit.and_then(|_| admission.backlogs.index(handler));
    let waiting = place.map(|place| place.gather(backlog.is_some()));
    let start = admission.calling(backlog);

    if is_alone || limits.size <= 1 {
        // In a box, as below: one delivery of a batch runs it, and the others need no room for it.
        let each = Box::pin(run_each(
            runner,
            vec![member],
            (waiting, vec![start]),
            admission,
        ));
        return each.await.pop().unwrap_or(RunOutcome::Cancelled);
    }

    let (answer, answered) = oneshot::channel();
    let entry = Entry {
        member,
        answer,
        start,
    };
    let (batch, leads) = admission.join_batch(handler, limits.size, entry);
    if !leads {
        let outcome = answered.await.unwrap_or_else(|_| {
            // The delivery that led the batch is gone with its consumer.
            cancelled.cancel();
            RunOutcome::Cancelled
        });
        drop(waiting);
        return outcome;
    }

    let lead = Lead {
        admission,
        handler,
        batch: &batch,
    };
    tokio::select! {
        // It is full, or a control event waits for it.
        () = batch.closed() => {}
        () = sleep(limits.wait) => {}
        // Nothing new begins: the whole batch goes back.
        () = admission.stopped() => {}
    }
    // Before the entries are taken: one that joined later would get no answer.
    drop(lead);
    Box::pin(run_together(runner, batch.take(), waiting, admission)).await;
    answered.await.unwrap_or(RunOutcome::Cancelled)
}

/// The lead of a batch: when it ends, for whatever reason, nobody joins the batch any more.
struct Lead<'a> {
    admission: &'a Admission,
    handler: &'a HandlerName,
    batch: &'a Arc<OpenBatch>,
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        self.admission
            .open_batches
            .close_one(self.handler, self.batch);
    }
}

/// Runs a batch and answers its members.
async fn run_together(
    runner: BatchRunner<'_>,
    entries: Vec<Entry>,
    waiting: Option<WaitingHandler<'_>>,
    admission: &Admission,
) {
    let mut members = Vec::with_capacity(entries.len());
    let mut answers = Vec::with_capacity(entries.len());
    let mut starts = Vec::with_capacity(entries.len());
    for entry in entries {
        if entry.member.is_cancelled() {
            // One that lost its lease must not take the others along.
            let _ = entry.answer.send(RunOutcome::Cancelled);
            continue;
        }
        members.push(entry.member);
        answers.push(entry.answer);
        starts.push(entry.start);
    }

    let outcomes = run_each(runner, members, (waiting, starts), admission).await;
    for (answer, outcome) in answers.into_iter().zip(outcomes) {
        // A member whose consumer is gone waits for nothing.
        let _ = answer.send(outcome);
    }
}

/// Runs the handler on a batch, and if that fails on each event alone; one answer each. It takes no
/// place of the consumer's until the handler may run.
async fn run_each(
    runner: BatchRunner<'_>,
    members: Vec<Member>,
    (waiting, starts): (Option<WaitingHandler<'_>>, Vec<StartGuard>),
    admission: &Admission,
) -> Vec<RunOutcome> {
    let permit = match batch_permit(runner, &members, admission).await {
        Ok(permit) => permit,
        Err(why) => return members.iter().map(|_| why.into()).collect(),
    };
    drop(waiting);

    let result = run(runner, &members, starts, false).await;
    let is_settled = result.as_ref().is_ok_and(|each| {
        each.iter()
            .all(|outcome| matches!(outcome, RunOutcome::Settled))
    });
    admission.claim_gate.set_open(is_settled);

    let failure = match result {
        Ok(each) => return each,
        Err(failure) if members.len() == 1 => return vec![failure],
        Err(failure) => failure,
    };
    warn_of_failure(runner, &members, &failure);

    // Each event takes a permit of its own.
    drop(permit);
    let lanes = (0..members.len()).map(|index| vec![index]).collect();
    run_lanes(runner, &members, lanes, admission).await
}

/// Runs the handler on a batch in which events of one key stand in their order, and if that fails on each
/// event alone; one answer each. What is cancelled by then does not run.
pub(super) async fn run_in_order(
    runner: BatchRunner<'_>,
    members: Vec<Member>,
    start: StartGuard,
    admission: &Admission,
) -> Vec<RunOutcome> {
    let mut staying = StayingKeys::default();
    let mut run_now = Vec::with_capacity(members.len());
    let mut left_out = Vec::new();
    for (index, member) in members.into_iter().enumerate() {
        let is_lost = member.is_cancelled() || member.received().lease.is_expired();
        if is_lost || staying.has(&member) {
            staying.add(&member);
            left_out.push(index);
        } else {
            run_now.push(member);
        }
    }

    let mut outcomes = run_whole(runner, &run_now, start, admission).await;
    let mut staying = StayingKeys::default();
    for (member, outcome) in run_now.iter().zip(&mut outcomes) {
        let ran = std::mem::replace(outcome, RunOutcome::Cancelled);
        *outcome = staying.follow(member, ran);
    }
    // From the front, so that each comes to stand where its delivery does.
    for index in left_out {
        outcomes.insert(index, RunOutcome::Cancelled);
    }
    outcomes
}

/// Runs the handler on a batch, and if that fails on each event alone.
async fn run_whole(
    runner: BatchRunner<'_>,
    members: &[Member],
    start: StartGuard,
    admission: &Admission,
) -> Vec<RunOutcome> {
    let permit = match batch_permit(runner, members, admission).await {
        Ok(permit) => permit,
        Err(why) => return members.iter().map(|_| why.into()).collect(),
    };
    let failure = match run(runner, members, vec![start], false).await {
        Ok(each) => return each,
        Err(failure) => failure,
    };
    warn_of_failure(runner, members, &failure);
    drop(permit);

    // Those of one key go one after another.
    let mut lanes: Vec<Vec<usize>> = Vec::new();
    let mut of_key: HashMap<Cow<'_, str>, usize> = HashMap::new();
    for (index, member) in members.iter().enumerate() {
        let next = lanes.len();
        let key = member.received().headers.key();
        let lane = key.map_or(next, |key| *of_key.entry(key).or_insert(next));
        if lane == next {
            lanes.push(Vec::new());
        }
        lanes[lane].push(index);
    }
    run_lanes(runner, members, lanes, admission).await
}

fn warn_of_failure(runner: BatchRunner<'_>, members: &[Member], failure: &RunOutcome) {
    if let RunOutcome::Failed(failure) = failure {
        let handler = &runner.handler.name;
        let count = members.len();
        let error = failure.text();
        warn!(%handler, count, error, "a batch failed: its events are handled one by one");
    }
}

/// Runs the handler on each event by itself: those of a lane one after another, and the lanes beside each
/// other as far as the consumer's concurrency and the handler's own limit allow. So one that hangs does
/// not hold up the rest.
async fn run_lanes(
    runner: BatchRunner<'_>,
    members: &[Member],
    lanes: Vec<Vec<usize>>,
    admission: &Admission,
) -> Vec<RunOutcome> {
    let mut running: Vec<BoxFuture<'_, Vec<(usize, RunOutcome)>>> = Vec::with_capacity(lanes.len());
    for lane in lanes {
        running.push(Box::pin(async move {
            let mut staying = StayingKeys::default();
            let mut outcomes = Vec::with_capacity(lane.len());
            for index in lane {
                let member = &members[index];
                let outcome = match staying.has(member) {
                    true => RunOutcome::Cancelled,
                    false => run_alone(runner, member, admission).await,
                };
                outcomes.push((index, staying.follow(member, outcome)));
            }
            outcomes
        }));
    }

    let ended: Vec<Vec<(usize, RunOutcome)>> = stream::iter(running)
        .buffer_unordered(admission.concurrency())
        .collect()
        .await;
    let mut outcomes: Vec<(usize, RunOutcome)> = ended.into_iter().flatten().collect();
    // They ended in any order; the answers are in that of the members.
    outcomes.sort_by_key(|(index, _)| *index);
    outcomes.into_iter().map(|(_, outcome)| outcome).collect()
}

async fn run_alone(runner: BatchRunner<'_>, member: &Member, admission: &Admission) -> RunOutcome {
    let alone = std::slice::from_ref(member);
    let _permit = match batch_permit(runner, alone, admission).await {
        Ok(permit) => permit,
        Err(why) => return why.into(),
    };

    match run(runner, alone, Vec::new(), false).await {
        Ok(mut outcomes) => outcomes.pop().unwrap_or(RunOutcome::Cancelled),
        Err(failure) => failure,
    }
}

/// The permit of one run on a batch. None is given if the consumer stops first, every lease is lost, or
/// the handler is paused.
async fn batch_permit<'a>(
    runner: BatchRunner<'a>,
    members: &[Member],
    admission: &Admission,
) -> Result<Permit<'a>, NotBegun> {
    // A batch that waited until the stop does not begin, though a permit may be free.
    if admission.is_stopped() || members.is_empty() {
        return Err(NotBegun::Cancelled);
    }

    let cancelled = members
        .iter()
        .map(|member| member.received().lease.cancel().cancelled());
    let all_cancelled = async {
        join_all(cancelled).await;
    };
    let permit = permit(runner.limit, admission, all_cancelled).await;
    let permit = permit.ok_or(NotBegun::Cancelled)?;
    // It may have waited for long.
    admission.paused.check(runner.handler)?;
    Ok(permit)
}
