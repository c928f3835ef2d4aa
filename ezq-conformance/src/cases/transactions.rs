//! A handler's transaction commits its mark and its events together, and only under the fence.

use ezq_core::{HandlerMark, HandlerName, HandlerState, Progress, Settle, SettleOutcome};

use crate::case::CaseResult;
use crate::stage::{HOLD, SHORT, Stage, ack, only};

cases![
    the_last_handlers_transaction_removes_the_message,
    an_earlier_handlers_transaction_marks_it_done,
    a_transaction_that_lost_its_lease_leaves_nothing,
    an_abandoned_transaction_leaves_the_message_as_it_was,
];

fn handler() -> HandlerName {
    HandlerName::from("shop::tx")
}

fn mark() -> Progress {
    let mark = HandlerMark {
        state: HandlerState::Done,
        reason: None,
        attempts: 2,
        due: None,
        errors: Vec::new(),
    };
    Progress([(handler(), mark)].into())
}

async fn the_last_handlers_transaction_removes_the_message(stage: &Stage<'_>) -> CaseResult {
    stage.needs("transactions", |c| c.transactions)?;
    let receipt = stage.fresh(HOLD).await?.receipt;
    let unit = stage.engine.begin(&stage.queue, &receipt, None).await?;
    let outcome = unit.finish(mark(), true, vec![stage.outgoing(1)]).await?;
    check!(matches!(outcome, SettleOutcome::Done), "finishing answered {outcome:?}");
    check_eq!(stage.arrived().await?, [1], "outgoing events");
    stage.is_empty().await?;
    stage.lost(&receipt, ack()).await
}

async fn an_earlier_handlers_transaction_marks_it_done(stage: &Stage<'_>) -> CaseResult {
    stage.needs("transactions", |c| c.transactions)?;
    let receipt = stage.fresh(HOLD).await?.receipt;
    let unit = stage.engine.begin(&stage.queue, &receipt, None).await?;
    let outcome = unit.finish(mark(), false, vec![stage.outgoing(1)]).await?;
    check!(matches!(outcome, SettleOutcome::Done), "finishing answered {outcome:?}");
    check_eq!(stage.arrived().await?, [1], "outgoing events");
    stage.nothing_readable().await?;
    stage.done(vec![(receipt, Settle::Release)]).await?;
    let delivery = stage.take(HOLD).await?;
    let marks = Progress::from_headers(&delivery.headers);
    check_eq!(marks, mark(), "the handler's mark");
    Ok(())
}

async fn a_transaction_that_lost_its_lease_leaves_nothing(stage: &Stage<'_>) -> CaseResult {
    stage.needs("transactions", |c| c.transactions)?;
    for last in [true, false] {
        let stale = stage.fresh(SHORT).await?.receipt;
        let unit = stage.engine.begin(&stage.queue, &stale, None).await?;
        stage.pass(SHORT).await;
        let current = only(stage.lease_second(10, HOLD).await?)?;
        let outcome = unit.finish(mark(), last, vec![stage.outgoing(1)]).await?;
        check!(matches!(outcome, SettleOutcome::LeaseLost), "finishing answered {outcome:?}");
        check_eq!(stage.arrived().await?, [0_i64; 0], "outgoing events of a lost lease");
        stage.done(vec![(current.receipt, Settle::Release)]).await?;
        let again = stage.take(HOLD).await?;
        check_eq!(Progress::from_headers(&again.headers), Progress::default(), "marks");
        stage.done(vec![(again.receipt, ack())]).await?;
    }
    Ok(())
}

async fn an_abandoned_transaction_leaves_the_message_as_it_was(stage: &Stage<'_>) -> CaseResult {
    stage.needs("transactions", |c| c.transactions)?;
    let receipt = stage.fresh(HOLD).await?.receipt;
    let unit = stage.engine.begin(&stage.queue, &receipt, None).await?;
    unit.abandon().await;
    stage.nothing_readable().await?;
    stage.done(vec![(receipt, ack())]).await?;
    stage.is_empty().await
}
