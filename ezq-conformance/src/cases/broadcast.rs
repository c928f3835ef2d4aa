//! Each queue that is subscribed to an event's type gets one copy of it, and all get it in one step.
//!
//! Subscriptions belong to the whole store, so types carry the name of the case's own queue.

use std::time::Duration;

use ezq_core::ErrorKind;
use ezq_core::engine::{
    BroadcastMessage, Broadcasts, Dedupe, Due, Finished, PublishOutcome, SettleOutcome,
};
use ezq_core::error::error_chain;
use ezq_core::event::Pattern;
use ezq_core::message::QueueName;
use ezq_core::message::headers::{Headers, KEY};

use crate::error::{CaseError, CaseResult};
use crate::stage::{HOLD, Stage, number_in, numbers};

cases![
    each_subscribed_queue_gets_one_copy,
    patterns_mean_whole_segments,
    a_subscribed_queue_that_is_missing_harms_no_other,
    a_copy_is_delayed_as_a_published_message,
    a_copy_has_headers_and_key,
    of_one_dedupe_key_each_queue_stores_one_copy,
    a_refused_broadcast_stores_no_copy,
    a_transaction_broadcasts_when_it_commits,
];

pub(super) fn store<'a>(stage: &'a Stage<'_>) -> Result<&'a dyn Broadcasts, CaseError> {
    stage
        .engine
        .broadcasts()
        .ok_or_else(|| CaseError::Skipped("the engine does not broadcast".to_owned()))
}

pub(super) fn second<'a>(stage: &'a Stage<'_>) -> Result<&'a dyn Broadcasts, CaseError> {
    stage
        .second
        .broadcasts()
        .ok_or_else(|| CaseError::Failed("the second client does not broadcast".to_owned()))
}

/// An event type of the case's own.
pub(super) fn named(stage: &Stage<'_>, rest: &str) -> String {
    format!("{}.{rest}", stage.queue)
}

pub(super) fn event(stage: &Stage<'_>, rest: &str, n: i64) -> BroadcastMessage {
    BroadcastMessage::new(named(stage, rest), stage.message(n).body, Headers::new())
}

pub(super) async fn subscribe(
    stage: &Stage<'_>,
    app: &str,
    queue: &QueueName,
    patterns: &[&str],
) -> Result<u64, CaseError> {
    let patterns = patterns
        .iter()
        .map(|pattern| Pattern::new(&named(stage, pattern)));
    let patterns = patterns.collect::<Result<Vec<_>, _>>()?;
    Ok(store(stage)?.subscribe(app, queue, &patterns).await?)
}

/// Broadcasts an event. Returns the queues that stored a copy.
pub(super) async fn stored(
    stage: &Stage<'_>,
    message: BroadcastMessage,
) -> Result<Vec<QueueName>, CaseError> {
    let mut queues = Vec::new();
    for (queue, outcome) in store(stage)?.broadcast(message).await? {
        match outcome {
            PublishOutcome::Stored(_) => queues.push(queue),
            other => {
                return Err(CaseError::Failed(format!(
                    "the copy for `{queue}` is {other:?}"
                )));
            }
        }
    }

    Ok(queues)
}

async fn each_subscribed_queue_gets_one_copy(stage: &Stage<'_>) -> CaseResult {
    check_eq!(
        stored(stage, event(stage, "paid", 1)).await?.len(),
        0,
        "copies for nobody"
    );

    let queue = &stage.queue;
    let other = &stage.other;
    subscribe(stage, "shop", queue, &["paid", "*", "#"]).await?;
    subscribe(stage, "mail", queue, &["paid"]).await?;
    subscribe(stage, "mail", other, &["paid", "sent"]).await?;

    check_eq!(
        stored(stage, event(stage, "paid", 2)).await?,
        [queue.clone(), other.clone()],
        "queues"
    );
    check_eq!(
        stored(stage, event(stage, "sent", 3)).await?,
        [queue.clone(), other.clone()],
        "queues"
    );
    check_eq!(
        stored(stage, event(stage, "lost", 4)).await?,
        std::slice::from_ref(queue),
        "queues"
    );

    let mut read = numbers(&stage.lease(10, HOLD).await?);
    read.sort_unstable();
    check_eq!(read, [2, 3, 4], "copies in the first queue");

    let mut arrived = stage.arrived().await?;
    arrived.sort_unstable();
    check_eq!(arrived, [2, 3], "copies in the second queue");
    Ok(())
}

async fn patterns_mean_whole_segments(stage: &Stage<'_>) -> CaseResult {
    let patterns = [
        "a", "a.b", "*", "a.*", "*.b", "*.*", "#", "a.#", "#.b", "a.#.b", "#.a.#", "*.#", "#.*.b",
        "a+", "(a)", "[a]", "a|b", "^a$", "a\\b", "ä", "A", "a b", "",
    ];
    let types = [
        "a", "b", "ab", "a.b", "a.c", "a.b.b", "a.c.b", "c.b", "x.a.y", "aa", "a.", ".b", "a+",
        "(a)", "[a]", "a|b", "^a$", "a\\b", "ä", "A", "a b", "*", "",
    ];

    for pattern in patterns {
        subscribe(stage, "shop", &stage.queue, &[pattern]).await?;
        let whole = Pattern::new(&named(stage, pattern))?;

        for name in types {
            let queues = stored(stage, event(stage, name, 1)).await?;
            let expected = whole.matches(&named(stage, name));
            check_eq!(
                !queues.is_empty(),
                expected,
                "whether `{pattern}` means `{name}`"
            );
        }

        let removed = store(stage)?
            .unsubscribe("shop", &[(stage.queue.clone(), whole)])
            .await?;
        check_eq!(removed, 1, "subscriptions removed");
    }

    Ok(())
}

async fn a_subscribed_queue_that_is_missing_harms_no_other(stage: &Stage<'_>) -> CaseResult {
    for queue in [&stage.queue, &stage.missing, &stage.other] {
        subscribe(stage, "shop", queue, &["a"]).await?;
    }
    let copies = store(stage)?.broadcast(event(stage, "a", 1)).await?;

    for (queue, outcome) in &copies {
        let told = match outcome {
            PublishOutcome::Failed(error) => {
                *queue == stage.missing && error.kind() == ErrorKind::QueueMissing
            }
            PublishOutcome::Stored(_) => *queue != stage.missing,
            _ => false,
        };
        check!(told, "the copy for `{queue}` is {outcome:?}");
    }

    check_eq!(copies.len(), 3, "copies");
    check_eq!(stage.arrived().await?, [1], "copies in the second queue");
    Ok(())
}

async fn a_copy_is_delayed_as_a_published_message(stage: &Stage<'_>) -> CaseResult {
    stage.needs("delayed", |c| c.delayed)?;
    subscribe(stage, "shop", &stage.queue, &["#"]).await?;

    let pause = Duration::from_millis(500);
    let after = event(stage, "a", 1).due(Due::After(pause));
    let far = event(stage, "a", 2).due(Due::After(HOLD));
    stored(stage, after).await?;
    stored(stage, far).await?;
    check_eq!(stage.stats().await?.scheduled, 2, "scheduled copies");

    stage.nothing_readable().await?;
    stage.pass(pause).await;
    check_eq!(
        number_in(&stage.take(HOLD).await?.body),
        1,
        "the copy that fell due"
    );
    Ok(())
}

async fn a_copy_has_headers_and_key(stage: &Stage<'_>) -> CaseResult {
    subscribe(stage, "shop", &stage.queue, &["#"]).await?;
    let mut headers = Headers::new();
    headers.insert("priority", 7);

    if stage.engine.capabilities().keys {
        headers.insert(KEY, "order-7");
    }

    for n in [1, 2] {
        let mut message = event(stage, "a", n);
        message.headers = headers.clone();
        stored(stage, message).await?;
    }

    let first = stage.lease(1, HOLD).await?;
    check_eq!(first.len(), 1, "copies");
    check_eq!(first[0].headers, headers, "headers");

    if stage.engine.capabilities().keys {
        check_eq!(number_in(&first[0].body), 1, "the first of the key");
        check_eq!(
            stage.lease_second(10, HOLD).await?.len(),
            0,
            "copies while their key is held"
        );
    }
    Ok(())
}

async fn of_one_dedupe_key_each_queue_stores_one_copy(stage: &Stage<'_>) -> CaseResult {
    stage.needs("dedupe", |c| c.dedupe)?;
    subscribe(stage, "shop", &stage.queue, &["a"]).await?;
    let keyed = |n: i64| -> Result<_, CaseError> {
        let dedupe = Some(Dedupe::new("order-7", HOLD, format!("event-{n}"))?);
        Ok(event(stage, "a", n).dedupe(dedupe))
    };
    check_eq!(stored(stage, keyed(1)?).await?.len(), 1, "copies");

    // The second queue was not subscribed before, so it has no copy yet.
    subscribe(stage, "mail", &stage.other, &["a"]).await?;

    for (_, outcome) in store(stage)?.broadcast(keyed(2)?).await?.iter().take(1) {
        let PublishOutcome::Duplicate(original) = outcome else {
            return Err(CaseError::Failed(format!("the second copy is {outcome:?}")));
        };
        let first = original
            .as_ref()
            .is_none_or(|original| original.event_id == "event-1");
        check!(first, "the first copy is not {original:?}");
    }

    // Published messages share the keys of broadcasts.
    let message = keyed(3)?.copy(&stage.queue);
    let outcomes = stage.outcomes(vec![message]).await?;
    check!(
        matches!(outcomes[..], [PublishOutcome::Duplicate(_)]),
        "publishing gave {outcomes:?}"
    );
    check_eq!(
        numbers(&stage.lease(10, HOLD).await?),
        [1],
        "copies in the first queue"
    );
    check_eq!(stage.arrived().await?, [2], "copies in the second queue");
    Ok(())
}

async fn a_refused_broadcast_stores_no_copy(stage: &Stage<'_>) -> CaseResult {
    // A body just over a limit above this takes more memory and time than the rule is worth.
    const FEASIBLE: usize = 16 << 20;
    subscribe(stage, "shop", &stage.queue, &["a"]).await?;
    subscribe(stage, "shop", &stage.other, &["a"]).await?;

    let limit = stage
        .engine
        .capabilities()
        .max_body
        .filter(|limit| *limit <= FEASIBLE);

    let large = limit.map(|limit| format!("\"{}\"", "x".repeat(limit)));
    let bad = [
        Some(r#"{"cut":"#.to_owned()),
        Some(r#""\u0000""#.to_owned()),
        large,
    ];

    for body in bad.into_iter().flatten() {
        let mut message = event(stage, "a", 1);
        message.body = body;

        if let Ok(copies) = store(stage)?.broadcast(message).await {
            // A store that takes any text stores all copies.
            let whole = copies
                .iter()
                .all(|(_, o)| matches!(o, PublishOutcome::Stored(_)));
            check!(whole, "a broadcast is stored in part: {copies:?}");
            stage.engine.purge(&stage.queue).await?;
            stage.engine.purge(&stage.other).await?;
        }

        stage.is_empty().await?;
        check_eq!(
            stage.arrived().await?.len(),
            0,
            "copies of what was refused"
        );
    }

    stored(stage, event(stage, "a", 2)).await?;
    check_eq!(stage.arrived().await?, [2], "copies");
    Ok(())
}

async fn a_transaction_broadcasts_when_it_commits(stage: &Stage<'_>) -> CaseResult {
    stage.needs("transactions", |c| c.transactions)?;
    store(stage)?.ready().await?;
    subscribe(stage, "shop", &stage.other, &["a"]).await?;

    for (n, commits) in [(1, true), (2, false)] {
        let receipt = stage.fresh(HOLD).await?.receipt;
        let mut unit = stage.engine.begin(&stage.queue, None).await?;
        unit.broadcast(event(stage, "a", n))?;
        check_eq!(stage.arrived().await?.len(), 0, "copies before the commit");

        if commits {
            let last = Finished::new(receipt);
            let outcome = unit.finish(vec![last], Vec::new()).await?;
            check!(
                matches!(outcome, SettleOutcome::Done),
                "finishing answered {outcome:?}"
            );
            check_eq!(stage.arrived().await?, [n], "copies");
        } else {
            unit.abandon().await;
            check_eq!(
                stage.arrived().await?.len(),
                0,
                "copies of what was abandoned"
            );
        }
    }

    let mut unit = stage.engine.begin(&stage.queue, None).await?;
    let mut bad = event(stage, "a", 3);
    bad.body = r#""\u0000""#.to_owned();

    if let Err(error) = unit.broadcast(bad) {
        let why = error_chain(&error);
        check_eq!(error.kind(), ErrorKind::InvalidEvent, "the refusal: {why}");
    }
    unit.abandon().await;
    Ok(())
}
