//! What each settlement does to its message, and the events that leave with it.

use std::time::Duration;

use chrono::DateTime;
use ezq_core::ErrorKind;
use ezq_core::engine::{Settle, SettleOutcome};
use ezq_core::message::{ErrorRecord, HandlerMark, HandlerName, HandlerState, Progress};
use tokio::time::Instant;

use crate::error::{CaseError, CaseResult};
use crate::stage::{HOLD, SHORT, Stage, ack, bury, number_in, numbers, reason, retry};

cases![
    an_acknowledged_message_is_gone,
    a_retry_waits_for_its_pause,
    a_retry_keeps_the_marks_of_every_handler,
    a_settled_delivery_does_not_count_as_a_crash,
    a_release_returns_to_its_old_place_at_once,
    a_mixed_batch_settles_each_in_its_own_way,
    outgoing_events_leave_with_every_settlement,
    outgoing_events_for_a_missing_queue_fail_their_settlement_alone,
    of_two_settlements_of_one_delivery_the_first_possible_counts,
    errors_with_any_text_can_be_kept,
];

async fn an_acknowledged_message_is_gone(stage: &Stage<'_>) -> CaseResult {
    let delivery = stage.fresh(SHORT).await?;
    stage.done(vec![(delivery.receipt, ack())]).await?;
    stage.pass(SHORT).await;
    stage.nothing_readable().await?;
    stage.is_empty().await
}

async fn a_retry_waits_for_its_pause(stage: &Stage<'_>) -> CaseResult {
    stage.needs("delayed", |c| c.delayed)?;
    let pause = Duration::from_millis(700);
    let delivery = stage.fresh(HOLD).await?;
    let started = Instant::now();
    stage.done(vec![(delivery.receipt, retry(pause))]).await?;

    let early = stage.lease(10, HOLD).await?;
    // On a slow machine the pause may be over by now. Then this shows nothing.
    check!(
        early.is_empty() || started.elapsed() >= pause,
        "it came early"
    );

    if early.is_empty() {
        stage.pass(pause).await;
        let again = stage.take(HOLD).await?;
        check_eq!(again.deliveries, 2, "deliveries");
    }
    Ok(())
}

pub(super) fn mark(state: HandlerState, attempts: u32, error: &str) -> HandlerMark {
    let at = DateTime::from_timestamp_micros(1_700_000_000_123_456);
    HandlerMark::new(state).attempts(attempts).due(at).errors(
        at.filter(|_| !error.is_empty())
            .map(|at| ErrorRecord::new(at, attempts, error.to_owned()))
            .into_iter()
            .collect(),
    )
}

pub(super) fn progress<const N: usize>(marks: [(&str, HandlerMark); N]) -> Progress {
    let named = marks.map(|(name, mark)| (HandlerName::from(name), mark));
    named.into_iter().collect()
}

fn retry_with(progress: Progress) -> Settle {
    Settle::Retry {
        after: Duration::ZERO,
        progress,
        outgoing: Vec::new(),
    }
}

/// A mark tells that a handler is done. If it were lost, the handler would run again.
async fn a_retry_keeps_the_marks_of_every_handler(stage: &Stage<'_>) -> CaseResult {
    let mut message = stage.message(1);
    message.headers.insert("correlation-id", "c-1");
    stage.publish(vec![message]).await?;

    let a = mark(HandlerState::Done, 1, "");
    let failed = mark(HandlerState::Retry, 1, "first: \"quoted\" 'text' ä");
    let failed_again = mark(HandlerState::Retry, 2, "second");

    // Each settlement carries the marks of the handlers that ran, not of all.
    for step in [
        ("shop::a", &a),
        ("shop::b", &failed),
        ("shop::b", &failed_again),
    ] {
        let (name, mark) = step;
        let delivery = stage.take(HOLD).await?;
        let progress = progress([(name, mark.clone())]);
        stage
            .done(vec![(delivery.receipt, retry_with(progress))])
            .await?;
    }

    let delivery = stage.take(HOLD).await?;
    let wanted = progress([("shop::a", a), ("shop::b", failed_again)]);
    check_eq!(Progress::from_headers(&delivery.headers), wanted, "marks");
    check_eq!(
        delivery.headers.text("correlation-id"),
        Some("c-1"),
        "the publisher's header"
    );
    Ok(())
}

/// Deliveries without a settlement count as crashes, and too many of them end in a dead letter. A long
/// retry policy must not look like that.
async fn a_settled_delivery_does_not_count_as_a_crash(stage: &Stage<'_>) -> CaseResult {
    // Two settlements that count as a return, and then a crash.
    let steps = [
        (Some(retry(Duration::ZERO)), 1),
        (Some(Settle::Release), 1),
        (None, 1),
    ];
    let mut delivery = stage.fresh(SHORT).await?;

    for (settle, unsettled) in steps {
        check_eq!(
            delivery.unsettled_deliveries(),
            unsettled,
            "unsettled deliveries"
        );

        match settle {
            Some(settle) => stage.done(vec![(delivery.receipt, settle)]).await?,
            None => stage.pass(SHORT).await,
        }
        delivery = stage.take(SHORT).await?;
    }

    check_eq!(delivery.headers.returned(), 2, "returned");
    check_eq!(delivery.deliveries, 4, "deliveries");
    check_eq!(
        delivery.unsettled_deliveries(),
        2,
        "unsettled deliveries after a crash"
    );
    Ok(())
}

/// Consumers release what they have no room for. That must not change the order of the queue.
async fn a_release_returns_to_its_old_place_at_once(stage: &Stage<'_>) -> CaseResult {
    stage.needs("ordered", |c| c.ordered)?;
    stage.publish_numbers(&[1, 2, 3]).await?;
    let first = stage.lease(1, HOLD).await?.remove(0);
    let place = first.position();

    // On a clock that stands still, a message that is released as new would get its old place.
    stage.pass(Duration::from_millis(1)).await;
    stage.done(vec![(first.receipt, Settle::Release)]).await?;

    let leased = stage.lease(3, HOLD).await?;
    check_eq!(numbers(&leased), [1, 2, 3], "messages");
    let again = &leased[0];
    check_eq!(again.position(), place, "its place");
    check_eq!(again.deliveries, 2, "deliveries");
    check_eq!(again.headers.returned(), 1, "returned");
    Ok(())
}

/// Consumers settle whatever is ready in one call.
async fn a_mixed_batch_settles_each_in_its_own_way(stage: &Stage<'_>) -> CaseResult {
    let dead_letters = stage.dead_letters()?;
    stage.publish_numbers(&[1, 2, 3, 4]).await?;
    let mut batch = Vec::new();

    for delivery in stage.lease(4, HOLD).await? {
        let settle = match number_in(&delivery.body) {
            1 => retry(HOLD),
            2 => ack(),
            3 => Settle::Release,
            _ => bury(),
        };
        batch.push((delivery.receipt, settle));
    }

    stage.done(batch).await?;
    check_eq!(
        numbers(&stage.lease(4, HOLD).await?),
        [3],
        "readable messages"
    );

    let dead = dead_letters.list(&stage.queue, None, 10).await?;
    let dead: Vec<_> = dead.iter().map(|letter| number_in(&letter.body)).collect();
    check_eq!(dead, [4], "dead letters");

    let stats = stage.stats().await?;
    check_eq!(
        stats.in_progress,
        2,
        "messages that were retried or are leased"
    );
    Ok(())
}

async fn outgoing_events_leave_with_every_settlement(stage: &Stage<'_>) -> CaseResult {
    stage.publish_numbers(&[1, 2]).await?;
    let outgoing = |n| vec![stage.outgoing(n), stage.outgoing(n + 1)];
    let mut batch = Vec::new();

    for delivery in stage.lease(2, HOLD).await? {
        let settle = if number_in(&delivery.body) == 1 {
            Settle::Ack {
                outgoing: outgoing(10),
            }
        } else {
            Settle::Retry {
                after: Duration::ZERO,
                progress: Progress::default(),
                outgoing: outgoing(20),
            }
        };
        batch.push((delivery.receipt, settle));
    }

    stage.done(batch).await?;
    let mut wanted = vec![10, 11, 20, 21];

    if stage.engine.dead_letters().is_some() {
        let delivery = stage.take(HOLD).await?;
        let bury = Settle::DeadLetter {
            reason: reason(),
            progress: Progress::default(),
            outgoing: outgoing(30),
        };
        stage.done(vec![(delivery.receipt, bury)]).await?;
        wanted.extend([30, 31]);
    }

    let mut arrived = stage.arrived().await?;
    arrived.sort_unstable();
    check_eq!(arrived, wanted, "outgoing events");
    Ok(())
}

/// A settlement and its events are stored in one step. If that is impossible, the message stays leased and
/// its neighbours are settled.
async fn outgoing_events_for_a_missing_queue_fail_their_settlement_alone(
    stage: &Stage<'_>,
) -> CaseResult {
    stage.publish_numbers(&[1, 2, 3]).await?;
    let mut batch = Vec::new();
    for delivery in stage.lease(3, HOLD).await? {
        let n = number_in(&delivery.body);
        let queue = if n == 2 { &stage.missing } else { &stage.other };
        let outgoing = vec![stage.message(n * 10).queue(queue.clone())];
        batch.push((n, (delivery.receipt, Settle::Ack { outgoing })));
    }

    // Outcomes come in the order of the settlements, so that the numbers tell whose they are.
    let (numbers, batch): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
    let mut failed = None;
    for (n, outcome) in numbers.into_iter().zip(stage.settle(batch).await?) {
        match (n, outcome) {
            (2, SettleOutcome::Failed { receipt, error }) => failed = Some((receipt, error)),
            (1 | 3, SettleOutcome::Done) => {}
            (n, outcome) => check!(false, "message {n} answered {outcome:?}"),
        }
    }

    let Some((receipt, error)) = failed else {
        return Err(CaseError::Failed("no settlement failed".into()));
    };
    check_eq!(error.kind(), ErrorKind::QueueMissing, "the failure");

    let mut arrived = stage.arrived().await?;
    arrived.sort_unstable();
    check_eq!(arrived, [10, 30], "outgoing events");

    // The returned receipt still holds.
    stage.done(vec![(receipt, ack())]).await?;
    stage.is_empty().await
}

async fn of_two_settlements_of_one_delivery_the_first_possible_counts(
    stage: &Stage<'_>,
) -> CaseResult {
    let receipt = stage.fresh(HOLD).await?.receipt;
    // The first is impossible, the second settles, and the third comes too late.
    let impossible = Settle::Ack {
        outgoing: vec![stage.message(2).queue(stage.missing.clone())],
    };
    let possible = Settle::Ack {
        outgoing: vec![stage.outgoing(3)],
    };

    let late = Settle::Ack {
        outgoing: vec![stage.outgoing(4)],
    };
    let batch = [impossible, possible, late].map(|settle| (receipt.clone(), settle));
    let outcomes = stage.settle(batch.to_vec()).await?;
    use SettleOutcome::{Done, Failed, LeaseLost};

    let right = matches!(outcomes.as_slice(), [Failed { .. }, Done, LeaseLost]);
    check!(right, "outcomes are {outcomes:?}");
    check_eq!(stage.arrived().await?, [3], "outgoing events");
    stage.is_empty().await
}

async fn errors_with_any_text_can_be_kept(stage: &Stage<'_>) -> CaseResult {
    // `jsonb` cannot hold NUL. That must not keep the message from being settled.
    let text = "before\0after \u{1b}[31m \u{fffd} 😀 \\u0000";
    let failed = mark(HandlerState::Retry, 1, text);
    let delivery = stage.fresh(HOLD).await?;
    let settle = retry_with(progress([("shop::a", failed)]));
    stage.done(vec![(delivery.receipt, settle)]).await?;

    let delivery = stage.take(HOLD).await?;
    let marks = Progress::from_headers(&delivery.headers);
    let kept = marks.iter().flat_map(|(_, mark)| &mark.errors);
    let kept: Vec<_> = kept.map(|record| record.error.as_str()).collect();
    check!(
        kept.iter()
            .any(|text| text.contains("before") && text.contains("after")),
        "the error's text is lost: {kept:?}"
    );

    if stage.engine.dead_letters().is_some() {
        let mut reason = reason();
        reason.error = text.to_owned();
        let bury = Settle::DeadLetter {
            reason,
            progress: Progress::default(),
            outgoing: Vec::new(),
        };
        stage.done(vec![(delivery.receipt, bury)]).await?;
    }
    Ok(())
}
