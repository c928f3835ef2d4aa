//! Cancellations: kept for every client and told to those who watch; what is discarded is gone, and the
//! dead letter of a message is found.

use std::time::Duration;

use ezq_core::ErrorKind;
use ezq_core::engine::{
    Cancel, CancelOrder, Cancellation, Cancellations, QueueCancellations, Settle,
};
use ezq_core::message::{MessageId, Retention};
use tokio::sync::watch;

use crate::error::{CaseError, CaseResult};
use crate::stage::{HOLD, SHORT, Stage, ack, bury, unknown_id};

cases![
    a_cancellation_is_told_to_every_client_until_it_is_finished,
    a_cancellation_is_known_to_who_begins_to_watch,
    a_second_order_replaces_the_first,
    only_a_message_of_the_queue_is_cancelled,
    a_discarded_message_is_gone_and_not_archived,
    a_stale_receipt_discards_nothing,
    the_dead_letter_of_a_message_is_found,
];

/// How long a change may take until it is told.
const SOON: Duration = Duration::from_secs(10);

/// The cancellations of the first client, or of the second.
fn cancellations<'a>(
    stage: &'a Stage<'_>,
    is_second: bool,
) -> Result<&'a dyn Cancellations, CaseError> {
    let engine = if is_second {
        &stage.second
    } else {
        &stage.engine
    };
    engine
        .cancellations()
        .ok_or_else(|| CaseError::Skipped("the engine has no cancellations".to_owned()))
}

fn order(what: Cancel) -> CancelOrder {
    CancelOrder::new(what, "Ada \"'ä")
}

/// Waits until the watcher is told that exactly these are to be cancelled.
async fn told(
    watcher: &mut watch::Receiver<QueueCancellations>,
    wanted: &[&MessageId],
) -> Result<Vec<Cancellation>, CaseError> {
    let change = watcher.wait_for(|all| {
        let ids = all.iter().map(|one| &one.message_id);
        ids.eq(wanted.iter().copied())
    });
    match tokio::time::timeout(SOON, change).await {
        Ok(Ok(all)) => Ok(all.to_vec()),
        _ => Err(CaseError::Failed(format!("nobody was told of {wanted:?}"))),
    }
}

async fn a_cancellation_is_told_to_every_client_until_it_is_finished(
    stage: &Stage<'_>,
) -> CaseResult {
    let first = cancellations(stage, false)?;
    let mut watcher = cancellations(stage, true)?.watch(&stage.queue).await?;
    let mut other = cancellations(stage, true)?.watch(&stage.other).await?;
    told(&mut watcher, &[]).await?;

    let held = stage.fresh(HOLD).await?;
    let id = held.receipt.message_id();
    let asked = order(Cancel::Dead).reason("a \"quoted\" reason, 'ä'".to_owned());
    check!(
        first.ask(&stage.queue, id, &asked).await?,
        "a message that is held was not found"
    );
    let seen = told(&mut watcher, &[id]).await?;
    check_eq!(seen[0].order, asked, "the order");
    told(&mut other, &[]).await?;

    let ids = [id.clone(), unknown_id(id)];
    first.finish(&stage.queue, &ids).await?;
    told(&mut watcher, &[]).await?;

    // The receipt of the worker is as valid as it was.
    stage.done(vec![(held.receipt, ack())]).await
}

/// A consumer claims once it watches: it must know of the cancellation by then.
async fn a_cancellation_is_known_to_who_begins_to_watch(stage: &Stage<'_>) -> CaseResult {
    let id = stage.publish_numbers(&[1]).await?.remove(0);
    let asked = order(Cancel::Discard);
    cancellations(stage, false)?
        .ask(&stage.queue, &id, &asked)
        .await?;
    let watcher = cancellations(stage, true)?.watch(&stage.queue).await?;
    let known = watcher.borrow().to_vec();
    check_eq!(known.len(), 1, "cancellations when watching begins");
    check_eq!(known[0].order, asked, "the order");
    Ok(())
}

async fn a_second_order_replaces_the_first(stage: &Stage<'_>) -> CaseResult {
    let cancellations = cancellations(stage, false)?;
    let id = stage.publish_numbers(&[1]).await?.remove(0);
    for what in [Cancel::Dead, Cancel::Discard] {
        cancellations
            .ask(&stage.queue, &id, &CancelOrder::new(what, "Bob"))
            .await?;
    }

    let mut watcher = cancellations.watch(&stage.queue).await?;
    let seen = told(&mut watcher, &[&id]).await?;
    check_eq!(seen[0].order.what, Cancel::Discard, "the newest order");
    Ok(())
}

async fn only_a_message_of_the_queue_is_cancelled(stage: &Stage<'_>) -> CaseResult {
    let cancellations = cancellations(stage, false)?;
    let done = stage.fresh(HOLD).await?;
    let id = done.receipt.message_id().clone();
    stage.done(vec![(done.receipt, ack())]).await?;
    for gone in [&id, &unknown_id(&id)] {
        let asked = cancellations
            .ask(&stage.queue, gone, &order(Cancel::Dead))
            .await?;
        check!(!asked, "a message that is gone was found");
    }
    let watcher = cancellations.watch(&stage.queue).await?;
    check_eq!(watcher.borrow().len(), 0, "cancellations of what is gone");

    let missing = cancellations
        .ask(&stage.missing, &id, &order(Cancel::Dead))
        .await;
    check_eq!(
        missing.map_err(|error| error.kind()),
        Err(ErrorKind::QueueMissing),
        "cancelling in a missing queue"
    );
    Ok(())
}

async fn a_discarded_message_is_gone_and_not_archived(stage: &Stage<'_>) -> CaseResult {
    cancellations(stage, false)?;
    stage.needs("archive", |capabilities| capabilities.archive)?;
    for retention in [Retention::ARCHIVE, Retention::Delete] {
        stage.engine.set_retention(&stage.queue, retention)?;
        let held = stage.fresh_event("e-1").await?;
        stage.done(vec![(held.receipt, Settle::Discard)]).await?;
        stage.is_empty().await?;
        let copies = stage.history("e-1").await?;
        check!(copies.is_empty(), "it should be gone: {copies:?}");
    }
    Ok(())
}

async fn a_stale_receipt_discards_nothing(stage: &Stage<'_>) -> CaseResult {
    cancellations(stage, false)?;
    let stale = stage.fresh(SHORT).await?;
    stage.pass(SHORT).await;
    let current = stage.take(HOLD).await?;
    stage.lost(&stale.receipt, Settle::Discard).await?;
    stage.done(vec![(current.receipt, Settle::Discard)]).await?;
    stage.is_empty().await
}

async fn the_dead_letter_of_a_message_is_found(stage: &Stage<'_>) -> CaseResult {
    let cancellations = cancellations(stage, false)?;
    let letters = stage.dead_letters()?;
    stage.publish_numbers(&[1, 2]).await?;
    for held in stage.lease(2, HOLD).await? {
        let id = held.receipt.message_id().clone();
        let before = cancellations.letter_of(&stage.queue, &id).await?;
        check_eq!(before, None, "the dead letter of a message that lives");

        stage.done(vec![(held.receipt, bury())]).await?;
        let letter = cancellations.letter_of(&stage.queue, &id).await?;
        let Some(letter) = letter else {
            return Err(CaseError::Failed(format!("no dead letter of {id}")));
        };
        let found = letters.find(&stage.queue, &letter).await?;
        let original = found.and_then(|letter| letter.original_id);
        check_eq!(original, Some(id.clone()), "the message that it was");

        let other = unknown_id(&id);
        let other = cancellations.letter_of(&stage.queue, &other).await?;
        check_eq!(other, None, "the dead letter of no message");
    }
    Ok(())
}
