//! A lease hides a message for its time and no longer, and hands out no more than was asked for.

use std::time::Duration;

use ezq_core::engine::{Delivery, Due, ExtendOutcome, Receipt, Settle};
use ezq_core::message::{HandlerState, MessageId};
use ezq_core::{Error, ErrorKind};

use super::settling::{mark, progress};
use crate::error::{CaseError, CaseResult};
use crate::stage::{HOLD, SHORT, Stage, ack, bury, numbers, only, unknown_id};

cases![
    a_lease_hides_the_message_from_everyone,
    no_more_is_handed_out_than_was_asked_for,
    an_expired_lease_delivers_again,
    a_message_stays_in_the_store_until_it_is_settled,
    an_extended_lease_outlasts_its_first_time,
    extending_is_answered_per_message,
    an_empty_lease_tells_when_the_next_message_falls_due,
    publishing_wakes_who_waits,
    before_hands_out_only_what_stands_before_a_place,
    before_stays_exact_while_its_own_message_is_leased,
    a_message_is_leased_by_its_id_whenever_it_is_due,
    what_a_worker_has_is_leased_by_its_id_to_nobody,
    what_waits_for_a_retry_after_a_crash_is_leased_by_its_id,
];

async fn a_lease_hides_the_message_from_everyone(stage: &Stage<'_>) -> CaseResult {
    let delivery = stage.fresh(HOLD).await?;
    stage.nothing_readable().await?;
    stage.pass(SHORT).await;
    stage.nothing_readable().await?;

    let elsewhere = stage.lease_second(10, HOLD).await?;
    check!(elsewhere.is_empty(), "a second client got a leased message");
    check!(
        delivery.leased_at >= delivery.due,
        "leased before it was due"
    );
    stage.done(vec![(delivery.receipt, ack())]).await
}

async fn no_more_is_handed_out_than_was_asked_for(stage: &Stage<'_>) -> CaseResult {
    stage.publish_numbers(&[1, 2, 3, 4, 5]).await?;
    let mut sizes = Vec::new();
    for max in [1, 3, 3, 3] {
        sizes.push(stage.lease(max, HOLD).await?.len());
    }

    check_eq!(
        sizes,
        [1, 3, 1, 0],
        "messages for leases of 1, 3, 3, 3 of 5"
    );
    Ok(())
}

async fn an_expired_lease_delivers_again(stage: &Stage<'_>) -> CaseResult {
    let first = stage.fresh(SHORT).await?;
    stage.pass(SHORT).await;

    let second = only(stage.lease_second(10, HOLD).await?)?;
    check_eq!(
        second.receipt.message_id(),
        first.receipt.message_id(),
        "the message"
    );
    check_eq!(second.body, first.body, "the body");
    check_eq!(second.headers, first.headers, "the headers");
    check_eq!(second.enqueued_at, first.enqueued_at, "when it was stored");
    check_eq!(second.deliveries, first.deliveries + 1, "deliveries");
    check_eq!(second.unsettled_deliveries(), 2, "unsettled deliveries");
    check!(
        second.receipt != first.receipt,
        "two deliveries share one receipt"
    );

    stage.done_by_holder(second.receipt, ack()).await
}

/// A lease that expires again and again loses nothing, however often the worker crashes.
async fn a_message_stays_in_the_store_until_it_is_settled(stage: &Stage<'_>) -> CaseResult {
    let mut delivery = stage.fresh(SHORT).await?;
    for deliveries in 2..4 {
        stage.pass(SHORT).await;
        delivery = stage.take(SHORT).await?;
        check_eq!(delivery.deliveries, deliveries, "deliveries");
    }

    stage.done(vec![(delivery.receipt, ack())]).await?;
    stage.pass(SHORT).await;
    stage.nothing_readable().await?;
    stage.is_empty().await
}

async fn an_extended_lease_outlasts_its_first_time(stage: &Stage<'_>) -> CaseResult {
    let delivery = stage.fresh(SHORT).await?;
    // Only another delivery voids a receipt, so being late here is not a failure.
    let outcomes = stage
        .extend(std::slice::from_ref(&delivery.receipt))
        .await?;
    check_eq!(outcomes, [ExtendOutcome::Extended], "outcomes");

    stage.pass(SHORT).await;
    stage.nothing_readable().await?;
    stage.done(vec![(delivery.receipt, ack())]).await
}

async fn extending_is_answered_per_message(stage: &Stage<'_>) -> CaseResult {
    stage.publish_numbers(&[1, 2, 3]).await?;
    let leased = stage.lease(3, HOLD).await?;
    let receipts: Vec<_> = leased.into_iter().map(|d| d.receipt).collect();
    let [first, gone, last] = receipts.as_slice() else {
        return Err(CaseError::Failed("three messages were not readable".into()));
    };
    stage.done(vec![(gone.clone(), ack())]).await?;

    let unknown = Receipt::new(unknown_id(first.message_id()), first.token());
    let asked = [last.clone(), unknown, first.clone(), gone.clone()];
    let outcomes = stage.extend(&asked).await?;
    use ExtendOutcome::{Extended, LeaseLost};

    check_eq!(
        outcomes,
        [Extended, LeaseLost, Extended, LeaseLost],
        "outcomes"
    );
    Ok(())
}

/// Consumers sleep until then. An answer that is too late would delay the message.
async fn an_empty_lease_tells_when_the_next_message_falls_due(stage: &Stage<'_>) -> CaseResult {
    stage.needs("delayed", |c| c.delayed)?;
    let pause = HOLD;
    // The later one is stored first: the answer is about due times, not about ids.
    let later = [pause * 2, pause].map(Due::After);
    let batch = later.map(|due| stage.message(1).due(due));
    stage.publish(batch.to_vec()).await?;
    let leased = stage.request(stage.ask(10, HOLD)).await?;
    check!(leased.deliveries.is_empty(), "a delayed message came early");

    let Some(next) = leased.next_due else {
        let why = "the engine does not tell when the next message falls due";
        return Err(CaseError::Skipped(why.into()));
    };
    // Zero would make a consumer claim without a pause. A millisecond covers rounding up.
    let right = !next.is_zero() && next <= pause + Duration::from_millis(1);
    check!(right, "due in {pause:?}, and the engine says {next:?}");
    Ok(())
}

async fn publishing_wakes_who_waits(stage: &Stage<'_>) -> CaseResult {
    let Some(mut wakeups) = stage.second.wakeups(&stage.queue).await? else {
        let why = "the engine does not tell when messages arrive";
        return Err(CaseError::Skipped(why.into()));
    };

    for n in 0..3 {
        // What woke for the message before must not count for this one.
        wakeups.mark_unchanged();
        stage.publish_numbers(&[n]).await?;
        let woken = tokio::time::timeout(Duration::from_secs(20), wakeups.changed()).await;
        check!(matches!(woken, Ok(Ok(()))), "message {n} woke nobody");
    }
    Ok(())
}

async fn before_hands_out_only_what_stands_before_a_place(stage: &Stage<'_>) -> CaseResult {
    stage.needs("ordered", |c| c.ordered)?;
    stage.publish_numbers(&[1, 2, 3, 4, 5]).await?;
    let leased = stage.lease(5, HOLD).await?;
    check_eq!(numbers(&leased), [1, 2, 3, 4, 5], "the batch");

    let first = leased[0].position();
    let middle = leased[2].position();
    // In reverse, so that no order of the releases can stand for the order of places.
    let back = leased.into_iter().rev();
    let back = back
        .map(|d| (d.receipt, ezq_core::engine::Settle::Release))
        .collect();
    stage.done(back).await?;

    check_eq!(
        numbers(&stage.lease_before(first).await?),
        [0_i64; 0],
        "before the first"
    );
    check_eq!(
        numbers(&stage.lease_before(middle.clone()).await?),
        [1, 2],
        "before the third"
    );
    check_eq!(
        numbers(&stage.lease_before(middle).await?),
        [0_i64; 0],
        "before the third, again"
    );
    check_eq!(numbers(&stage.lease(5, HOLD).await?), [3, 4, 5], "the rest");
    Ok(())
}

async fn before_stays_exact_while_its_own_message_is_leased(stage: &Stage<'_>) -> CaseResult {
    stage.needs("ordered", |c| c.ordered)?;
    stage.publish_numbers(&[1, 2, 3, 4]).await?;
    let mut leased = stage.lease(3, HOLD).await?;
    check_eq!(numbers(&leased), [1, 2, 3], "the start of the batch");

    let end = leased.remove(2);
    let first = leased.remove(0);
    stage
        .done(vec![(first.receipt, ezq_core::engine::Settle::Release)])
        .await?;
    // Stored after the bound was leased, and so behind it.
    stage.publish_numbers(&[5]).await?;

    let ready = numbers(&stage.lease_before(end.position()).await?);
    check_eq!(ready, [1], "before the third");

    stage.done(vec![(end.receipt, ack())]).await?;
    check_eq!(numbers(&stage.lease(5, HOLD).await?), [4, 5], "the rest");
    Ok(())
}

/// Leases a message by its id; skips the case if the engine cannot.
async fn by_id(
    stage: &Stage<'_>,
    id: &MessageId,
) -> Result<Result<Option<Delivery>, Error>, CaseError> {
    match stage.engine.lease_by_id(&stage.queue, id, HOLD).await {
        Err(error) if error.kind() == ErrorKind::Unsupported => Err(CaseError::Skipped(
            "the engine leases no message by its id".to_owned(),
        )),
        answer => Ok(answer),
    }
}

async fn a_message_is_leased_by_its_id_whenever_it_is_due(stage: &Stage<'_>) -> CaseResult {
    let late = stage.message(2).due(Due::After(HOLD));
    let ids = stage
        .publish(vec![stage.message(1), late, stage.message(3)])
        .await?;
    let mut receipts = Vec::new();

    for (id, n) in ids.iter().zip([1, 2]) {
        let leased = by_id(stage, id).await??;
        let delivery = leased.ok_or_else(|| CaseError::Failed(format!("{id} was not found")))?;
        check_eq!(delivery.receipt.message_id(), id, "the message");
        check_eq!(numbers(std::slice::from_ref(&delivery)), [n], "its body");
        check_eq!(delivery.deliveries, 1, "deliveries");
        receipts.push(delivery.receipt);
    }

    let rest = stage.lease(10, HOLD).await?;
    check_eq!(numbers(&rest), [3], "what is left to others");
    let unknown = by_id(stage, &unknown_id(&ids[0])).await??;
    check!(unknown.is_none(), "an unknown message was found");

    let late = receipts.remove(1);
    stage
        .done(vec![(late, Settle::Release), (receipts.remove(0), bury())])
        .await?;
    stage.nothing_readable().await?;

    let stats = stage.stats().await?;
    let seen = (stats.in_progress, stats.scheduled, stats.dead);
    check_eq!(
        seen,
        (2, 0, 1),
        "the one at work, the one given back to its time, and the dead one"
    );
    Ok(())
}

async fn what_a_worker_has_is_leased_by_its_id_to_nobody(stage: &Stage<'_>) -> CaseResult {
    let first = stage.fresh(SHORT).await?;
    let id = first.receipt.message_id().clone();
    let held = by_id(stage, &id).await?.map_err(|error| error.kind());
    check!(
        matches!(held, Err(ErrorKind::LeaseLost)),
        "a held message answered {held:?}"
    );
    stage.pass(SHORT).await;

    // Its holder may have crashed, so it can be leased again.
    let second = by_id(stage, &id).await??;
    let second = second.ok_or_else(|| CaseError::Failed("it was not found".to_owned()))?;
    check_eq!(second.deliveries, 2, "deliveries");

    stage.lost(&first.receipt, ack()).await?;
    stage.done(vec![(second.receipt, ack())]).await?;
    stage.is_empty().await
}

async fn what_waits_for_a_retry_after_a_crash_is_leased_by_its_id(stage: &Stage<'_>) -> CaseResult {
    let id = stage.fresh(SHORT).await?.receipt.message_id().clone();
    stage.pass(SHORT).await;

    let again = stage.take(HOLD).await?;
    // A consumer settles a retry with a mark that tells when the handler runs again.
    let due = Some(again.leased_at + HOLD);
    let waits = mark(HandlerState::Retry, 1, "not yet").due(due);
    let progress = progress([("shop::mail", waits)]);
    let settle = Settle::Retry {
        after: HOLD,
        progress,
        outgoing: Vec::new(),
    };
    stage.done(vec![(again.receipt, settle)]).await?;

    let leased = by_id(stage, &id).await??;
    check!(leased.is_some(), "it was not found");
    Ok(())
}
