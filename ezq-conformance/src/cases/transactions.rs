//! A handler's transaction commits the handler's mark and its events together, and only while the lease
//! holds.

use ezq_core::engine::{Finished, Receipt, Settle, SettleOutcome};
use ezq_core::message::{HandlerMark, HandlerName, HandlerState, Progress};

use crate::error::CaseResult;
use crate::stage::{HOLD, SHORT, Stage, ack, numbers, only};

cases![
    the_last_handlers_transaction_removes_the_message,
    an_earlier_handlers_transaction_marks_it_done,
    a_transaction_that_lost_its_lease_leaves_nothing,
    an_abandoned_transaction_leaves_the_message_as_it_was,
    a_transaction_finishes_a_batch_or_nothing_of_it,
    a_claim_inside_a_transaction_commits_with_it,
    a_transaction_leaves_a_message_that_got_its_id,
];

fn handler() -> HandlerName {
    HandlerName::from("shop::tx")
}

fn mark() -> Progress {
    let mark = HandlerMark::new(HandlerState::Done).attempts(2);
    Progress::from_iter([(handler(), mark)])
}

fn last(receipt: &Receipt) -> Finished {
    Finished::new(receipt.clone())
}

fn marked(receipt: &Receipt) -> Finished {
    Finished::new(receipt.clone()).mark(mark())
}

async fn the_last_handlers_transaction_removes_the_message(stage: &Stage<'_>) -> CaseResult {
    stage.needs("transactions", |c| c.transactions)?;
    let receipt = stage.fresh(HOLD).await?.receipt;
    let unit = stage.engine.begin(&stage.queue, None).await?;
    let outcome = unit
        .finish(vec![last(&receipt)], vec![stage.outgoing(1)])
        .await?;
    check!(
        matches!(outcome, SettleOutcome::Done),
        "finishing answered {outcome:?}"
    );
    check_eq!(stage.arrived().await?, [1], "outgoing events");

    stage.is_empty().await?;
    stage.lost(&receipt, ack()).await
}

async fn an_earlier_handlers_transaction_marks_it_done(stage: &Stage<'_>) -> CaseResult {
    stage.needs("transactions", |c| c.transactions)?;
    let receipt = stage.fresh(HOLD).await?.receipt;
    let unit = stage.engine.begin(&stage.queue, None).await?;
    let outcome = unit
        .finish(vec![marked(&receipt)], vec![stage.outgoing(1)])
        .await?;
    check!(
        matches!(outcome, SettleOutcome::Done),
        "finishing answered {outcome:?}"
    );
    check_eq!(stage.arrived().await?, [1], "outgoing events");

    // The message is still leased, because other handlers of it may run.
    stage.nothing_readable().await?;
    stage.done(vec![(receipt, Settle::Release)]).await?;
    let delivery = stage.take(HOLD).await?;
    let marks = Progress::from_headers(&delivery.headers);
    check_eq!(marks, mark(), "the handler's mark");
    Ok(())
}

/// The handler ran too long, and another worker has its message. Whatever it did is rolled back.
async fn a_transaction_that_lost_its_lease_leaves_nothing(stage: &Stage<'_>) -> CaseResult {
    stage.needs("transactions", |c| c.transactions)?;

    // An engine removes the message for one of them and updates it for the other: two statements,
    // two fences.
    for is_last in [true, false] {
        let stale = stage.fresh(SHORT).await?.receipt;
        let unit = stage.engine.begin(&stage.queue, None).await?;
        stage.pass(SHORT).await;

        let current = only(stage.lease_second(10, HOLD).await?)?;
        let finished = if is_last {
            last(&stale)
        } else {
            marked(&stale)
        };

        let outcome = unit.finish(vec![finished], vec![stage.outgoing(1)]).await?;
        check!(
            matches!(outcome, SettleOutcome::LeaseLost),
            "finishing answered {outcome:?}"
        );
        check_eq!(
            stage.arrived().await?,
            [0_i64; 0],
            "outgoing events of a lost lease"
        );

        stage.done(vec![(current.receipt, Settle::Release)]).await?;
        let again = stage.take(HOLD).await?;
        check_eq!(
            Progress::from_headers(&again.headers),
            Progress::default(),
            "marks"
        );

        stage.done(vec![(again.receipt, ack())]).await?;
    }

    Ok(())
}

/// A fail-over to a replica that lags takes ids back. The fence must tell the two messages apart.
async fn a_transaction_leaves_a_message_that_got_its_id(stage: &Stage<'_>) -> CaseResult {
    stage.needs("transactions", |c| c.transactions)?;

    for is_last in [true, false] {
        let old = stage.fresh(HOLD).await?.receipt;
        stage.lose_newest(stage.queue.as_str()).await?;

        let new = stage.fresh(HOLD).await?.receipt;
        check_eq!(
            new.message_id().to_string(),
            old.message_id().to_string(),
            "the id that is issued again"
        );

        let unit = stage.engine.begin(&stage.queue, None).await?;
        let finished = if is_last { last(&old) } else { marked(&old) };
        let outcome = unit.finish(vec![finished], vec![stage.outgoing(1)]).await?;
        check!(
            matches!(outcome, SettleOutcome::LeaseLost),
            "finishing answered {outcome:?}"
        );
        check_eq!(
            stage.arrived().await?,
            [0_i64; 0],
            "outgoing events of a void receipt"
        );

        stage.done(vec![(new, Settle::Release)]).await?;
        let again = stage.take(HOLD).await?;
        check_eq!(
            Progress::from_headers(&again.headers),
            Progress::default(),
            "marks"
        );

        stage.done(vec![(again.receipt, ack())]).await?;
    }

    Ok(())
}

async fn an_abandoned_transaction_leaves_the_message_as_it_was(stage: &Stage<'_>) -> CaseResult {
    stage.needs("transactions", |c| c.transactions)?;
    let receipt = stage.fresh(HOLD).await?.receipt;
    let unit = stage.engine.begin(&stage.queue, None).await?;
    unit.abandon().await;
    // The lease was taken outside of the transaction, so it is not rolled back.
    stage.nothing_readable().await?;
    stage.done(vec![(receipt, ack())]).await?;
    stage.is_empty().await
}

/// A batch handler has one transaction for all of its events.
async fn a_transaction_finishes_a_batch_or_nothing_of_it(stage: &Stage<'_>) -> CaseResult {
    stage.needs("transactions", |c| c.transactions)?;
    stage.publish_numbers(&[1, 2, 3]).await?;

    let batch = stage.lease(10, HOLD).await?;
    let receipts: Vec<_> = batch.into_iter().map(|delivery| delivery.receipt).collect();
    let finished = |receipts: &[Receipt]| vec![last(&receipts[0]), marked(&receipts[1])];
    stage
        .done(vec![(receipts[2].clone(), Settle::Release)])
        .await?;

    let unit = stage.engine.begin(&stage.queue, None).await?;
    // One void receipt of three must undo the two good ones and the event.
    let mut with_lost = finished(&receipts);
    with_lost.push(last(&receipts[2]));

    let outcome = unit.finish(with_lost, vec![stage.outgoing(1)]).await?;
    check!(
        matches!(outcome, SettleOutcome::LeaseLost),
        "finishing answered {outcome:?}"
    );
    check_eq!(
        stage.arrived().await?,
        [0_i64; 0],
        "outgoing events of a lost lease"
    );

    let unit = stage.engine.begin(&stage.queue, None).await?;
    let outcome = unit
        .finish(finished(&receipts), vec![stage.outgoing(2)])
        .await?;
    check!(
        matches!(outcome, SettleOutcome::Done),
        "finishing answered {outcome:?}"
    );
    check_eq!(stage.arrived().await?, [2], "outgoing events");

    stage.lost(&receipts[0], ack()).await?;
    stage
        .done(vec![(receipts[1].clone(), Settle::Release)])
        .await?;

    let left = stage.lease(10, HOLD).await?;
    check_eq!(numbers(&left), [2, 3], "what is left of the batch");
    check_eq!(
        Progress::from_headers(&left[0].headers),
        mark(),
        "the handler's mark"
    );
    Ok(())
}

async fn a_claim_inside_a_transaction_commits_with_it(stage: &Stage<'_>) -> CaseResult {
    stage.needs("transactions", |c| c.transactions)?;
    stage.publish_numbers(&[1, 2, 3]).await?;

    for commits in [false, true] {
        let mut unit = stage.engine.begin(&stage.queue, None).await?;
        let claimed = unit.claim(2).await?;
        check_eq!(numbers(&claimed), [1, 2], "what the transaction claimed");
        check_eq!(
            claimed[0].deliveries,
            0,
            "deliveries, which the claim does not count"
        );

        // They pass over what is claimed, and do not wait for the transaction.
        let others = stage.second.lease(stage.ask(10, SHORT)).await?.deliveries;
        check_eq!(numbers(&others), [3], "what others get meanwhile");

        for other in others {
            stage.done(vec![(other.receipt, Settle::Release)]).await?;
        }

        if commits {
            let outcome = unit.finish(Vec::new(), vec![stage.outgoing(1)]).await?;
            check!(
                matches!(outcome, SettleOutcome::Done),
                "finishing answered {outcome:?}"
            );
        } else {
            unit.abandon().await;
        }
    }

    check_eq!(stage.arrived().await?, [1], "outgoing events");
    check_eq!(numbers(&stage.lease(10, HOLD).await?), [3], "what is left");
    Ok(())
}
