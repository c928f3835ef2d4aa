//! An engine that tells the history of an event finds every copy of it, in every state.

use std::time::Duration;

use ezq_core::engine::{CopyState, Due, EventCopy, Settle};
use ezq_core::message::headers::{CE_ID, CE_TYPE, CODEC};
use ezq_core::message::{HandlerState, Progress};

use super::settling::{mark, progress};
use crate::error::{CaseError, CaseResult};
use crate::stage::{HOLD, SHORT, Stage, bury, reason, retry};

cases![
    nothing_is_told_of_an_unknown_event,
    history_tells_an_event_that_waits,
    history_tells_an_event_that_is_leased,
    history_tells_an_event_that_is_tried_again,
    history_tells_a_dead_event,
    history_tells_what_a_redriven_event_had_died_of,
    history_finds_an_event_in_the_flat_form,
    history_finds_an_event_by_its_headers_where_a_codec_wrote_it,
    history_finds_every_copy,
];

fn unlike(wanted: &str, copy: &EventCopy) -> CaseError {
    CaseError::Failed(format!("it should be {wanted}: {copy:?}"))
}

async fn nothing_is_told_of_an_unknown_event(stage: &Stage<'_>) -> CaseResult {
    stage.publish(vec![stage.event("e-1")]).await?;
    // An event with similar words, and one whose payload has a field `id` that is not the event's id.
    stage
        .publish(vec![stage.text(r#"{"_type": "Paid", "id": "e-2"}"#)])
        .await?;

    // A part of an id, a field of the payload, another case, nothing, and an unknown message.
    for id in ["e", "e-2", "E-1", "", &format!("{}:0", stage.queue)] {
        let copies = stage.history(id).await?;
        check!(copies.is_empty(), "`{id}` should be unknown: {copies:?}");
    }
    Ok(())
}

async fn history_tells_an_event_that_waits(stage: &Stage<'_>) -> CaseResult {
    let delayed = Due::After(Duration::from_secs(3600));
    let batch = vec![stage.event("e-1"), stage.event("e-2").due(delayed)];
    let ids = stage.publish(batch).await?;

    for (id, message_id) in ["e-1", "e-2"].iter().zip(&ids) {
        let copy = stage.copy(id).await?;
        let CopyState::Waiting { due } = copy.state else {
            return Err(unlike("waiting", &copy));
        };

        let pause = (due - copy.published_at).num_minutes();
        check_eq!(
            pause,
            if *id == "e-1" { 0 } else { 60 },
            "minutes until it is due"
        );
        check_eq!(&copy.queue, &stage.queue, "its queue");
        check_eq!(&copy.message_id, message_id, "its id");
        check_eq!(copy.event_type.as_deref(), Some("shop.paid"), "its type");
        check_eq!(copy.deliveries, 0, "deliveries");
    }
    Ok(())
}

async fn history_tells_an_event_that_is_leased(stage: &Stage<'_>) -> CaseResult {
    let delivery = stage.fresh_event("e-1").await?;
    let copy = stage.copy("e-1").await?;
    let CopyState::Leased { until } = copy.state else {
        return Err(unlike("leased", &copy));
    };

    let lasts = (until - delivery.leased_at).num_seconds();
    check!(
        (59..=61).contains(&lasts),
        "the lease should last a minute, not {lasts} s"
    );
    check_eq!(copy.deliveries, 1, "deliveries");

    stage
        .done(vec![(delivery.receipt, retry(Duration::ZERO))])
        .await?;
    // Leased again: the headers now count a return, and it is a lease still.
    stage.take(SHORT).await?;

    let copy = stage.copy("e-1").await?;
    check!(
        matches!(copy.state, CopyState::Leased { .. }),
        "it should be leased: {copy:?}"
    );

    stage.pass(SHORT).await;
    let copy = stage.copy("e-1").await?;
    check!(
        matches!(copy.state, CopyState::Waiting { .. }),
        "its lease ran out: {copy:?}"
    );
    Ok(())
}

async fn history_tells_an_event_that_is_tried_again(stage: &Stage<'_>) -> CaseResult {
    stage.publish(vec![stage.event("e-1")]).await?;
    // The first delivery ends in a crash, and is counted apart from settled ones.
    stage.take(SHORT).await?;
    stage.pass(SHORT).await;

    let delivery = stage.take(HOLD).await?;
    let pause = Duration::from_secs(600);
    let mut failed = mark(HandlerState::Retry, 2, "no such address");
    failed.due = Some(delivery.leased_at + pause);

    let marks = progress([
        ("shop::a", mark(HandlerState::Done, 1, "")),
        ("shop::b", failed),
    ]);

    let retry = Settle::Retry {
        after: pause,
        progress: marks.clone(),
        outgoing: Vec::new(),
    };
    stage.done(vec![(delivery.receipt, retry)]).await?;

    let copy = stage.copy("e-1").await?;
    let CopyState::Retrying { due } = copy.state else {
        return Err(unlike("tried again", &copy));
    };

    let waits = (due - delivery.leased_at).num_seconds();
    check!(
        (600..660).contains(&waits),
        "it should wait ten minutes, not {waits} s"
    );
    check_eq!(copy.handlers, marks, "the handlers' marks");
    check_eq!(copy.deliveries, 2, "deliveries");
    Ok(())
}

async fn history_tells_a_dead_event(stage: &Stage<'_>) -> CaseResult {
    let letters = stage.dead_letters()?;
    let delivery = stage.fresh_event("e-1").await?;
    stage.done(vec![(delivery.receipt.clone(), bury())]).await?;

    let copy = stage.copy("e-1").await?;
    let CopyState::Dead {
        letter,
        at,
        reason: why,
    } = &copy.state
    else {
        return Err(unlike("dead", &copy));
    };

    check!(
        letters.find(&stage.queue, letter).await?.is_some(),
        "no dead letter {letter}"
    );
    check!(*at >= copy.published_at, "it died before it was published");
    check_eq!(*why, Some(reason()), "the reason");
    check_eq!(
        &copy.message_id,
        delivery.receipt.message_id(),
        "the id it had"
    );
    check_eq!(
        (copy.published_at, copy.deliveries),
        (delivery.enqueued_at, 1),
        "its life"
    );
    Ok(())
}

/// Buries the readable event, and redrives it.
async fn die_and_return(stage: &Stage<'_>, error: &str) -> Result<EventCopy, CaseError> {
    let letters = stage.dead_letters()?;
    let delivery = stage.take(HOLD).await?;
    let mut reason = reason();
    error.clone_into(&mut reason.error);

    let settle = Settle::DeadLetter {
        reason,
        progress: Progress::default(),
        outgoing: Vec::new(),
    };
    stage.done(vec![(delivery.receipt, settle)]).await?;

    let dead = stage.copy("e-1").await?;
    let CopyState::Dead { letter, .. } = &dead.state else {
        return Err(unlike("dead", &dead));
    };
    letters
        .redrive(&stage.queue, std::slice::from_ref(letter))
        .await?;
    Ok(dead)
}

async fn history_tells_what_a_redriven_event_had_died_of(stage: &Stage<'_>) -> CaseResult {
    stage.publish(vec![stage.event("e-1")]).await?;
    let error = |copy: EventCopy| Some(copy.died_before?.reason?.error);
    let dead = die_and_return(stage, "the first").await?;
    let published_at = dead.published_at;

    check_eq!(
        error(dead),
        None,
        "of what it had died before its first death"
    );

    let copy = stage.copy("e-1").await?;
    check!(
        matches!(copy.state, CopyState::Waiting { .. }),
        "it was redriven: {copy:?}"
    );
    check_eq!(copy.deliveries, 0, "deliveries since then");
    check_eq!(
        error(copy).as_deref(),
        Some("the first"),
        "of what it had died"
    );

    let dead = die_and_return(stage, "the second").await?;
    check_eq!(
        error(dead).as_deref(),
        Some("the first"),
        "of what it had died before"
    );

    let copy = stage.copy("e-1").await?;
    check_eq!(
        copy.published_at,
        published_at,
        "when it was published first"
    );
    check_eq!(
        error(copy).as_deref(),
        Some("the second"),
        "of what it had died last"
    );
    Ok(())
}

async fn history_finds_an_event_in_the_flat_form(stage: &Stage<'_>) -> CaseResult {
    let letters = stage.dead_letters()?;
    let flat = stage.text(r#"{"_type": "Paid", "id": 7}"#);
    let ids = stage.publish(vec![flat.clone(), flat]).await?;
    let id = ids
        .last()
        .map(|id| format!("{}:{id}", stage.queue))
        .unwrap_or_default();

    let copy = stage.copy(&id).await?;
    check_eq!(Some(&copy.message_id), ids.last(), "its id");
    check_eq!(copy.event_type.as_deref(), Some("Paid"), "its type");

    // Both die: the letter must be found by the id of the message that it was.
    let deliveries = stage.lease(2, HOLD).await?;
    stage
        .done(
            deliveries
                .into_iter()
                .map(|d| (d.receipt, bury()))
                .collect(),
        )
        .await?;

    let copy = stage.copy(&id).await?;
    let CopyState::Dead { letter, .. } = copy.state else {
        return Err(unlike("dead", &copy));
    };
    check_eq!(Some(&copy.message_id), ids.last(), "the id it had");

    letters.redrive(&stage.queue, &[letter]).await?;
    let copy = stage.copy(&id).await?;
    check!(
        matches!(copy.state, CopyState::Waiting { .. }),
        "it was redriven: {copy:?}"
    );
    Ok(())
}

async fn history_finds_an_event_by_its_headers_where_a_codec_wrote_it(
    stage: &Stage<'_>,
) -> CaseResult {
    let mut sealed = stage.text(r#"{"specversion": "x", "id": "inner", "sealed": [1]}"#);
    for (name, value) in [(CODEC, "sealed"), (CE_ID, "e-1"), (CE_TYPE, "shop.paid")] {
        sealed.headers.insert(name, value);
    }

    // A plain body tells its own id, which has precedence over the id in the headers.
    let mut plain = stage.event("e-2");
    plain.headers.insert(CE_ID, "e-1");
    stage.publish(vec![sealed, plain]).await?;

    for id in ["e-1", "e-2"] {
        check_eq!(
            stage.copy(id).await?.event_type.as_deref(),
            Some("shop.paid"),
            "its type"
        );
    }

    let copies = stage.history("inner").await?;
    check!(
        copies.is_empty(),
        "an id inside a body that a codec wrote was found: {copies:?}"
    );
    Ok(())
}

async fn history_finds_every_copy(stage: &Stage<'_>) -> CaseResult {
    stage
        .publish(vec![stage.event("e-1"), stage.event("e-1")])
        .await?;
    let here = stage.history("e-1").await?.len();
    check_eq!(here, 2, "copies in the queue");

    stage
        .publish(vec![stage.event("e-1").queue(stage.other.clone())])
        .await?;

    let all = stage.engine.history("e-1", None).await?.copies;
    let ours = all
        .iter()
        .filter(|copy| [&stage.queue, &stage.other].contains(&&copy.queue));
    check_eq!(ours.count(), 3, "copies in both queues");

    let sorted = all.is_sorted_by_key(|copy| copy.published_at);
    check!(sorted, "copies should be sorted by time");
    check_eq!(
        stage.history("e-1").await?.len(),
        here,
        "copies in one of the queues"
    );
    Ok(())
}
