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

/// What the name of a header begins with that holds an attribute.
pub(crate) const ATTRIBUTE: &str = "ce-";
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
    headers.insert(NATS_MESSAGE_ID, HeaderValue::from(identity(message)));

    match mode {
        ContentMode::Structured => {
            headers.insert(CONTENT_TYPE, STRUCTURED);
            Ok((headers, message.structured()?))
        }
        ContentMode::Binary => {
            for (name, value) in message.attributes() {
                let name =
                    HeaderName::from_str(&format!("{ATTRIBUTE}{name}")).map_err(|error| {
                        let text = "an attribute of the event has a name that no header can have";
                        Error::new(ErrorKind::InvalidEvent, text).with_source(error)
                    })?;
                headers.insert(name, HeaderValue::from(percent_encoded(&value)));
            }
            Ok((headers, message.data()?))
        }
    }
}

/// What tells a message from all others of its stream, the same in each attempt: its subject, and the source
/// and the id of the event. Of the parts only the id is not enough: two sources may have one id, and one event
/// may go to two subjects.
fn identity(message: &Outbound) -> String {
    let source = percent_encoded(message.envelope().source());
    let id = percent_encoded(message.id());
    // Neither has a space, so no two texts are mistaken for one another.
    format!("{} {source} {id}", message.topic())
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

/// The bytes of a percent-encoded text. What is no encoding stays as it is: not every producer encodes.
pub(crate) fn percent_decoded(text: &str) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        let encoded = match (byte, behind) {
            (b'%', [high, low, ..]) => from_hex(*high, *low),
            _ => None,
        };
        decoded.push(encoded.unwrap_or(byte));
        rest = match encoded {
            Some(_) => &behind[2..],
            None => behind,
        };
    }
    decoded
}

fn from_hex(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}

fn push_encoded(encoded: &mut String, byte: u8) {
    // Writing to a text cannot fail.
    let _ = write!(encoded, "%{byte:02X}");
}

#[cfg(test)]
mod tests {
    use super::{percent_decoded, percent_encoded};

    #[test]
    fn values_are_encoded_as_the_binding_says() {
        assert_eq!(
            percent_encoded("Euro € 😀"),
            "Euro%20%E2%82%AC%20%F0%9F%98%80"
        );
        assert_eq!(percent_encoded("100%\r\n\"x\""), "100%25%0D%0A%22x%22");
        assert_eq!(percent_encoded("a-Z~!"), "a-Z~!");
    }

    #[test]
    fn what_is_encoded_is_decoded_and_what_is_not_stays() {
        for text in ["Euro € 😀", "100%\r\n\"x\"", "a-Z~!", ""] {
            assert_eq!(percent_decoded(&percent_encoded(text)), text.as_bytes());
        }
        assert_eq!(percent_decoded("%e2%82%AC"), "€".as_bytes());
        for plain in ["100%", "%", "%4", "%zz€", "50% off"] {
            assert_eq!(percent_decoded(plain), plain.as_bytes());
        }
    }
}
