//! Errors of the client as errors of ezq. Neither a password nor a whole URL is in any of them: the client
//! gets its addresses without credentials.

use std::error::Error as _;
use std::io;

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::{ConnectError, ConnectErrorKind, rustls};
use ezq_core::{Error, ErrorKind};

const CREDENTIALS_ADVICE: &str =
    "check the user and the password, the token or the credentials file";

/// A server that could not be connected to.
pub(crate) fn not_connected(address: &str, error: ConnectError) -> Error {
    let (kind, advice) = match error.kind() {
        ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
            (ErrorKind::Permission, CREDENTIALS_ADVICE)
        }
        _ if is_of_tls(&error) => (
            ErrorKind::Connection,
            "check that it speaks TLS, that `NatsConfig::root_certificate` vouches for it by the host in \
             the URL, and the client's own certificate if it demands one",
        ),
        _ => (
            ErrorKind::Connection,
            "check that the server runs there and that its port is open",
        ),
    };
    let text = format!("the NATS server at {address} cannot be connected to: {advice}");
    Error::new(kind, text).with_source(error)
}

/// Whether the two sides did not agree on TLS. The client calls a failed handshake one of input and output.
fn is_of_tls(error: &ConnectError) -> bool {
    if error.kind() == ConnectErrorKind::Tls {
        return true;
    }
    let failed = error
        .source()
        .and_then(|source| source.downcast_ref::<io::Error>());
    let inner = failed.and_then(io::Error::get_ref);
    inner.is_some_and(|inner| inner.is::<rustls::Error>())
}

/// A server that is away at present.
pub(crate) fn away(address: &str) -> Error {
    let text = format!(
        "the NATS server at {address} is not connected: check that it runs, and its certificates if it \
         speaks TLS; the client tries again"
    );
    Error::new(ErrorKind::Connection, text)
}

/// A server that refuses the user at present.
pub(crate) fn refused(address: &str) -> Error {
    let text = format!(
        "the NATS server at {address} refuses the user: {CREDENTIALS_ADVICE}; the client tries again"
    );
    Error::new(ErrorKind::Permission, text)
}

/// A configuration that cannot be used. The parser's own error is left out: it may hold the URL.
pub(crate) fn wrong_config(why: impl Into<String>) -> Error {
    let text = format!("the NATS server cannot be used: {}", why.into());
    Error::new(ErrorKind::Configuration, text)
}

/// What the server said of a message, as far as it is told apart here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// No stream takes the subject, or JetStream is not there yet.
    NoStream,
    /// The message is too large for the server or for the stream.
    TooLarge,
    /// The stream is full, and its policy is to refuse what is new.
    Full,
    /// The server did not answer in time.
    NoAnswer,
    /// Anything else.
    Other,
}

/// What a failed publish means.
pub(crate) fn refusal(error: &PublishError) -> Refusal {
    match error.kind() {
        PublishErrorKind::StreamNotFound => Refusal::NoStream,
        PublishErrorKind::MaxPayloadExceeded => Refusal::TooLarge,
        PublishErrorKind::TimedOut | PublishErrorKind::BrokenPipe => Refusal::NoAnswer,
        _ => match code_of(error) {
            Some(
                ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM
                | ErrorCode::STREAM_HEADER_EXCEEDS_MAXIMUM,
            ) => Refusal::TooLarge,
            Some(ErrorCode::STREAM_STORE_FAILED) => Refusal::Full,
            _ => Refusal::Other,
        },
    }
}

/// The code with which JetStream refused a message.
pub(crate) fn code_of(error: &PublishError) -> Option<ErrorCode> {
    let source = error.source()?;
    let refused = source.downcast_ref::<async_nats::jetstream::Error>()?;
    Some(refused.error_code())
}

/// The error of ezq for a message that was not stored.
pub(crate) fn not_stored(address: &str, subject: &str, error: PublishError) -> Error {
    let refusal = refusal(&error);
    let (kind, why) = match refusal {
        Refusal::NoStream => (
            ErrorKind::QueueMissing,
            "no stream takes it: create one with this subject, or turn JetStream on",
        ),
        Refusal::TooLarge => (
            ErrorKind::TooLarge,
            "the event is larger than the server's `max_payload` or the stream's `max_msg_size`",
        ),
        Refusal::Full => (
            ErrorKind::Transient,
            "the stream is full, or cannot write: raise its limits, or let readers catch up",
        ),
        Refusal::NoAnswer => (
            ErrorKind::Transient,
            "the server did not confirm it in time",
        ),
        Refusal::Other => (ErrorKind::Transient, "the server refused it"),
    };
    let text = format!(
        "the NATS server at {address} did not store an event of the subject `{subject}`: {why}"
    );
    Error::new(kind, text).with_source(error)
}
