//! Published messages come out in order and unchanged, whatever else is in their batch.

use std::time::Duration;

use chrono::{DateTime, Utc};
use ezq_core::ErrorKind;
use ezq_core::engine::{Due, Outgoing, PublishOutcome};
use serde_json::json;

use crate::error::{CaseError, CaseResult};
use crate::stage::{HOLD, Stage, ack, number_in, numbers};

cases![
    a_batch_comes_out_in_its_order,
    batches_come_out_one_after_another,
    one_call_may_publish_to_several_queues,
    nothing_may_be_published_settled_and_extended,
    a_body_keeps_its_values,
    a_body_keeps_its_bytes,
    a_body_of_one_mebibyte_comes_back,
    headers_come_back,
    a_refused_body_harms_no_other,
    a_body_over_the_limit_is_refused,
    an_absurd_delay_harms_no_other,
];

async fn a_batch_comes_out_in_its_order(stage: &Stage<'_>) -> CaseResult {
    stage.needs("ordered", |c| c.ordered)?;
    let wanted: Vec<_> = (0..30).collect();
    let ids = stage.publish_numbers(&wanted).await?;
    check!(ids.is_sorted_by(|a, b| a < b), "ids do not rise: {ids:?}");

    let leased = stage.lease(100, HOLD).await?;
    check_eq!(numbers(&leased), wanted, "bodies");
    let read: Vec<_> = leased.iter().map(|d| d.receipt.message_id()).collect();
    check_eq!(read, ids.iter().collect::<Vec<_>>(), "ids");

    let first = leased.iter().all(|d| d.deliveries == 1);
    check!(first, "a first delivery does not count as 1");
    Ok(())
}

async fn batches_come_out_one_after_another(stage: &Stage<'_>) -> CaseResult {
    stage.needs("ordered", |c| c.ordered)?;
    // Claims of four then cross the borders of these batches of three.
    for batch in [[1, 2, 3], [4, 5, 6], [7, 8, 9]] {
        stage.publish_numbers(&batch).await?;
    }

    let mut read = Vec::new();
    for _ in 0..3 {
        read.extend(numbers(&stage.lease(4, HOLD).await?));
    }

    check_eq!(read, (1..10).collect::<Vec<_>>(), "bodies");
    Ok(())
}

async fn one_call_may_publish_to_several_queues(stage: &Stage<'_>) -> CaseResult {
    let batch = [
        stage.message(1),
        stage.outgoing(2),
        stage.message(3),
        stage.outgoing(4),
    ];

    let ids = stage.publish(batch.to_vec()).await?;
    let leased = stage.lease(10, HOLD).await?;
    let mut read: Vec<_> = leased.iter().map(|d| d.receipt.message_id()).collect();
    read.sort();
    check_eq!(read, [&ids[0], &ids[2]], "ids of the first queue");

    let mut arrived = stage.arrived().await?;
    arrived.sort_unstable();
    check_eq!(arrived, [2, 4], "messages of the second queue");
    Ok(())
}

async fn nothing_may_be_published_settled_and_extended(stage: &Stage<'_>) -> CaseResult {
    stage.publish(Vec::new()).await?;
    stage.settle(Vec::new()).await?;
    stage.extend(&[]).await?;
    Ok(())
}

async fn a_body_keeps_its_values(stage: &Stage<'_>) -> CaseResult {
    // Numbers that `f64` cannot hold, and texts that a careless escape changes.
    let kept = [
        "9007199254740993",
        "123456789012345678901234567890",
        "0.1000000000000000055511151231257827",
        "1.10",
        "äöü😀",
        r#"quote\" and \\ back"#,
    ];

    let [big, huge, decimal, zero, text, escaped] = kept;
    let body = format!(
        r#"{{"big":{big},"huge":{huge},"decimal":{decimal},"zero":{zero},"text":"{text}","escaped":"{escaped}","deep":{deep}}}"#,
        deep = format_args!("{}1{}", "[".repeat(100), "]".repeat(100)),
    );
    stage.publish(vec![stage.text(body)]).await?;

    let body = stage.take(HOLD).await?.body;
    for value in kept {
        check!(body.contains(value), "`{value}` is not in the body: {body}");
    }

    check_eq!(body.matches('[').count(), 100, "levels of nesting");
    Ok(())
}

async fn a_body_keeps_its_bytes(stage: &Stage<'_>) -> CaseResult {
    stage.needs("exact_bodies", |c| c.exact_bodies)?;
    // What `jsonb` would change: white space, the order of keys, and a key that comes twice.
    let body = "{ \"b\" : 1,\n\"a\":2, \"a\" : 3 }";
    stage.publish(vec![stage.text(body)]).await?;
    check_eq!(stage.take(HOLD).await?.body, body, "the body");
    Ok(())
}

async fn a_body_of_one_mebibyte_comes_back(stage: &Stage<'_>) -> CaseResult {
    stage.needs("bodies of 1 MiB", |c| {
        c.max_body.is_none_or(|max| max >= 1 << 20)
    })?;
    let body = format!("\"{}\"", "x".repeat((1 << 20) - 2));
    stage.publish(vec![stage.text(body.clone())]).await?;
    let read = stage.take(HOLD).await?;
    check!(read.body == body, "the body has {} bytes", read.body.len());
    stage.done(vec![(read.receipt, ack())]).await
}

async fn headers_come_back(stage: &Stage<'_>) -> CaseResult {
    let mut message = stage.message(1);
    message.headers.insert("correlation-id", "ä \"quoted\"");
    message
        .headers
        .insert("x-number", 9_007_199_254_740_993_i64);
    message
        .headers
        .insert("x-nested", json!({ "list": [1, null, "2"] }));

    let wanted = message.headers.clone();
    stage.publish(vec![message, stage.message(2)]).await?;

    let leased = stage.lease(10, HOLD).await?;
    let read: Vec<_> = leased.iter().map(|d| &d.headers).collect();
    let with = read.iter().filter(|headers| ***headers == wanted).count();
    let without = read.iter().filter(|headers| headers.is_empty()).count();
    check!(
        (with, without) == (1, 1),
        "headers of two messages: {read:?}"
    );
    Ok(())
}

/// Publishes a message that the engine may refuse between two good ones. Returns the outcome of the
/// former.
async fn refusable(stage: &Stage<'_>, bad: Outgoing) -> Result<PublishOutcome, CaseError> {
    let batch = vec![stage.message(1), bad, stage.message(2)];
    let mut outcomes = stage.outcomes(batch).await?;
    let good = [&outcomes[0], &outcomes[2]];
    check!(
        good.iter()
            .all(|outcome| matches!(outcome, PublishOutcome::Stored(_))),
        "its neighbours answered {good:?}"
    );

    let outcome = outcomes.swap_remove(1);
    let leased = stage.lease(10, HOLD).await?;
    let mut read: Vec<_> = leased.iter().map(|d| number_in(&d.body)).collect();
    read.retain(|n| *n > 0);
    read.sort_unstable();
    check_eq!(read, [1, 2], "its neighbours");

    for delivery in leased {
        stage.done(vec![(delivery.receipt, ack())]).await?;
    }
    Ok(outcome)
}

async fn a_refused_body_harms_no_other(stage: &Stage<'_>) -> CaseResult {
    // A store of text keeps these, and one of `jsonb` refuses them, each for another reason.
    for bad in [
        r#"{"text":"\u0000"}"#,
        r#"{"text":"\ud800"}"#,
        r#"{"cut":"#,
        "",
    ] {
        match refusable(stage, stage.text(bad)).await? {
            PublishOutcome::Failed(error) => {
                check_eq!(error.kind(), ErrorKind::InvalidEvent, "refusing `{bad}`");
            }
            PublishOutcome::Stored(_) => {}
            other => check!(false, "`{bad}` answered {other:?}"),
        }
    }
    Ok(())
}

async fn a_body_over_the_limit_is_refused(stage: &Stage<'_>) -> CaseResult {
    const FEASIBLE: usize = 16 << 20;

    stage.needs("a limit on bodies of at most 16 MiB", |c| {
        c.max_body.is_some_and(|max| max <= FEASIBLE)
    })?;

    let limit = stage.engine.capabilities().max_body.unwrap_or(FEASIBLE);
    let text = |bytes: usize| format!("\"{}\"", "x".repeat(bytes - 2));
    let outcome = refusable(stage, stage.text(text(limit + 1))).await?;
    let PublishOutcome::Failed(error) = outcome else {
        return Err(CaseError::Failed(format!("too much answered {outcome:?}")));
    };
    check_eq!(error.kind(), ErrorKind::TooLarge, "refusing too much");

    let outcome = refusable(stage, stage.text(text(limit))).await?;
    check!(
        matches!(outcome, PublishOutcome::Stored(_)),
        "the limit answered {outcome:?}"
    );
    Ok(())
}

async fn an_absurd_delay_harms_no_other(stage: &Stage<'_>) -> CaseResult {
    stage.needs("delayed", |c| c.delayed)?;
    // Beyond what a database's time can hold. Storing it at the last possible time is right, and
    // refusing it alone is, too.
    for due in [Due::After(Duration::MAX), Due::At(DateTime::<Utc>::MAX_UTC)] {
        let outcome = refusable(stage, stage.message(-1).due(due)).await?;
        let known = matches!(
            outcome,
            PublishOutcome::Stored(_) | PublishOutcome::Failed(_)
        );
        check!(known, "{due:?} answered {outcome:?}");
    }
    Ok(())
}
