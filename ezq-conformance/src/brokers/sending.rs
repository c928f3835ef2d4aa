//! Steps that cases share: messages to send, and what became of them.

use std::time::Duration;

use ezq_core::broker::{Inbound, Outbound, SendOutcome, Sink};
use ezq_core::event::{AttributeValue, Envelope};
use tokio::time::{sleep, timeout};

use super::harness::{ServerStep, SinkHarness, SourceHarness};
use crate::error::CaseError;
use crate::stage::unique_name;

type Result<T> = std::result::Result<T, CaseError>;

/// How long a broker may take to come back.
pub(super) const RECOVERY: Duration = Duration::from_secs(90);

/// An event whose values no careless conversion keeps.
pub(super) fn event(topic: &str, id: &str, size: usize) -> Result<Outbound> {
    // More digits than a float holds: data is text on its way, and never numbers.
    let filling = "x".repeat(size);
    let data = format!(r#"{{"exact":123456789012345678901234567890.10,"filling":"{filling}"}}"#);
    let builder = Envelope::builder("conformance.case", "/conformance").id(id);
    let flow = AttributeValue::Text("ä→".to_owned());
    let envelope = builder.subject("é").extension("flow", flow);
    Ok(Outbound::new(topic, envelope.json(&data)?.build()?))
}

/// A small event of a source.
pub(super) fn event_of(source: &str, topic: &str, id: &str) -> Result<Outbound> {
    let envelope = Envelope::builder("conformance.case", source).id(id);
    Ok(Outbound::new(topic, envelope.json("0")?.build()?))
}

/// Small events with ids of a prefix and a number.
pub(super) fn events(topic: &str, prefix: &str, count: usize) -> Result<Vec<Outbound>> {
    (0..count)
        .map(|n| event(topic, &format!("{prefix}-{n}"), 0))
        .collect()
}

/// A topic of the case's own.
pub(super) async fn sink_topic(harness: &dyn SinkHarness) -> String {
    harness.topic(unique_name()).await
}

/// A topic of the case's own.
pub(super) async fn source_topic(harness: &dyn SourceHarness) -> String {
    harness.topic(unique_name()).await
}

/// The ids of events in messages, in their order.
pub(super) fn ids(messages: &[Inbound]) -> Result<Vec<String>> {
    let read = messages.iter().map(|message| {
        let event = message.to_envelope("conformance", None)?;
        Ok(event.id().to_owned())
    });
    read.collect()
}

/// Sends a batch once; one outcome for each message.
pub(super) async fn send(sink: &dyn Sink, batch: &[Outbound]) -> Result<Vec<SendOutcome>> {
    let outcomes = timeout(RECOVERY, sink.send(batch)).await;
    let outcomes = outcomes
        .map_err(|_| CaseError::Failed(format!("`send` did not answer within {RECOVERY:?}")))??;
    check_eq!(outcomes.len(), batch.len(), "outcomes of a batch");
    Ok(outcomes)
}

/// Sends a batch of which everything must be stored.
pub(super) async fn send_all(sink: &dyn Sink, batch: &[Outbound]) -> Result<()> {
    for (place, outcome) in send(sink, batch).await?.into_iter().enumerate() {
        check!(is_sent(&outcome), "message {place} was {outcome:?}");
    }
    Ok(())
}

/// Sends a batch as a relay does, until everything is stored.
pub(super) async fn send_until_stored(sink: &dyn Sink, batch: &[Outbound]) -> Result<()> {
    let mut rest = batch.to_vec();
    let mut last = String::new();
    let sending = async {
        while !rest.is_empty() {
            match sink.send(&rest).await {
                Ok(outcomes) => {
                    let kept = rest.into_iter().zip(outcomes);
                    let kept = kept.filter(|(_, outcome)| !is_sent(outcome));
                    let kept = kept.inspect(|(_, outcome)| last = format!("{outcome:?}"));
                    rest = kept.map(|(message, _)| message).collect();
                }
                Err(error) => {
                    check!(error.is_transient(), "an outage is no {:?}", error.kind());
                    last = error.to_string();
                }
            }
            if !rest.is_empty() {
                sleep(Duration::from_millis(100)).await;
            }
        }
        Ok(())
    };
    let sent = timeout(RECOVERY, sending).await;
    sent.map_err(|_| CaseError::Failed(format!("not stored within {RECOVERY:?}: {last}")))?
}

pub(super) fn is_sent(outcome: &SendOutcome) -> bool {
    matches!(outcome, SendOutcome::Sent)
}

/// Ends the case as skipped if a step was not done.
pub(super) fn needs(is_done: bool, step: ServerStep) -> Result<()> {
    if is_done {
        return Ok(());
    }
    let why = format!("the harness cannot do `{step:?}` to the server");
    Err(CaseError::Skipped(why))
}
