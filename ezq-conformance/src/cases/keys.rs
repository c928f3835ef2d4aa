//! Ordering keys: the messages of one key come out one after another, and no key holds up another.
//!
//! See `after` for claims after a place, and `concurrency` for many workers.

use std::collections::BTreeMap;

use ezq_core::engine::{Blocker, Delivery, Due, Settle};
use ezq_core::message::{HandlerMark, HandlerState, Progress};

use crate::error::{CaseError, CaseResult};
use crate::stage::{HOLD, SHORT, Stage, ack, bury, each, number_in, numbers, only, retry};

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
];

/// Publishes messages with keys; skips the case if the engine has none.
async fn open(stage: &Stage<'_>, messages: &[(&str, i64)]) -> CaseResult {
    stage.needs("keys", |c| c.keys)?;
    let batch = messages
        .iter()
        .map(|(key, n)| stage.with_key(key, *n))
        .collect();
    stage.publish(batch).await?;
    Ok(())
}

/// Leases until nothing is left. One call may leave out what another claim looks at.
async fn take_all(stage: &Stage<'_>) -> Result<Vec<Delivery>, CaseError> {
    let mut all = stage.lease(10, HOLD).await?;
    loop {
        let more = stage.lease(10, HOLD).await?;
        if more.is_empty() {
            all.sort_by_key(Delivery::position);
            return Ok(all);
        }
        all.extend(more);
    }
}

async fn messages_of_a_key_come_out_one_after_another_by_id(stage: &Stage<'_>) -> CaseResult {
    open(stage, &[("a", 1), ("a", 2), ("b", 3), ("a", 4)]).await?;
    let mut seen = Vec::new();

    for _ in 0..4 {
        let one = only(stage.lease(1, HOLD).await?)?;
        let other = take_all(stage).await?;
        let same = other.iter().filter(|other| other.key() == one.key());
        check_eq!(same.count(), 0, "messages of a key that is leased");
        seen.push(number_in(&one.body));
        // The others go back first: what is checked is the order within the key that is held.
        let back = each(other, &Settle::Release);
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
    check_eq!(number_in(&first.body), 1, "the first of the key");
    check!(
        stage.lease_second(10, HOLD).await?.is_empty(),
        "a second client got the key, too"
    );

    stage
        .publish(vec![stage.with_key("b", 3), stage.message(4)])
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

    let late = stage.with_key("a", 1).due(Due::After(SHORT));
    stage
        .publish(vec![late, stage.with_key("a", 2), stage.with_key("b", 3)])
        .await?;
    let other = only(stage.lease(10, HOLD).await?)?;
    check_eq!(number_in(&other.body), 3, "the other key");

    stage.pass(SHORT).await;
    let first = only(stage.lease(1, HOLD).await?)?;
    check_eq!(number_in(&first.body), 1, "the delayed one, once it is due");

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
        .partition(|delivery| number_in(&delivery.body) == 1);
    stage.done(each(others, &Settle::Release)).await?;
    stage.done(each(mine, &retry(SHORT))).await?;

    let other = only(stage.lease(10, HOLD).await?)?;
    check_eq!(number_in(&other.body), 3, "the other key");
    stage.pass(SHORT).await;

    let first = only(stage.lease(1, HOLD).await?)?;
    check_eq!(
        number_in(&first.body),
        1,
        "the retried one, after its pause"
    );
    Ok(())
}

/// Otherwise one bad event would stop all later events of its key.
async fn a_dead_letter_lets_go_of_its_key(stage: &Stage<'_>) -> CaseResult {
    open(stage, &[("a", 1), ("a", 2), ("b", 3)]).await?;
    let first = only(stage.lease(1, HOLD).await?)?;
    stage.done(vec![(first.receipt, bury())]).await?;
    // Keys have no order among each other.
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
    check_eq!(number_in(&first.body), 1, "after the release");
    stage.pass(SHORT).await;

    let first = only(stage.lease(1, HOLD).await?)?;
    check_eq!(number_in(&first.body), 1, "after the lease");
    check!(
        stage.lease_second(10, HOLD).await?.is_empty(),
        "a second client got the key, too"
    );
    Ok(())
}

async fn what_one_call_hands_out_of_a_key_follows_each_other(stage: &Stage<'_>) -> CaseResult {
    let all: Vec<_> = (1..=40).map(|n| ("a", n)).collect();
    open(stage, &all).await?;
    // How many messages of a key one call hands out is the engine's choice.
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

        stage.done(each(leased, &ack())).await?;
        next += count;
    }

    stage.is_empty().await
}

/// A call may hand out several messages of a key. When the first one comes back, the others are still
/// being handled, so the key has to wait for them.
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

    // Back to front: the key must begin at its first, whichever of them came back last.
    run.reverse();
    stage.done(each(run, &Settle::Release)).await?;

    let again = stage.lease_second(16, HOLD).await?;
    check_eq!(
        numbers(&again).first().copied(),
        Some(1),
        "the first of the key"
    );
    Ok(())
}

/// A consumer handles everything before an `End`. It must learn of messages that their key holds back.
async fn what_a_key_keeps_before_a_place_is_told(stage: &Stage<'_>) -> CaseResult {
    open(stage, &[("a", 1), ("a", 2)]).await?;
    let first = only(stage.lease(1, HOLD).await?)?;
    check_eq!(number_in(&first.body), 1, "the first of the key");

    // A place behind the key's second message, taken from a message without a key.
    stage.publish_numbers(&[3]).await?;
    let place = stage.take(HOLD).await?.position();
    let before = || stage.ask(10, HOLD).before(place.clone());
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
    let (mut heads, rest): (Vec<_>, Vec<_>) = taken
        .into_iter()
        .partition(|delivery| matches!(number_in(&delivery.body), 1 | 3 | 5));
    stage.done(each(rest, &Settle::Release)).await?;
    check_eq!(numbers(&heads), [1, 3, 5], "the first of each key");

    // One head stays leased, one waits for a retry, and one stands alone in its key.
    let retried = heads.remove(1);
    stage
        .done(vec![(retried.receipt.clone(), retry(HOLD))])
        .await?;

    let late = stage.with_key("delayed", 6).due(Due::After(HOLD));
    stage
        .publish(vec![
            late,
            stage.with_key("delayed", 7),
            stage.with_key("free", 8),
        ])
        .await?;

    stage
        .publish(vec![
            stage.with_key("delayed", 9),
            stage.with_key("free", 10),
        ])
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

/// What blocks each blocked key.
async fn blockers(stage: &Stage<'_>) -> Result<Vec<Blocker>, CaseError> {
    let blocked = stage.engine.blocked_keys(&stage.queue, 10).await?;
    Ok(blocked.iter().map(|key| key.blocker).collect())
}

/// Operators see why a key is blocked. A lease passes by itself, a retry may take hours.
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

    // A consumer settles a retry with a mark that tells when the handler runs again.
    let mark = HandlerMark::new(HandlerState::Retry)
        .attempts(1)
        .due(again.leased_at + HOLD);
    let progress = Progress::from_iter([("shop::mail".into(), mark)]);
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
