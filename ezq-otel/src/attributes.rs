//! What spans say, by the names of OpenTelemetry's semantic conventions for messaging and CloudEvents.

use ezq_core::Error;
use ezq_core::error::error_chain;
use opentelemetry::trace::{Status, TraceContextExt};
use opentelemetry::{Context, KeyValue};

pub(crate) const MESSAGE_ID: &str = "messaging.message.id";
pub(crate) const CONVERSATION_ID: &str = "messaging.message.conversation_id";
pub(crate) const EVENT_ID: &str = "cloudevents.event_id";
pub(crate) const EVENT_TYPE: &str = "cloudevents.event_type";
pub(crate) const ERROR_TYPE: &str = "error.type";
/// The handler of a run. The conventions have no name for it.
pub(crate) const HANDLER: &str = "ezq.handler";
/// The number of the handler's attempt, from 1.
pub(crate) const ATTEMPT: &str = "ezq.attempt";

/// What every span says.
pub(crate) fn of(
    operation: &'static str,
    operation_type: &'static str,
    queue: Option<&str>,
) -> Vec<KeyValue> {
    let mut attributes = vec![
        KeyValue::new("messaging.system", "ezq"),
        KeyValue::new("messaging.operation.name", operation),
        KeyValue::new("messaging.operation.type", operation_type),
    ];
    if let Some(queue) = queue {
        let queue = queue.to_owned();
        attributes.push(KeyValue::new("messaging.destination.name", queue));
    }
    attributes
}

/// How many events a span is about.
pub(crate) fn batch(count: usize) -> KeyValue {
    let count = i64::try_from(count).unwrap_or(i64::MAX);
    KeyValue::new("messaging.batch.message_count", count)
}

/// Marks a span as failed.
pub(crate) fn fail(context: &Context, error: &Error) {
    let kind = format!("{:?}", error.kind());
    fail_as(context, kind, error_chain(error));
}

/// Marks a span as failed, with an error's kind and text.
pub(crate) fn fail_as(context: &Context, kind: String, text: String) {
    let span = context.span();
    span.set_attribute(KeyValue::new(ERROR_TYPE, kind));
    span.set_status(Status::error(text));
}
