//! [`Inbound`]: a message from a broker, and the event in it.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use crate::broker::SourcePosition;
use crate::broker::binary::{self, unread};
use crate::error::{ErrorKind, Result};
use crate::event::Envelope;
use crate::event::envelope::Data;
use crate::message::headers::TRACEPARENT;

/// What the media types of events in structured content mode begin with.
const STRUCTURED: &str = "application/cloudevents";

/// A message from a broker, as the broker has it. It is the same whenever it is read.
#[derive(Debug, Clone)]
pub struct Inbound {
    partition: String,
    position: SourcePosition,
    key: Option<String>,
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
    stored_at: Option<DateTime<Utc>>,
}

impl Inbound {
    /// A message at a position of a partition.
    #[must_use]
    pub fn new(
        partition: impl Into<String>,
        position: SourcePosition,
        body: impl Into<Vec<u8>>,
    ) -> Self {
        Self {
            partition: partition.into(),
            position,
            key: None,
            headers: Vec::new(),
            body: body.into(),
            stored_at: None,
        }
    }

    /// The ordering key: events of one key are handled one after another. Defaults to none.
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Adds a header, by the name that it has at the broker. Attributes of CloudEvents begin with `ce-` or
    /// `ce_`; `content-type` is the media type of the body.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// When the broker stored it. Defaults to not known.
    #[must_use]
    pub fn stored_at(mut self, time: DateTime<Utc>) -> Self {
        self.stored_at = Some(time);
        self
    }

    /// The partition that it came from.
    #[must_use]
    pub fn partition(&self) -> &str {
        &self.partition
    }

    /// Where it stands in its partition.
    #[must_use]
    pub fn position(&self) -> SourcePosition {
        self.position
    }

    /// The ordering key.
    #[must_use]
    pub fn ordering_key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// The headers, in the broker's order.
    #[must_use]
    pub fn headers(&self) -> &[(String, Vec<u8>)] {
        &self.headers
    }

    /// The text of a header, whatever the case of its name. `None` if it is absent or no UTF-8; the last of
    /// several.
    #[must_use]
    pub fn header_text(&self, name: &str) -> Option<&str> {
        let mut found = self
            .headers
            .iter()
            .rev()
            .filter(|(given, _)| given.eq_ignore_ascii_case(name));
        let (_, value) = found.next()?;
        std::str::from_utf8(value).ok()
    }

    /// The body.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// When the broker stored it, if that is known.
    #[must_use]
    pub fn stored_time(&self) -> Option<DateTime<Utc>> {
        self.stored_at
    }

    /// The trace context beside the body, if it is none of the event's own attributes.
    #[must_use]
    pub fn traceparent(&self) -> Option<&str> {
        self.header_text(TRACEPARENT)
    }

    /// The event in the message. It is the first of these:
    ///
    /// 1. a CloudEvent in structured mode, if the header `content-type` says so
    /// 2. a CloudEvent in binary mode, if there is a header `ce-specversion` or `ce_specversion`
    /// 3. a CloudEvent in structured mode, if the body is a JSON object with `specversion`
    /// 4. an event of the type `plain_type`, whose data is the body: JSON, or what `content-type` says
    ///
    /// The last one gets an id that is made of `source_name`, partition and position, so it is the same
    /// whenever the message is read.
    ///
    /// ```
    /// use ezq_core::broker::{Inbound, SourcePosition};
    ///
    /// let message = Inbound::new("orders", SourcePosition::from(7), r#"{"total": 19.90}"#);
    /// let event = message.to_envelope("shop", Some("order.placed"))?;
    /// assert_eq!(event.event_type(), "order.placed");
    /// assert_eq!(event.id(), "shop/orders/7");
    ///
    /// let message = Inbound::new("orders", SourcePosition::from(8), "19.90")
    ///     .header("ce_specversion", "1.0")
    ///     .header("ce_id", "a-8")
    ///     .header("ce_source", "/till")
    ///     .header("ce_type", "order.paid");
    /// let event = message.to_envelope("shop", None)?;
    /// assert_eq!(event.id(), "a-8");
    /// assert_eq!(event.data(), Some("19.90"));
    /// # Ok::<(), ezq_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Decode`] if it is none of them, or not a valid one.
    pub fn to_envelope(&self, source_name: &str, plain_type: Option<&str>) -> Result<Envelope> {
        let media_type = self.header_text("content-type");
        let is_structured = media_type.is_some_and(|media_type| {
            let start = media_type.get(..STRUCTURED.len());
            start.is_some_and(|start| start.eq_ignore_ascii_case(STRUCTURED))
        });
        if is_structured {
            return self.structured();
        }

        // Binary mode has its attributes beside the body, whatever the body is.
        let attributes = self.attributes()?;
        if attributes.contains_key("specversion") {
            return binary::read(attributes, media_type, &self.body);
        }
        if media_type.is_none() && has_specversion(&self.body) {
            return self.structured();
        }
        self.plain(source_name, plain_type, media_type)
    }

    fn structured(&self) -> Result<Envelope> {
        let text = std::str::from_utf8(&self.body)
            .map_err(|error| unread("the body is not UTF-8".to_owned()).with_source(error))?;
        text.parse()
    }

    /// The headers that are attributes of an event, by the names of the attributes.
    fn attributes(&self) -> Result<BTreeMap<String, String>> {
        let mut attributes = BTreeMap::new();
        for (header, value) in &self.headers {
            let Some(name) = binary::attribute_name(header) else {
                continue;
            };
            let text = String::from_utf8(value.clone()).map_err(|error| {
                let text = format!("the header `{}` is not UTF-8", header.escape_debug());
                unread(text).with_source(error)
            })?;
            // Two readers could take different values, and so see different events.
            if attributes.insert(name, text).is_some() {
                let text = format!("the header `{}` is there twice", header.escape_debug());
                return Err(unread(text));
            }
        }
        Ok(attributes)
    }

    fn plain(
        &self,
        source_name: &str,
        plain_type: Option<&str>,
        media_type: Option<&str>,
    ) -> Result<Envelope> {
        let Some(plain_type) = plain_type else {
            let text = "the message is no CloudEvent, and no type is set for other messages";
            return Err(unread(text.to_owned()));
        };

        let data = binary::data(media_type, &self.body)?;
        let is_binary = matches!(data, Data::Base64(_));
        let envelope = Envelope {
            id: self.derived_id(source_name),
            source: source_name.into(),
            event_type: plain_type.into(),
            time: self.stored_at.map(|time| time.fixed_offset()),
            subject: None,
            datacontenttype: media_type.filter(|_| is_binary).map(ToOwned::to_owned),
            dataschema: None,
            extensions: BTreeMap::new(),
            data,
        };
        envelope.validated(ErrorKind::Decode)
    }

    /// The id of an event that has none of its own.
    pub(crate) fn derived_id(&self, source_name: &str) -> String {
        let partition = self.partition.escape_debug();
        format!("{source_name}/{partition}/{}", self.position)
    }
}

/// Whether a body is a JSON object with the member that every CloudEvent has.
fn has_specversion(body: &[u8]) -> bool {
    #[derive(serde::Deserialize)]
    struct Probe {
        #[serde(rename = "specversion")]
        _specversion: serde::de::IgnoredAny,
    }
    serde_json::from_slice::<Probe>(body).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::Outbound;

    fn message(body: &str) -> Inbound {
        Inbound::new("0", SourcePosition::from(7), body)
    }

    fn sent() -> Outbound {
        let text = r#"{"total":123456789012345678901234567890.10}"#;
        let builder = Envelope::builder("order.paid", "shop").subject("é");
        let builder = builder.extension("eventversion", crate::event::AttributeValue::Integer(2));
        Outbound::new("orders", builder.json(text).unwrap().build().unwrap())
    }

    fn same(read: &Envelope, sent: &Outbound) {
        let sent = sent.envelope();
        assert_eq!(read.id(), sent.id());
        assert_eq!(read.source(), sent.source());
        assert_eq!(read.event_type(), sent.event_type());
        assert_eq!(read.time(), sent.time());
        assert_eq!(read.subject(), sent.subject());
        assert_eq!(read.data(), sent.data());
        assert_eq!(read.version().unwrap(), 2);
    }

    #[test]
    fn what_a_sink_sends_in_either_mode_is_read_as_the_same_event() {
        let sent = sent();
        let structured = String::from_utf8(sent.structured().unwrap()).unwrap();
        same(&message(&structured).to_envelope("x", None).unwrap(), &sent);
        let named = message(&structured).header("Content-Type", "application/cloudevents+json");
        same(&named.to_envelope("x", None).unwrap(), &sent);

        for prefix in ["ce-", "ce_", "Ce-"] {
            let mut read = Inbound::new("0", SourcePosition::from(7), sent.data().unwrap());
            for (name, value) in sent.attributes() {
                read = match &*name {
                    "datacontenttype" => read.header("content-type", value),
                    _ => read.header(format!("{prefix}{name}"), value),
                };
            }
            same(&read.to_envelope("x", None).unwrap(), &sent);
        }
    }

    #[test]
    fn a_plain_body_needs_a_type_and_gets_the_same_id_each_time() {
        let plain = message(r#"{"n": 1}"#);
        let refused = plain.to_envelope("shop", None).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Decode);

        for _ in 0..2 {
            let event = plain.to_envelope("shop", Some("n.seen")).unwrap();
            assert_eq!(event.id(), "shop/0/7");
            assert_eq!(event.data(), Some(r#"{"n": 1}"#));
        }
    }

    #[test]
    fn a_body_of_another_media_type_is_kept_as_bytes() {
        let read = message("\u{1}\u{2}").header("content-type", "image/png");
        let event = read.to_envelope("shop", Some("pic")).unwrap();
        assert_eq!(event.datacontenttype(), Some("image/png"));
        assert_eq!(event.data_base64(), Some("AQI="));
    }

    #[test]
    fn what_is_no_event_is_an_error_of_one_kind() {
        let binary = |body| {
            message(body)
                .header("ce_specversion", "1.0")
                .header("ce_source", "/s")
                .header("ce_type", "t")
        };
        let bad = [
            message("{"),
            message(r#"{"specversion":"1.0"}"#),
            message(r#"{"specversion":"0.3","id":"1","source":"s","type":"t"}"#),
            message("[]").header("content-type", "application/cloudevents-batch+json"),
            Inbound::new("0", SourcePosition::from(1), [0xff, 0xfe]),
            // Without an id, with one twice, with one that is not UTF-8, with a body that is not JSON.
            binary("1"),
            binary("1").header("ce_id", "1").header("CE_ID", "2"),
            binary("1").header("ce_id", [0xff]),
            binary("{").header("ce_id", "1"),
        ];
        for message in bad {
            let error = message.to_envelope("shop", Some("plain")).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Decode, "{message:?}: {error:?}");
        }
    }
}
