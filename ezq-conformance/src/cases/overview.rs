//! The overview: queues are listed, and counted up to a limit.

use std::time::Duration;

use ezq_core::engine::{Count, Due, QueueCounts, QueueOverview};
use ezq_core::message::QueueName;

use crate::error::{CaseError, CaseResult};
use crate::stage::{HOLD, Stage, bury, retry};

cases![
    queues_are_listed_without_the_places_of_dead_letters,
    counts_tell_every_state_apart,
    counts_stop_at_their_limit,
    the_oldest_is_the_one_that_has_been_due_longest,
    a_queue_that_does_not_exist_has_no_counts,
    one_client_samples_at_a_time,
];

const CAP: u64 = 1000;

fn overview<'a>(stage: &'a Stage<'_>) -> Result<&'a dyn QueueOverview, CaseError> {
    stage
        .second
        .overview()
        .ok_or_else(|| CaseError::Skipped("the engine has no overview".to_owned()))
}

async fn counts(stage: &Stage<'_>, cap: u64) -> Result<QueueCounts, CaseError> {
    let queues = std::slice::from_ref(&stage.queue);
    let mut counts = overview(stage)?.counts(queues, cap).await?;
    // One queue was asked for, so there is one answer.
    match (counts.pop().transpose()?.flatten(), counts.is_empty()) {
        (Some(counts), true) => Ok(counts),
        _ => Err(CaseError::Failed(
            "no counts of a queue that exists".to_owned(),
        )),
    }
}

async fn queues_are_listed_without_the_places_of_dead_letters(stage: &Stage<'_>) -> CaseResult {
    let all = overview(stage)?.queues().await?;
    // The queues of other cases may be in the same store.
    let ours = [&stage.queue, &stage.other];
    let found: Vec<&QueueName> = all.iter().filter(|queue| ours.contains(queue)).collect();
    check_eq!(
        found,
        [&stage.queue, &stage.other],
        "queues of the case, in order"
    );
    check!(all.is_sorted(), "the queues are not sorted");
    check!(
        !all.contains(&stage.missing),
        "a queue that was not created is listed"
    );
    let dead = stage.queue.dead_letters();
    check!(
        all.iter().all(|queue| queue.as_str() != dead),
        "`{dead}` is listed"
    );
    Ok(())
}

async fn counts_tell_every_state_apart(stage: &Stage<'_>) -> CaseResult {
    stage.publish_numbers(&[1, 2, 3, 4, 5, 6, 7]).await?;
    // Of the four that are leased, one is to be tried again, and one dies.
    let mut leased = stage.lease(4, HOLD).await?.into_iter();
    let mut next = || {
        let delivery = leased
            .next()
            .ok_or_else(|| CaseError::Failed("too few are leased".to_owned()));
        delivery.map(|delivery| delivery.receipt)
    };
    let settlements = vec![(next()?, retry(HOLD)), (next()?, bury())];
    stage.done(settlements).await?;

    let mut expected = (3, 2, 1, 0, 1);
    if stage.engine.capabilities().delayed {
        let later = stage.message(8).due(Due::After(HOLD));
        stage.publish(vec![later]).await?;
        expected.3 = 1;
    }
    let QueueCounts {
        ready,
        leased,
        retrying,
        scheduled,
        dead,
        ..
    } = counts(stage, CAP).await?;
    let seen = [ready, leased, retrying, scheduled, dead].map(|count| count.value);
    let expected: [u64; 5] = expected.into();
    check_eq!(seen, expected, "ready, leased, retrying, scheduled, dead");
    Ok(())
}

async fn counts_stop_at_their_limit(stage: &Stage<'_>) -> CaseResult {
    stage.publish_numbers(&[1, 2, 3, 4, 5, 6]).await?;
    // The limit is reached and not passed.
    check_eq!(
        counts(stage, 6).await?.ready,
        Count::up_to(6, 6),
        "six of at most six"
    );
    let capped = counts(stage, 5).await?.ready;
    check_eq!(capped, Count::up_to(7, 5), "six of at most five");
    check!(capped.is_capped, "the count does not say that it stopped");

    stage.lease(6, HOLD).await?;
    let capped = counts(stage, 5).await?;
    check!(capped.ready.is_zero(), "leased messages count as ready");
    check_eq!(
        capped.leased,
        Count::up_to(7, 5),
        "six leased ones of at most five"
    );
    Ok(())
}

async fn the_oldest_is_the_one_that_has_been_due_longest(stage: &Stage<'_>) -> CaseResult {
    check_eq!(
        counts(stage, CAP).await?.oldest_ready,
        None,
        "the oldest of none"
    );
    if stage.engine.capabilities().delayed {
        let later = stage.message(1).due(Due::After(HOLD));
        stage.publish(vec![later]).await?;
        check_eq!(
            counts(stage, CAP).await?.oldest_ready,
            None,
            "the oldest of what is due later"
        );
    }

    stage.publish_numbers(&[2]).await?;
    let pause = Duration::from_millis(300);
    stage.pass(pause).await;
    stage.publish_numbers(&[3]).await?;
    let oldest = counts(stage, CAP).await?.oldest_ready;
    check!(
        oldest.is_some_and(|age| age >= pause),
        "the oldest is {oldest:?} old"
    );
    Ok(())
}

async fn a_queue_that_does_not_exist_has_no_counts(stage: &Stage<'_>) -> CaseResult {
    let queues = [stage.missing.clone(), stage.queue.clone()];
    let counts = overview(stage)?.counts(&queues, CAP).await?;
    let counts: Result<Vec<_>, _> = counts.into_iter().collect();
    let found: Vec<bool> = counts?.iter().map(Option::is_some).collect();
    check_eq!(found, [false, true], "which of two queues have counts");
    Ok(())
}

async fn one_client_samples_at_a_time(stage: &Stage<'_>) -> CaseResult {
    // Another case of a suite that runs beside this one may hold it for a moment.
    let mut elected = None;
    for _ in 0..100 {
        elected = overview(stage)?.elect_sampler().await?;
        if elected.is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let Some(mut elected) = elected else {
        return Err(CaseError::Failed("nobody is elected".to_owned()));
    };

    elected.confirm().await?;
    let other = stage.engine.overview();
    let other = other.ok_or_else(|| CaseError::Skipped("the engine has no overview".to_owned()))?;
    check!(other.elect_sampler().await?.is_none(), "two are elected");
    elected.confirm().await?;
    drop(elected);

    // A server may take a moment to notice.
    for _ in 0..100 {
        if other.elect_sampler().await?.is_some() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Err(CaseError::Failed("nobody takes over".to_owned()))
}
