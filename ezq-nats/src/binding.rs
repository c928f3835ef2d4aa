//! Events as NATS messages: headers and payload.
//!
//! Source: CloudEvents, "NATS Protocol Binding", section 3. In binary mode every attribute is a header
//! `ce-<name>`, `datacontenttype` among them, and its value is percent-encoded as in the HTTP binding. In
//! structured mode the header `Content-Type` says that the payload is the whole event.

use std::fmt::Write as _;
use std::str::FromStr as _;

use async_nats::HeaderMap;
use async_nats::header::{HeaderName, HeaderValue, NATS_MESSAGE_ID};
use ezq_core::broker::Outbound;
use ezq_core::{Error, ErrorKind, Result};

/// The header that tells a structured event from a binary one.
const CONTENT_TYPE: &str = "Content-Type";
/// The media type of an event in structured mode.
const STRUCTURED: &str = "application/cloudevents+json";

/// How an event is written into a message. Both are those of CloudEvents.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ContentMode {
    /// Attributes as headers `ce-...`, and the data as the payload.
    #[default]
    Binary,
    /// One JSON text with attributes and data.
    Structured,
}

/// The headers and the payload of an event.
pub(crate) fn encode(message: &Outbound, mode: ContentMode) -> Result<(HeaderMap, Vec<u8>)> {
    let mut headers = HeaderMap::new();
    let id = HeaderValue::from_str(message.id()).map_err(|error| {
        let text = "the id of the event has a line break, which no header of NATS can have";
        Error::new(ErrorKind::InvalidEvent, text).with_source(error)
    })?;
    headers.insert(NATS_MESSAGE_ID, id);

    match mode {
        ContentMode::Structured => {
            headers.insert(CONTENT_TYPE, STRUCTURED);
            Ok((headers, message.structured()?))
        }
        ContentMode::Binary => {
            for (name, value) in message.attributes() {
                let name = HeaderName::from_str(&format!("ce-{name}")).map_err(|error| {
                    let text = "an attribute of the event has a name that no header can have";
                    Error::new(ErrorKind::InvalidEvent, text).with_source(error)
                })?;
                headers.insert(name, HeaderValue::from(percent_encoded(&value)));
            }
            Ok((headers, message.data()?))
        }
    }
}

/// A text without spaces, quotes, percent signs and what is not printable ASCII.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'"' | b'%' => push_encoded(&mut encoded, byte),
            0x21..=0x7e => encoded.push(byte.into()),
            _ => push_encoded(&mut encoded, byte),
        }
    }
    encoded
}

fn push_encoded(encoded: &mut String, byte: u8) {
    // Writing to a text cannot fail.
    let _ = write!(encoded, "%{byte:02X}");
}

#[cfg(test)]
mod tests {
    use super::percent_encoded;

    #[test]
    fn values_are_encoded_as_the_binding_says() {
        assert_eq!(
            percent_encoded("Euro € 😀"),
            "Euro%20%E2%82%AC%20%F0%9F%98%80"
        );
        assert_eq!(percent_encoded("100%\r\n\"x\""), "100%25%0D%0A%22x%22");
        assert_eq!(percent_encoded("a-Z~!"), "a-Z~!");
    }
}
