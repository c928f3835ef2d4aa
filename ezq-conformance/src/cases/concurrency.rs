//! Many workers on one queue: nothing is handed out twice, and no order of work deadlocks.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ezq_core::Result;
use ezq_core::engine::{Delivery, Engine, LeaseRequest, Receipt, Settle, SettleOutcome};
use ezq_core::message::{MessageId, QueueName};
use tokio::task::JoinSet;

use crate::error::{CaseError, CaseResult};
use crate::stage::{HOLD, Stage, ack, each, numbers};

cases![
    concurrent_workers_never_share_a_message,
    concurrent_workers_never_hold_one_key_at_once,
    concurrent_acks_in_opposite_order_succeed_once_each,
    concurrent_settlements_and_renewals_in_any_order_succeed,
];

async fn joined<T: 'static>(mut tasks: JoinSet<Result<T>>) -> Result<Vec<T>, CaseError> {
    let mut results = Vec::new();
    while let Some(result) = tasks.join_next().await {
        let task = result.map_err(|error| CaseError::Failed(format!("a task: {error}")))?;
        results.push(task?);
    }
    Ok(results)
}

async fn concurrent_workers_never_share_a_message(stage: &Stage<'_>) -> CaseResult {
    const MESSAGES: usize = 300;
    let bodies: Vec<_> = (0..).take(MESSAGES).collect();
    stage.publish_numbers(&bodies).await?;

    let mut workers = JoinSet::new();
    for worker in 0..8 {
        // Two clients: locks that one client keeps in its own memory are no fence.
        let clients = [&stage.engine, &stage.second];
        let engine = Arc::clone(clients[worker % 2]);
        workers.spawn(drain(engine, stage.ask(7, HOLD), MESSAGES));
    }

    let ids = joined(workers).await?.concat();
    let different: HashSet<_> = ids.iter().collect();
    check_eq!(
        ids.len(),
        different.len(),
        "messages handed out, and different ones"
    );
    check_eq!(ids.len(), MESSAGES, "messages handed out");

    stage.is_empty().await
}

/// Leases and acknowledges until nothing is left. It stops once it has more than were published.
async fn drain(
    engine: Arc<dyn Engine>,
    request: LeaseRequest,
    most: usize,
) -> Result<Vec<MessageId>> {
    let mut ids = Vec::new();
    let mut empty = 0;

    // A row that another worker is claiming may be passed over once.
    while empty < 3 && ids.len() <= most {
        let deliveries = engine.lease(request.clone()).await?.deliveries;
        empty = if deliveries.is_empty() { empty + 1 } else { 0 };

        let receipts = deliveries.into_iter().map(|d| d.receipt);
        let batch: Vec<_> = receipts.map(|receipt| (receipt, ack())).collect();
        ids.extend(
            batch
                .iter()
                .map(|(receipt, _)| receipt.message_id().clone()),
        );

        if !batch.is_empty() {
            engine.settle(&request.queue, batch).await?;
        }
        tokio::task::yield_now().await;
    }

    Ok(ids)
}

/// Workers return some of what they get, so that keys come back in the middle of a run.
async fn concurrent_workers_never_hold_one_key_at_once(stage: &Stage<'_>) -> CaseResult {
    const KEYS: i64 = 6;
    const EACH: i64 = 40;

    let names: Vec<String> = (0..KEYS).map(|key| format!("k{key}")).collect();
    let all = (0..KEYS * EACH)
        .map(|n| stage.with_key(&names[index(n % KEYS)], n))
        .collect();
    stage.needs("keys", |c| c.keys)?;
    stage.publish(all).await?;

    let log = Arc::new(Mutex::new(Log::default()));
    let mut workers = JoinSet::new();
    for worker in 0..6 {
        let clients = [&stage.engine, &stage.second];
        let engine = Arc::clone(clients[worker % 2]);
        // One message, a part of a key's messages, and as many as a key has.
        let max = [1, 5, 40][worker % 3];
        workers.spawn(work(engine, stage.ask(max, HOLD), worker, Arc::clone(&log)));
    }

    joined(workers).await?;
    let log = std::mem::take(&mut *locked(&log));
    check_eq!(
        log.shared,
        Vec::<String>::new(),
        "keys that two had at once"
    );

    for (place, name) in names.iter().enumerate() {
        let place = i64::try_from(place).unwrap_or_default();
        let wanted: Vec<i64> = (0..EACH).map(|n| n * KEYS + place).collect();
        check_eq!(
            log.done.get(name),
            Some(&wanted),
            "messages of the key {name}"
        );
    }

    stage.is_empty().await
}

fn index(n: i64) -> usize {
    usize::try_from(n).unwrap_or_default()
}

/// What all workers saw of the keys.
#[derive(Default)]
struct Log {
    held: HashSet<String>,
    /// Keys that two workers held at once.
    shared: Vec<String>,
    /// The messages of each key in the order in which they were acknowledged.
    done: BTreeMap<String, Vec<i64>>,
}

fn locked(log: &Mutex<Log>) -> MutexGuard<'_, Log> {
    log.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Leases messages, returns some of them and acknowledges the rest, until nothing is left.
async fn work(
    engine: Arc<dyn Engine>,
    request: LeaseRequest,
    worker: usize,
    log: Arc<Mutex<Log>>,
) -> Result<()> {
    // Far more rounds than are needed, so that a key that nobody lets go of ends the case.
    for round in 0..2000 {
        let leased = engine.lease(request.clone()).await?.deliveries;
        let stats = engine.stats(&request.queue).await?;
        if leased.is_empty() && stats.ready + stats.in_progress == 0 {
            break;
        }

        let mut runs: BTreeMap<String, Vec<Delivery>> = BTreeMap::new();
        for delivery in leased {
            let key = delivery.key().unwrap_or_default().into_owned();
            runs.entry(key).or_default().push(delivery);
        }

        for key in runs.keys() {
            let mut log = locked(&log);
            if !log.held.insert(key.clone()) {
                log.shared.push(key.clone());
            }
        }

        // The other workers get a chance to take a key that is held.
        tokio::task::yield_now().await;

        for (key, mut run) in runs {
            // A varying part goes back. At least one message is kept, so that the case ends.
            let back = run.split_off(run.len().div_ceil(1 + (round + worker) % 3));
            log_done(&mut locked(&log), &key, &run);
            let mut settles = each(back, &Settle::Release);
            settles.extend(each(run, &ack()));
            engine.settle(&request.queue, settles).await?;
        }

        // Without a pause, the worker that returned a key would claim it again before all others.
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
    Ok(())
}

/// Notes what is about to be acknowledged. It comes before the settlement, which lets go of the key.
fn log_done(log: &mut Log, key: &str, run: &[Delivery]) {
    log.done
        .entry(key.to_owned())
        .or_default()
        .extend(numbers(run));
    log.held.remove(key);
}

const BATCH: usize = 60;
const ROUNDS: usize = 4;

/// Publishes and leases a batch.
async fn leased(stage: &Stage<'_>) -> Result<Vec<Receipt>, CaseError> {
    let bodies: Vec<_> = (0..).take(BATCH).collect();
    stage.publish_numbers(&bodies).await?;
    let leased = stage.lease(BATCH, HOLD).await?;
    check_eq!(leased.len(), BATCH, "messages leased");
    Ok(leased.into_iter().map(|d| d.receipt).collect())
}

async fn settle_all(
    engine: Arc<dyn Engine>,
    queue: QueueName,
    receipts: Vec<Receipt>,
    settle: Settle,
) -> Result<Vec<SettleOutcome>> {
    let batch = receipts
        .into_iter()
        .map(|receipt| (receipt, settle.clone()));
    engine.settle(&queue, batch.collect()).await
}

/// Two statements that lock the same rows in opposite order would deadlock.
async fn concurrent_acks_in_opposite_order_succeed_once_each(stage: &Stage<'_>) -> CaseResult {
    for round in 0..ROUNDS {
        let receipts = leased(stage).await?;
        let mut tasks = JoinSet::new();
        for client in [&stage.engine, &stage.second] {
            let mut receipts = receipts.clone();
            if Arc::ptr_eq(client, &stage.second) {
                // A deadlock needs two statements that lock the same rows in opposite orders.
                receipts.reverse();
            }
            let client = Arc::clone(client);
            tasks.spawn(settle_all(client, stage.queue.clone(), receipts, ack()));
        }

        let outcomes: Vec<_> = joined(tasks).await?.into_iter().flatten().collect();
        let done = outcomes
            .iter()
            .filter(|o| matches!(o, SettleOutcome::Done))
            .count();

        let lost = outcomes
            .iter()
            .filter(|o| matches!(o, SettleOutcome::LeaseLost))
            .count();
        check_eq!(
            (done, lost),
            (BATCH, BATCH),
            "done and lost in round {round}"
        );
    }
    stage.is_empty().await
}

/// A consumer renews leases while it settles. The two must neither deadlock nor fail each other.
async fn concurrent_settlements_and_renewals_in_any_order_succeed(stage: &Stage<'_>) -> CaseResult {
    for round in 0..ROUNDS {
        let receipts = leased(stage).await?;
        let (even, odd): (Vec<_>, Vec<_>) = receipts
            .iter()
            .cloned()
            .enumerate()
            .partition(|(n, _)| n % 2 == 0);

        let even = even.into_iter().map(|(_, receipt)| receipt).collect();
        let odd = odd.into_iter().rev().map(|(_, receipt)| receipt).collect();
        let halves = [(even, ack()), (odd, Settle::Release)];
        let mut tasks = JoinSet::new();
        for (half, settle) in halves {
            let client = Arc::clone(&stage.engine);
            tasks.spawn(settle_all(client, stage.queue.clone(), half, settle));
        }

        let mut renewals = JoinSet::new();
        for reversed in [false, true] {
            let client = Arc::clone(&stage.second);
            let queue = stage.queue.clone();
            let mut receipts = receipts.clone();
            if reversed {
                receipts.reverse();
            }
            renewals.spawn(async move { client.extend(&queue, &receipts, HOLD).await });
        }

        let renewed: Vec<_> = joined(renewals).await?;
        check!(
            renewed.iter().all(|o| o.len() == BATCH),
            "a renewal left a message out"
        );

        for outcome in joined(tasks).await?.into_iter().flatten() {
            let done = matches!(outcome, SettleOutcome::Done);
            check!(
                done,
                "round {round}: a receipt that holds answered {outcome:?}"
            );
        }

        // A renewal that comes after a release must not take the message back.
        stage.pass(Duration::from_millis(1)).await;
        let back = stage.lease(BATCH, HOLD).await?;
        check_eq!(back.len(), BATCH / 2, "messages released in round {round}");
        // The next round counts from an empty queue.
        stage.engine.purge(&stage.queue).await?;
    }
    Ok(())
}
