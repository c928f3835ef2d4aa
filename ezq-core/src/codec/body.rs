//! What a codec writes and reads: JSON text, or bytes.
//!
//! A store keeps JSON text, so bytes travel as a JSON string of their base64, with the header
//! [`BODY`] beside them. Both directions are in this file, and nowhere else: engines, histories, dead
//! letters and replays handle text that they need not read.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value;

use crate::error::{Error, ErrorKind, Result};
use crate::message::headers::{BODY, Headers};

/// The value of the header [`BODY`] beside a body that was written as bytes.
const BASE64: &str = "base64";

/// A message body, as a [`Codec`](super::Codec) writes it and reads it: JSON text, or bytes.
///
/// ```
/// use ezq_core::codec::Body;
///
/// let text = Body::json(r#"{"n": 1}"#);
/// assert_eq!(text.as_json()?, r#"{"n": 1}"#);
///
/// let bytes = Body::bytes([0x82, 0x01].as_slice());
/// assert_eq!(bytes.as_bytes()?, [0x82, 0x01]);
/// assert!(bytes.as_json().is_err());
/// # Ok::<(), ezq_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Body<'a> {
    /// JSON text. It is stored as it is, where SQL and other programs can read it.
    Json(Cow<'a, str>),
    /// Bytes of any form. They are stored as a JSON string of their base64, which is a third longer,
    /// with the header [`ezq-body: base64`](BODY).
    Bytes(Cow<'a, [u8]>),
}

impl<'a> Body<'a> {
    /// JSON text. A `String` is taken as it is, without a copy.
    pub fn json(text: impl Into<Cow<'a, str>>) -> Self {
        Self::Json(text.into())
    }

    /// Bytes. A `Vec<u8>` is taken as it is, without a copy.
    pub fn bytes(bytes: impl Into<Cow<'a, [u8]>>) -> Self {
        Self::Bytes(bytes.into())
    }

    /// The JSON text.
    ///
    /// # Errors
    /// [`ErrorKind::Decode`] if the body is bytes.
    pub fn as_json(&self) -> Result<&str> {
        match self {
            Self::Json(text) => Ok(text),
            Self::Bytes(_) => Err(unread(format!(
                "the body is bytes, as its header `{BODY}` says, and JSON text is expected"
            ))),
        }
    }

    /// The bytes.
    ///
    /// # Errors
    /// [`ErrorKind::Decode`] if the body is JSON text.
    pub fn as_bytes(&self) -> Result<&[u8]> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            Self::Json(_) => Err(unread(format!(
                "the body is JSON text, and bytes are expected: store them as a JSON string in \
                 base64, with the header `{BODY}` set to `{BASE64}`"
            ))),
        }
    }

    /// The text that a store keeps, with the header that says what it is.
    ///
    /// JSON text is handed on without a copy. A header [`BODY`] that the codec has set is replaced: it
    /// could make the body unreadable.
    pub(crate) fn into_stored(self, headers: &mut Headers) -> String {
        match self {
            Self::Json(text) => {
                headers.remove(BODY);
                text.into_owned()
            }
            Self::Bytes(bytes) => {
                headers.insert(BODY, BASE64);
                let base64 = bytes.len().div_ceil(3) * 4;
                let mut stored = String::with_capacity(base64 + 2);
                stored.push('"');
                STANDARD.encode_string(&bytes, &mut stored);
                stored.push('"');
                stored
            }
        }
    }

    /// The body in the text that a store kept. JSON text is borrowed.
    ///
    /// # Errors
    /// [`ErrorKind::Decode`] when the header [`BODY`] has another value than `base64`, or when it has
    /// this one and the text is no JSON string of base64.
    pub(super) fn from_stored(stored: &'a str, headers: &Headers) -> Result<Self> {
        match headers.value(BODY) {
            None => Ok(Self::json(stored)),
            Some(Value::String(form)) if form == BASE64 => base64(stored).map(Self::bytes),
            Some(other) => {
                let other = other.to_string();
                let text = format!(
                    "the header `{BODY}` is `{}`, and only `{BASE64}` is known here: read the \
                     message with the version of ezq that wrote it",
                    other.escape_debug()
                );
                Err(unread(text))
            }
        }
    }
}

/// The bytes in a JSON string of base64.
fn base64(stored: &str) -> Result<Vec<u8>> {
    /// Borrowed, unless another program has escaped a slash.
    #[derive(Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

    let Text(text) = serde_json::from_str(stored).map_err(|error| {
        let text = format!("the header `{BODY}` is `{BASE64}`, and the body is no JSON string");
        unread(text).with_source(error)
    })?;
    STANDARD.decode(&*text).map_err(|error| {
        let text = format!("the header `{BODY}` is `{BASE64}`, and the body is not base64");
        unread(text).with_source(error)
    })
}

fn unread(text: String) -> Error {
    Error::new(ErrorKind::Decode, text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn headers(body: impl Into<Value>) -> Headers {
        let mut headers = Headers::new();
        headers.insert(BODY, body);
        headers
    }

    /// The default path: neither direction copies the text.
    #[test]
    fn json_text_passes_through_both_ways_where_it_is() {
        let text = String::from(r#"{"n": 1}"#);
        let place = text.as_ptr();
        let mut headers = Headers::new();
        let stored = Body::json(text).into_stored(&mut headers);
        assert_eq!(stored.as_ptr(), place);
        assert!(headers.is_empty());

        let read = Body::from_stored(&stored, &headers).unwrap();
        assert!(matches!(read, Body::Json(Cow::Borrowed(text)) if text.as_ptr() == place));
    }

    /// The wire form: stored messages have it, so it never changes.
    #[test]
    fn bytes_are_stored_as_a_json_string_of_base64_with_a_header() {
        for (bytes, wanted) in [
            ([].as_slice(), r#""""#),
            (&[0], r#""AA==""#),
            (&[0xfb, 0xff], r#""+/8=""#),
            (b"ezq", r#""ZXpx""#),
        ] {
            let mut headers = Headers::new();
            let stored = Body::bytes(bytes).into_stored(&mut headers);
            assert_eq!(stored, wanted);
            assert_eq!(
                headers.as_object(),
                json!({"ezq-body": "base64"}).as_object().unwrap()
            );
        }
    }

    #[test]
    fn bytes_of_every_value_and_length_come_back() {
        let all: Vec<u8> = (0..=255).chain((0..=255).rev()).collect();
        for len in 0..all.len() {
            let mut headers = Headers::new();
            let stored = Body::bytes(&all[..len]).into_stored(&mut headers);
            let read = Body::from_stored(&stored, &headers).unwrap();
            assert_eq!(read.as_bytes().unwrap(), &all[..len]);
        }
    }

    #[test]
    fn a_string_that_another_program_escaped_is_read() {
        let read = Body::from_stored(r#" "\u002b\/8=" "#, &headers(BASE64)).unwrap();
        assert_eq!(read.as_bytes().unwrap(), [0xfb, 0xff]);
    }

    #[test]
    fn what_is_not_base64_or_not_of_a_known_form_is_undecodable() {
        let bad = [
            "{}",
            "7",
            "null",
            "",
            "AAAA",
            r#""A""#,
            r#""AA""#,
            r#""A-_=""#,
            r#""ä""#,
        ];
        for stored in bad {
            let error = Body::from_stored(stored, &headers(BASE64)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Decode, "{stored}");
        }

        for form in [
            json!("zip"),
            json!(""),
            json!(null),
            json!(7),
            json!(["base64"]),
        ] {
            let error = Body::from_stored(r#""AAAA""#, &headers(form.clone())).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Decode, "{form}");
            assert!(error.to_string().contains("ezq-body"), "{error}");
        }
    }

    #[test]
    fn one_form_is_not_taken_for_the_other() {
        let text = Body::json(r#""AAAA""#).as_bytes().unwrap_err();
        assert_eq!(text.kind(), ErrorKind::Decode);
        let bytes = Body::bytes(b"{}".as_slice()).as_json().unwrap_err();
        assert_eq!(bytes.kind(), ErrorKind::Decode);
    }

    #[test]
    fn a_codec_cannot_say_that_its_text_is_bytes() {
        let mut headers = headers(BASE64);
        Body::json("{}").into_stored(&mut headers);
        assert!(headers.is_empty());
    }
}
