//! The headers of a message: a flat JSON object that is stored beside the body.
//!
//! The store merges headers one top-level key at a time, so two workers never overwrite each
//! other's marks. Keys that ezq owns begin with [`PREFIX`]; the other constants here are names that
//! ezq shares with PGMQ, CloudEvents and W3C Trace Context. Any other key belongs to the publisher.

use std::borrow::Cow;

use serde_json::{Map, Value};

/// The prefix of every header key that ezq owns.
pub const PREFIX: &str = "ezq-";
/// How many deliveries of a message ended by a settlement: a retry or a release. The other
/// deliveries ended by a crash or a lost lease.
pub const RETURNED: &str = "ezq-returned";
/// The prefix of the key of a handler's mark; the handler's name follows.
pub const HANDLER_PREFIX: &str = "ezq-h:";
/// Why a message is a dead letter. Set only in the dead-letter queue.
pub const DEAD: &str = "ezq-dead";
/// How a message had died before it was redriven. After several redrives, the id and the time of
/// storage are those of the message that died first.
pub const REDRIVEN: &str = "ezq-redriven";
/// The replay that published a copy of an archived event, and when; with the queue and the id that
/// the event had.
pub const REPLAY: &str = "ezq-replay";
/// Where a broker's message came from: the source, the partition and the position.
pub const INGEST: &str = "ezq-ingest";
/// The headers of a broker's message that could not be an event. Set only in the dead-letter queue.
pub const INGEST_HEADERS: &str = "ezq-ingest-headers";
/// The original headers, if they were no object. Set only in the dead-letter queue.
pub const ORIGINAL_HEADERS: &str = "ezq-original-headers";
/// How many attempts each handler gets for this one event, in place of the handler's own policy.
pub const MAX_ATTEMPTS: &str = "ezq-max-attempts";
/// The ordering key. Messages of one key are handled one after another, in the order of their ids.
/// The name is that of PGMQ's own FIFO reads.
pub const KEY: &str = "x-pgmq-group";
/// The id that all events of one flow share.
pub const CORRELATION_ID: &str = "correlation-id";
/// The id of the event whose handler published this one.
pub const CAUSATION_ID: &str = "causation-id";
/// The codec that wrote the body, unless the body itself shows its form.
pub const CODEC: &str = "ezq-codec";
/// The form of the stored body, if a codec wrote bytes: `base64`, for a JSON string with their
/// base64 (RFC 4648, section 4). A body without this header is the JSON text that its codec wrote.
pub const BODY: &str = "ezq-body";
/// The data of the event, if the body cannot show it: `none` for no data, `null` for JSON `null`.
pub const DATA: &str = "ezq-data";
/// The prefix of the headers that hold an event's attributes, if the body does not. The names are
/// those of CloudEvents' HTTP binding.
pub const CE_PREFIX: &str = "ce-";
/// The event's id, unless the body itself shows its form.
pub const CE_ID: &str = "ce-id";
/// The event's type, unless the body itself shows its form.
pub const CE_TYPE: &str = "ce-type";
/// The W3C trace context.
pub const TRACEPARENT: &str = "traceparent";
/// The W3C trace state.
pub const TRACESTATE: &str = "tracestate";
/// The W3C baggage, which goes along with the trace.
pub const BAGGAGE: &str = "baggage";

/// The headers of a message.
///
/// Most messages have none, and then the store keeps nothing for them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Headers {
    entries: Map<String, Value>,
    pub(super) original: Option<Value>,
}

impl Headers {
    /// No headers.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Headers from the value that a store kept. A value that is not an object counts as no
    /// headers, and is kept as [`original`](Self::original).
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

    /// The value under a key, if it is text.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<&str> {
        self.entries.get(key).and_then(Value::as_str)
    }

    /// The ordering key, if there is one. A key that is not text is taken as its JSON text; `null`
    /// is no key.
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

    /// Removes a header, if it is set.
    pub(crate) fn remove(&mut self, key: &str) {
        self.entries.remove(key);
    }

    /// Sets a header, unless it is set already.
    pub(crate) fn insert_absent(&mut self, key: &str, value: &str) {
        self.entries.entry(key).or_insert_with(|| value.into());
    }

    /// These headers; each one that is not set is taken from `others`.
    pub(crate) fn or(mut self, others: &Self) -> Self {
        for (key, value) in &others.entries {
            if !self.entries.contains_key(key) {
                self.entries.insert(key.clone(), value.clone());
            }
        }
        self
    }

    /// Counts earlier deliveries as returned too, which a receipt
    /// [covers](crate::engine::Receipt::covers).
    pub fn covered(&mut self, deliveries: u32) {
        if deliveries > 0 {
            self.insert(RETURNED, self.returned().saturating_add(deliveries));
        }
    }

    /// Whether there are no headers.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The headers as a JSON object.
    #[must_use]
    pub fn as_object(&self) -> &Map<String, Value> {
        &self.entries
    }

    /// The value that the store kept, if it was no object.
    #[must_use]
    pub fn original(&self) -> Option<&Value> {
        self.original.as_ref()
    }

    /// How many earlier deliveries ended by a settlement.
    #[must_use]
    pub fn returned(&self) -> u32 {
        self.number(RETURNED).unwrap_or(0)
    }

    /// The value under a key, if it is a whole number of 32 bits.
    #[must_use]
    pub fn number(&self, key: &str) -> Option<u32> {
        self.entries
            .get(key)
            .and_then(Value::as_u64)
            .and_then(|n| u32::try_from(n).ok())
    }
}
