//! Which plain form an event is written in, and where a body was read.

use chrono::{DateTime, Utc};

use crate::message::headers::Headers;
use crate::message::message_id::MessageId;
use crate::message::queue_name::QueueName;

/// The plain form in which events are written. All forms are always read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum WireFormat {
    /// CloudEvents 1.0, JSON, structured mode.
    #[default]
    CloudEvents,
    /// `{"_type": "UserCreated", ...fields}`, the form of Python ezq. It holds the type and the payload
    /// only: id, source, time and extensions are lost. The version of the event is in the header
    /// `ce-eventversion`.
    Flat,
    /// As [`Flat`](Self::Flat), but `End` and `Interrupt` have their names in `ezvent`, the later package
    /// of Python ezq: `EZEndEvent` and `EZInterruptEvent`.
    Ezvent,
}

/// Where a body was read: the facts that the body itself may not hold.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Origin<'a> {
    /// The queue of the message.
    pub queue: &'a QueueName,
    /// The id of the message.
    pub message_id: &'a MessageId,
    /// When the message was first stored.
    pub enqueued_at: DateTime<Utc>,
    /// The headers of the message.
    pub headers: &'a Headers,
}

impl<'a> Origin<'a> {
    /// The place of a message in a queue, with its headers.
    #[must_use]
    pub fn new(
        queue: &'a QueueName,
        message_id: &'a MessageId,
        enqueued_at: DateTime<Utc>,
        headers: &'a Headers,
    ) -> Self {
        Self {
            queue,
            message_id,
            enqueued_at,
            headers,
        }
    }
}
