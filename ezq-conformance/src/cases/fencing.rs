//! A worker that lost its lease can change nothing, and learns it.

use std::time::Duration;

use ezq_core::ErrorKind;
use ezq_core::engine::{Delivery, ExtendOutcome, Receipt, Settle, SettleOutcome, Token};
use ezq_core::message::{HandlerState, MessageId, Progress};

use super::settling::{mark, progress};
use crate::error::{CaseError, CaseResult};
use crate::stage::{HOLD, SHORT, Stage, ack, bury, numbers, only, reason, retry};

cases![
    a_stale_ack_changes_nothing,
    a_stale_retry_changes_nothing,
    a_stale_dead_letter_changes_nothing,
    a_stale_release_changes_nothing,
    a_stale_extension_changes_nothing,
    a_batch_with_a_stale_receipt_settles_the_rest,
    an_expired_lease_holds_until_the_message_is_handed_out_again,
    a_lease_that_ended_by_its_clock_settles_nothing,
    a_second_ack_is_lost,
    a_receipt_is_void_after_its_retry,
    a_receipt_is_void_after_its_release,
    a_purge_voids_receipts,
    a_receipt_is_void_for_a_message_that_got_its_id,
    a_receipt_that_the_engine_did_not_make_settles_nothing,
];

/// A message whose lease ran out, and which another worker has now.
struct TakenOver {
    /// The first worker's receipt.
    stale: Receipt,
    current: Delivery,
}

async fn taken_over(stage: &Stage<'_>) -> Result<TakenOver, CaseError> {
    let first = stage.fresh(SHORT).await?;
    stage.pass(SHORT).await;
    let second = only(stage.lease_second(10, HOLD).await?)?;

    Ok(TakenOver {
        stale: first.receipt,
        current: second,
    })
}

/// Checks that the second worker's lease stands as if nobody had used the stale receipt.
async fn unchanged(stage: &Stage<'_>, current: Delivery) -> CaseResult {
    check_eq!(
        stage.arrived().await?,
        [0_i64; 0],
        "outgoing events of a lost lease"
    );

    stage.nothing_readable().await?;
    let dead = stage.stats().await?.dead;
    check_eq!(dead, 0, "dead letters");

    stage
        .done_by_holder(current.receipt, Settle::Release)
        .await?;
    let again = stage.take(HOLD).await?;
    // The first, the second, and this one: the stale receipt has added none.
    check_eq!(again.deliveries, 3, "deliveries");
    check_eq!(again.headers.returned(), 1, "returned");
    check_eq!(
        Progress::from_headers(&again.headers),
        Progress::default(),
        "marks"
    );

    stage.done(vec![(again.receipt, ack())]).await?;
    stage.is_empty().await
}

fn stray() -> Progress {
    progress([("shop::stray", mark(HandlerState::Done, 1, ""))])
}

async fn a_stale_ack_changes_nothing(stage: &Stage<'_>) -> CaseResult {
    let TakenOver { stale, current } = taken_over(stage).await?;
    let outgoing = vec![stage.outgoing(1)];
    stage.lost(&stale, Settle::Ack { outgoing }).await?;
    unchanged(stage, current).await
}

async fn a_stale_retry_changes_nothing(stage: &Stage<'_>) -> CaseResult {
    let TakenOver { stale, current } = taken_over(stage).await?;
    let outgoing = vec![stage.outgoing(1)];
    let retry = Settle::Retry {
        after: Duration::ZERO,
        progress: stray(),
        outgoing,
    };
    stage.lost(&stale, retry).await?;
    unchanged(stage, current).await
}

async fn a_stale_dead_letter_changes_nothing(stage: &Stage<'_>) -> CaseResult {
    let TakenOver { stale, current } = taken_over(stage).await?;
    let outgoing = vec![stage.outgoing(1)];
    let bury = Settle::DeadLetter {
        reason: reason(),
        progress: stray(),
        outgoing,
    };
    stage.lost(&stale, bury).await?;
    unchanged(stage, current).await
}

async fn a_stale_release_changes_nothing(stage: &Stage<'_>) -> CaseResult {
    let TakenOver { stale, current } = taken_over(stage).await?;
    stage.lost(&stale, Settle::Release).await?;
    unchanged(stage, current).await
}

async fn a_stale_extension_changes_nothing(stage: &Stage<'_>) -> CaseResult {
    let TakenOver { stale, current } = taken_over(stage).await?;
    let stale = [stale];
    let outcomes = stage
        .engine
        .extend(&stage.queue, &stale, Duration::from_millis(1))
        .await?;
    check_eq!(outcomes, [ExtendOutcome::LeaseLost], "outcomes");

    stage.pass(Duration::from_millis(1)).await;
    unchanged(stage, current).await
}

/// Consumers settle in batches. One lost lease must not cost the others their work.
async fn a_batch_with_a_stale_receipt_settles_the_rest(stage: &Stage<'_>) -> CaseResult {
    let TakenOver { stale, current } = taken_over(stage).await?;
    stage.publish_numbers(&[2, 3]).await?;

    let mut receipts: Vec<_> = stage
        .lease(2, HOLD)
        .await?
        .into_iter()
        .map(|d| d.receipt)
        .collect();
    check_eq!(receipts.len(), 2, "messages leased");

    receipts.insert(1, stale);
    let batch = receipts
        .into_iter()
        .map(|receipt| (receipt, ack()))
        .collect();
    let outcomes = stage.settle(batch).await?;
    use SettleOutcome::{Done, LeaseLost};

    check!(
        matches!(outcomes.as_slice(), [Done, LeaseLost, Done]),
        "outcomes are {outcomes:?}"
    );

    let stats = stage.stats().await?;
    check_eq!(
        (stats.ready, stats.in_progress),
        (0, 1),
        "messages ready and leased"
    );

    stage.done_by_holder(current.receipt, ack()).await
}

/// A worker that is late loses nothing as long as nobody else got the message.
async fn an_expired_lease_holds_until_the_message_is_handed_out_again(
    stage: &Stage<'_>,
) -> CaseResult {
    stage.needs("receipts that the store checks", |c| !c.fenced_by_clock)?;
    let delivery = stage.fresh(SHORT).await?;
    stage.pass(SHORT).await;
    stage.done(vec![(delivery.receipt, ack())]).await?;
    stage.is_empty().await
}

/// Where the store cannot fence, a worker that is late must not even try: its word would be obeyed.
async fn a_lease_that_ended_by_its_clock_settles_nothing(stage: &Stage<'_>) -> CaseResult {
    stage.needs("fenced_by_clock", |c| c.fenced_by_clock)?;
    let delivery = stage.fresh(SHORT).await?;
    stage.pass(SHORT).await;
    let outgoing = vec![stage.outgoing(1)];
    stage
        .lost(&delivery.receipt, Settle::Ack { outgoing })
        .await?;
    let renewed = [delivery.receipt];
    let outcomes = stage.engine.extend(&stage.queue, &renewed, HOLD).await?;
    check_eq!(outcomes, [ExtendOutcome::LeaseLost], "outcomes");

    let again = only(stage.lease_second(10, HOLD).await?)?;
    check_eq!(again.deliveries, 2, "deliveries");
    // Another process has no reading of the clock by which it was leased.
    stage.lost(&again.receipt, ack()).await?;
    check_eq!(stage.arrived().await?, [0_i64; 0], "outgoing events");
    stage.done_by_holder(again.receipt, ack()).await
}

/// A settlement is sent again if its answer got lost. Its events must not leave twice.
async fn a_second_ack_is_lost(stage: &Stage<'_>) -> CaseResult {
    let delivery = stage.fresh(HOLD).await?;
    stage.done(vec![(delivery.receipt.clone(), ack())]).await?;
    let outgoing = vec![stage.outgoing(1)];
    stage
        .lost(&delivery.receipt, Settle::Ack { outgoing })
        .await?;

    check_eq!(
        stage.arrived().await?,
        [0_i64; 0],
        "outgoing events of a lost lease"
    );
    Ok(())
}

async fn a_receipt_is_void_after_its_retry(stage: &Stage<'_>) -> CaseResult {
    let delivery = stage.fresh(HOLD).await?;
    stage
        .done(vec![(delivery.receipt.clone(), retry(Duration::ZERO))])
        .await?;
    stage.lost(&delivery.receipt, retry(HOLD)).await?;
    stage.lost(&delivery.receipt, ack()).await?;

    // One settlement counted. Had the second retry taken effect, the message would not be due yet.
    let again = stage.take(HOLD).await?;
    check_eq!(again.headers.returned(), 1, "returned");
    Ok(())
}

async fn a_receipt_is_void_after_its_release(stage: &Stage<'_>) -> CaseResult {
    let delivery = stage.fresh(HOLD).await?;
    stage
        .done(vec![(delivery.receipt.clone(), Settle::Release)])
        .await?;
    stage.lost(&delivery.receipt, Settle::Release).await?;
    stage.lost(&delivery.receipt, ack()).await?;

    let outcomes = stage
        .extend(std::slice::from_ref(&delivery.receipt))
        .await?;
    check_eq!(outcomes, [ExtendOutcome::LeaseLost], "outcomes");

    let again = stage.take(HOLD).await?;
    check_eq!(again.headers.returned(), 1, "returned");
    Ok(())
}

/// A fail-over to a replica that lags takes ids back. An old receipt must not settle the message that
/// gets its id next.
async fn a_receipt_is_void_for_a_message_that_got_its_id(stage: &Stage<'_>) -> CaseResult {
    // Engines may fence messages with ordering keys in another way.
    for is_keyed in [false, true] {
        let message = |n| {
            let mut message = stage.message(n);
            if is_keyed {
                message.headers.insert("x-pgmq-group", "key");
            }
            message
        };
        stage.publish(vec![message(1)]).await?;

        let old = stage.take(HOLD).await?.receipt;
        stage.lose_newest(stage.queue.as_str()).await?;
        stage.publish(vec![message(2)]).await?;

        let new = only(stage.lease_second(10, HOLD).await?)?;
        check_eq!(
            new.receipt.message_id().to_string(),
            old.message_id().to_string(),
            "the id that is issued again"
        );

        let bury = Settle::DeadLetter {
            reason: reason(),
            progress: stray(),
            outgoing: Vec::new(),
        };

        // A settlement with events is another statement than one without, so it has a fence of its own.
        let with_event = Settle::Ack {
            outgoing: vec![stage.outgoing(1)],
        };

        for settle in [
            ack(),
            with_event,
            retry(Duration::ZERO),
            Settle::Release,
            bury,
        ] {
            stage.lost(&old, settle).await?;
        }

        // In one call: an engine that joins by id alone would renew the new message twice.
        let both = [old, new.receipt.clone()];
        let outcomes = stage.extend(&both).await?;
        check_eq!(
            outcomes,
            [ExtendOutcome::LeaseLost, ExtendOutcome::Extended],
            "outcomes"
        );

        stage.nothing_readable().await?;
        check_eq!(stage.stats().await?.dead, 0, "dead letters");
        check_eq!(
            stage.arrived().await?,
            [0_i64; 0],
            "outgoing events of a void receipt"
        );

        let [old, new] = both;
        let outcomes = stage.settle(vec![(old, ack()), (new, ack())]).await?;
        use SettleOutcome::{Done, LeaseLost};

        check!(
            matches!(outcomes.as_slice(), [LeaseLost, Done]),
            "outcomes are {outcomes:?}"
        );
        stage.is_empty().await?;
    }
    Ok(())
}

/// Work on purged messages may still run. What it settles must not touch what is published later.
async fn a_purge_voids_receipts(stage: &Stage<'_>) -> CaseResult {
    stage.publish_numbers(&[1, 2, 3]).await?;
    let leased = stage.lease(2, HOLD).await?;
    check_eq!(leased.len(), 2, "messages leased");
    let purged = stage.engine.purge(&stage.queue).await?;
    check_eq!(purged, 3, "messages purged, leased ones included");

    stage.is_empty().await?;
    // The token alone must be void: the purged rows are not there to be compared with.
    let receipts: Vec<_> = leased.into_iter().map(|d| d.receipt).collect();
    for settle in [ack(), retry(Duration::ZERO), Settle::Release] {
        stage.lost(&receipts[0], settle).await?;
    }
    let outcomes = stage.extend(&receipts).await?;
    check_eq!(outcomes, [ExtendOutcome::LeaseLost; 2], "outcomes");

    stage.publish_numbers(&[4]).await?;
    check_eq!(
        numbers(&stage.lease(10, HOLD).await?),
        [4],
        "the queue after its purge"
    );
    Ok(())
}

/// An application with several engines may mix up their receipts. Some engines see that by the form
/// of the id or the token; to others such a receipt is void.
async fn a_receipt_that_the_engine_did_not_make_settles_nothing(stage: &Stage<'_>) -> CaseResult {
    let delivery = stage.fresh(HOLD).await?;
    let own = delivery.receipt.clone();
    let id = own.message_id();

    let tokens = [
        Token::default(),
        Token::from_words([-1]),
        Token::from_words([-1; 3]),
        Token::from_words([-1; 4]),
        Token::from_bytes(b"of another engine")?,
    ];
    let ids = [
        MessageId::Text("of another engine".into()),
        MessageId::Pending,
    ];
    let by_token = tokens.map(|token| Receipt::new(id.clone(), token));
    let by_id = ids.map(|id| Receipt::new(id, own.token()));
    let foreign: Vec<Receipt> = by_token.into_iter().chain(by_id).collect();

    for settle in [ack(), retry(Duration::ZERO), bury(), Settle::Release] {
        let mixed = foreign
            .iter()
            .map(|receipt| (receipt.clone(), settle.clone()));
        for outcome in stage.settle(mixed.collect()).await? {
            let is_refused = match &outcome {
                SettleOutcome::LeaseLost => true,
                SettleOutcome::Failed { error, .. } => error.kind() == ErrorKind::InvalidReceipt,
                _ => false,
            };
            check!(
                is_refused,
                "a receipt of another engine answered {outcome:?}"
            );
        }
    }

    let outcomes = stage.extend(&foreign).await?;
    let none = vec![ExtendOutcome::LeaseLost; foreign.len()];
    check_eq!(outcomes, none, "outcomes");

    // In one batch with a good one, which they do not harm.
    let mut batch: Vec<_> = foreign
        .into_iter()
        .map(|receipt| (receipt, ack()))
        .collect();
    batch.push((own, ack()));
    let mut outcomes = stage.settle(batch).await?;
    let last = outcomes.pop();
    let is_done = matches!(last, Some(SettleOutcome::Done));
    check!(is_done, "a receipt that holds answered {last:?}");
    stage.is_empty().await?;
    check_eq!(stage.stats().await?.dead, 0, "dead letters");
    Ok(())
}
