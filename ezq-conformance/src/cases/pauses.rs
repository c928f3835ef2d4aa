//! Pauses: stored for every client and told to those who watch; what was put aside for a paused handler
//! is made due; control events are found in a paused queue.

use std::time::Duration;

use ezq_core::ErrorKind;
use ezq_core::engine::{Due, Pause, PauseTarget, Pauses, QueuePauses, Settle, TypeSearch};
use ezq_core::message::headers::{CE_TYPE, CODEC};
use ezq_core::message::{HandlerMark, HandlerName, HandlerState, Progress};
use tokio::sync::watch;

use super::settling::progress;
use crate::error::{CaseError, CaseResult};
use crate::stage::{HOLD, SHORT, Stage, ack, number_in};

cases![
    a_pause_is_told_to_every_client_and_lasts_until_it_is_resumed,
    a_handler_is_paused_apart_from_its_queue,
    a_pause_is_known_to_who_begins_to_watch,
    a_missing_queue_is_not_paused,
    what_is_put_aside_for_a_handler_is_released,
    what_was_handed_out_since_is_not_released,
    a_search_finds_messages_of_a_type_wherever_it_is_named,
    a_search_goes_on_behind_what_it_read,
];

/// How long a change may take until it is told.
const SOON: Duration = Duration::from_secs(10);
/// A name that is hard to quote.
const MAIL: &str = "shop::mail \"Täglich\"; '";

/// The pauses of the first client, or of the second.
fn pauses<'a>(stage: &'a Stage<'_>, is_second: bool) -> Result<&'a dyn Pauses, CaseError> {
    let engine = if is_second {
        &stage.second
    } else {
        &stage.engine
    };
    engine
        .pauses()
        .ok_or_else(|| CaseError::Skipped("the engine has no pauses".to_owned()))
}

fn queue_of(stage: &Stage<'_>) -> PauseTarget {
    PauseTarget::queue(stage.queue.clone())
}

fn handler_of(stage: &Stage<'_>, name: &str) -> PauseTarget {
    PauseTarget::handler(stage.queue.clone(), HandlerName::from(name))
}

/// Waits until the watcher is told that exactly these are paused.
async fn told(
    watcher: &mut watch::Receiver<QueuePauses>,
    wanted: &[PauseTarget],
) -> Result<Vec<Pause>, CaseError> {
    let change =
        watcher.wait_for(|pauses| pauses.iter().map(|pause| &pause.target).eq(wanted.iter()));
    match tokio::time::timeout(SOON, change).await {
        Ok(Ok(pauses)) => Ok(pauses.to_vec()),
        _ => Err(CaseError::Failed(format!("nobody was told of {wanted:?}"))),
    }
}

/// The pauses of the case's queue.
async fn listed(stage: &Stage<'_>) -> Result<Vec<Pause>, CaseError> {
    let mut all = pauses(stage, true)?.list().await?;
    all.retain(|pause| pause.target.queue == stage.queue);
    Ok(all)
}

async fn a_pause_is_told_to_every_client_and_lasts_until_it_is_resumed(
    stage: &Stage<'_>,
) -> CaseResult {
    let first = pauses(stage, false)?;
    let mut watcher = pauses(stage, true)?.watch(&stage.queue).await?;
    told(&mut watcher, &[]).await?;

    let target = queue_of(stage);
    let is_new = first
        .pause(&target, "Ada", Some("a \"quoted\" reason, 'ä'"))
        .await?;
    check!(is_new, "a pause answered that there was one");
    let seen = told(&mut watcher, std::slice::from_ref(&target)).await?;
    check_eq!(seen[0].by, "Ada", "who paused");
    check_eq!(
        seen[0].reason.as_deref(),
        Some("a \"quoted\" reason, 'ä'"),
        "the reason"
    );

    // The first pause stays, with who paused and why.
    let again = first.pause(&target, "Bob", None).await?;
    check!(!again, "a second pause answered that it is new");
    check_eq!(listed(stage).await?, seen, "the pauses after a second one");

    check!(
        first.resume(&target, "Ada").await?,
        "resuming found no pause"
    );
    told(&mut watcher, &[]).await?;
    check!(
        !first.resume(&target, "Ada").await?,
        "a second resume found a pause"
    );
    check_eq!(
        listed(stage).await?,
        Vec::new(),
        "the pauses after a resume"
    );
    Ok(())
}

async fn a_handler_is_paused_apart_from_its_queue(stage: &Stage<'_>) -> CaseResult {
    let first = pauses(stage, false)?;
    let mut watcher = pauses(stage, true)?.watch(&stage.queue).await?;
    let mut other = pauses(stage, true)?.watch(&stage.other).await?;

    let queue = queue_of(stage);
    let mail = handler_of(stage, MAIL);
    first.pause(&mail, "Ada", None).await?;
    first.pause(&queue, "Ada", None).await?;
    // The queue itself comes first.
    told(&mut watcher, &[queue.clone(), mail.clone()]).await?;
    told(&mut other, &[]).await?;

    first.resume(&queue, "Ada").await?;
    let seen = told(&mut watcher, std::slice::from_ref(&mail)).await?;
    check_eq!(seen[0].reason, None, "a reason that nobody gave");
    first.resume(&mail, "Ada").await?;
    told(&mut watcher, &[]).await?;
    Ok(())
}

/// A consumer claims once it watches: it must know of the pause by then.
async fn a_pause_is_known_to_who_begins_to_watch(stage: &Stage<'_>) -> CaseResult {
    let target = queue_of(stage);
    pauses(stage, false)?.pause(&target, "Ada", None).await?;
    let watcher = pauses(stage, true)?.watch(&stage.queue).await?;
    check_eq!(watcher.borrow().len(), 1, "pauses when watching begins");
    pauses(stage, false)?.resume(&target, "Ada").await?;
    Ok(())
}

async fn a_missing_queue_is_not_paused(stage: &Stage<'_>) -> CaseResult {
    let target = PauseTarget::queue(stage.missing.clone());
    let paused = pauses(stage, false)?.pause(&target, "Ada", None).await;
    let kind = paused.map_err(|error| error.kind());
    check_eq!(
        kind,
        Err(ErrorKind::QueueMissing),
        "pausing a missing queue"
    );
    Ok(())
}

fn held(name: &str, deliveries: u32) -> Progress {
    let mark = HandlerMark::new(HandlerState::Retry).held(deliveries);
    progress([(name, mark)])
}

fn put_aside(progress: Progress) -> Settle {
    Settle::Retry {
        after: HOLD,
        progress,
        outgoing: Vec::new(),
    }
}

async fn what_is_put_aside_for_a_handler_is_released(stage: &Stage<'_>) -> CaseResult {
    let pauses = pauses(stage, false)?;
    stage.publish_numbers(&[1, 2, 3]).await?;
    let mut leased = stage.lease(10, HOLD).await?.into_iter();
    let mut aside = |progress: Progress| {
        let delivery = leased
            .next()
            .ok_or_else(|| CaseError::Failed("nothing is leased".to_owned()));
        delivery.map(|delivery| (delivery.receipt, put_aside(progress)))
    };
    // One is put aside for the handler, one for another one, and one is to be tried again.
    let settlements = vec![
        aside(held(MAIL, 1))?,
        aside(held("shop::other", 1))?,
        aside(Progress::default())?,
    ];
    stage.done(settlements).await?;

    let mail = HandlerName::from(MAIL);
    let released = pauses.release_held(&stage.queue, &mail).await?;
    check_eq!(released, 1, "messages of the handler that was resumed");
    let delivery = stage.take(HOLD).await?;
    check_eq!(
        number_in(&delivery.body),
        1,
        "the message that was released"
    );
    check_eq!(delivery.deliveries, 2, "its deliveries");

    // The one that was released has been delivered since.
    check_eq!(
        pauses.release_held(&stage.queue, &mail).await?,
        0,
        "messages released twice"
    );
    stage.nothing_readable().await
}

/// It belongs to the worker that has it, whose lease would end early.
async fn what_was_handed_out_since_is_not_released(stage: &Stage<'_>) -> CaseResult {
    let pauses = pauses(stage, false)?;
    let delivery = stage.fresh(HOLD).await?;
    let settle = Settle::Retry {
        after: SHORT,
        progress: held(MAIL, 1),
        outgoing: Vec::new(),
    };
    stage.done(vec![(delivery.receipt, settle)]).await?;
    stage.pass(SHORT).await;
    // The mark is of the delivery before this one.
    let delivery = stage.take(HOLD).await?;

    let released = pauses
        .release_held(&stage.queue, &HandlerName::from(MAIL))
        .await?;
    check_eq!(released, 0, "messages that a worker has");
    stage.nothing_readable().await?;
    stage.done(vec![(delivery.receipt, ack())]).await
}

async fn a_search_finds_messages_of_a_type_wherever_it_is_named(stage: &Stage<'_>) -> CaseResult {
    let pauses = pauses(stage, false)?;
    // A body that another codec wrote names its type beside itself.
    let mut beside = stage.text("{\"secret\":1}");
    beside.headers.insert(CODEC, "sealed");
    beside.headers.insert(CE_TYPE, "shop.paid");
    let flat = stage.text(r#"{"_type":"Paid","n":1}"#);
    // The flat form has its type in `_type` alone.
    let other = stage.text(r#"{"_type":"Sent","type":"Paid"}"#);
    let later = stage.event("later").due(Due::After(HOLD));
    let ids = stage
        .publish(vec![stage.event("now"), flat, beside, other, later])
        .await?;

    let types = ["shop.paid", "Paid"];
    let search = pauses.search(&stage.queue, &types, TypeSearch::default());
    let found = search.await?;
    let all = [&ids[..3], &ids[4..]].concat();
    check_eq!(sorted(found.found), sorted(all), "messages of the types");
    check_eq!(
        sorted(found.due),
        sorted(ids[..3].to_vec()),
        "those that are due"
    );
    Ok(())
}

async fn a_search_goes_on_behind_what_it_read(stage: &Stage<'_>) -> CaseResult {
    let pauses = pauses(stage, false)?;
    let types = ["shop.paid"];
    let empty = pauses
        .search(&stage.queue, &types, TypeSearch::default())
        .await?;
    check_eq!(empty.found, Vec::new(), "found in an empty queue");

    let first = stage
        .publish(vec![stage.event("one"), stage.message(1)])
        .await?;
    let found = pauses.search(&stage.queue, &types, empty).await?;
    check_eq!(found.due, first[..1].to_vec(), "found at first");

    // One is taken away, one is leased, one is new.
    let leased = stage.lease(1, HOLD).await?;
    let second = stage.publish(vec![stage.event("two")]).await?;
    let found = pauses.search(&stage.queue, &types, found).await?;
    let both = [first[..1].to_vec(), second.clone()].concat();
    check_eq!(sorted(found.found.clone()), sorted(both), "found next");
    check_eq!(found.due, second, "found next and due");

    let receipts = leased.into_iter().map(|delivery| (delivery.receipt, ack()));
    stage.done(receipts.collect()).await?;
    let found = pauses.search(&stage.queue, &types, found).await?;
    check_eq!(found.found, second, "found once one is gone");
    Ok(())
}

fn sorted<T: Ord>(mut values: Vec<T>) -> Vec<T> {
    values.sort();
    values
}
