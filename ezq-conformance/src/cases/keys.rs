//! Ordering keys: one message of a key after another, and no key holds up another.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ezq_core::engine::{LeaseRequest, Position};
use ezq_core::headers::KEY;
use ezq_core::{
    Blocker, Delivery, Due, Engine, HandlerMark, HandlerState, Outgoing, Progress, Receipt, Result,
    Settle,
};
use tokio::task::JoinSet;

use crate::error::{CaseError, CaseResult};
use crate::stage::{HOLD, SHORT, Stage, ack, bury, numbers, only, retry};

cases![
    messages_of_a_key_come_out_one_after_another_by_id,
    a_key_that_is_leased_is_given_to_nobody_else,
    a_delayed_message_holds_up_its_key_and_no_other,
    a_retried_message_holds_up_its_key_and_no_other,
    a_dead_letter_lets_go_of_its_key,
    a_release_and_an_expired_lease_begin_a_key_again_at_its_first,
    what_one_call_hands_out_of_a_key_follows_each_other,
    a_key_waits_for_every_message_of_it_that_is_leased,
    what_a_key_keeps_before_a_place_is_told,
    blocked_keys_are_listed,
    a_crash_does_not_make_a_later_retry_look_like_a_lease,
    concurrent_workers_never_hold_one_key_at_once,
    after_a_place_the_order_is_that_of_the_places,
];

fn keyed(stage: &Stage<'_>, key: &str, n: i64) -> Outgoing {
    let mut message = stage.message(n);
    message.headers.insert(KEY, key);
    message
}

async fn open(stage: &Stage<'_>, messages: &[(&str, i64)]) -> CaseResult {
    stage.needs("keys", |c| c.keys)?;
    let batch = messages.iter().map(|(key, n)| keyed(stage, key, *n));
    stage.publish(batch.collect()).await?;
    Ok(())
}

async fn take_all(stage: &Stage<'_>) -> Result<Vec<Delivery>, CaseError> {
    let mut all = stage.lease(10, HOLD).await?;
    // Rows may come in several calls.
    loop {
        let more = stage.lease(10, HOLD).await?;
        if more.is_empty() {
            all.sort_by_key(Delivery::position);
            return Ok(all);
        }
        all.extend(more);
    }
}

fn settled(deliveries: Vec<Delivery>, settle: &Settle) -> Vec<(Receipt, Settle)> {
    deliveries
        .into_iter()
        .map(|d| (d.receipt, settle.clone()))
        .collect()
}

async fn messages_of_a_key_come_out_one_after_another_by_id(stage: &Stage<'_>) -> CaseResult {
    open(stage, &[("a", 1), ("a", 2), ("b", 3), ("a", 4)]).await?;
    let mut seen = Vec::new();
    for _ in 0..4 {
        let one = only(stage.lease(1, HOLD).await?)?;
        let other = take_all(stage).await?;
        let same = other.iter().filter(|other| other.key() == one.key());
        check_eq!(same.count(), 0, "messages of a key that is leased");
        seen.extend(numbers(std::slice::from_ref(&one)));
        let back = settled(other, &Settle::Release);
        stage.done(back).await?;
        stage.done(vec![(one.receipt, ack())]).await?;
    }
    seen.retain(|n| *n != 3);
    check_eq!(seen, [1, 2, 4], "messages of one key");
    Ok(())
}

async fn a_key_that_is_leased_is_given_to_nobody_else(stage: &Stage<'_>) -> CaseResult {
    open(stage, &[("a", 1), ("a", 2)]).await?;
    let first = only(stage.lease(1, HOLD).await?)?;
    check_eq!(
        numbers(std::slice::from_ref(&first)),
        [1],
        "the first of the key"
    );
    check!(
        stage.lease_second(10, HOLD).await?.is_empty(),
        "a second client got the key, too"
    );
    stage
        .publish(vec![keyed(stage, "b", 3), stage.message(4)])
        .await?;
    let mut others = stage.lease_second(1, HOLD).await?;
    others.extend(stage.lease_second(10, HOLD).await?);
    let mut others = numbers(&others);
    others.sort_unstable();
    check_eq!(others, [3, 4], "another key, and no key");
    stage.done(vec![(first.receipt, ack())]).await?;
    check_eq!(
        numbers(&stage.lease_second(10, HOLD).await?),
        [2],
        "the next of the key"
    );
    Ok(())
}

async fn a_delayed_message_holds_up_its_key_and_no_other(stage: &Stage<'_>) -> CaseResult {
    stage.needs("keys", |c| c.keys)?;
    stage.needs("delayed", |c| c.delayed)?;
    let late = Outgoing {
        due: Due::After(SHORT),
        ..keyed(stage, "a", 1)
    };
    stage
        .publish(vec![late, keyed(stage, "a", 2), keyed(stage, "b", 3)])
        .await?;
    let other = only(stage.lease(10, HOLD).await?)?;
    check_eq!(numbers(std::slice::from_ref(&other)), [3], "the other key");
    stage.pass(SHORT).await;
    let first = only(stage.lease(1, HOLD).await?)?;
    check_eq!(
        numbers(std::slice::from_ref(&first)),
        [1],
        "the delayed one, once it is due"
    );
    stage.done(vec![(first.receipt, ack())]).await?;
    check_eq!(
        numbers(&stage.lease(10, HOLD).await?),
        [2],
        "what stood behind it"
    );
    Ok(())
}

async fn a_retried_message_holds_up_its_key_and_no_other(stage: &Stage<'_>) -> CaseResult {
    open(stage, &[("a", 1), ("a", 2), ("b", 3)]).await?;
    let (mine, others): (Vec<_>, Vec<_>) = take_all(stage)
        .await?
        .into_iter()
        .partition(|d| numbers(std::slice::from_ref(d)) == [1]);
    stage.done(settled(others, &Settle::Release)).await?;
    stage.done(settled(mine, &retry(SHORT))).await?;
    let other = only(stage.lease(10, HOLD).await?)?;
    check_eq!(numbers(std::slice::from_ref(&other)), [3], "the other key");
    stage.pass(SHORT).await;
    let first = only(stage.lease(1, HOLD).await?)?;
    check_eq!(
        numbers(std::slice::from_ref(&first)),
        [1],
        "the retried one, after its pause"
    );
    Ok(())
}

async fn a_dead_letter_lets_go_of_its_key(stage: &Stage<'_>) -> CaseResult {
    open(stage, &[("a", 1), ("a", 2), ("b", 3)]).await?;
    let first = only(stage.lease(1, HOLD).await?)?;
    stage.done(vec![(first.receipt, bury())]).await?;
    let mut rest = numbers(&stage.lease(10, HOLD).await?);
    rest.sort_unstable();
    check_eq!(rest, [2, 3], "the next of the key, and the other key");
    Ok(())
}

async fn a_release_and_an_expired_lease_begin_a_key_again_at_its_first(
    stage: &Stage<'_>,
) -> CaseResult {
    open(stage, &[("a", 1), ("a", 2), ("a", 3)]).await?;
    let first = only(stage.lease(1, HOLD).await?)?;
    stage.done(vec![(first.receipt, Settle::Release)]).await?;
    let first = only(stage.lease(1, SHORT).await?)?;
    check_eq!(
        numbers(std::slice::from_ref(&first)),
        [1],
        "after the release"
    );
    stage.pass(SHORT).await;
    let first = only(stage.lease(1, HOLD).await?)?;
    check_eq!(
        numbers(std::slice::from_ref(&first)),
        [1],
        "after the lease"
    );
    check!(
        stage.lease_second(10, HOLD).await?.is_empty(),
        "a second client got the key, too"
    );
    Ok(())
}

async fn what_one_call_hands_out_of_a_key_follows_each_other(stage: &Stage<'_>) -> CaseResult {
    let all: Vec<_> = (1..=40).map(|n| ("a", n)).collect();
    open(stage, &all).await?;
    let mut next = 1;
    while next <= 40 {
        let leased = stage.lease(32, HOLD).await?;
        let seen = numbers(&leased);
        let count = i64::try_from(seen.len()).unwrap_or(i64::MAX);
        check!(count > 0, "nothing was handed out after {next}");
        let wanted: Vec<i64> = (next..next + count).collect();
        check_eq!(seen, wanted, "what was handed out of the key");
        check!(
            stage.lease_second(10, HOLD).await?.is_empty(),
            "a second client got the key, too"
        );
        stage.done(settled(leased, &ack())).await?;
        next += count;
    }
    stage.is_empty().await
}

async fn a_key_waits_for_every_message_of_it_that_is_leased(stage: &Stage<'_>) -> CaseResult {
    let all: Vec<_> = (1..=16).map(|n| ("a", n)).collect();
    open(stage, &all).await?;
    let mut run = stage.lease(16, HOLD).await?;
    check!(!run.is_empty(), "nothing was handed out");
    let first = run.remove(0);
    stage.done(vec![(first.receipt, Settle::Release)]).await?;
    let again = stage.lease_second(16, HOLD).await?;
    // An engine that hands out one message at a time has nothing left to wait for.
    check_eq!(
        again.is_empty(),
        !run.is_empty(),
        "the key was given away, while the rest is held"
    );
    if run.is_empty() {
        check_eq!(numbers(&again)[0], 1, "the first of the key");
        let more = stage.lease(16, HOLD).await?;
        check!(more.is_empty(), "the first client got the key, too");
        return Ok(());
    }
    run.reverse();
    stage.done(settled(run, &Settle::Release)).await?;
    let again = stage.lease_second(16, HOLD).await?;
    check_eq!(
        numbers(&again).first().copied(),
        Some(1),
        "the first of the key"
    );
    Ok(())
}

async fn what_a_key_keeps_before_a_place_is_told(stage: &Stage<'_>) -> CaseResult {
    open(stage, &[("a", 1), ("a", 2)]).await?;
    let first = only(stage.lease(1, HOLD).await?)?;
    check_eq!(
        numbers(std::slice::from_ref(&first)),
        [1],
        "the first of the key"
    );
    stage.publish_numbers(&[3]).await?;
    let place = stage.take(HOLD).await?.position();
    let before = || LeaseRequest {
        before: Some(place.clone()),
        ..stage.ask(10, HOLD)
    };

    let kept = stage.request(before()).await?;
    check_eq!(
        numbers(&kept.deliveries),
        [0_i64; 0],
        "what stands behind a leased message"
    );
    check!(
        kept.is_held_up,
        "a message that its key holds up is not told"
    );
    let everywhere = stage.request(stage.ask(10, HOLD)).await?;
    check!(
        !everywhere.is_held_up,
        "told without a place to stand before"
    );

    stage.done(vec![(first.receipt, ack())]).await?;
    let second = stage.request(before()).await?;
    check!(!second.is_held_up, "told although something was handed out");
    let second = only(second.deliveries)?;
    let leased = stage.request(before()).await?;
    check!(
        !leased.is_held_up,
        "told of a message that is leased itself"
    );
    stage.done(vec![(second.receipt, ack())]).await?;
    let nothing = stage.request(before()).await?;
    check!(!nothing.is_held_up, "told although nothing stands there");
    Ok(())
}

async fn blocked_keys_are_listed(stage: &Stage<'_>) -> CaseResult {
    open(
        stage,
        &[
            ("leased", 1),
            ("leased", 2),
            ("retried", 3),
            ("retried", 4),
            ("alone", 5),
        ],
    )
    .await?;
    let taken = take_all(stage).await?;
    let head = |d: &Delivery| matches!(numbers(std::slice::from_ref(d))[..], [1 | 3 | 5]);
    let (mut heads, rest): (Vec<_>, Vec<_>) = taken.into_iter().partition(head);
    stage.done(settled(rest, &Settle::Release)).await?;
    check_eq!(numbers(&heads), [1, 3, 5], "the first of each key");
    let retried = heads.remove(1);
    stage
        .done(vec![(retried.receipt.clone(), retry(HOLD))])
        .await?;
    let late = Outgoing {
        due: Due::After(HOLD),
        ..keyed(stage, "delayed", 6)
    };
    stage
        .publish(vec![
            late,
            keyed(stage, "delayed", 7),
            keyed(stage, "free", 8),
        ])
        .await?;
    stage
        .publish(vec![keyed(stage, "delayed", 9), keyed(stage, "free", 10)])
        .await?;
    let blocked = stage.engine.blocked_keys(&stage.queue, 10).await?;
    let seen: BTreeMap<_, _> = blocked
        .iter()
        .map(|b| (b.key.as_str(), (b.blocker, b.waiting)))
        .collect();
    let wanted = [
        ("delayed", (Blocker::Delayed, 2)),
        ("leased", (Blocker::Leased, 1)),
        ("retried", (Blocker::Retry, 1)),
    ];
    check_eq!(seen, BTreeMap::from(wanted), "the keys that are blocked");
    let it = blocked.iter().find(|b| b.key == "retried");
    check_eq!(
        it.map(|b| &b.head),
        Some(retried.receipt.message_id()),
        "the first of its key"
    );
    check_eq!(
        stage.engine.blocked_keys(&stage.queue, 2).await?.len(),
        2,
        "of three, two"
    );
    Ok(())
}

/// What keeps each of the keys that are blocked.
async fn blockers(stage: &Stage<'_>) -> Result<Vec<Blocker>, CaseError> {
    let blocked = stage.engine.blocked_keys(&stage.queue, 10).await?;
    Ok(blocked.iter().map(|key| key.blocker).collect())
}

async fn a_crash_does_not_make_a_later_retry_look_like_a_lease(stage: &Stage<'_>) -> CaseResult {
    open(stage, &[("a", 1), ("a", 2)]).await?;
    let crashed = stage.lease(1, SHORT).await?;
    check_eq!(numbers(&crashed), [1], "the first of the key");
    stage.pass(SHORT).await;
    let again = only(stage.lease(1, HOLD).await?)?;
    check_eq!(
        blockers(stage).await?,
        [Blocker::Leased],
        "what keeps the key while a worker has it"
    );
    // As a consumer settles it: the mark tells when its handler is to run again.
    let mark = HandlerMark {
        state: HandlerState::Retry,
        reason: None,
        attempts: 1,
        due: Some(again.leased_at + HOLD),
        errors: Vec::new(),
    };
    let progress = Progress(BTreeMap::from([("shop::mail".into(), mark)]));
    let settle = Settle::Retry {
        after: HOLD,
        progress,
        outgoing: Vec::new(),
    };
    stage.done(vec![(again.receipt, settle)]).await?;
    check_eq!(
        blockers(stage).await?,
        [Blocker::Retry],
        "what keeps the key then"
    );
    Ok(())
}

async fn concurrent_workers_never_hold_one_key_at_once(stage: &Stage<'_>) -> CaseResult {
    const KEYS: i64 = 6;
    const EACH: i64 = 40;
    let names: Vec<String> = (0..KEYS).map(|key| format!("k{key}")).collect();
    let all: Vec<_> = (0..KEYS * EACH)
        .map(|n| (names[at(n % KEYS)].as_str(), n))
        .collect();
    open(stage, &all).await?;
    let log = Arc::new(Mutex::new(Log::default()));
    let mut workers = JoinSet::new();
    for worker in 0..6 {
        let clients = [&stage.engine, &stage.second];
        let engine = Arc::clone(clients[worker % 2]);
        let max = [1, 5, 40][worker % 3];
        workers.spawn(work(engine, stage.ask(max, HOLD), Arc::clone(&log), worker));
    }
    while let Some(ended) = workers.join_next().await {
        ended.map_err(|error| CaseError::Failed(format!("a task: {error}")))??;
    }
    let log = std::mem::take(&mut *log.lock().unwrap_or_else(PoisonError::into_inner));
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

fn at(n: i64) -> usize {
    usize::try_from(n).unwrap_or_default()
}

#[derive(Default)]
struct Log {
    held: HashSet<String>,
    shared: Vec<String>,
    done: BTreeMap<String, Vec<i64>>,
}

/// Takes what it gets, gives some of it back, and acknowledges the rest, until nothing is left.
async fn work(
    engine: Arc<dyn Engine>,
    request: LeaseRequest,
    log: Arc<Mutex<Log>>,
    worker: usize,
) -> Result<()> {
    let log = || log.lock().unwrap_or_else(PoisonError::into_inner);
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
            let mut log = log();
            if !log.held.insert(key.clone()) {
                log.shared.push(key.clone());
            }
        }
        tokio::task::yield_now().await;
        for (key, mut run) in runs {
            let back = run.split_off(run.len().div_ceil(1 + (round + worker) % 3));
            {
                let mut log = log();
                log.done
                    .entry(key.clone())
                    .or_default()
                    .extend(numbers(&run));
                log.held.remove(&key);
            }
            let mut settles = settled(back, &Settle::Release);
            settles.extend(settled(run, &ack()));
            engine.settle(&request.queue, settles).await?;
        }
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
    Ok(())
}

/// With keys and without, in one order; of a key that was passed nothing comes.
async fn after_a_place_the_order_is_that_of_the_places(stage: &Stage<'_>) -> CaseResult {
    stage.needs("keys", |c| c.keys)?;
    stage.needs("ordered", |c| c.ordered)?;
    let messages = [
        ("a", 1),
        ("", 2),
        ("b", 3),
        ("a", 4),
        ("", 5),
        ("c", 6),
        ("", 7),
    ];
    let message = |(key, n): (&str, i64)| match key {
        "" => stage.message(n),
        key => keyed(stage, key, n),
    };
    stage.publish(messages.map(message).to_vec()).await?;
    let (mut seen, mut place) = (Vec::new(), Position::FIRST);
    loop {
        let leased = stage.lease_after(&place, None, 2).await?;
        let Some(last) = leased.last().filter(|_| seen.len() <= messages.len()) else {
            break;
        };
        place = last.position();
        seen.extend(numbers(&leased));
        stage.done(settled(leased, &Settle::Release)).await?;
    }
    check_eq!(seen, [1, 2, 3, 5, 6, 7], "what was passed");
    // What is leased, or was passed, holds up its key as ever.
    let first = stage.lease_after(&Position::FIRST, None, 1).await?;
    check_eq!(numbers(&first), [1], "the first");
    check_eq!(
        numbers(&stage.lease_after(&first[0].position(), None, 10).await?),
        [2, 3, 5, 6, 7],
        "behind it"
    );
    stage.done(settled(first, &ack())).await?;
    check_eq!(
        numbers(&stage.lease_after(&place, None, 10).await?),
        [0_i64; 0],
        "after the last"
    );
    check_eq!(
        numbers(&stage.lease_after(&Position::FIRST, None, 10).await?),
        [4],
        "the next of its key"
    );
    Ok(())
}
