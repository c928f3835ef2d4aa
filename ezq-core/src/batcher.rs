//! Gathers deliveries into batches, and gives each its own answer.
//!
//! The first delivery of a batch leads it: it waits until the batch is full or of age, runs the
//! handler, and answers the others. A batch that fails is run again event by event.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::time::sleep;

use crate::QueueName;
use crate::attempt::Ran;
use crate::batch::{BatchLimits, InvokeBatch};
use crate::batch_attempt::{Member, run};
use crate::handler::Handler;
use crate::logging::warn;
use crate::publisher::Services;
use crate::slots::Slots;

/// The batches of one handler that are being gathered, one for each queue.
pub(crate) struct Batcher {
    limits: BatchLimits,
    open: Mutex<HashMap<QueueName, Arc<Gathering>>>,
}

/// A batch that is not full yet.
#[derive(Default)]
struct Gathering {
    waiting: Mutex<Vec<Waiting>>,
    full: Notify,
}

struct Waiting {
    member: Member,
    answer: oneshot::Sender<Ran>,
}

/// What a batch is run with.
#[derive(Clone, Copy)]
pub(crate) struct Means<'a> {
    pub(crate) handler: &'a Handler,
    pub(crate) invoke: &'a InvokeBatch,
    pub(crate) services: &'a Arc<Services>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) turns: Option<&'a Semaphore>,
}

impl Batcher {
    pub(crate) fn new(limits: BatchLimits) -> Self {
        Self { limits, open: Mutex::default() }
    }

    pub(crate) fn limits(&self) -> BatchLimits {
        self.limits
    }

    /// Runs the handler on a delivery, together with others unless it is to be alone.
    pub(crate) async fn run(
        &self,
        means: Means<'_>,
        member: Member,
        alone: bool,
        slots: &Arc<Slots>,
    ) -> Ran {
        let cancelled = member.received.lease.cancel().clone();
        if alone || self.limits.size <= 1 {
            let ran = async { run_each(means, vec![member], slots).await.pop() };
            return ran.await.unwrap_or(Ran::Cancelled);
        }
        let parked = slots.park();
        let queue = member.received.queue.clone();
        let (answer, answered) = oneshot::channel();
        let (gathering, leads) = self.join(&queue, Waiting { member, answer });
        if leads {
            let lead = Lead { batcher: self, queue: &queue, gathering: &gathering };
            tokio::select! {
                () = gathering.full.notified() => {}
                () = sleep(self.limits.wait) => {}
            }
            drop(lead);
            drop(parked);
            let waiting = std::mem::take(&mut *gathering.waiting());
            run_together(means, waiting, slots).await;
        }
        // Who led the batch is gone with its consumer.
        let gone = || {
            cancelled.cancel();
            Ran::Cancelled
        };
        answered.await.unwrap_or_else(|_| gone())
    }

    /// Joins the batch of a queue; whether as its first.
    fn join(&self, queue: &QueueName, waiting: Waiting) -> (Arc<Gathering>, bool) {
        let mut open = self.open();
        let gathering = Arc::clone(open.entry(queue.clone()).or_default());
        let mut members = gathering.waiting();
        members.push(waiting);
        let (count, leads) = (members.len(), members.len() == 1);
        drop(members);
        if count >= self.limits.size {
            open.remove(queue);
            gathering.full.notify_one();
        }
        (gathering, leads)
    }

    fn open(&self) -> MutexGuard<'_, HashMap<QueueName, Arc<Gathering>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gathering {
    fn waiting(&self) -> MutexGuard<'_, Vec<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The lead of a batch: when it ends, for whatever reason, nobody joins the batch any more.
struct Lead<'a> {
    batcher: &'a Batcher,
    queue: &'a QueueName,
    gathering: &'a Arc<Gathering>,
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        let mut open = self.batcher.open();
        if open.get(self.queue).is_some_and(|current| Arc::ptr_eq(current, self.gathering)) {
            open.remove(self.queue);
        }
    }
}

impl std::fmt::Debug for Batcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batcher").field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// Runs a batch and answers its members.
async fn run_together(means: Means<'_>, waiting: Vec<Waiting>, slots: &Slots) {
    let (members, answers): (Vec<_>, Vec<_>) =
        waiting.into_iter().map(|waiting| (waiting.member, waiting.answer)).unzip();
    for (answer, ran) in answers.into_iter().zip(run_each(means, members, slots).await) {
        // A member whose consumer is gone waits for nothing.
        let _ = answer.send(ran);
    }
}

/// Runs the handler on a batch, and if that fails on each event alone; one answer each.
async fn run_each(means: Means<'_>, members: Vec<Member>, slots: &Slots) -> Vec<Ran> {
    let _turn = match means.turns {
        Some(turns) => turns.acquire().await.ok(),
        None => None,
    };
    let result = run(means, &members, false).await;
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
    let mut each = Vec::with_capacity(members.len());
    for member in &members {
        each.push(match run(means, std::slice::from_ref(member), false).await {
            Ok(mut ran) => ran.pop().unwrap_or(Ran::Cancelled),
            Err(failure) => failure,
        });
    }
    each
}
