//! Operations: events acted on by id, or all that match; and the audit trail.

use ezq_core::ErrorKind;
use ezq_core::engine::{
    ActOutcome, AuditAction, AuditEntry, AuditRequest, Cancel, CancelOrder, Due, EventAction,
    EventFilter, EventRef, EventState, Operation, OperationStatus, Operations, Selection,
    Signature,
};
use ezq_core::message::{HandlerState, MessageId};

use super::settling::{mark, progress};
use crate::error::{CaseError, CaseResult};
use crate::stage::{HOLD, Stage, ack, bury, numbers, unknown_id};

cases![
    a_discarded_event_is_gone_for_good,
    an_event_that_a_worker_has_is_not_acted_on,
    what_waits_behind_a_discarded_event_of_its_key_goes_on,
    an_event_that_waits_is_due_at_once_when_it_is_retried,
    a_moved_event_is_in_the_other_queue_only,
    dead_letters_are_acted_on_by_their_own_ids,
    what_does_not_fit_or_has_no_queue_changes_nothing,
    an_operation_acts_on_what_matches_and_on_nothing_newer,
    an_operation_that_was_stopped_goes_on_where_it_ended,
    two_clients_share_the_steps_of_one_operation,
    the_audit_trail_tells_who_did_what,
    a_cancellation_is_recorded,
];

/// More than two steps of any engine.
const MANY: i64 = 250;

pub(super) fn operations<'a>(stage: &'a Stage<'_>) -> Result<&'a dyn Operations, CaseError> {
    stage
        .engine
        .operations()
        .ok_or_else(|| CaseError::Skipped("the engine does not act on events".to_owned()))
}

pub(super) fn second<'a>(stage: &'a Stage<'_>) -> Result<&'a dyn Operations, CaseError> {
    stage
        .second
        .operations()
        .ok_or_else(|| CaseError::Skipped("the engine does not act on events".to_owned()))
}

pub(super) fn ada() -> Signature {
    // A text that is hard to quote.
    Signature::new("Ada \"Ä\"; '%").reason(Some("test orders".to_owned()))
}

/// Acts on one event by its id.
async fn act(
    stage: &Stage<'_>,
    action: &EventAction,
    event: EventRef,
) -> Result<ActOutcome, CaseError> {
    let operations = operations(stage)?;
    let outcomes = operations
        .act(&stage.queue, action, &[event], &ada())
        .await?;
    check_eq!(outcomes.len(), 1, "outcomes of one event");
    Ok(outcomes[0])
}

/// Runs an operation to its end.
async fn run(by: &dyn Operations, id: &str) -> Result<Operation, CaseError> {
    // More steps than any case has.
    for _ in 0..1000 {
        let operation = by.step(id).await?;
        if !operation.is_running() {
            return Ok(operation);
        }
    }
    Err(CaseError::Failed("the operation does not end".to_owned()))
}

/// An id that no other operation has.
fn id(stage: &Stage<'_>) -> String {
    format!("operation of {}", stage.queue)
}

async fn readable(stage: &Stage<'_>) -> Result<Vec<i64>, CaseError> {
    let mut seen = numbers(&stage.lease(1000, HOLD).await?);
    seen.sort_unstable();
    Ok(seen)
}

async fn a_discarded_event_is_gone_for_good(stage: &Stage<'_>) -> CaseResult {
    operations(stage)?;
    let ids = stage.publish_numbers(&[1, 2]).await?;
    let events = [
        EventRef::from(&ids[0]),
        EventRef::from(&unknown_id(&ids[0])),
    ];
    let outcomes = operations(stage)?
        .act(&stage.queue, &EventAction::Discard, &events, &ada())
        .await?;
    check_eq!(
        outcomes,
        [ActOutcome::Done, ActOutcome::Missing],
        "discarding one event and one that is not there"
    );
    let again = act(stage, &EventAction::Discard, EventRef::from(&ids[0])).await?;
    check_eq!(again, ActOutcome::Missing, "discarding it again");
    check_eq!(readable(stage).await?, [2], "what is left");
    Ok(())
}

async fn an_event_that_a_worker_has_is_not_acted_on(stage: &Stage<'_>) -> CaseResult {
    operations(stage)?;
    let delivery = stage.fresh(HOLD).await?;
    let id = delivery.receipt.message_id();
    let to = stage.other.clone();
    for action in [
        EventAction::Discard,
        EventAction::RetryNow,
        EventAction::Move { to },
    ] {
        let outcome = act(stage, &action, EventRef::from(id)).await?;
        check_eq!(outcome, ActOutcome::Leased, "{action} of a leased event");
    }
    stage.done(vec![(delivery.receipt, ack())]).await?;
    check_eq!(stage.arrived().await?, [0_i64; 0], "moved events");
    Ok(())
}

async fn what_waits_behind_a_discarded_event_of_its_key_goes_on(stage: &Stage<'_>) -> CaseResult {
    stage.needs("keys", |c| c.keys)?;
    stage.needs("delayed", |c| c.delayed)?;
    operations(stage)?;
    let first = stage.with_key("a", 1).due(Due::After(HOLD));
    let ids = stage.publish(vec![first, stage.with_key("a", 2)]).await?;
    stage.nothing_readable().await?;
    let outcome = act(stage, &EventAction::Discard, EventRef::from(&ids[0])).await?;
    check_eq!(outcome, ActOutcome::Done, "discarding the first of a key");
    check_eq!(readable(stage).await?, [2], "what waited behind it");
    Ok(())
}

async fn an_event_that_waits_is_due_at_once_when_it_is_retried(stage: &Stage<'_>) -> CaseResult {
    operations(stage)?;
    let delivery = stage.fresh(HOLD).await?;
    let id = delivery.receipt.message_id().clone();
    let mut waiting = mark(HandlerState::Retry, 2, "not yet");
    waiting.due = Some(delivery.leased_at + HOLD);
    let retry = ezq_core::engine::Settle::Retry {
        after: HOLD,
        progress: progress([("shop::a", waiting)]),
        outgoing: Vec::new(),
    };
    stage.done(vec![(delivery.receipt, retry)]).await?;
    stage.nothing_readable().await?;

    let outcome = act(stage, &EventAction::RetryNow, EventRef::from(&id)).await?;
    check_eq!(outcome, ActOutcome::Done, "retrying an event that waits");
    let again = stage.take(HOLD).await?;
    let marks = ezq_core::message::Progress::from_headers(&again.headers);
    let kept = marks.get(&"shop::a".into());
    check!(
        kept.is_some_and(|mark| mark.attempts == 2 && mark.due.is_none()),
        "the mark of its handler is {kept:?}"
    );
    Ok(())
}

async fn a_moved_event_is_in_the_other_queue_only(stage: &Stage<'_>) -> CaseResult {
    operations(stage)?;
    let mut event = stage.event("e-1");
    event.headers.insert("correlation-id", "c-1");
    let body = event.body.clone();
    let ids = stage.publish(vec![event]).await?;
    let to = stage.other.clone();
    let outcome = act(stage, &EventAction::Move { to }, EventRef::from(&ids[0])).await?;
    check_eq!(outcome, ActOutcome::Done, "moving an event");

    stage.nothing_readable().await?;
    let request = ezq_core::engine::LeaseRequest::new(stage.other.clone(), 10, HOLD);
    let arrived = crate::stage::only(stage.request(request).await?.deliveries)?;
    let is_same = serde_json::from_str::<serde_json::Value>(&arrived.body).ok()
        == serde_json::from_str(&body).ok();
    check!(is_same, "the body became {}", arrived.body);
    check_eq!(
        arrived.headers.text("correlation-id"),
        Some("c-1"),
        "a header of the event"
    );
    check_eq!(arrived.deliveries, 1, "its deliveries there");
    Ok(())
}

/// Buries messages, and returns the ids of their dead letters.
async fn dead(stage: &Stage<'_>, numbers: &[i64]) -> Result<Vec<MessageId>, CaseError> {
    let letters = stage.dead_letters()?;
    stage.publish_numbers(numbers).await?;
    for delivery in stage.lease(numbers.len(), HOLD).await? {
        stage.done(vec![(delivery.receipt, bury())]).await?;
    }
    let found = letters.list(&stage.queue, None, 1000).await?;
    check_eq!(found.len(), numbers.len(), "dead letters");
    Ok(found.into_iter().map(|letter| letter.id).collect())
}

async fn dead_letters_are_acted_on_by_their_own_ids(stage: &Stage<'_>) -> CaseResult {
    operations(stage)?;
    let letters = dead(stage, &[1, 2, 3]).await?;
    let to = stage.other.clone();
    for (action, letter) in [
        (EventAction::Redrive, &letters[0]),
        (EventAction::Discard, &letters[1]),
        (EventAction::Move { to }, &letters[2]),
    ] {
        let event = EventRef::Dead(letter.clone());
        let outcome = act(stage, &action, event.clone()).await?;
        check_eq!(outcome, ActOutcome::Done, "{action} of a dead letter");
        let again = act(stage, &action, event).await?;
        check_eq!(again, ActOutcome::Missing, "{action} of it again");
    }
    check_eq!(readable(stage).await?, [1], "what was redriven");
    check_eq!(stage.arrived().await?, [3], "what was moved");
    check_eq!(stage.stats().await?.dead, 0, "dead letters that are left");
    Ok(())
}

async fn what_does_not_fit_or_has_no_queue_changes_nothing(stage: &Stage<'_>) -> CaseResult {
    let operations = operations(stage)?;
    let ids = stage.publish_numbers(&[1]).await?;
    let waiting = [EventRef::from(&ids[0])];
    let to = |queue: &ezq_core::message::QueueName| EventAction::Move { to: queue.clone() };

    let refused = [
        (to(&stage.missing), ErrorKind::QueueMissing),
        (to(&stage.queue), ErrorKind::Configuration),
        (EventAction::Redrive, ErrorKind::Configuration),
    ];
    for (action, kind) in refused {
        let answer = operations
            .act(&stage.queue, &action, &waiting, &ada())
            .await;
        let seen = answer.as_ref().map_err(ezq_core::Error::kind);
        check!(seen == Err(kind), "{action} answered {answer:?}");
    }
    let selection = Selection::new(stage.queue.clone(), EventState::Leased);
    let started = operations
        .start(&id(stage), &EventAction::Discard, &selection, &ada())
        .await;
    check!(started.is_err(), "leased events cannot be discarded");
    check_eq!(readable(stage).await?, [1], "what is left");
    Ok(())
}

async fn an_operation_acts_on_what_matches_and_on_nothing_newer(stage: &Stage<'_>) -> CaseResult {
    let operations = operations(stage)?;
    let event = |n: i64, event_type: &str| {
        let body = serde_json::json!({
            "specversion": "1.0", "id": n.to_string(), "source": "/suite", "type": event_type, "n": n
        });
        stage.text(body.to_string())
    };
    // A name that is hard to quote.
    let name = "shop.'paid%\"ä";
    stage
        .publish(vec![event(1, name), event(2, "shop.sent"), event(3, name)])
        .await?;
    let mut selection = Selection::new(stage.queue.clone(), EventState::Ready);
    selection.filter = EventFilter::all().event_type(name);
    let preview = operations.preview(&selection).await?;
    check_eq!(preview.count, 2, "events that match");

    // What is published after the preview, and after the start, is left alone.
    stage.publish(vec![event(4, name)]).await?;
    selection.last = preview.last;
    let action = EventAction::Discard;
    let begun = operations
        .start(&id(stage), &action, &selection, &ada())
        .await?;
    check_eq!(begun.total, Some(2), "the total of the operation");
    check_eq!(begun.seen(), 0, "what was done at its start");
    stage.publish(vec![event(5, name)]).await?;

    let ended = run(operations, &begun.id).await?;
    check_eq!(ended.status, OperationStatus::Ended, "its status");
    check_eq!(
        (ended.done, ended.skipped, ended.failed),
        (2, 0, 0),
        "its counts"
    );
    check_eq!(ended.selection.filter, selection.filter, "its filter");
    check_eq!(readable(stage).await?, [2, 4, 5], "what is left");

    // Started again under its id, it is the same one.
    let again = operations
        .start(&id(stage), &action, &selection, &ada())
        .await?;
    check_eq!(again, ended, "the operation started again");
    let other = operations.step("no such operation").await;
    check!(
        other.is_err_and(|error| error.kind() == ErrorKind::OperationMissing),
        "a step of no operation"
    );
    Ok(())
}

async fn an_operation_that_was_stopped_goes_on_where_it_ended(stage: &Stage<'_>) -> CaseResult {
    let operations = operations(stage)?;
    let many = Vec::from_iter(1..=MANY);
    dead(stage, &many).await?;
    let selection = Selection::new(stage.queue.clone(), EventState::Dead);
    let id = id(stage);
    operations
        .start(&id, &EventAction::Redrive, &selection, &ada())
        .await?;
    let first = operations.step(&id).await?;
    check!(
        first.done > 0 && first.is_running(),
        "the first step: {first:?}"
    );

    operations.stop(&id, &ada()).await?;
    let idle = second(stage)?.step(&id).await?;
    check_eq!(idle.status, OperationStatus::Stopped, "its status");
    check_eq!(idle.done, first.done, "what a stopped operation has done");

    let listed = second(stage)?.list_operations(1000).await?;
    check!(listed.contains(&idle), "it is listed as it is");
    second(stage)?.proceed(&id, &ada()).await?;
    let ended = run(second(stage)?, &id).await?;
    check_eq!(ended.done, many.len() as u64, "what it has done");
    check_eq!(readable(stage).await?, many, "what was redriven, each once");
    Ok(())
}

async fn two_clients_share_the_steps_of_one_operation(stage: &Stage<'_>) -> CaseResult {
    let operations = operations(stage)?;
    let many = Vec::from_iter(1..=MANY);
    dead(stage, &many).await?;
    let selection = Selection::new(stage.queue.clone(), EventState::Dead);
    let id = id(stage);
    operations
        .start(&id, &EventAction::Redrive, &selection, &ada())
        .await?;
    let (one, other) = tokio::join!(run(operations, &id), run(second(stage)?, &id));
    for ended in [one?, other?] {
        check_eq!(
            (ended.done, ended.skipped),
            (many.len() as u64, 0),
            "what the operation has done and skipped"
        );
    }
    check_eq!(readable(stage).await?, many, "what was redriven, each once");
    Ok(())
}

async fn the_audit_trail_tells_who_did_what(stage: &Stage<'_>) -> CaseResult {
    let operations = operations(stage)?;
    let ids = stage.publish_numbers(&[1, 2]).await?;
    act(stage, &EventAction::Discard, EventRef::from(&ids[0])).await?;
    // Nothing was done, so nothing is told.
    act(stage, &EventAction::Discard, EventRef::from(&ids[0])).await?;
    let mut selection = Selection::new(stage.queue.clone(), EventState::Ready);
    selection.filter = EventFilter::all().stored_after(chrono::DateTime::UNIX_EPOCH);
    let id = id(stage);
    operations
        .start(&id, &EventAction::Discard, &selection, &ada())
        .await?;
    run(operations, &id).await?;

    // Newest first, and one by one.
    let mut request = AuditRequest::default();
    request.queue = Some(stage.queue.clone());
    request.limit = 1;
    let mut entries: Vec<AuditEntry> = Vec::new();
    for _ in 0..10 {
        let page = second(stage)?.audit(&request).await?;
        entries.extend(page.entries);
        if page.next.is_none() {
            break;
        }
        request.after = page.next;
    }
    let told: Vec<_> = entries
        .iter()
        .map(|entry| (entry.action, entry.count, entry.operation.as_deref()))
        .collect();
    let expected = [
        (AuditAction::EndOperation, Some(1), Some(id.as_str())),
        (AuditAction::Discard, Some(1), Some(id.as_str())),
        (AuditAction::Discard, Some(1), None),
    ];
    check_eq!(told, expected, "the trail of the queue");
    check!(
        entries.iter().all(|entry| entry.signature == ada()),
        "who did it: {entries:?}"
    );
    check_eq!(
        entries[2].event,
        Some(EventRef::from(&ids[0])),
        "the event that was discarded"
    );
    check_eq!(
        entries[1].selection,
        Some((EventState::Ready, selection.filter)),
        "what the operation selects"
    );
    Ok(())
}

/// The newest entries about a queue, newest first.
pub(super) async fn told(stage: &Stage<'_>) -> Result<Vec<AuditEntry>, CaseError> {
    let mut request = AuditRequest::default();
    request.queue = Some(stage.queue.clone());
    Ok(second(stage)?.audit(&request).await?.entries)
}

async fn a_cancellation_is_recorded(stage: &Stage<'_>) -> CaseResult {
    operations(stage)?;
    let Some(cancellations) = stage.engine.cancellations() else {
        return Err(CaseError::Skipped(
            "the engine has no cancellations".to_owned(),
        ));
    };
    let ids = stage.publish_numbers(&[1, 2]).await?;
    let order = CancelOrder::new(Cancel::Dead, ada().by).reason(ada().reason);
    cancellations.ask(&stage.queue, &ids[0], &order).await?;
    let discard = CancelOrder::new(Cancel::Discard, ada().by).reason(ada().reason);
    cancellations.ask(&stage.queue, &ids[1], &discard).await?;
    // Of one that is not there, nothing is told.
    let missing = unknown_id(&ids[0]);
    cancellations.ask(&stage.queue, &missing, &order).await?;

    let entries = told(stage).await?;
    let seen: Vec<_> = entries.iter().map(|one| (one.action, one.count)).collect();
    let expected = [
        (AuditAction::Discard, Some(1)),
        (AuditAction::Cancel, Some(1)),
    ];
    check_eq!(seen, expected, "what is told, newest first");
    check_eq!(entries[1].signature, ada(), "who cancelled");
    check_eq!(
        entries[1].event,
        Some(EventRef::from(&ids[0])),
        "the event that was cancelled"
    );
    Ok(())
}
