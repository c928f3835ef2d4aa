//! What passes between an engine and the rest of ezq: messages out, deliveries in, receipts.

use crate::message::message_id::MessageId;
use std::borrow::Cow;
use std::hash::{Hash, Hasher};
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::dedupe::{Dedupe, Original};
use crate::error::{Error, ErrorKind, Result};
use crate::message::headers::Headers;
use crate::message::queue_name::QueueName;
use crate::message::settlement::Progress;

/// When a message becomes readable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Due {
    /// At once.
    #[default]
    Now,
    /// After a pause, counted on the engine's clock from when it is stored.
    After(Duration),
    /// At a time; one in the past means at once.
    At(DateTime<Utc>),
}

/// A message on its way to a queue.
#[derive(Debug, Clone, PartialEq)]
pub struct Outgoing {
    /// Where to.
    pub queue: QueueName,
    /// The encoded event.
    pub body: String,
    /// Metadata beside it.
    pub headers: Headers,
    /// When it becomes readable.
    pub due: Due,
    /// Stored only if no message took the same key before; for engines with
    /// [`Capabilities::dedupe`](crate::Capabilities). A settlement leaves a duplicate out, and is
    /// done all the same.
    pub dedupe: Option<Dedupe>,
}

/// What became of one published message.
#[derive(Debug)]
pub enum PublishOutcome {
    /// It is stored, durably, under this id.
    Stored(MessageId),
    /// It was not stored: another message took its dedupe key before (this one, if it is known).
    Duplicate(Option<Original>),
    /// It was not stored.
    Failed(Error),
}

impl From<Result<MessageId>> for PublishOutcome {
    fn from(result: Result<MessageId>) -> Self {
        result.map_or_else(Self::Failed, Self::Stored)
    }
}

/// Where a message stands in its queue: messages are handed out by due time, then by id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// When it became readable.
    pub due: DateTime<Utc>,
    /// Its id.
    pub message_id: MessageId,
}

impl Position {
    /// Before the place of every message.
    pub const FIRST: Self = Self {
        due: DateTime::<Utc>::MIN_UTC,
        message_id: MessageId::Number(i64::MIN),
    };
}

/// The right to settle one delivery: opaque outside its engine, and void once another delivery of
/// the same message was handed out.
///
/// Id and token together fence it. Where a store may issue an id again, the id itself tells two
/// messages apart ([`MessageId::Dated`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    message_id: MessageId,
    token: [i64; 3],
    covers: u32,
}

/// By its message: few receipts of one message are ever held together.
impl Hash for Receipt {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.message_id.hash(state);
    }
}

impl Receipt {
    /// A receipt with an engine's own fencing token. PGMQ's is `read_ct` with the number of
    /// returns above its 32 bits, the table's oid, and the due time in microseconds, beside an id
    /// with the time at which the message was stored.
    #[must_use]
    pub fn new(message_id: MessageId, token: [i64; 3]) -> Self {
        Self {
            message_id,
            token,
            covers: 0,
        }
    }

    /// The message it belongs to.
    #[must_use]
    pub fn message_id(&self) -> &MessageId {
        &self.message_id
    }

    /// The engine's fencing token.
    #[must_use]
    pub fn token(&self) -> [i64; 3] {
        self.token
    }

    /// This receipt, of a worker that went on with what it already held under an earlier one.
    #[must_use]
    pub fn covering(mut self, earlier: &Self) -> Self {
        self.covers = earlier.covers.saturating_add(1);
        self
    }

    /// How many earlier deliveries end with this one: a settlement that returns the message counts
    /// them as [returned](Headers::returned) as well.
    #[must_use]
    pub fn covers(&self) -> u32 {
        self.covers
    }
}

/// What a consumer asks of an engine.
#[derive(Debug, Clone)]
pub struct LeaseRequest {
    /// From which queue.
    pub queue: QueueName,
    /// At most this many messages; at least 1.
    pub max: usize,
    /// For how long nobody else may have them; engines round up to what they can keep.
    pub ttl: Duration,
    /// How many can be at work at once: of more ordering keys than this the first ones would only
    /// wait. An engine may hand out others.
    pub keys: usize,
    /// Only messages that stand before this place (an `End` drains what precedes it).
    pub before: Option<Position>,
    /// Only messages that stand after this place, in the order of their places: none that can be
    /// handed out is passed over for a later one, but for those that follow another of their key. A
    /// consumer looks past what it gave back because the handler has enough that waits.
    pub after: Option<Position>,
}

impl LeaseRequest {
    /// The error of a message that cannot be leased, since a worker has it; for engines.
    #[must_use]
    pub fn held(queue: &QueueName, id: &MessageId) -> Error {
        let text = format!(
            "a worker has the message {id} of the queue `{queue}`: try again when it has settled it, or \
             its lease has ended"
        );
        Error::new(ErrorKind::LeaseLost, text)
    }
}

/// What an engine handed out.
#[derive(Debug, Default)]
pub struct Leased {
    /// The deliveries, sorted by [`Position`].
    pub deliveries: Vec<Delivery>,
    /// When nothing was handed out and the engine knows: how long until the next message falls due.
    pub next_due: Option<Duration>,
    /// Nothing was handed out, and yet something due stands before [`LeaseRequest::before`]: another
    /// message of its ordering key holds it up.
    pub is_held_up: bool,
}

/// One delivery of a message to one worker.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// What settles it.
    pub receipt: Receipt,
    /// The stored body.
    pub body: String,
    /// The stored headers.
    pub headers: Headers,
    /// How often the message was delivered, this time included.
    pub deliveries: u32,
    /// When it was stored.
    pub enqueued_at: DateTime<Utc>,
    /// When it had become readable.
    pub due: DateTime<Utc>,
    /// When it was handed out, on the engine's clock.
    pub leased_at: DateTime<Utc>,
}

impl Delivery {
    /// A message that is stored now and due at once, as it stands before its first delivery, with a
    /// receipt whose token is all zeros. For engines that keep their messages in this form.
    #[must_use]
    pub fn stored(id: MessageId, message: Outgoing, now: DateTime<Utc>) -> Self {
        let Outgoing { body, headers, .. } = message;
        let receipt = Receipt::new(id, [0; 3]);
        Self {
            receipt,
            body,
            headers,
            deliveries: 0,
            enqueued_at: now,
            due: now,
            leased_at: now,
        }
    }

    /// What [`stored`](Self::stored) kept, as it waits for its next delivery after a retry or a
    /// release: due at a time, with the handlers' marks, the receipt void.
    #[must_use]
    pub fn returned_at(mut self, due: DateTime<Utc>, progress: &Progress) -> Self {
        self.headers.give_back(progress);
        let receipt = Receipt::new(self.receipt.message_id, [0; 3]);
        Self {
            receipt,
            due,
            ..self
        }
    }

    /// Its place in the queue.
    #[must_use]
    pub fn position(&self) -> Position {
        Position {
            due: self.due,
            message_id: self.receipt.message_id.clone(),
        }
    }

    /// Its ordering key, if it has one.
    #[must_use]
    pub fn key(&self) -> Option<Cow<'_, str>> {
        self.headers.key()
    }

    /// How often it was delivered without being settled, this time included: 1 unless workers died
    /// or lost their leases.
    #[must_use]
    pub fn unsettled_deliveries(&self) -> u32 {
        self.deliveries.saturating_sub(self.headers.returned())
    }
}
