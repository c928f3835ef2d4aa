//! Requests to JetStream's own interface, answered as JSON.
//!
//! The client has types for most of them. They leave out the server's time, which is in every answer.

use async_nats::Client;
use async_nats::client::{RequestError, RequestErrorKind};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use ezq_core::{Error, ErrorKind, Result};
use serde_json::Value;

/// JetStream's numbers of errors.
pub(crate) mod code {
    pub(crate) const CONSUMER_NOT_FOUND: u64 = 10_014;
    pub(crate) const STREAM_NOT_FOUND: u64 = 10_059;
    pub(crate) const STREAM_NAME_IN_USE: u64 = 10_058;
    pub(crate) const NO_MESSAGE_FOUND: u64 = 10_037;
    pub(crate) const SEQUENCE_NOT_FOUND: u64 = 10_043;
}

/// Why a request failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// JetStream refused it, with its number and its words.
    Refused { code: u64, text: String },
    /// There was no answer.
    NoAnswer(RequestError),
}

impl Failure {
    pub(crate) fn code(&self) -> Option<u64> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            Self::NoAnswer(_) => None,
        }
    }

    /// The error of ezq; `doing` says what failed.
    pub(crate) fn into_error(self, address: &str, doing: &str) -> Error {
        match self {
            Self::Refused { code, text } => {
                let text = format!("the NATS server at {address} {doing}: {text} ({code})");
                Error::new(ErrorKind::Engine, text)
            }
            Self::NoAnswer(error) => {
                let advice = match error.kind() {
                    RequestErrorKind::NoResponders => "check that JetStream is on",
                    _ => "it did not answer",
                };
                let text = format!("the NATS server at {address} {doing}: {advice}");
                Error::new(ErrorKind::Connection, text).with_source(error)
            }
        }
    }
}

/// Asks JetStream.
pub(crate) async fn request(
    client: &Client,
    subject: &str,
    body: &Value,
) -> Result<Value, Failure> {
    // A request without options must be empty.
    let payload = if body.is_null() {
        Bytes::new()
    } else {
        body.to_string().into()
    };
    let answered = client.request(format!("$JS.API.{subject}"), payload).await;
    let answered = answered.map_err(Failure::NoAnswer)?;
    let answer: Value = serde_json::from_slice(&answered.payload).unwrap_or_default();
    let Some(error) = answer.get("error") else {
        return Ok(answer);
    };

    let text = error.get("description").and_then(Value::as_str);
    Err(Failure::Refused {
        code: number_in(error, "/err_code"),
        text: text.unwrap_or("it refused the request").to_owned(),
    })
}

/// A time in an answer.
pub(crate) fn time_in(answer: &Value, place: &str) -> Option<DateTime<Utc>> {
    answer.pointer(place)?.as_str()?.parse().ok()
}

/// A number in an answer; zero if it is missing, as JetStream leaves out zeros.
pub(crate) fn number_in(answer: &Value, place: &str) -> u64 {
    answer.pointer(place).and_then(Value::as_u64).unwrap_or(0)
}
