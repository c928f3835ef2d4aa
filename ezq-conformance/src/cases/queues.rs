//! Operations on whole queues: creating, counting and purging, and what a missing queue answers.

use ezq_core::ErrorKind;
use ezq_core::engine::{Due, Outgoing, PublishOutcome, Settle, SettleOutcome};

use crate::error::{CaseError, CaseResult};
use crate::stage::{HOLD, Stage, bury, numbers, retry};

cases![
    ensuring_a_queue_again_keeps_its_messages,
    a_queue_keeps_to_itself,
    statistics_count_every_state,
    the_lag_is_how_long_the_oldest_has_been_due,
    leasing_from_a_missing_queue_says_so,
    publishing_to_a_missing_queue_says_so,
    publishing_to_a_missing_queue_harms_no_other,
    transactions_are_refused_where_there_are_none,
    a_store_that_answers_is_healthy,
];

async fn ensuring_a_queue_again_keeps_its_messages(stage: &Stage<'_>) -> CaseResult {
    stage.publish_numbers(&[1]).await?;
    // The second client has not seen the queue yet, and must not empty it either.
    for engine in [&stage.engine, &stage.second] {
        engine.ensure_queue(&stage.queue).await?;
    }
    check_eq!(numbers(&stage.lease(10, HOLD).await?), [1], "messages");
    Ok(())
}

async fn a_queue_keeps_to_itself(stage: &Stage<'_>) -> CaseResult {
    stage
        .publish(vec![stage.message(1), stage.outgoing(2)])
        .await?;

    let delivery = stage.take(HOLD).await?;
    stage.engine.purge(&stage.queue).await?;
    check_eq!(
        stage.arrived().await?,
        [2],
        "messages of another queue after a purge"
    );

    let settled = vec![(delivery.receipt, Settle::Release)];
    // Ids count in each queue apart, so that a receipt names a row of the wrong queue here.
    let outcomes = stage.engine.settle(&stage.other, settled).await?;
    let lost = matches!(outcomes.as_slice(), [SettleOutcome::LeaseLost]);
    check!(lost, "a receipt in another queue answered {outcomes:?}");
    Ok(())
}

async fn statistics_count_every_state(stage: &Stage<'_>) -> CaseResult {
    stage.publish_numbers(&[1, 2, 3, 4, 5]).await?;
    let leased = stage.lease(3, HOLD).await?;
    let mut receipts = leased.into_iter().map(|d| d.receipt);
    let mut dead = 0;

    if let Some(receipt) = receipts.next() {
        stage.done(vec![(receipt, retry(HOLD))]).await?;
    }

    let mut in_progress = 3;
    if let (true, Some(receipt)) = (stage.engine.dead_letters().is_some(), receipts.next()) {
        stage.done(vec![(receipt, bury())]).await?;
        // A dead letter is no longer a message of the queue.
        (dead, in_progress) = (1, 2);
    }

    let mut scheduled = 0;
    if stage.engine.capabilities().delayed {
        stage
            .publish(vec![stage.message(6).due(Due::After(HOLD))])
            .await?;
        scheduled = 1;
    }

    let stats = stage.stats().await?;
    let seen = (stats.ready, stats.in_progress, stats.scheduled, stats.dead);
    check_eq!(
        seen,
        (2, in_progress, scheduled, dead),
        "ready, in progress, scheduled, dead"
    );
    check!(
        stats.oldest_ready.is_some(),
        "the age of the oldest ready message is unknown"
    );

    // With all leased, nothing waits that could have an age.
    stage.lease(10, HOLD).await?;
    let stats = stage.stats().await?;
    check_eq!(stats.ready, 0, "ready");
    check_eq!(stats.oldest_ready, None, "the age where none is ready");
    Ok(())
}

async fn the_lag_is_how_long_the_oldest_has_been_due(stage: &Stage<'_>) -> CaseResult {
    check_eq!(
        stage.engine.lag(&stage.queue).await?,
        None,
        "the lag of an empty queue"
    );

    if stage.engine.capabilities().delayed {
        stage
            .publish(vec![stage.message(1).due(Due::After(HOLD))])
            .await?;
        check_eq!(
            stage.engine.lag(&stage.queue).await?,
            None,
            "the lag before anything is due"
        );
    }

    stage.publish_numbers(&[2]).await?;
    let lag = stage.engine.lag(&stage.queue).await?;
    check!(
        lag.is_some_and(|lag| lag < HOLD),
        "the lag of what was just published is {lag:?}"
    );

    stage.lease(10, HOLD).await?;
    check_eq!(
        stage.engine.lag(&stage.queue).await?,
        None,
        "the lag where all is leased"
    );

    match stage.engine.lag(&stage.missing).await {
        Ok(lag) => check!(false, "the lag of a missing queue is {lag:?}"),
        Err(error) => check_eq!(error.kind(), ErrorKind::QueueMissing, "the error"),
    }
    Ok(())
}

async fn leasing_from_a_missing_queue_says_so(stage: &Stage<'_>) -> CaseResult {
    let mut request = stage.ask(1, HOLD);
    request.queue = stage.missing.clone();
    match stage.engine.lease(request).await {
        Ok(leased) => check!(false, "a missing queue handed out {leased:?}"),
        Err(error) => check_eq!(error.kind(), ErrorKind::QueueMissing, "the error"),
    }
    Ok(())
}

fn to_missing(stage: &Stage<'_>) -> Outgoing {
    stage.message(1).queue(stage.missing.clone())
}

async fn publishing_to_a_missing_queue_says_so(stage: &Stage<'_>) -> CaseResult {
    let error = match stage.engine.publish(vec![to_missing(stage)]).await {
        Err(error) => error,
        Ok(mut outcomes) => match outcomes.pop() {
            Some(PublishOutcome::Failed(error)) => error,
            other => {
                let what = format!("a missing queue answered {other:?}");
                return Err(CaseError::Failed(what));
            }
        },
    };
    check_eq!(error.kind(), ErrorKind::QueueMissing, "the error");
    Ok(())
}

async fn publishing_to_a_missing_queue_harms_no_other(stage: &Stage<'_>) -> CaseResult {
    let batch = vec![
        stage.message(1),
        to_missing(stage),
        stage.outgoing(2),
        stage.message(3),
    ];
    let outcomes = stage.outcomes(batch).await?;
    use PublishOutcome::{Failed, Stored};

    let [Stored(_), Failed(error), Stored(_), Stored(_)] = outcomes.as_slice() else {
        let what = format!("a batch with one missing queue answered {outcomes:?}");
        return Err(CaseError::Failed(what));
    };
    check_eq!(error.kind(), ErrorKind::QueueMissing, "the error");

    let mut read = numbers(&stage.lease(10, HOLD).await?);
    read.sort_unstable();
    check_eq!(read, [1, 3], "messages of the first queue");
    check_eq!(stage.arrived().await?, [2], "messages of the second queue");
    Ok(())
}

async fn transactions_are_refused_where_there_are_none(stage: &Stage<'_>) -> CaseResult {
    stage.needs("no transactions", |c| !c.transactions)?;
    match stage.engine.begin(&stage.queue, None).await {
        Ok(_) => check!(false, "an engine without transactions began one"),
        Err(error) => check_eq!(error.kind(), ErrorKind::Unsupported, "the error"),
    }
    Ok(())
}

async fn a_store_that_answers_is_healthy(stage: &Stage<'_>) -> CaseResult {
    stage.engine.health_check().await?;
    stage.second.health_check().await?;
    Ok(())
}
