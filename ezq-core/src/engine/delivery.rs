//! What passes between an engine and the rest of ezq: messages on their way to a queue, leases and
//! deliveries, and the receipts that settle them.

use std::borrow::Cow;
use std::hash::{Hash, Hasher};
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::dedupe::{Dedupe, Original};
use super::token::Token;
use crate::error::{Error, ErrorKind, Result};
use crate::message::headers::Headers;
use crate::message::message_id::MessageId;
use crate::message::queue_name::QueueName;
use crate::message::settlement::Progress;

/// When a message becomes readable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Due {
    /// At once.
    #[default]
    Now,
    /// After a pause, which begins when the message is stored, by the engine's clock.
    After(Duration),
    /// At this time; a time in the past means at once.
    At(DateTime<Utc>),
}

impl Due {
    /// The pause before the message becomes readable, from when it is stored; zero without one.
    #[must_use]
    pub fn pause(self) -> Duration {
        match self {
            Self::After(pause) => pause,
            Self::Now | Self::At(_) => Duration::ZERO,
        }
    }

    /// The time at which the message becomes readable, if one is given.
    #[must_use]
    pub fn time(self) -> Option<DateTime<Utc>> {
        match self {
            Self::At(time) => Some(time),
            Self::Now | Self::After(_) => None,
        }
    }
}

/// A message on its way to a queue.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
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

impl Outgoing {
    /// A message that is readable at once and has no dedupe key.
    #[must_use]
    pub fn new(queue: QueueName, body: impl Into<String>, headers: Headers) -> Self {
        Self {
            queue,
            body: body.into(),
            headers,
            due: Due::Now,
            dedupe: None,
        }
    }

    /// Sends it to another queue.
    #[must_use]
    pub fn queue(mut self, queue: QueueName) -> Self {
        self.queue = queue;
        self
    }

    /// Sets when it becomes readable.
    #[must_use]
    pub fn due(mut self, due: Due) -> Self {
        self.due = due;
        self
    }

    /// Sets its dedupe key.
    #[must_use]
    pub fn dedupe(mut self, dedupe: impl Into<Option<Dedupe>>) -> Self {
        self.dedupe = dedupe.into();
        self
    }
}

/// What became of one published message.
#[derive(Debug)]
#[non_exhaustive]
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
#[non_exhaustive]
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

    /// The place of a message that is due at this time.
    #[must_use]
    pub fn new(due: DateTime<Utc>, message_id: MessageId) -> Self {
        Self { due, message_id }
    }
}

/// The right to settle one delivery of a message.
///
/// A receipt is void once the message is settled or delivered again. A lease that ran out does not
/// void it by itself. The engine checks this by id and [`Token`] together: they are its fencing
/// token. Where a store may issue an id again, the id itself tells two messages apart
/// ([`MessageId::Dated`]). Outside its engine a receipt is opaque.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    message_id: MessageId,
    token: Token,
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
    #[must_use]
    pub fn new(message_id: MessageId, token: Token) -> Self {
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
    pub fn token(&self) -> Token {
        self.token
    }

    /// The error for a receipt that an engine of this name did not make: its id or its token is none
    /// that the engine writes. For implementations of [`Engine::settle`](super::Engine::settle).
    #[must_use]
    pub fn foreign_to(&self, engine: &str) -> Error {
        let text = format!(
            "the engine `{engine}` did not make this receipt of the message {}: settle a delivery \
             on the engine that leased it",
            self.message_id
        );
        Error::new(ErrorKind::InvalidReceipt, text)
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
#[non_exhaustive]
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
    /// An empty answer must mean that nothing is due, unless it is [partial](Leased::is_partial). A consumer
    /// that runs until its queue is idle sets it.
    pub is_exhaustive: bool,
}

impl LeaseRequest {
    /// A request for up to `max` messages from anywhere in the queue, of as many ordering keys.
    ///
    /// ```
    /// # use ezq_core::engine::{LeaseRequest, Position};
    /// # use ezq_core::message::QueueName;
    /// # use std::time::Duration;
    /// let orders = QueueName::new("orders")?;
    /// let request = LeaseRequest::new(orders, 100, Duration::from_secs(10)).keys(16);
    /// assert_eq!((request.max, request.keys), (100, 16));
    /// assert_eq!(request.after(Position::FIRST).before, None);
    /// # Ok::<(), ezq_core::Error>(())
    /// ```
    #[must_use]
    pub fn new(queue: QueueName, max: usize, ttl: Duration) -> Self {
        Self {
            queue,
            max,
            ttl,
            keys: max,
            before: None,
            after: None,
            is_exhaustive: false,
        }
    }

    /// Sets how many events the consumer handles at once.
    #[must_use]
    pub fn keys(mut self, keys: usize) -> Self {
        self.keys = keys;
        self
    }

    /// Leases only messages before this place.
    #[must_use]
    pub fn before(mut self, before: impl Into<Option<Position>>) -> Self {
        self.before = before.into();
        self
    }

    /// Leases only messages after this place, strictly in order.
    #[must_use]
    pub fn after(mut self, after: impl Into<Option<Position>>) -> Self {
        self.after = after.into();
        self
    }

    /// Has the engine look at all that may be due before it answers that it found nothing.
    #[must_use]
    pub fn exhaustive(mut self) -> Self {
        self.is_exhaustive = true;
        self
    }

    /// The error for a message that cannot be leased because a worker holds it. For implementations of
    /// [`Engine::lease_by_id`](crate::engine::Engine::lease_by_id).
    #[must_use]
    pub fn held(queue: &QueueName, id: &MessageId) -> Error {
        let text = format!(
            "a worker holds the message {id} of the queue `{queue}`: try again when it has \
             settled it, or when its lease has ended"
        );
        Error::new(ErrorKind::LeaseLost, text)
    }
}

/// The answer to a [`LeaseRequest`].
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Leased {
    /// The deliveries, sorted by [`Position`].
    pub deliveries: Vec<Delivery>,
    /// If nothing was handed out: how long until the next message falls due, if the engine knows.
    pub next_due: Option<Duration>,
    /// Nothing was handed out, but a message before [`LeaseRequest::before`] is due: another message
    /// of its ordering key holds it up. Always false without `before`.
    pub is_held_up: bool,
    /// Nothing was handed out, but the engine did not look at all that may be due, since that would
    /// take long: it looks there when [`next_due`](Self::next_due) has passed. For a request with
    /// [`before`](LeaseRequest::before), or that is [exhaustive](LeaseRequest::exhaustive), it is true only
    /// where even that search has a limit, as without indexes over ordering keys.
    pub is_partial: bool,
}

impl Leased {
    /// These deliveries, which must be sorted by [`Position`].
    #[must_use]
    pub fn new(deliveries: Vec<Delivery>) -> Self {
        Self {
            deliveries,
            ..Self::default()
        }
    }
}

/// One delivery of a message to one worker.
#[derive(Debug, Clone)]
#[non_exhaustive]
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
    /// The first delivery of a message: stored, due and handed out at `enqueued_at`. An engine sets the
    /// fields that differ.
    #[must_use]
    pub fn new(
        receipt: Receipt,
        body: String,
        headers: Headers,
        enqueued_at: DateTime<Utc>,
    ) -> Self {
        Self {
            receipt,
            body,
            headers,
            deliveries: 1,
            enqueued_at,
            due: enqueued_at,
            leased_at: enqueued_at,
        }
    }

    /// A message before its first delivery: stored now, due at once, with a receipt whose token is
    /// empty. For engines that keep their messages in this form.
    #[must_use]
    pub fn stored(id: MessageId, message: Outgoing, now: DateTime<Utc>) -> Self {
        let Outgoing { body, headers, .. } = message;
        let receipt = Receipt::new(id, Token::default());
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
        let receipt = Receipt::new(self.receipt.message_id, Token::default());
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
