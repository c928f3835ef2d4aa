//! Delivery metadata beside the body: a flat JSON object whose top-level keys are merged one at a
//! time by the store, so that two workers' marks never overwrite each other.
//!
//! Keys that ezq owns begin with [`PREFIX`]; all others belong to the publisher.

use std::borrow::Cow;

use serde_json::{Map, Value};

use crate::message::settlement::Progress;

/// What begins every header key that ezq owns.
pub const PREFIX: &str = "ezq-";
/// How many deliveries of a message ended by a settlement (a retry or a release): the rest of its
/// deliveries ended in a crash or a lost lease.
pub const RETURNED: &str = "ezq-returned";
/// Begins the key of one handler's mark; the handler's name follows.
pub const HANDLER_PREFIX: &str = "ezq-h:";
/// Why a message is a dead letter; only in the dead-letter queue.
pub const DEAD: &str = "ezq-dead";
/// What a message had died of before it was redriven; the time and id of its first death's message.
pub const REDRIVEN: &str = "ezq-redriven";
/// Which replay handed a copy of an archived event over, and when; the queue and the id that the
/// event had.
pub const REPLAY: &str = "ezq-replay";
/// The headers as they came, where they were not an object; only in the dead-letter queue.
pub const ORIGINAL_HEADERS: &str = "ezq-original-headers";
/// The most attempts a handler gets for this one event, over the handler's own policy.
pub const MAX_ATTEMPTS: &str = "ezq-max-attempts";
/// The ordering key: messages that share one are handled one after another, in the order of their
/// ids. PGMQ's own FIFO reads use this name.
pub const KEY: &str = "x-pgmq-group";
/// The id that all events of one flow share.
pub const CORRELATION_ID: &str = "correlation-id";
/// The id of the event whose handler published this one.
pub const CAUSATION_ID: &str = "causation-id";
/// The codec that wrote the body, where that does not say itself what it is.
pub const CODEC: &str = "ezq-codec";
/// What an event carries, where its body cannot say so: `none` for no data, `null` for `null`.
pub const DATA: &str = "ezq-data";
/// Begins the headers that hold an event's attributes, as in CloudEvents' HTTP binding, where the
/// body does not.
pub const CE_PREFIX: &str = "ce-";
/// The event's id, where the body does not say itself what it is.
pub const CE_ID: &str = "ce-id";
/// The event's type, where the body does not say itself what it is.
pub const CE_TYPE: &str = "ce-type";
/// The W3C trace context.
pub const TRACEPARENT: &str = "traceparent";
/// The W3C trace state.
pub const TRACESTATE: &str = "tracestate";

/// A message's headers.
///
/// Most messages have none, and an empty set costs nothing in the store.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Headers {
    entries: Map<String, Value>,
    original: Option<Value>,
}

impl Headers {
    /// No headers.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads what a store kept. Anything but an object counts as no headers, and is kept as
    /// [`original`](Self::original).
    #[must_use]
    pub fn from_value(value: Value) -> Self {
        match value {
            Value::Object(entries) => Self {
                entries,
                original: None,
            },
            Value::Null => Self::default(),
            other => Self {
                entries: Map::new(),
                original: Some(other),
            },
        }
    }

    /// The value under a key.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.entries.get(key)
    }

    /// The text under a key, if it is text.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<&str> {
        self.entries.get(key).and_then(Value::as_str)
    }

    /// The ordering key, if there is one. Text as it is; anything else but `null` as it is written.
    #[must_use]
    pub fn key(&self) -> Option<Cow<'_, str>> {
        match self.entries.get(KEY)? {
            Value::Null => None,
            Value::String(key) => Some(Cow::Borrowed(key)),
            other => Some(Cow::Owned(other.to_string())),
        }
    }

    /// Sets a header.
    pub fn insert(&mut self, key: impl Into<String>, value: impl Into<Value>) {
        self.entries.insert(key.into(), value.into());
    }

    /// Sets a header, unless it is there.
    pub(crate) fn insert_absent(&mut self, key: &str, value: &str) {
        self.entries.entry(key).or_insert_with(|| value.into());
    }

    /// Sets each handler's mark under a key of its own. What stood in place of an object is kept
    /// under [`ORIGINAL_HEADERS`].
    pub fn merge(&mut self, progress: &Progress) {
        if let Some(original) = self.original.take() {
            self.insert(ORIGINAL_HEADERS, original);
        }
        self.entries.extend(progress.to_headers());
    }

    /// Notes that a delivery ended by a retry or a release: merges the marks and counts it among
    /// those [`returned`](Self::returned).
    pub fn give_back(&mut self, progress: &Progress) {
        self.merge(progress);
        self.insert(RETURNED, self.returned().saturating_add(1));
    }

    /// Notes that so many more deliveries ended with that one, as a receipt
    /// [covers](crate::Receipt::covers) them.
    pub fn covered(&mut self, deliveries: u32) {
        if deliveries > 0 {
            self.insert(RETURNED, self.returned().saturating_add(deliveries));
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The headers as a JSON object.
    #[must_use]
    pub fn as_object(&self) -> &Map<String, Value> {
        &self.entries
    }

    /// What stood in place of an object, if something did.
    #[must_use]
    pub fn original(&self) -> Option<&Value> {
        self.original.as_ref()
    }

    /// How many earlier deliveries ended by a settlement.
    #[must_use]
    pub fn returned(&self) -> u32 {
        self.number(RETURNED).unwrap_or(0)
    }

    /// A whole number under a key, if one stands there.
    #[must_use]
    pub fn number(&self, key: &str) -> Option<u32> {
        self.entries
            .get(key)
            .and_then(Value::as_u64)
            .and_then(|n| u32::try_from(n).ok())
    }
}
