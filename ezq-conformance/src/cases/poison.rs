//! Messages of clients that know nothing of ezq are ordinary deliveries. They can be settled in every
//! way, and hold up no other message.

use std::time::Duration;

use ezq_core::engine::Settle;
use ezq_core::message::headers::ORIGINAL_HEADERS;
use ezq_core::message::{HandlerMark, HandlerName, HandlerState, Progress};
use serde_json::json;

use super::settling::{mark, progress};
use crate::error::{CaseError, CaseResult};
use crate::stage::{HOLD, SHORT, Stage, ack, number_in, numbers, reason};

cases![
    odd_bodies_are_delivered_beside_good_ones,
    odd_headers_are_delivered_beside_good_ones,
    odd_headers_take_marks,
    odd_headers_can_be_released,
    odd_headers_survive_expiry,
    headers_that_are_no_object_go_along_to_the_dead_letters,
];

const BODIES: &[&str] = &[
    "null",
    "true",
    "42",
    "-1e400",
    "\"text\"",
    "\"\"",
    "[]",
    "[1,2]",
    "{}",
    "not json",
    "",
    r#"{"type":5,"id":null}"#,
];

/// Headers without a usable counter or mark.
const HEADERS: &[Option<&str>] = &[
    None,
    Some("null"),
    Some("[1]"),
    Some("\"x\""),
    Some("5"),
    Some("true"),
    Some("{}"),
    Some(r#"{"ezq-returned":"many"}"#),
    Some(r#"{"ezq-returned":null}"#),
    Some(r#"{"ezq-returned":-3}"#),
    Some(r#"{"ezq-returned":1.5}"#),
    Some(r#"{"ezq-returned":99999999999999999999}"#),
    Some(r#"{"ezq-returned":{"n":1}}"#),
    Some(r#"{"ezq-h:shop::a":5,"ezq-h:":null,"ezq-dead":[]}"#),
];

/// Stores a message with each of the headers. Returns how many of them the store could hold.
async fn odd_headers(stage: &Stage<'_>) -> Result<usize, CaseError> {
    let mut stored = 0;
    for (n, headers) in HEADERS.iter().enumerate() {
        let body = format!(r#"{{"n":{n}}}"#);
        let held = stage
            .harness
            .insert_raw(&stage.queue, &body, *headers)
            .await;
        stored += usize::from(held);
    }

    if stored == 0 {
        let why = "the harness cannot store headers the way another client would";
        return Err(CaseError::Skipped(why.to_owned()));
    }
    Ok(stored)
}

async fn odd_bodies_are_delivered_beside_good_ones(stage: &Stage<'_>) -> CaseResult {
    let mut stored = 0;
    for body in BODIES {
        stored += usize::from(stage.harness.insert_raw(&stage.queue, body, None).await);
    }

    if stored == 0 {
        let why = "the harness cannot store bodies the way another client would";
        return Err(CaseError::Skipped(why.to_owned()));
    }

    stage.publish_numbers(&[7]).await?;
    let leased = stage.lease(100, HOLD).await?;
    check_eq!(leased.len(), stored + 1, "deliveries");
    check!(
        numbers(&leased).contains(&7),
        "the good message did not come along"
    );

    let batch = leased.into_iter().map(|d| (d.receipt, ack())).collect();
    stage.done(batch).await?;
    stage.is_empty().await
}

async fn odd_headers_are_delivered_beside_good_ones(stage: &Stage<'_>) -> CaseResult {
    let stored = odd_headers(stage).await?;
    stage.publish_numbers(&[77]).await?;
    let leased = stage.lease(100, HOLD).await?;
    check_eq!(leased.len(), stored + 1, "deliveries");

    for delivery in &leased {
        let n = usize::try_from(number_in(&delivery.body)).unwrap_or(usize::MAX);
        let wanted = match HEADERS.get(n).copied().flatten() {
            Some("[1]") => Some(json!([1])),
            Some("\"x\"") => Some(json!("x")),
            Some("5") => Some(json!(5)),
            Some("true") => Some(json!(true)),
            _ => None,
        };
        check_eq!(
            delivery.headers.original(),
            wanted.as_ref(),
            "original of {:?}",
            HEADERS.get(n)
        );
        check_eq!(
            delivery.unsettled_deliveries(),
            1,
            "unsettled deliveries of number {n}"
        );
    }

    let batch = leased.into_iter().map(|d| (d.receipt, ack())).collect();
    stage.done(batch).await?;
    stage.is_empty().await
}

async fn odd_headers_take_marks(stage: &Stage<'_>) -> CaseResult {
    let stored = odd_headers(stage).await?;
    let failed: HandlerMark = mark(HandlerState::Retry, 1, "no");

    // Twice: the second time the headers are those that the first settlement wrote.
    for round in 1..3 {
        let leased = stage.lease(100, HOLD).await?;
        check_eq!(leased.len(), stored, "deliveries in round {round}");

        let batch = leased.into_iter().map(|delivery| {
            let settle = Settle::Retry {
                after: Duration::ZERO,
                progress: progress([("shop::a", failed.clone())]),
                outgoing: Vec::new(),
            };
            (delivery.receipt, settle)
        });
        stage.done(batch.collect()).await?;
    }

    let leased = stage.lease(100, HOLD).await?;
    check_eq!(leased.len(), stored, "deliveries");

    for delivery in leased {
        let n = number_in(&delivery.body);
        let marks = Progress::from_headers(&delivery.headers);
        let a = marks.get(&HandlerName::from("shop::a"));
        check_eq!(a, Some(&failed), "the mark on number {n}");
        check_eq!(delivery.headers.returned(), 2, "returned of number {n}");
        check_eq!(
            delivery.unsettled_deliveries(),
            1,
            "unsettled deliveries of number {n}"
        );
    }
    Ok(())
}

async fn odd_headers_can_be_released(stage: &Stage<'_>) -> CaseResult {
    let stored = odd_headers(stage).await?;
    let leased = stage.lease(100, HOLD).await?;
    let batch = leased.into_iter().map(|d| (d.receipt, Settle::Release));
    stage.done(batch.collect()).await?;
    let leased = stage.lease(100, HOLD).await?;
    check_eq!(leased.len(), stored, "deliveries");

    for delivery in leased {
        let n = number_in(&delivery.body);
        check_eq!(delivery.headers.returned(), 1, "returned of number {n}");
    }
    Ok(())
}

async fn odd_headers_survive_expiry(stage: &Stage<'_>) -> CaseResult {
    let stored = odd_headers(stage).await?;
    check_eq!(stage.lease(100, SHORT).await?.len(), stored, "deliveries");
    stage.pass(SHORT).await;
    let leased = stage.lease(100, HOLD).await?;
    check_eq!(leased.len(), stored, "deliveries after expiry");
    let unsettled: Vec<_> = leased.iter().map(|d| d.unsettled_deliveries()).collect();
    // A counter that cannot be read counts as zero returns, not as an error.
    check_eq!(unsettled, vec![2; stored], "unsettled deliveries");
    Ok(())
}

async fn headers_that_are_no_object_go_along_to_the_dead_letters(stage: &Stage<'_>) -> CaseResult {
    let letters = stage.dead_letters()?;
    let stored = odd_headers(stage).await?;
    let leased = stage.lease(100, HOLD).await?;
    let dead = progress([("shop::a", mark(HandlerState::Dead, 1, "no"))]);
    let batch = leased.into_iter().map(|delivery| {
        let settle = Settle::DeadLetter {
            reason: reason(),
            progress: dead.clone(),
            outgoing: Vec::new(),
        };
        (delivery.receipt, settle)
    });

    stage.done(batch.collect()).await?;
    let listed = letters.list(&stage.queue, None, 100).await?;
    check_eq!(listed.len(), stored, "dead letters");

    for letter in &listed {
        let n = usize::try_from(number_in(&letter.body)).unwrap_or(usize::MAX);
        let wanted = match HEADERS.get(n).copied().flatten() {
            Some("[1]") => Some(json!([1])),
            Some("\"x\"") => Some(json!("x")),
            Some("5") => Some(json!(5)),
            Some("true") => Some(json!(true)),
            _ => None,
        };

        let kept = letter.headers.value(ORIGINAL_HEADERS);
        check_eq!(
            kept,
            wanted.as_ref(),
            "original headers of {:?}",
            HEADERS.get(n)
        );
        check_eq!(
            Progress::from_headers(&letter.headers),
            dead,
            "marks of number {n}"
        );
        check_eq!(letter.reason, Some(reason()), "the reason of number {n}");
    }

    let ids: Vec<_> = listed.into_iter().map(|letter| letter.id).collect();
    check_eq!(
        letters.redrive(&stage.queue, &ids).await?.len(),
        stored,
        "letters moved"
    );

    let leased = stage.lease(100, HOLD).await?;
    check_eq!(leased.len(), stored, "deliveries after the redrive");

    let marks = leased
        .iter()
        .flat_map(|d| Progress::from_headers(&d.headers));
    check_eq!(marks.count(), 0, "marks after the redrive");
    Ok(())
}
