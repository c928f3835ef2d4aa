//! The rules of sinks.

use std::collections::HashSet;
use std::time::Duration;

use ezq_core::broker::{Outbound, SendOutcome};
use ezq_core::event::AttributeValue;
use tokio::time::{sleep, timeout};

use super::case::SinkCase;
use super::harness::{ServerStep, SinkHarness};
use super::sending::{
    event, event_of, events, ids, is_sent, needs, send, send_all, send_until_stored, sink_topic,
};
use crate::error::{CaseError, CaseResult};

macro_rules! cases {
    ($($name:ident),+ $(,)?) => {
        pub(super) const CASES: &[SinkCase] = &[
            $(SinkCase { name: stringify!($name), run: |harness| Box::pin($name(harness)) }),+
        ];
    };
}

cases![
    an_event_arrives_with_all_its_attributes,
    a_batch_has_an_outcome_for_each_message,
    an_empty_batch_has_no_outcomes,
    events_of_a_key_are_stored_in_their_order,
    topics_get_their_own_events,
    events_that_share_an_id_are_all_stored,
    several_batches_at_once_are_all_stored,
    an_event_sent_twice_is_stored_as_often_as_declared,
    an_event_that_is_too_large_is_rejected_and_harms_no_other,
    a_large_event_that_is_not_refused_arrives_whole,
    a_missing_topic_harms_no_other,
    health_follows_the_broker,
    a_broker_that_is_away_is_a_failure_that_passes,
    nothing_is_lost_when_the_broker_is_killed_in_the_middle,
    a_broker_that_answers_late_gets_the_batch_again,
    what_is_stored_stays_when_the_sink_is_closed,
];

async fn an_event_arrives_with_all_its_attributes(harness: &dyn SinkHarness) -> CaseResult {
    let sink = harness.sink().await;
    let topic = sink_topic(harness).await;
    send_all(&*sink, &[event(&topic, "whole", 0)?.key("k")]).await?;

    let held = harness.read(&topic).await;
    check_eq!(held.len(), 1, "messages in the topic");
    let read = held[0].to_envelope("conformance", None)?;
    let sent = event(&topic, "whole", 0)?;
    let sent = sent.envelope();
    check_eq!(read.id(), sent.id(), "its id");
    check_eq!(read.source(), sent.source(), "its source");
    check_eq!(read.event_type(), sent.event_type(), "its type");
    check_eq!(read.subject(), sent.subject(), "its subject");
    check_eq!(read.data(), sent.data(), "its data");
    let flow = AttributeValue::Text("ä→".to_owned());
    check_eq!(read.extensions().get("flow"), Some(&flow), "an extension");
    check!(read.time().is_some(), "its time is missing");
    Ok(())
}

/// Sizes at which a sink may divide a batch.
async fn a_batch_has_an_outcome_for_each_message(harness: &dyn SinkHarness) -> CaseResult {
    let sink = harness.sink().await;
    let topic = sink_topic(harness).await;
    for count in [1, 2, 250] {
        send_all(&*sink, &events(&topic, &format!("of-{count}"), count)?).await?;
    }
    check_eq!(harness.read(&topic).await.len(), 253, "messages stored");
    Ok(())
}

async fn an_empty_batch_has_no_outcomes(harness: &dyn SinkHarness) -> CaseResult {
    let sink = harness.sink().await;
    send_all(&*sink, &[]).await
}

async fn events_of_a_key_are_stored_in_their_order(harness: &dyn SinkHarness) -> CaseResult {
    let sink = harness.sink().await;
    if !sink.capabilities().ordered {
        let why = "the sink declares no order";
        return Err(CaseError::Skipped(why.to_owned()));
    }
    let topic = sink_topic(harness).await;
    for part in 0..4 {
        let batch = events(&topic, &format!("part-{part}"), 60)?.into_iter();
        let keyed = batch.enumerate().map(|(n, message)| match n % 3 {
            // Runs of one key, keys in turns, and events without one.
            0 => message.key("ada"),
            1 => message.key(if n < 30 { "ada" } else { "bob" }),
            _ => message,
        });
        send_all(&*sink, &Vec::from_iter(keyed)).await?;
    }

    let held = ids(&harness.read(&topic).await)?;
    check_eq!(held.len(), 240, "messages stored");
    for key in ["ada", "bob"] {
        let places = held.iter().filter_map(|id| place_of(id, key));
        let order = Vec::from_iter(places);
        check!(order.is_sorted(), "the order of `{key}` is {order:?}");
    }
    Ok(())
}

/// The place of an event among those of its key, if it has this key.
fn place_of(id: &str, wanted: &str) -> Option<(usize, usize)> {
    let mut numbers = id.split('-').skip(1);
    let part = numbers.next()?.parse().ok()?;
    let n: usize = numbers.next()?.parse().ok()?;
    let key = match n % 3 {
        0 => "ada",
        1 if n < 30 => "ada",
        1 => "bob",
        _ => return None,
    };
    (key == wanted).then_some((part, n))
}

async fn topics_get_their_own_events(harness: &dyn SinkHarness) -> CaseResult {
    let sink = harness.sink().await;
    let one = sink_topic(harness).await;
    let other = sink_topic(harness).await;
    let batch = [
        event(&one, "1", 0)?,
        event(&other, "2", 0)?,
        event(&one, "3", 0)?,
    ];
    send_all(&*sink, &batch).await?;
    check_eq!(ids(&harness.read(&one).await)?, ["1", "3"], "one topic");
    check_eq!(ids(&harness.read(&other).await)?, ["2"], "the other topic");
    Ok(())
}

/// An event is identified by its source and its id, and a topic has its own copy: a broker that drops
/// duplicates may take no other event for one.
async fn events_that_share_an_id_are_all_stored(harness: &dyn SinkHarness) -> CaseResult {
    let sink = harness.sink().await;
    let one = sink_topic(harness).await;
    let other = sink_topic(harness).await;
    let batch = [
        event_of("/one", &one, "shared")?,
        event_of("/two", &one, "shared")?,
        event_of("/one", &other, "shared")?,
    ];
    send_all(&*sink, &batch).await?;
    check_eq!(harness.read(&one).await.len(), 2, "events of two sources");
    check_eq!(harness.read(&other).await.len(), 1, "in the other topic");
    Ok(())
}

/// A sink is shared: a relay sends several batches at once.
async fn several_batches_at_once_are_all_stored(harness: &dyn SinkHarness) -> CaseResult {
    let sink = harness.sink().await;
    let topic = sink_topic(harness).await;
    let batches: Vec<Vec<Outbound>> = (0..4)
        .map(|batch| events(&topic, &format!("batch-{batch}"), 50))
        .collect::<Result<_, _>>()?;
    let [one, two, three, four] = [0, 1, 2, 3].map(|n| send_all(&*sink, &batches[n]));
    let (one, two, three, four) = tokio::join!(one, two, three, four);
    for sent in [one, two, three, four] {
        sent?;
    }
    let held: HashSet<String> = ids(&harness.read(&topic).await)?.into_iter().collect();
    check_eq!(held.len(), 200, "messages stored");
    Ok(())
}

/// A capability that is declared absent must be seen absent: a relay that was told so counts on nothing.
async fn an_event_sent_twice_is_stored_as_often_as_declared(
    harness: &dyn SinkHarness,
) -> CaseResult {
    let sink = harness.sink().await;
    let topic = sink_topic(harness).await;
    let batch = [event(&topic, "twice", 0)?];
    send_all(&*sink, &batch).await?;
    send_all(&*sink, &batch).await?;
    let held = harness.read(&topic).await.len();
    match sink.capabilities().dedupe {
        Some(_) => check_eq!(held, 1, "copies, where duplicates are dropped"),
        None => check_eq!(held, 2, "copies, where no duplicate is said to be dropped"),
    }
    Ok(())
}

async fn an_event_that_is_too_large_is_rejected_and_harms_no_other(
    harness: &dyn SinkHarness,
) -> CaseResult {
    let sink = harness.sink().await;
    let Some(size) = sink.capabilities().max_message.or(harness.too_large()) else {
        let why = "neither the sink nor the harness says what is too large";
        return Err(CaseError::Skipped(why.to_owned()));
    };
    let topic = sink_topic(harness).await;
    let batch = [
        event(&topic, "before", 0)?,
        event(&topic, "large", size)?,
        event(&topic, "after", 0)?,
    ];
    let outcomes = send(&*sink, &batch).await?;
    check!(
        matches!(outcomes[1], SendOutcome::Rejected(_)),
        "an event of {size} bytes was {:?}",
        outcomes[1]
    );
    check!(
        is_sent(&outcomes[0]) && is_sent(&outcomes[2]),
        "{outcomes:?}"
    );
    let held = ids(&harness.read(&topic).await)?;
    check_eq!(held, ["before", "after"], "messages stored");
    Ok(())
}

async fn a_large_event_that_is_not_refused_arrives_whole(harness: &dyn SinkHarness) -> CaseResult {
    let sink = harness.sink().await;
    let topic = sink_topic(harness).await;
    let size = 512 * 1024;
    let large = [event(&topic, "large", size)?];
    let outcomes = send(&*sink, &large).await?;
    let held = harness.read(&topic).await;
    if !is_sent(&outcomes[0]) {
        let is_refused = matches!(outcomes[0], SendOutcome::Rejected(_));
        check!(
            is_refused,
            "it can only be stored or rejected: {:?}",
            outcomes[0]
        );
        check!(held.is_empty(), "an event that was rejected is stored");
        return Ok(());
    }
    let read = held[0].to_envelope("conformance", None)?;
    check_eq!(read.data(), large[0].envelope().data(), "its data");
    Ok(())
}

async fn a_missing_topic_harms_no_other(harness: &dyn SinkHarness) -> CaseResult {
    let Some(missing) = harness.missing_topic() else {
        let why = "the broker has every topic that is asked for";
        return Err(CaseError::Skipped(why.to_owned()));
    };
    let sink = harness.sink().await;
    let topic = sink_topic(harness).await;
    let batch = [
        event(&topic, "before", 0)?,
        event(&missing, "missing", 0)?,
        event(&topic, "after", 0)?,
    ];
    let outcomes = send(&*sink, &batch).await?;
    // A topic may be made later, or never: either outcome is right.
    let (SendOutcome::Rejected(error) | SendOutcome::Failed(error)) = &outcomes[1] else {
        let what = "an event for a topic that is missing was sent";
        return Err(CaseError::Failed(what.to_owned()));
    };
    let text = ezq_core::error::error_chain(error);
    check!(text.contains(&missing), "the error names no topic: {text}");
    check!(
        is_sent(&outcomes[0]) && is_sent(&outcomes[2]),
        "{outcomes:?}"
    );
    Ok(())
}

async fn health_follows_the_broker(harness: &dyn SinkHarness) -> CaseResult {
    let sink = harness.sink().await;
    sink.health_check().await?;
    needs(harness.step(ServerStep::Kill).await, ServerStep::Kill)?;
    let asked = timeout(Duration::from_secs(60), sink.health_check()).await;
    harness.step(ServerStep::Start).await;
    match asked {
        Ok(Err(_)) => {}
        Ok(Ok(())) => check!(false, "a broker that was killed is said to answer"),
        Err(_) => check!(false, "a broker that was killed is waited for"),
    }
    for _ in 0..600 {
        if sink.health_check().await.is_ok() {
            return Ok(());
        }
        sleep(Duration::from_millis(100)).await;
    }
    check!(
        false,
        "a broker that was started again is said not to answer"
    );
    Ok(())
}

/// A relay takes any other error for one of the events, and counts it against them.
async fn a_broker_that_is_away_is_a_failure_that_passes(harness: &dyn SinkHarness) -> CaseResult {
    let sink = harness.sink().await;
    let topic = sink_topic(harness).await;
    send_all(&*sink, &[event(&topic, "before", 0)?]).await?;
    needs(harness.step(ServerStep::Kill).await, ServerStep::Kill)?;

    let batch = [event(&topic, "meanwhile", 0)?];
    let sent = timeout(Duration::from_secs(60), sink.send(&batch)).await;
    harness.step(ServerStep::Start).await;
    match sent {
        // A relay gives up by itself, and sends the batch again.
        Err(_) => {}
        Ok(Err(error)) => check!(error.is_transient(), "an outage is no {:?}", error.kind()),
        Ok(Ok(outcomes)) => {
            let all_failed = outcomes
                .iter()
                .all(|outcome| matches!(outcome, SendOutcome::Failed(_)));
            check!(all_failed, "a broker that is away answered {outcomes:?}");
        }
    }
    send_until_stored(&*sink, &batch).await?;
    let held = ids(&harness.read(&topic).await)?;
    check!(held.contains(&"meanwhile".to_owned()), "stored: {held:?}");
    Ok(())
}

/// Copies are allowed here. What counts is that no event is missing that was said to be sent.
async fn nothing_is_lost_when_the_broker_is_killed_in_the_middle(
    harness: &dyn SinkHarness,
) -> CaseResult {
    let sink = harness.sink().await;
    let topic = sink_topic(harness).await;
    let sending = async {
        for part in 0..40 {
            let batch = events(&topic, &format!("part-{part}"), 25)?;
            send_until_stored(&*sink, &batch).await?;
            sleep(Duration::from_millis(10)).await;
        }
        Ok::<(), CaseError>(())
    };
    // Both at once: some batch is under way whenever the broker dies.
    let killing = async {
        for _ in 0..2 {
            sleep(Duration::from_millis(150)).await;
            needs(harness.step(ServerStep::Kill).await, ServerStep::Kill)?;
            harness.step(ServerStep::Start).await;
        }
        Ok::<(), CaseError>(())
    };
    let (sent, killed) = tokio::join!(sending, killing);
    killed?;
    sent?;
    let held: HashSet<String> = ids(&harness.read(&topic).await)?.into_iter().collect();
    check_eq!(held.len(), 1_000, "events stored, of those that were sent");
    Ok(())
}

async fn a_broker_that_answers_late_gets_the_batch_again(harness: &dyn SinkHarness) -> CaseResult {
    let sink = harness.sink().await;
    let topic = sink_topic(harness).await;
    send_all(&*sink, &[event(&topic, "before", 0)?]).await?;
    needs(harness.step(ServerStep::Pause).await, ServerStep::Pause)?;

    let batch = events(&topic, "late", 20)?;
    // A relay drops the call when its time is up.
    let sent = timeout(Duration::from_secs(2), sink.send(&batch)).await;
    harness.step(ServerStep::Resume).await;
    if let Ok(Ok(outcomes)) = sent {
        let is_any = outcomes.iter().any(is_sent);
        check!(
            !is_any,
            "a broker that does not answer has stored something"
        );
    }
    send_until_stored(&*sink, &batch).await?;
    let held: HashSet<String> = ids(&harness.read(&topic).await)?.into_iter().collect();
    check_eq!(held.len(), 21, "events stored");
    Ok(())
}

/// A relay closes its sink when its consumer has ended.
async fn what_is_stored_stays_when_the_sink_is_closed(harness: &dyn SinkHarness) -> CaseResult {
    let sink = harness.sink().await;
    let topic = sink_topic(harness).await;
    send_all(&*sink, &events(&topic, "kept", 3)?).await?;
    timeout(Duration::from_secs(30), sink.close())
        .await
        .map_err(|_| CaseError::Failed("`close` takes for ever".to_owned()))?;
    check_eq!(harness.read(&topic).await.len(), 3, "messages stored");
    Ok(())
}
