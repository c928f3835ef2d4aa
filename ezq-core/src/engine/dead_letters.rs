//! Dead letters: messages that ezq gave up, kept with the reason until someone redrives or discards
//! them.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::Deserialize as _;
use serde_json::Value;

use super::names::EventNames;
use super::reader::{self, Reader};
use crate::error::Result;
use crate::event::Event;
use crate::event::envelope::Envelope;
use crate::message::headers::Headers;
use crate::message::message_id::MessageId;
use crate::message::queue_name::QueueName;
use crate::message::settlement::Reason;

/// One dead letter.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DeadLetter {
    /// The id among the queue's dead letters.
    pub id: MessageId,
    /// The id that the message had in its queue, if it is known.
    pub original_id: Option<MessageId>,
    /// Why the message died; `None` if something other than ezq put it there.
    pub reason: Option<Reason>,
    /// The body, unchanged.
    pub body: String,
    /// The headers, which hold every handler's mark and errors.
    pub headers: Headers,
    /// When the message was first stored.
    pub enqueued_at: DateTime<Utc>,
    /// When it became a dead letter.
    pub died_at: DateTime<Utc>,
    /// Where it died. The application sets it, with the codecs that read it.
    pub(crate) queue: QueueName,
    pub(crate) reader: Reader,
}

impl DeadLetter {
    /// A message that was stored and died at `died_at`, for a reason that is not known. An engine sets
    /// the fields that differ.
    #[must_use]
    pub fn new(id: MessageId, body: String, headers: Headers, died_at: DateTime<Utc>) -> Self {
        Self {
            id,
            original_id: None,
            reason: None,
            body,
            headers,
            enqueued_at: died_at,
            died_at,
            queue: QueueName::default(),
            reader: Reader::default(),
        }
    }

    /// The event with all its attributes, read by the codec that wrote it.
    ///
    /// # Errors
    /// - [`ErrorKind::Decode`](crate::ErrorKind::Decode) if the body is no event. That may be why it died.
    /// - [`ErrorKind::UnknownCodec`](crate::ErrorKind::UnknownCodec) if the application lacks the codec.
    /// - [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for a letter that an engine handed out
    ///   itself, and not [`App::dead_letters`](crate::app::App::dead_letters).
    pub fn envelope(&self) -> Result<Envelope> {
        let id = self.original_id.as_ref().unwrap_or(&self.id);
        let stored = (self.body.as_str(), &self.headers);
        self.reader.read(&self.queue, id, self.enqueued_at, stored)
    }

    /// The event.
    ///
    /// ```
    /// # use ezq_core::admin::DeadLetterFilter;
    /// # use ezq_core::event::Event;
    /// # use ezq_core::handler::Handler;
    /// # use ezq_core::testing::TestApp;
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Serialize, Deserialize)] struct Paid { order: i64 }
    /// # impl Event for Paid { const TYPE: &'static str = "paid"; }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> ezq_core::Result<()> {
    /// # let app = TestApp::new(|app| app.queue("orders"))?;
    /// # let paid = app.publish(&Paid { order: 7 }).await?;
    /// # app.fail("orders", &paid.id, "a test").await?;
    /// let letters = app.dead_letters("orders")?;
    /// for letter in letters.list(&DeadLetterFilter::all(), 10).await? {
    ///     let Paid { order } = letter.event()?;
    ///     println!("the payment of order {order} died of {:?}", letter.reason);
    /// #   assert_eq!(order, 7);
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`envelope`](Self::envelope). [`ErrorKind::Decode`](crate::ErrorKind::Decode) if it is an event of
    /// another type, or its data does not fit the type.
    pub fn event<E: Event>(&self) -> Result<E> {
        reader::event(&self.envelope()?)
    }

    /// The id of the event; `None` if the letter cannot be read.
    #[must_use]
    pub fn event_id(&self) -> Option<String> {
        Some(self.envelope().ok()?.id().to_owned())
    }

    /// The name of the event's type; `None` if the letter names none. A letter of an unknown codec names it
    /// in its headers.
    #[must_use]
    pub fn event_type(&self) -> Option<String> {
        let names = EventNames::of(&self.body, &self.headers);
        names
            .event_type
            .or_else(|| Some(self.envelope().ok()?.event_type().to_owned()))
    }
}

/// What the headers of a message say about its death. Whatever is missing or malformed is `None`.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Death {
    /// Why it died.
    pub reason: Option<Reason>,
    /// The id that the message had in its queue.
    pub message_id: Option<MessageId>,
    /// How often it had been delivered when it died.
    pub deliveries: Option<u32>,
    /// When it was first stored.
    pub enqueued_at: Option<DateTime<Utc>>,
    /// When it became a dead letter.
    pub died_at: Option<DateTime<Utc>>,
}

impl Death {
    /// Reads the value of a header: [`DEAD`](crate::message::headers::DEAD) of a dead letter, or
    /// [`REDRIVEN`](crate::message::headers::REDRIVEN) of a message that was redriven.
    #[must_use]
    pub fn read(value: &Value) -> Self {
        let time = |field: &str| value.get(field)?.as_str()?.parse().ok();
        let number = value.get("id").and_then(Value::as_i64);
        Self {
            reason: value
                .get("reason")
                .and_then(|reason| Reason::deserialize(reason).ok()),
            message_id: number.map(MessageId::Number),
            deliveries: value
                .get("deliveries")
                .and_then(|n| u32::deserialize(n).ok()),
            enqueued_at: time("enqueued_at"),
            died_at: time("died_at"),
        }
    }
}

/// The dead letters of an engine that can list, redrive and discard them.
#[async_trait]
pub trait DeadLetters: Send + Sync {
    /// The oldest dead letters of a queue, by id: at most `limit`, and only those after an id if one is
    /// given.
    ///
    /// # Errors
    /// When the store cannot be read.
    async fn list(
        &self,
        queue: &QueueName,
        after: Option<&MessageId>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>>;

    /// One dead letter, or `None` if there is none of this id.
    ///
    /// # Errors
    /// When the store cannot be read.
    async fn find(&self, queue: &QueueName, id: &MessageId) -> Result<Option<DeadLetter>>;

    /// Moves dead letters back to their queue, each in one step, and returns the ids that were moved.
    ///
    /// Handlers that were done stay done; those that failed start with their first attempt. A message
    /// keeps the time at which it was first stored, and carries its death in the header
    /// [`REDRIVEN`](crate::message::headers::REDRIVEN).
    ///
    /// # Errors
    /// When the store cannot be written. Letters that were moved before the error stay moved.
    async fn redrive(&self, queue: &QueueName, ids: &[MessageId]) -> Result<Vec<MessageId>>;

    /// Deletes dead letters, and returns the ids that were deleted.
    ///
    /// # Errors
    /// When the store cannot be written.
    async fn discard(&self, queue: &QueueName, ids: &[MessageId]) -> Result<Vec<MessageId>>;
}
