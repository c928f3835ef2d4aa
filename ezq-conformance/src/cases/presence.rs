//! Presence: consumers are noted, listed by every client, and removed.

use std::time::Duration;

use ezq_core::engine::{ConsumerPresence, Presence, SeenConsumer};
use ezq_core::message::HandlerName;

use crate::error::{CaseError, CaseResult};
use crate::stage::Stage;

cases![
    a_consumer_is_listed_as_it_was_last_noted,
    a_consumer_that_was_removed_is_not_listed,
    the_time_since_a_consumer_was_noted_is_told,
];

fn presence<'a>(stage: &'a Stage<'_>, is_second: bool) -> Result<&'a dyn Presence, CaseError> {
    let engine = if is_second {
        &stage.second
    } else {
        &stage.engine
    };
    engine
        .presence()
        .ok_or_else(|| CaseError::Skipped("the engine keeps no consumers".to_owned()))
}

/// A consumer of the case's queue. The last digits of its id are those of the queue's name.
fn consumer(stage: &Stage<'_>, number: u8) -> ConsumerPresence {
    let hex: String = stage
        .queue
        .as_str()
        .bytes()
        .filter(u8::is_ascii_hexdigit)
        .map(char::from)
        .collect();
    let tail = format!("{hex:0>20}");
    let tail = &tail[tail.len() - 20..];
    let id = format!(
        "{number:08x}-{}-{}-{}-{}",
        &tail[..4],
        &tail[4..8],
        "8000",
        &tail[8..20]
    );
    // Texts that are hard to quote, and a process whose number needs 32 bits.
    let host = "host \"Ä\"; '";
    let mut consumer = ConsumerPresence::new(id, "shop", stage.queue.clone(), host, 4_000_000_000);
    consumer.version = Some("1.4 (a → b)".to_owned());
    consumer.handlers = vec![
        HandlerName::from("shop::mail"),
        HandlerName::from("\"täglich\""),
    ];
    consumer.concurrency = 64;
    consumer.uptime = Duration::from_millis(1500);
    consumer
}

async fn listed(stage: &Stage<'_>) -> Result<Vec<SeenConsumer>, CaseError> {
    let mut all = presence(stage, true)?.consumers().await?;
    all.retain(|seen| seen.consumer.queue == stage.queue);
    Ok(all)
}

async fn a_consumer_is_listed_as_it_was_last_noted(stage: &Stage<'_>) -> CaseResult {
    let first = presence(stage, false)?;
    check_eq!(
        listed(stage).await?,
        Vec::new(),
        "consumers before one was noted"
    );

    // They are noted in one order, and listed in another.
    let mut one = consumer(stage, 1);
    let two = consumer(stage, 2);
    first.note(&[two.clone(), one.clone()]).await?;
    one.in_flight = 7;
    one.handled = 1_000_000_000_000;
    one.is_paused = true;
    one.is_stopping = true;
    first.note(std::slice::from_ref(&one)).await?;

    let seen = listed(stage).await?;
    let seen: Vec<ConsumerPresence> = seen.into_iter().map(|seen| seen.consumer).collect();
    check_eq!(seen, [one, two], "the consumers of the queue, by id");
    Ok(())
}

async fn a_consumer_that_was_removed_is_not_listed(stage: &Stage<'_>) -> CaseResult {
    let first = presence(stage, false)?;
    let one = consumer(stage, 1);
    // One that was never noted is removed without an error.
    first.remove(&one.id).await?;
    first.note(&[one.clone(), consumer(stage, 2)]).await?;
    first.remove(&one.id).await?;
    let seen = listed(stage).await?;
    check_eq!(seen.len(), 1, "consumers after one was removed");
    check!(seen[0].consumer.id != one.id, "the wrong one was removed");
    Ok(())
}

async fn the_time_since_a_consumer_was_noted_is_told(stage: &Stage<'_>) -> CaseResult {
    let first = presence(stage, false)?;
    let one = consumer(stage, 1);
    first.note(std::slice::from_ref(&one)).await?;
    let pause = Duration::from_millis(300);
    stage.pass(pause).await;
    let seen = listed(stage).await?;
    check!(
        seen.len() == 1 && seen[0].seen_ago >= pause,
        "a consumer that was noted {pause:?} ago: {seen:?}"
    );

    first.note(std::slice::from_ref(&one)).await?;
    let again = listed(stage).await?;
    check!(
        again.len() == 1 && again[0].seen_ago < seen[0].seen_ago,
        "a consumer that was noted just now: {again:?}"
    );
    Ok(())
}
