//! Due times are kept to the millisecond, and a message that was never delivered can be moved or
//! cancelled.

use std::time::Duration;

use chrono::TimeDelta;
use ezq_core::ErrorKind;
use ezq_core::engine::{Due, Settle};
use ezq_core::message::MessageId;
use tokio::time::Instant;

use crate::error::{CaseError, CaseResult};
use crate::stage::{HOLD, Stage, ack, numbers, unknown_id};

cases![
    a_delay_is_neither_early_nor_late,
    a_time_is_neither_early_nor_late,
    a_time_in_the_past_is_at_once,
    messages_come_out_by_due_time,
    a_scheduled_message_can_be_taken_back,
    a_scheduled_message_can_be_moved,
    a_delivered_message_can_be_neither_taken_back_nor_moved,
    an_id_takes_back_and_moves_no_message_that_got_it,
    an_engine_that_moves_nothing_leaves_every_message,
];

const PAUSE: Duration = Duration::from_millis(700);

async fn later(stage: &Stage<'_>, n: i64, due: Due) -> Result<MessageId, CaseError> {
    let mut ids = stage.publish(vec![stage.message(n).due(due)]).await?;
    Ok(ids.remove(0))
}

async fn a_delay_is_neither_early_nor_late(stage: &Stage<'_>) -> CaseResult {
    stage.needs("delayed", |c| c.delayed)?;
    let started = Instant::now();
    later(stage, 1, Due::After(PAUSE)).await?;

    let early = stage.lease(10, HOLD).await?;
    // On a slow machine the pause may be over by now. Then this shows nothing.
    check!(
        early.is_empty() || started.elapsed() >= PAUSE,
        "it came early"
    );

    if early.is_empty() {
        // An engine that rounds to seconds hands the message out at once, or after a second.
        stage.pass(PAUSE).await;
        let delivery = stage.take(HOLD).await?;
        check!(
            delivery.leased_at >= delivery.due,
            "leased before it was due"
        );
    }
    Ok(())
}

async fn a_time_is_neither_early_nor_late(stage: &Stage<'_>) -> CaseResult {
    stage.needs("delayed", |c| c.delayed)?;
    let started = Instant::now();
    let now = stage.fresh(HOLD).await?.leased_at;
    // No round number, so that rounding to a tenth of a second shows as well.
    let at = now + TimeDelta::milliseconds(733);
    later(stage, 2, Due::At(at)).await?;

    let early = stage.lease(10, HOLD).await?;
    let over = started.elapsed() >= PAUSE;
    check!(early.is_empty() || over, "it came early");

    if early.is_empty() {
        stage.pass(Duration::from_millis(733)).await;
        let delivery = stage.take(HOLD).await?;
        check!(
            delivery.leased_at >= at,
            "leased before the time it was due"
        );

        let off = (delivery.due - at).abs();
        check!(
            off <= TimeDelta::milliseconds(1),
            "due at {at}, said {}",
            delivery.due
        );
    }
    Ok(())
}

async fn a_time_in_the_past_is_at_once(stage: &Stage<'_>) -> CaseResult {
    stage.needs("delayed", |c| c.delayed)?;
    let now = stage.fresh(HOLD).await?.leased_at;
    // A second ago, and more than fifty years ago.
    for (n, ago) in [(2, TimeDelta::seconds(1)), (3, TimeDelta::days(20_000))] {
        later(stage, n, Due::At(now - ago)).await?;
    }

    let mut read = numbers(&stage.lease(10, HOLD).await?);
    read.sort_unstable();
    check_eq!(read, [2, 3], "readable messages");
    Ok(())
}

async fn messages_come_out_by_due_time(stage: &Stage<'_>) -> CaseResult {
    stage.needs("delayed", |c| c.delayed)?;
    stage.needs("ordered", |c| c.ordered)?;

    // In neither the order of ids nor its reverse.
    let delays = [(1, 250), (2, 150), (3, 200)];
    let batch = delays.map(|(n, millis)| {
        stage
            .message(n)
            .due(Due::After(Duration::from_millis(millis)))
    });
    stage.publish(batch.to_vec()).await?;
    stage.pass(Duration::from_millis(250)).await;

    check_eq!(
        numbers(&stage.lease(10, HOLD).await?),
        [2, 3, 1],
        "messages"
    );
    Ok(())
}

async fn an_id_takes_back_and_moves_no_message_that_got_it(stage: &Stage<'_>) -> CaseResult {
    stage.needs("delayed", |c| c.delayed)?;
    stage.needs("movable", |c| c.movable)?;
    let old = later(stage, 1, Due::After(HOLD)).await?;
    stage.lose_newest(stage.queue.as_str()).await?;

    let new = stage.publish_in_place_of(2, &old).await?;
    let engine = &stage.engine;
    check!(
        !engine.cancel(&stage.queue, &old).await?,
        "another message was taken back"
    );
    check!(
        !engine.reschedule(&stage.queue, &old, Due::Now).await?,
        "another message was moved"
    );

    stage.nothing_readable().await?;
    check_eq!(stage.stats().await?.scheduled, 1, "scheduled messages");
    check!(
        engine.cancel(&stage.queue, &new).await?,
        "its own id did not take it back"
    );
    Ok(())
}

async fn a_scheduled_message_can_be_taken_back(stage: &Stage<'_>) -> CaseResult {
    stage.needs("delayed", |c| c.delayed)?;
    stage.needs("movable", |c| c.movable)?;
    let pause = Duration::from_millis(200);
    let id = later(stage, 1, Due::After(pause)).await?;
    let kept = later(stage, 2, Due::After(pause)).await?;

    let cancel = |id| stage.engine.cancel(&stage.queue, id);
    check!(cancel(&id).await?, "a scheduled message was not found");
    check!(!cancel(&id).await?, "it was taken back twice");
    check!(
        !cancel(&unknown_id(&kept)).await?,
        "an unknown message was taken back"
    );

    stage.pass(pause).await;
    check_eq!(numbers(&stage.lease(10, HOLD).await?), [2], "messages");
    Ok(())
}

async fn a_scheduled_message_can_be_moved(stage: &Stage<'_>) -> CaseResult {
    stage.needs("delayed", |c| c.delayed)?;
    stage.needs("movable", |c| c.movable)?;
    let sooner = later(stage, 1, Due::After(HOLD)).await?;
    let later = later(stage, 2, Due::Now).await?;
    let move_to = |id, due| stage.engine.reschedule(&stage.queue, id, due);
    check!(
        move_to(&later, Due::After(HOLD)).await?,
        "a ready message was not moved"
    );

    stage.nothing_readable().await?;
    check!(
        move_to(&sooner, Due::Now).await?,
        "a scheduled message was not moved"
    );
    check!(
        !move_to(&unknown_id(&later), Due::Now).await?,
        "an unknown message was moved"
    );
    check_eq!(numbers(&stage.lease(10, HOLD).await?), [1], "messages");
    check_eq!(stage.stats().await?.scheduled, 1, "scheduled messages");
    Ok(())
}

async fn a_delivered_message_can_be_neither_taken_back_nor_moved(stage: &Stage<'_>) -> CaseResult {
    stage.needs("movable", |c| c.movable)?;
    let first = stage.fresh(HOLD).await?;
    let id = first.receipt.message_id().clone();
    let mut receipt = first.receipt;

    // A handler may have run already, so that taking it back would be a lie.
    for state in ["while it is leased", "after its release"] {
        let cancelled = stage.engine.cancel(&stage.queue, &id).await?;
        check!(!cancelled, "a message was taken back {state}");
        let moved = stage.engine.reschedule(&stage.queue, &id, Due::Now).await?;
        check!(!moved, "a message was moved {state}");

        if state == "while it is leased" {
            stage.nothing_readable().await?;
            stage.done(vec![(receipt.clone(), Settle::Release)]).await?;
        } else {
            receipt = stage.take(HOLD).await?.receipt;
        }
    }

    stage.done(vec![(receipt, ack())]).await
}

/// An operator who is told that a message was taken back must be able to rely on it.
async fn an_engine_that_moves_nothing_leaves_every_message(stage: &Stage<'_>) -> CaseResult {
    stage.needs("no messages that can be moved", |c| !c.movable)?;
    let id = later(stage, 1, Due::Now).await?;
    let answers = [
        stage.engine.cancel(&stage.queue, &id).await,
        stage.engine.reschedule(&stage.queue, &id, Due::Now).await,
    ];
    let is_delayed = stage.engine.capabilities().delayed;
    for answer in answers {
        match answer {
            Err(error) => check_eq!(error.kind(), ErrorKind::Unsupported, "the error"),
            Ok(found) => check!(!found && !is_delayed, "it answered {found}"),
        }
    }
    let delivery = stage.take(HOLD).await?;
    stage.done(vec![(delivery.receipt, ack())]).await
}
