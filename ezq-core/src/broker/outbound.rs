//! [`Outbound`]: an event on its way to a broker, and its two forms on the wire.
//!
//! Source: CloudEvents 1.0.2, "JSON Event Format", and the protocol bindings for HTTP, Kafka and NATS,
//! which agree on the two content modes. Distributed Tracing extension 1.0.2 for `traceparent` and
//! `tracestate`.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::broker::binary;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{AttributeValue, Envelope};
use crate::message::headers::{Headers, TRACEPARENT, TRACESTATE};

/// An event on its way to a broker. It is the same on every attempt, its id included.
#[derive(Debug, Clone)]
pub struct Outbound {
    topic: String,
    key: Option<String>,
    envelope: Envelope,
    /// The event in structured mode as it is stored, if that is all of it.
    stored: Option<Arc<String>>,
}

impl Outbound {
    /// An event for a topic.
    #[must_use]
    pub fn new(topic: impl Into<String>, envelope: Envelope) -> Self {
        Self {
            topic: topic.into(),
            key: None,
            envelope,
            stored: None,
        }
    }

    /// An ordering key. Defaults to none.
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// The body that the event was read from, if it is the whole event in structured mode.
    pub(crate) fn with_stored(mut self, body: Option<Arc<String>>) -> Self {
        self.stored = body;
        self
    }

    /// Takes the ordering key and the trace context out of the headers of a message.
    pub(crate) fn with_headers(mut self, headers: &Headers) -> Self {
        self.key = headers.key().map(Into::into);
        for name in [TRACEPARENT, TRACESTATE] {
            // An event that came from elsewhere may carry the trace of whoever made it.
            let is_set = self.envelope.extensions.contains_key(name);
            if let Some(text) = headers.text(name).filter(|_| !is_set) {
                let value = AttributeValue::Text(text.to_owned());
                self.envelope.extensions.insert(name.to_owned(), value);
                // The stored body does not have it.
                self.stored = None;
            }
        }
        self
    }

    /// Where the broker puts it: a topic, subject or stream.
    #[must_use]
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// The key whose events the broker keeps in order.
    #[must_use]
    pub fn ordering_key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// The event's id: unique within its source, and the same on every attempt.
    #[must_use]
    pub fn id(&self) -> &str {
        self.envelope.id()
    }

    /// The event with all its attributes.
    #[must_use]
    pub fn envelope(&self) -> &Envelope {
        &self.envelope
    }

    /// The event in structured content mode: one JSON text with attributes and data. Its media type is
    /// `application/cloudevents+json`. A relay sends the body as it is stored, unless the trace context is
    /// to be added to it.
    ///
    /// # Errors
    /// [`ErrorKind::Encode`] if it cannot be written.
    pub fn structured(&self) -> Result<Vec<u8>> {
        if let Some(stored) = &self.stored {
            return Ok(stored.as_bytes().to_vec());
        }
        serde_json::to_vec(&self.envelope).map_err(|error| {
            let text = "the event cannot be written as JSON";
            Error::new(ErrorKind::Encode, text).with_source(error)
        })
    }

    /// The attributes of the event in binary content mode, by their names without a prefix;
    /// `datacontenttype` is among them. Pass each of them beside the [data](Self::data).
    #[must_use]
    pub fn attributes(&self) -> Vec<(String, String)> {
        binary::write(&self.envelope)
    }

    /// The data of the event in binary content mode: JSON text, or the bytes that it stands for.
    ///
    /// # Errors
    /// [`ErrorKind::Encode`] if binary data is not base64.
    pub fn data(&self) -> Result<Vec<u8>> {
        if let Some(base64) = self.envelope.data_base64() {
            return STANDARD.decode(base64).map_err(|error| {
                let text = "the data of the event is not base64";
                Error::new(ErrorKind::Encode, text).with_source(error)
            });
        }
        Ok(self.envelope.data().unwrap_or_default().into())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn envelope() -> Envelope {
        let text = r#"{"total":123456789012345678901234567890.10}"#;
        let builder = Envelope::builder("order.paid", "shop").id("7").subject("é");
        builder.json(text).unwrap().build().unwrap()
    }

    #[test]
    fn structured_mode_keeps_attributes_and_digits() {
        let body = Outbound::new("orders", envelope()).structured().unwrap();
        let text = String::from_utf8(body).unwrap();
        assert!(text.contains("123456789012345678901234567890.10"), "{text}");
        let read: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(read["id"], "7");
        assert_eq!(read["subject"], "é");
    }

    #[test]
    fn a_stored_body_goes_out_as_it_is_unless_the_trace_is_added() {
        let body = r#"{"type": "order.paid", "specversion": "1.0", "id": "7", "source": "shop"}"#;
        let sent = |headers| {
            let message = Outbound::new("orders", body.parse().unwrap());
            let message = message.with_stored(Some(Arc::new(body.to_owned())));
            let message = message.with_headers(&Headers::from_value(headers));
            String::from_utf8(message.structured().unwrap()).unwrap()
        };
        assert_eq!(sent(json!({"x-pgmq-group": "ada"})), body);

        let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let read: Value = serde_json::from_str(&sent(json!({"traceparent": trace}))).unwrap();
        assert_eq!(read["traceparent"], trace);
        assert_eq!(read["type"], "order.paid");
    }

    #[test]
    fn binary_mode_splits_attributes_and_data() {
        let message = Outbound::new("orders", envelope());
        let attributes = message.attributes();
        let of = |name: &str| attributes.iter().find(|(given, _)| given == name);
        assert_eq!(of("type").unwrap().1, "order.paid");
        assert_eq!(of("datacontenttype").unwrap().1, "application/json");
        assert!(of("dataschema").is_none());
        assert!(message.data().unwrap().starts_with(b"{\"total\":1234"));

        let base64 = Envelope::builder("pic", "shop").datacontenttype("image/png");
        let base64 = base64.data_base64("AQID").build().unwrap();
        let message = Outbound::new("pictures", base64);
        assert_eq!(message.data().unwrap(), [1, 2, 3]);
    }

    #[test]
    fn headers_give_the_key_and_the_trace() {
        let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let headers = json!({"x-pgmq-group": "ada", "traceparent": trace});
        let message = Outbound::new("orders", envelope());
        let message = message.with_headers(&Headers::from_value(headers));
        assert_eq!(message.ordering_key(), Some("ada"));
        let body: Value = serde_json::from_slice(&message.structured().unwrap()).unwrap();
        assert_eq!(body["traceparent"], trace);
    }
}
