//! What passes between an engine and the rest of ezq: messages on their way to a queue, leases and
//! deliveries, and the receipts that settle them.

use std::borrow::Cow;
use std::hash::{Hash, Hasher};
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::dedupe::{Dedupe, Original};
use crate::error::{Error, ErrorKind, Result};
use crate::message::headers::Headers;
use crate::message::message_id::MessageId;
use crate::message::queue_name::QueueName;
use crate::message::settlement::Progress;

/// When a message becomes readable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Due {
    /// At once.
    #[default]
    Now,
    /// After a pause, which begins when the message is stored, by the engine's clock.
    After(Duration),
    /// At this time; a time in the past means at once.
    At(DateTime<Utc>),
}

/// A message on its way to a queue.
#[derive(Debug, Clone, PartialEq)]
pub struct Outgoing {
    /// The queue that it goes to.
    pub queue: QueueName,
    /// The encoded event.
    pub body: String,
    /// Metadata that is stored beside the body.
    pub headers: Headers,
    /// When it becomes readable.
    pub due: Due,
    /// The key under which the queue stores only the first message, if it has one. For engines with
    /// [`Capabilities::dedupe`](crate::engine::Capabilities).
    pub dedupe: Option<Dedupe>,
}

/// What became of one published message.
#[derive(Debug)]
pub enum PublishOutcome {
    /// It is stored, durably, under this id.
    Stored(MessageId),
    /// It was not stored, because another message has its dedupe key: this one, if it is known.
    Duplicate(Option<Original>),
    /// It was not stored, for this reason.
    Failed(Error),
}

impl From<Result<MessageId>> for PublishOutcome {
    fn from(result: Result<MessageId>) -> Self {
        result.map_or_else(Self::Failed, Self::Stored)
    }
}

/// The place of a message in its queue. Messages are handed out by due time, then by id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// When the message becomes, or became, readable.
    pub due: DateTime<Utc>,
    /// The message's id.
    pub message_id: MessageId,
}

impl Position {
    /// The place before every message.
    pub const FIRST: Self = Self {
        due: DateTime::<Utc>::MIN_UTC,
        message_id: MessageId::Number(i64::MIN),
    };
}

/// The right to settle one delivery of a message.
///
/// A receipt is void once the message is settled or delivered again. A lease that ran out does not
/// void it by itself. The engine checks this by id and token together: they are its fencing token.
/// Where a store may issue an id again, the id itself tells two messages apart
/// ([`MessageId::Dated`]). Outside its engine a receipt is opaque.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    message_id: MessageId,
    token: [i64; 3],
    covers: u32,
}

/// Hashes the message only: few receipts of one message are ever held at the same time.
impl Hash for Receipt {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.message_id.hash(state);
    }
}

impl Receipt {
    /// A receipt with an engine's own token, which must differ between two deliveries of a message.
    ///
    /// On PGMQ the id holds the time at which the message was stored, and the token is: `read_ct`,
    /// with the number of returns above its 32 bits; the oid of the queue's table; the due time in
    /// microseconds.
    #[must_use]
    pub fn new(message_id: MessageId, token: [i64; 3]) -> Self {
        Self {
            message_id,
            token,
            covers: 0,
        }
    }

    /// The message that it settles.
    #[must_use]
    pub fn message_id(&self) -> &MessageId {
        &self.message_id
    }

    /// The engine's own token, as given to [`new`](Self::new).
    #[must_use]
    pub fn token(&self) -> [i64; 3] {
        self.token
    }

    /// This receipt, for a worker that goes on with a delivery it already had under an earlier
    /// receipt. The two deliveries then end together.
    #[must_use]
    pub fn covering(mut self, earlier: &Self) -> Self {
        self.covers = earlier.covers.saturating_add(1);
        self
    }

    /// How many earlier deliveries end together with this one. A settlement that returns the message
    /// must count them as [returned](Headers::returned) as well.
    #[must_use]
    pub fn covers(&self) -> u32 {
        self.covers
    }
}

/// What a consumer asks for when it leases messages.
#[derive(Debug, Clone)]
pub struct LeaseRequest {
    /// The queue to lease from.
    pub queue: QueueName,
    /// The largest number of messages to hand out; at least 1.
    pub max: usize,
    /// How long the leases last. An engine rounds up to what it can keep.
    pub ttl: Duration,
    /// How many events the consumer handles at once. Messages of more ordering keys than this would
    /// only wait, so an engine may prefer several messages of fewer keys. A hint.
    pub keys: usize,
    /// Lease only messages before this place. A consumer sets it to handle what precedes an
    /// [`End`](crate::event::End) or an [`Interrupt`](crate::event::Interrupt).
    pub before: Option<Position>,
    /// Lease only messages after this place, strictly in the order of their places: no message that
    /// can be handed out is passed over for a later one, except one that follows another of its key.
    /// A consumer sets it to look past messages that it gave back because their handler has enough
    /// waiting.
    pub after: Option<Position>,
}

impl LeaseRequest {
    /// The error for a message that cannot be leased because a worker holds it. For implementations of
    /// [`Engine::lease_by_id`](crate::engine::Engine::lease_by_id).
    #[must_use]
    pub fn held(queue: &QueueName, id: &MessageId) -> Error {
        let text = format!(
            "a worker has the message {id} of the queue `{queue}`: try again when it has settled it, or \
             its lease has ended"
        );
        Error::new(ErrorKind::LeaseLost, text)
    }
}

/// The answer to a [`LeaseRequest`].
#[derive(Debug, Default)]
pub struct Leased {
    /// The deliveries, sorted by [`Position`].
    pub deliveries: Vec<Delivery>,
    /// If nothing was handed out: how long until the next message falls due, if the engine knows.
    pub next_due: Option<Duration>,
    /// Nothing was handed out, but a message before [`LeaseRequest::before`] is due: another message
    /// of its ordering key holds it up. Always false without `before`.
    pub is_held_up: bool,
}

/// One delivery of a message to one worker.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The right to settle it.
    pub receipt: Receipt,
    /// The stored body.
    pub body: String,
    /// The stored headers.
    pub headers: Headers,
    /// How often the message was delivered, including this time.
    pub deliveries: u32,
    /// When the message was first stored.
    pub enqueued_at: DateTime<Utc>,
    /// When it became readable; with the id, its place in the queue.
    pub due: DateTime<Utc>,
    /// When it was handed out, by the engine's clock.
    pub leased_at: DateTime<Utc>,
}

impl Delivery {
    /// A message before its first delivery: stored now, due at once, with a receipt whose token is all
    /// zeros. For engines that keep their messages in this form.
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

    /// The message after a retry or a release: due at `due`, with the handlers' marks merged in, and
    /// a void receipt. For engines that keep their messages as [`stored`](Self::stored) made them.
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

    /// How often the message was delivered without being settled, including this time. It is 1 unless
    /// workers died or lost their leases.
    #[must_use]
    pub fn unsettled_deliveries(&self) -> u32 {
        self.deliveries.saturating_sub(self.headers.returned())
    }
}
