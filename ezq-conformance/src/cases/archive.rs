//! Acknowledged messages are archived in the queues that keep an archive, whole and under the fence.

use std::time::Duration;

use ezq_core::ErrorKind;
use ezq_core::engine::{CopyState, Finished, Settle, SettleOutcome};
use ezq_core::event::{End, Event as _};
use ezq_core::message::{HandlerState, Retention};

use super::settling::{mark, progress};
use crate::error::CaseResult;
use crate::stage::{HOLD, SHORT, Stage, ack};

cases![
    an_acknowledged_message_is_archived_with_its_headers,
    an_acknowledged_message_is_gone_without_an_archive,
    a_trail_tells_of_a_message_that_is_gone,
    archived_messages_leave_with_their_events,
    a_stale_ack_archives_nothing,
    an_archived_message_is_not_handed_out_again,
    a_control_event_is_not_archived,
    an_archive_is_refused_where_there_is_none,
    a_transaction_archives_what_it_acknowledges,
    what_a_transaction_claimed_is_archived_with_it,
];

fn archive(stage: &Stage<'_>) -> CaseResult {
    stage.needs("archive", |capabilities| capabilities.archive)?;
    Ok(stage
        .engine
        .set_retention(&stage.queue, Retention::ARCHIVE)?)
}

async fn an_acknowledged_message_is_archived_with_its_headers(stage: &Stage<'_>) -> CaseResult {
    archive(stage)?;
    let mut event = stage.event("e-1");
    event.headers.insert("correlation-id", "c-1");
    stage.publish(vec![event]).await?;

    // A retry writes headers. The archived row must be the newest one, not the published one.
    let first = stage.take(HOLD).await?;
    let marks = progress([("shop::a", mark(HandlerState::Retry, 1, "no"))]);
    let retry = Settle::Retry {
        after: Duration::ZERO,
        progress: marks.clone(),
        outgoing: vec![],
    };
    stage.done(vec![(first.receipt.clone(), retry)]).await?;

    let second = stage.take(HOLD).await?;
    stage.done(vec![(second.receipt, ack())]).await?;
    stage.is_empty().await?;

    let copy = stage.copy("e-1").await?;
    let is_archived = matches!(copy.state, CopyState::Archived { at } if at >= copy.published_at);
    check!(is_archived, "it should be archived: {copy:?}");
    check_eq!(&copy.message_id, first.receipt.message_id(), "its id");
    check_eq!(copy.published_at, first.enqueued_at, "when it was stored");
    check_eq!(copy.deliveries, 2, "deliveries");
    check_eq!(copy.handlers, marks, "the handlers' marks");
    Ok(())
}

async fn an_acknowledged_message_is_gone_without_an_archive(stage: &Stage<'_>) -> CaseResult {
    archive(stage)?;
    let kept = stage.fresh_event("e-1").await?;
    stage
        .engine
        // Set while the message is leased: what counts is the setting when it is settled.
        .set_retention(&stage.queue, Retention::Delete)?;
    stage.done(vec![(kept.receipt, ack())]).await?;
    stage.is_empty().await?;

    let copies = stage.history("e-1").await?;
    check!(copies.is_empty(), "it should be gone: {copies:?}");
    Ok(())
}

async fn a_trail_tells_of_a_message_that_is_gone(stage: &Stage<'_>) -> CaseResult {
    stage.needs("archive", |capabilities| capabilities.archive)?;
    stage.engine.set_retention(&stage.queue, Retention::TRAIL)?;

    let first = stage.fresh_event("e-1").await?;
    stage.done(vec![(first.receipt.clone(), ack())]).await?;
    stage.is_empty().await?;

    let copy = stage.copy("e-1").await?;
    let is_told = matches!(copy.state, CopyState::Handled { at } if at >= copy.published_at);
    check!(is_told, "it should be handled: {copy:?}");
    check_eq!(&copy.message_id, first.receipt.message_id(), "its id");
    check_eq!(copy.published_at, first.enqueued_at, "when it was stored");
    check_eq!(copy.deliveries, 1, "deliveries");

    // A second line of the trail would show as a second copy.
    stage.lost(&first.receipt, ack()).await?;
    stage.copy("e-1").await?;
    Ok(())
}

async fn archived_messages_leave_with_their_events(stage: &Stage<'_>) -> CaseResult {
    archive(stage)?;
    stage
        .publish(vec![stage.event("e-1"), stage.event("e-2")])
        .await?;

    let deliveries = stage.lease(2, HOLD).await?;
    let settle = |n: i64| Settle::Ack {
        outgoing: vec![stage.outgoing(n)],
    };
    let receipts = deliveries.into_iter().map(|delivery| delivery.receipt);
    stage
        .done(receipts.zip([settle(1), settle(2)]).collect())
        .await?;

    for id in ["e-1", "e-2"] {
        let copy = stage.copy(id).await?;
        check!(
            matches!(copy.state, CopyState::Archived { .. }),
            "`{id}` is {copy:?}"
        );
    }

    check_eq!(stage.arrived().await?, [1, 2], "events that left with them");
    Ok(())
}

async fn a_stale_ack_archives_nothing(stage: &Stage<'_>) -> CaseResult {
    archive(stage)?;
    stage.publish(vec![stage.event("e-1")]).await?;
    let stale = stage.take(SHORT).await?;
    stage.pass(SHORT).await;

    let current = stage.take(HOLD).await?;
    stage.lost(&stale.receipt, ack()).await?;
    let copy = stage.copy("e-1").await?;
    check!(
        matches!(copy.state, CopyState::Leased { .. }),
        "it should be leased: {copy:?}"
    );

    stage.done(vec![(current.receipt, ack())]).await?;
    let copy = stage.copy("e-1").await?;
    check!(
        matches!(copy.state, CopyState::Archived { .. }),
        "it should be archived: {copy:?}"
    );
    Ok(())
}

async fn an_archived_message_is_not_handed_out_again(stage: &Stage<'_>) -> CaseResult {
    archive(stage)?;
    let delivery = stage.fresh_event("e-1").await?;
    stage.done(vec![(delivery.receipt.clone(), ack())]).await?;
    stage.nothing_readable().await?;
    stage.lost(&delivery.receipt, ack()).await?;
    stage.copy("e-1").await?;
    Ok(())
}

async fn a_control_event_is_not_archived(stage: &Stage<'_>) -> CaseResult {
    archive(stage)?;
    let mut end = stage.event("e-1");
    end.body = end.body.replace("shop.paid", End::TYPE);

    // Python ezq writes control events in the flat form.
    let flat = stage.text(r#"{"_type": "EZQInterruptEvent"}"#);
    let ids = stage.publish(vec![end, flat]).await?;
    let receipts = stage
        .lease(2, HOLD)
        .await?
        .into_iter()
        .map(|delivery| delivery.receipt);
    stage
        .done(receipts.map(|receipt| (receipt, ack())).collect())
        .await?;

    // An event in the flat form has no id of its own: it gets that of its queue and message.
    let flat_id = ids
        .last()
        .map(|id| format!("{}:{id}", stage.queue))
        .unwrap_or_default();

    for id in ["e-1", &flat_id] {
        let copies = stage.history(id).await?;
        check!(
            copies.is_empty(),
            "a control event should be gone: {copies:?}"
        );
    }
    Ok(())
}

async fn an_archive_is_refused_where_there_is_none(stage: &Stage<'_>) -> CaseResult {
    let answer = stage.engine.set_retention(&stage.queue, Retention::ARCHIVE);
    let has_archive = stage.engine.capabilities().archive;
    let kind = answer.err().map(|error| error.kind());
    let wanted = (!has_archive).then_some(ErrorKind::Unsupported);
    check_eq!(
        kind,
        wanted,
        "the answer to setting an archive, which is offered: {has_archive}"
    );

    Ok(stage
        .engine
        .set_retention(&stage.queue, Retention::Delete)?)
}

async fn a_transaction_archives_what_it_acknowledges(stage: &Stage<'_>) -> CaseResult {
    archive(stage)?;
    stage.needs("transactions", |c| c.transactions)?;
    stage
        .publish(vec![stage.event("e-1"), stage.event("e-2")])
        .await?;

    let receipts = stage
        .lease(2, HOLD)
        .await?
        .into_iter()
        .map(|delivery| delivery.receipt);

    let marks = progress([("shop::a", mark(HandlerState::Done, 1, ""))]);
    let marks = [None, Some(marks)].into_iter();
    let finished = receipts
        .zip(marks)
        .map(|(receipt, mark)| Finished::new(receipt).mark(mark));
    let finished: Vec<_> = finished.collect();

    let unit = stage.engine.begin(&stage.queue, None).await?;
    let outcome = unit
        .finish(finished.clone(), vec![stage.outgoing(1)])
        .await?;
    check!(
        matches!(outcome, SettleOutcome::Done),
        "finishing answered {outcome:?}"
    );

    let copy = stage.copy("e-1").await?;
    check!(
        matches!(copy.state, CopyState::Archived { .. }),
        "it should be archived: {copy:?}"
    );

    let copy = stage.copy("e-2").await?;
    check!(
        matches!(copy.state, CopyState::Leased { .. }),
        "it is not done: {copy:?}"
    );

    // One void receipt rolls back the whole transaction, including what it would have archived.
    let all = finished.into_iter().map(|one| one.mark(None)).collect();
    let unit = stage.engine.begin(&stage.queue, None).await?;
    let outcome = unit.finish(all, Vec::new()).await?;
    check!(
        matches!(outcome, SettleOutcome::LeaseLost),
        "finishing answered {outcome:?}"
    );

    let copy = stage.copy("e-2").await?;
    check!(
        matches!(copy.state, CopyState::Leased { .. }),
        "it is not done: {copy:?}"
    );
    Ok(())
}

async fn what_a_transaction_claimed_is_archived_with_it(stage: &Stage<'_>) -> CaseResult {
    archive(stage)?;
    stage.needs("transactions", |c| c.transactions)?;
    stage.publish(vec![stage.event("e-1")]).await?;

    for commits in [false, true] {
        let mut unit = stage.engine.begin(&stage.queue, None).await?;
        check_eq!(
            unit.claim(2).await?.len(),
            1,
            "what the transaction claimed"
        );

        if commits {
            let outcome = unit.finish(Vec::new(), Vec::new()).await?;
            check!(
                matches!(outcome, SettleOutcome::Done),
                "finishing answered {outcome:?}"
            );
        } else {
            unit.abandon().await;
        }

        let copy = stage.copy("e-1").await?;
        let is_archived = matches!(copy.state, CopyState::Archived { .. });
        check_eq!(is_archived, commits, "whether it is archived");
    }

    stage.is_empty().await
}
