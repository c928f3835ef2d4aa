//! What a tracing system hooks into: the calls that publish, and the claims that bring events.
//!
//! The third part, the handler's run, is a [`Layer`](crate::handler::Layer). A tracer is both, and
//! [`AppBuilder::tracer`](crate::app::AppBuilder::tracer) adds both. An application without one does
//! nothing here.

use std::time::Duration;

use crate::engine::Delivery;
use crate::error::Error;
use crate::message::headers::Headers;
use crate::message::message_id::MessageId;
use crate::message::queue_name::QueueName;

/// Follows events from their publishers to their handlers. The crate `ezq-otel` has one for
/// OpenTelemetry.
///
/// Its methods are called in the middle of publishing and claiming: they must not block.
pub trait Tracer: Send + Sync + 'static {
    /// A call begins to publish.
    fn publish(&self, publishing: &Publishing<'_>) -> Box<dyn PublishSpan>;

    /// A claim brought events, or failed. A claim that found nothing is not told.
    fn receive(&self, receiving: &Receiving<'_>);
}

/// A call that publishes events.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Publishing<'a> {
    /// The queue, if all events go to one; `None` for several, and for a broadcast.
    pub queue: Option<&'a QueueName>,
    /// The type of the event, if it is one.
    pub event_type: Option<&'a str>,
    /// How many events there are.
    pub count: usize,
}

impl<'a> Publishing<'a> {
    pub(crate) fn new(
        queue: Option<&'a QueueName>,
        event_type: Option<&'a str>,
        count: usize,
    ) -> Self {
        Self {
            queue,
            event_type,
            count,
        }
    }
}

/// A span of a call that publishes. It ends when it is dropped.
pub trait PublishSpan: Send + Sync {
    /// The headers that carry the span's context to the handlers. An event gets them unless its
    /// publisher set a `traceparent`.
    fn headers(&self) -> Headers;

    /// The call has ended: with the id of the message if it was one, and with the first error.
    fn end(&mut self, message_id: Option<&MessageId>, error: Option<&Error>);
}

/// A claim that was answered.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Receiving<'a> {
    /// The queue.
    pub queue: &'a QueueName,
    /// What it brought.
    pub deliveries: &'a [Delivery],
    /// Why it failed.
    pub error: Option<&'a Error>,
    /// How long it took until now.
    pub took: Duration,
}

impl<'a> Receiving<'a> {
    pub(crate) fn new(
        queue: &'a QueueName,
        answer: Result<&'a [Delivery], &'a Error>,
        took: Duration,
    ) -> Self {
        Self {
            queue,
            deliveries: answer.unwrap_or_default(),
            error: answer.err(),
            took,
        }
    }
}
