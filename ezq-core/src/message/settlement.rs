//! What becomes of a delivery, and what a message remembers of its handlings.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::message::headers::{HANDLER_PREFIX, Headers};

/// How many errors of one handler a message keeps, newest last.
pub const ERRORS_KEPT: usize = 3;

/// A handler's name: a durable key, under which messages keep that handler's progress.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct HandlerName(Arc<str>);

impl HandlerName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for HandlerName {
    fn from(name: &str) -> Self {
        Self(name.into())
    }
}

impl fmt::Display for HandlerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a handler stands with one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HandlerState {
    /// It succeeded, or discarded the event; it does not run again.
    Done,
    /// It failed and will run again.
    Retry,
    /// It failed for good; it runs again only after a redrive.
    Dead,
}

/// One handler's mark on a message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HandlerMark {
    /// Where it stands.
    pub state: HandlerState,
    /// Why it is given up, when it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<ReasonKind>,
    /// Attempts so far; a snooze is none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub attempts: u32,
    /// Not to run before this time on the engine's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due: Option<DateTime<Utc>>,
    /// The newest errors, at most [`ERRORS_KEPT`], newest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<ErrorRecord>,
}

#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// One failed attempt, as a message keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorRecord {
    /// When it failed, on the engine's clock.
    pub at: DateTime<Utc>,
    /// Which attempt it was, from 1.
    pub attempt: u32,
    /// The error and its sources, cut at [`ERROR_TEXT_LIMIT`](crate::ERROR_TEXT_LIMIT) bytes.
    pub error: String,
}

/// The marks of several handlers: what of a message's handling survives a retry.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Progress(pub BTreeMap<HandlerName, HandlerMark>);

impl Progress {
    /// Reads the marks out of a message's headers; what cannot be read is ignored.
    #[must_use]
    pub fn from_headers(headers: &Headers) -> Self {
        let marks = headers.as_object().iter().filter_map(|(key, value)| {
            let name = key.strip_prefix(HANDLER_PREFIX)?;
            Some((
                HandlerName::from(name),
                HandlerMark::deserialize(value).ok()?,
            ))
        });
        Self(marks.collect())
    }

    /// All marks but those of handlers that are done: these handlers run again.
    pub(crate) fn without_done(mut self) -> Self {
        self.0.retain(|_, mark| mark.state != HandlerState::Done);
        self
    }

    /// The marks as header entries, one flat key per handler.
    #[must_use]
    pub fn to_headers(&self) -> serde_json::Map<String, serde_json::Value> {
        let entry = |(name, mark): (&HandlerName, &HandlerMark)| {
            // A mark is plain data: writing it as JSON cannot fail.
            let value = serde_json::to_value(mark).unwrap_or_default();
            (format!("{HANDLER_PREFIX}{name}"), value)
        };
        self.0.iter().map(entry).collect()
    }
}

/// Why a message is a dead letter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// The sort of reason.
    pub kind: ReasonKind,
    /// The handler that failed, where one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handler: Option<HandlerName>,
    /// The error and its sources, or what was wrong with the message.
    pub error: String,
    /// How often that handler was tried, or how often the message was delivered.
    pub attempts: u32,
}

/// The sort of a [`Reason`].
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReasonKind {
    /// A handler said that no retry can help.
    Fatal,
    /// A handler failed as often as its policy allows.
    MaxAttempts,
    /// The body is no event, or not the event it claims to be.
    Undecodable,
    /// No handler in this application takes the type.
    UnknownType,
    /// The event is of a newer version than this application knows.
    NewerVersion,
    /// The message was delivered too often without being settled: it kills its worker.
    MaxDeliveries,
    /// The store kept handlers' transactions from beginning or committing, or another engine their
    /// events from being published, as often as `max_deliveries` allows.
    StoreFailed,
    /// An operator [gave it up](crate::App::fail).
    Operator,
}

impl fmt::Display for ReasonKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fatal => "fatal",
            Self::MaxAttempts => "max_attempts",
            Self::Undecodable => "undecodable",
            Self::UnknownType => "unknown_type",
            Self::NewerVersion => "newer_version",
            Self::MaxDeliveries => "max_deliveries",
            Self::StoreFailed => "store_failed",
            Self::Operator => "operator",
        })
    }
}
