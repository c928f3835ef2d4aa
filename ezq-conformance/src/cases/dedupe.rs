//! Of the messages with one dedupe key, a queue stores only the first until the window ends.

use std::time::Duration;

use ezq_core::Error;
use ezq_core::engine::{Dedupe, Due, Original, Outgoing, PublishOutcome, Settle};
use ezq_core::message::MessageId;

use crate::error::{CaseError, CaseResult};
use crate::stage::{HOLD, Stage, ack, numbers};

cases![
    a_second_message_with_a_key_is_a_duplicate_of_the_first,
    of_equal_keys_in_one_batch_the_first_is_stored,
    a_key_is_free_again_when_its_window_ends,
    a_key_outlives_its_message,
    a_key_counts_in_its_own_queue,
    a_refused_message_leaves_its_key_free,
    concurrent_publishers_of_one_key_store_one_message,
    a_settlement_leaves_out_a_duplicate,
];

fn needs(stage: &Stage<'_>) -> CaseResult {
    stage.needs("dedupe", |c| c.dedupe)
}

/// A message with a dedupe key. The id of its event is `event-` and its number.
fn keyed(message: Outgoing, key: &str, window: Duration) -> Result<Outgoing, Error> {
    let event_id = format!("event-{}", crate::stage::number_in(&message.body));
    let dedupe = Some(Dedupe::new(key, window, event_id)?);
    Ok(message.dedupe(dedupe))
}

fn held(stage: &Stage<'_>, n: i64, key: &str) -> Result<Outgoing, Error> {
    keyed(stage.message(n), key, HOLD)
}

async fn stored(stage: &Stage<'_>, message: Outgoing) -> Result<MessageId, CaseError> {
    Ok(stage.publish(vec![message]).await?.remove(0))
}

fn id_of(outcome: &PublishOutcome) -> Option<&MessageId> {
    match outcome {
        PublishOutcome::Stored(id) => Some(id),
        _ => None,
    }
}

/// Checks that a message is a duplicate, and which original the engine names, if it names one.
fn duplicate_of(outcome: &PublishOutcome, id: &MessageId, event_id: &str) -> CaseResult {
    let PublishOutcome::Duplicate(original) = outcome else {
        return Err(CaseError::Failed(format!(
            "a duplicate answered {outcome:?}"
        )));
    };

    if let Some(original) = original {
        let wanted = Original::new(id.clone(), event_id.to_owned());
        check_eq!(*original, wanted, "the message that was first");
    }
    Ok(())
}

async fn duplicates(stage: &Stage<'_>, n: i64, message: Outgoing, id: &MessageId) -> CaseResult {
    let outcomes = stage.outcomes(vec![message]).await?;
    duplicate_of(&outcomes[0], id, &format!("event-{n}"))
}

async fn a_second_message_with_a_key_is_a_duplicate_of_the_first(stage: &Stage<'_>) -> CaseResult {
    needs(stage)?;
    let id = stored(stage, held(stage, 1, "a")?).await?;
    duplicates(stage, 1, held(stage, 2, "a")?, &id).await?;
    duplicates(stage, 1, held(stage, 3, "a")?, &id).await?;
    // Keys are compared byte by byte.
    stored(stage, held(stage, 4, "A")?).await?;
    stored(stage, stage.message(5)).await?;

    let mut read = numbers(&stage.lease(10, HOLD).await?);
    read.sort_unstable();
    check_eq!(read, [1, 4, 5], "messages");
    Ok(())
}

async fn of_equal_keys_in_one_batch_the_first_is_stored(stage: &Stage<'_>) -> CaseResult {
    needs(stage)?;
    let before = stored(stage, held(stage, 1, "before")?).await?;
    // Three pairs: without a key, one key twice, and a key that an earlier publish has taken.
    let batch = vec![
        stage.message(2),
        held(stage, 3, "b")?,
        held(stage, 4, "a")?,
        held(stage, 5, "b")?,
        held(stage, 6, "before")?,
        stage.message(7),
    ];

    let outcomes = stage.outcomes(batch).await?;
    let ids: Vec<_> = outcomes.iter().map(id_of).collect();
    let [Some(first), Some(third), Some(_), None, None, Some(_)] = ids[..] else {
        return Err(CaseError::Failed(format!(
            "the batch answered {outcomes:?}"
        )));
    };
    duplicate_of(&outcomes[3], third, "event-3")?;
    duplicate_of(&outcomes[4], &before, "event-1")?;

    let leased = stage.lease(10, HOLD).await?;
    let mut read = numbers(&leased);
    read.sort_unstable();
    check_eq!(read, [1, 2, 3, 4, 7], "messages");

    for (n, id) in [(2, first), (3, third)] {
        let at = numbers(&leased).iter().position(|number| *number == n);
        let seen = at.map(|at| leased[at].receipt.message_id());
        check_eq!(seen, Some(id), "the id of message {n}");
    }

    if stage.engine.capabilities().ordered {
        check_eq!(numbers(&leased), [1, 2, 3, 4, 7], "messages in their order");
    }
    Ok(())
}

async fn a_key_is_free_again_when_its_window_ends(stage: &Stage<'_>) -> CaseResult {
    needs(stage)?;
    let window = Duration::from_secs(1);
    let long = stored(stage, held(stage, 1, "long")?).await?;
    stored(stage, keyed(stage.message(2), "short", window)?).await?;
    stage.pass(window).await;

    let again = stored(stage, held(stage, 3, "short")?).await?;
    // The second message takes the key anew, for a window of its own.
    duplicates(stage, 3, held(stage, 4, "short")?, &again).await?;
    duplicates(stage, 1, held(stage, 5, "long")?, &long).await
}

async fn a_key_outlives_its_message(stage: &Stage<'_>) -> CaseResult {
    needs(stage)?;
    let id = stored(stage, held(stage, 1, "a")?).await?;
    let receipt = stage.take(HOLD).await?.receipt;
    stage.done(vec![(receipt, ack())]).await?;
    stage.is_empty().await?;
    duplicates(stage, 1, held(stage, 2, "a")?, &id).await?;

    if stage.engine.capabilities().delayed {
        let later = held(stage, 3, "b")?.due(Due::After(HOLD));
        let id = stored(stage, later).await?;
        duplicates(stage, 3, held(stage, 4, "b")?, &id).await?;
        stage.nothing_readable().await?;
    }
    Ok(())
}

async fn a_key_counts_in_its_own_queue(stage: &Stage<'_>) -> CaseResult {
    needs(stage)?;
    stored(stage, held(stage, 1, "a")?).await?;
    stored(stage, keyed(stage.outgoing(2), "a", HOLD)?).await?;

    check_eq!(
        numbers(&stage.lease(10, HOLD).await?),
        [1],
        "messages of the first queue"
    );
    check_eq!(stage.arrived().await?, [2], "messages of the second queue");
    Ok(())
}

async fn a_refused_message_leaves_its_key_free(stage: &Stage<'_>) -> CaseResult {
    needs(stage)?;
    const FEASIBLE: usize = 16 << 20;

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

    for (bad, key) in bad.into_iter().flatten().zip(["a", "b", "c"]) {
        let refused = keyed(stage.text(bad.as_str()), key, HOLD)?;
        // Behind the refused message, one with the same key and one with another key.
        let batch = vec![
            refused,
            held(stage, 1, key)?,
            held(stage, 2, &format!("{key}2"))?,
        ];

        let outcomes = stage.outcomes(batch).await?;
        if !matches!(outcomes[0], PublishOutcome::Failed(_)) {
            // This store takes any text, and has nothing to refuse.
            continue;
        }

        let PublishOutcome::Stored(id) = &outcomes[1] else {
            let what = format!("a key of a refused message answered {:?}", outcomes[1]);
            return Err(CaseError::Failed(what));
        };
        let good = matches!(outcomes[2], PublishOutcome::Stored(_));
        check!(good, "its neighbour answered {:?}", outcomes[2]);
        duplicates(stage, 1, held(stage, 3, key)?, id).await?;
    }

    Ok(())
}

async fn concurrent_publishers_of_one_key_store_one_message(stage: &Stage<'_>) -> CaseResult {
    needs(stage)?;

    // Each client publishes the keys in both orders. An engine that locked them in the order of the batch
    // would deadlock.
    let batch = |round: i64, turned: bool| {
        let keys = (0..10).map(|n| held(stage, n, &format!("{round}-{n}")));
        let mut batch = keys.collect::<Result<Vec<_>, _>>()?;
        if turned {
            batch.reverse();
        }
        Ok::<_, Error>(batch)
    };

    for round in 0..10 {
        let one = &stage.engine;
        let other = &stage.second;
        let answers = tokio::join!(
            one.publish(batch(round, false)?),
            other.publish(batch(round, true)?),
            one.publish(batch(round, true)?),
            other.publish(batch(round, false)?),
        );

        let outcomes = [answers.0?, answers.1?, answers.2?, answers.3?]
            .into_iter()
            .flatten();
        let mut count = 0;

        for outcome in outcomes {
            match outcome {
                PublishOutcome::Stored(_) => count += 1,
                PublishOutcome::Duplicate(_) => {}
                PublishOutcome::Failed(error) => return Err(error.into()),
                other => check!(false, "publishing answered {other:?}"),
            }
        }

        check_eq!(count, 10, "messages stored for ten keys");
    }

    check_eq!(stage.stats().await?.ready, 100, "messages in the queue");
    Ok(())
}

async fn a_settlement_leaves_out_a_duplicate(stage: &Stage<'_>) -> CaseResult {
    needs(stage)?;
    stored(stage, keyed(stage.outgoing(1), "a", HOLD)?).await?;
    let receipt = stage.fresh(HOLD).await?.receipt;

    let outgoing = vec![
        keyed(stage.outgoing(2), "a", HOLD)?,
        keyed(stage.outgoing(3), "b", HOLD)?,
        stage.outgoing(4),
    ];
    stage
        .done(vec![(receipt, Settle::Ack { outgoing })])
        .await?;
    stage.is_empty().await?;

    let mut arrived = stage.arrived().await?;
    arrived.sort_unstable();
    check_eq!(arrived, [1, 3, 4], "messages of the second queue");
    Ok(())
}
