//! What a message of a queue holds beside its body.
//!
//! A client that knows nothing of ezq stores a bare body: every header here may be missing. The headers
//! of ezq are one JSON object in one header of NATS, as their values are any JSON.

use std::str::FromStr as _;

use async_nats::HeaderMap;
use async_nats::header::{
    HeaderValue, IntoHeaderName, NATS_MESSAGE_ID, NATS_SCHEDULE, NATS_SCHEDULE_TARGET,
};
use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use ezq_core::message::MessageId;
use ezq_core::message::headers::Headers;
use serde_json::Value;

/// The headers of ezq, as a JSON object.
pub(crate) const HEADERS: &str = "Ezq-Headers";
/// The message's id, if it is a copy of an earlier one.
const ID: &str = "Ezq-Id";
/// When the message was first stored, if it is a copy.
const STORED: &str = "Ezq-Stored";
/// When it falls due, if that is later than when it was stored.
const DUE: &str = "Ezq-Due";
/// How often it was delivered before, if it is a copy.
const DELIVERIES: &str = "Ezq-Deliveries";
/// When it became a dead letter.
const DIED: &str = "Ezq-Died";

/// What is stored with a body.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stored {
    pub(crate) headers: Headers,
    pub(crate) id: Option<MessageId>,
    pub(crate) stored_at: Option<DateTime<Utc>>,
    pub(crate) due: Option<DateTime<Utc>>,
    pub(crate) deliveries: u32,
    pub(crate) died_at: Option<DateTime<Utc>>,
}

impl Stored {
    /// Reads the headers of a message. What cannot be read counts as missing.
    ///
    /// Fast path: one pass, as most messages have no header of ezq's, and each lookup allocates its name.
    pub(crate) fn read(headers: Option<&HeaderMap>) -> Self {
        let mut stored = Self::default();
        for (name, values) in headers.into_iter().flat_map(HeaderMap::iter) {
            let Some(text) = values.first().map(HeaderValue::as_str) else {
                continue;
            };
            let name: &str = name.as_ref();
            match name {
                HEADERS => {
                    let value = serde_json::from_str(text);
                    let value = value.unwrap_or_else(|_| Value::String(text.to_owned()));
                    stored.headers = Headers::from_value(value);
                }
                ID => stored.id = text.parse().ok().map(MessageId::Number),
                STORED => stored.stored_at = text.parse().ok(),
                DUE => stored.due = text.parse().ok(),
                DELIVERIES => stored.deliveries = text.parse().unwrap_or(0),
                DIED => stored.died_at = text.parse().ok(),
                _ => {}
            }
        }
        stored
    }

    /// The headers of a message with this id for the server's window of duplicates.
    pub(crate) fn write(&self, dedupe: &str) -> HeaderMap {
        let mut map = HeaderMap::new();
        set(&mut map, NATS_MESSAGE_ID, dedupe);
        if !self.headers.is_empty() {
            let json = Value::Object(self.headers.as_object().clone());
            set(&mut map, HEADERS, &json.to_string());
        }
        if let Some(id) = &self.id {
            set(&mut map, ID, &id.to_string());
        }
        for (name, time) in [
            (STORED, self.stored_at),
            (DUE, self.due),
            (DIED, self.died_at),
        ] {
            if let Some(time) = time {
                set(
                    &mut map,
                    name,
                    &time.to_rfc3339_opts(SecondsFormat::Micros, true),
                );
            }
        }
        if self.deliveries > 0 {
            set(&mut map, DELIVERIES, &self.deliveries.to_string());
        }
        map
    }
}

/// Sets a header, unless its text has a line break: neither JSON nor a time has one.
fn set(map: &mut HeaderMap, name: impl IntoHeaderName, text: &str) {
    if let Ok(value) = HeaderValue::from_str(text) {
        map.insert(name, value);
    }
}

/// Lets the server move a message to a subject at a time. Source: NATS's ADR-51.
pub(crate) fn schedule(map: &mut HeaderMap, due: DateTime<Utc>, target: &str) {
    let at = due.to_rfc3339_opts(SecondsFormat::Micros, true);
    set(map, NATS_SCHEDULE, &format!("@at {at}"));
    set(map, NATS_SCHEDULE_TARGET, target);
}

/// The body as text. Bytes that are no text are replaced: a codec that writes bytes writes base64.
pub(crate) fn body(payload: &Bytes) -> String {
    String::from_utf8_lossy(payload).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut headers = Headers::new();
        headers.insert("x-text", "ä\r\n\"");
        let time = "2026-11-27T13:00:00.123456Z".parse().ok();
        let stored = Stored {
            headers,
            id: Some(MessageId::Number(7)),
            stored_at: time,
            due: time,
            deliveries: 3,
            died_at: None,
        };
        let read = Stored::read(Some(&stored.write("once")));
        assert_eq!(read.headers, stored.headers);
        assert_eq!((read.id, read.deliveries), (stored.id, 3));
        assert_eq!((read.stored_at, read.due, read.died_at), (time, time, None));
        assert!(Stored::read(None).headers.is_empty());
    }
}
