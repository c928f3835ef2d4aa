//! What a message remembers of its handlers: their marks, their errors, and why it died.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use crate::message::headers::{HANDLER_PREFIX, Headers, ORIGINAL_HEADERS, RETURNED};

/// How many errors of one handler a message keeps: the newest.
pub const ERRORS_KEPT: usize = 3;

/// The name of a handler. It is a durable key: messages keep the handler's progress under it.
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

/// The state of a handler on one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum HandlerState {
    /// It succeeded, or discarded the event. It does not run again.
    Done,
    /// It failed, and will run again.
    Retry,
    /// It failed for good. It runs again only after a redrive.
    Dead,
}

/// The mark of one handler on a message: its state, attempts and errors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct HandlerMark {
    /// The handler's state.
    pub state: HandlerState,
    /// Why the handler failed for good, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<ReasonKind>,
    /// The number of attempts so far. A snooze is not an attempt.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub attempts: u32,
    /// The time before which the handler does not run, by the engine's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due: Option<DateTime<Utc>>,
    /// The newest errors, at most [`ERRORS_KEPT`], newest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<ErrorRecord>,
    /// Set if the message was put aside because the handler is paused: how often the message had been
    /// delivered then. Once it is delivered again, this means nothing any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<u32>,
}

impl HandlerMark {
    /// A mark with no attempts.
    #[must_use]
    pub fn new(state: HandlerState) -> Self {
        Self {
            state,
            reason: None,
            attempts: 0,
            due: None,
            errors: Vec::new(),
            held: None,
        }
    }

    /// Sets why the handler failed for good.
    #[must_use]
    pub fn reason(mut self, reason: impl Into<Option<ReasonKind>>) -> Self {
        self.reason = reason.into();
        self
    }

    /// Sets the number of attempts so far.
    #[must_use]
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts;
        self
    }

    /// Sets the time before which the handler does not run.
    #[must_use]
    pub fn due(mut self, due: impl Into<Option<DateTime<Utc>>>) -> Self {
        self.due = due.into();
        self
    }

    /// Sets the newest errors, newest last.
    #[must_use]
    pub fn errors(mut self, errors: Vec<ErrorRecord>) -> Self {
        self.errors = errors;
        self
    }

    /// Sets that the message was put aside because the handler is paused, at its delivery of this
    /// number.
    #[must_use]
    pub fn held(mut self, deliveries: impl Into<Option<u32>>) -> Self {
        self.held = deliveries.into();
        self
    }

    /// The mark of a handler that is paused, on a message that is put aside at its delivery of this
    /// number. It is no attempt, and what the handler waits for otherwise stays as it is.
    pub(crate) fn held_after(earlier: Option<&Self>, deliveries: u32) -> Self {
        let earlier = earlier.cloned();
        earlier
            .unwrap_or_else(|| Self::new(HandlerState::Retry))
            .held(deliveries)
    }

    /// Whether the handler is to run now.
    pub(crate) fn is_due(&self, now: DateTime<Utc>) -> bool {
        // The store rounds times: without a margin a handler would wait for one delivery more.
        let margin = TimeDelta::milliseconds(20);
        self.state == HandlerState::Retry && self.due.is_none_or(|due| due <= now + margin)
    }

    /// The mark of a handler that succeeded. The errors of earlier attempts stay on it.
    pub(crate) fn done_after(earlier: Option<&Self>) -> Self {
        Self {
            attempts: Self::attempt_after(earlier),
            errors: earlier.map(|mark| mark.errors.clone()).unwrap_or_default(),
            ..Self::new(HandlerState::Done)
        }
    }

    /// The number of the attempt that follows a mark, from 1.
    pub(crate) fn attempt_after(earlier: Option<&Self>) -> u32 {
        // Any client may have written the mark, so its count may be the largest there is.
        earlier.map_or(0, |mark| mark.attempts).saturating_add(1)
    }
}

#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// One failed attempt, as a message keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ErrorRecord {
    /// When it failed, by the engine's clock.
    pub at: DateTime<Utc>,
    /// Which attempt it was, from 1.
    pub attempt: u32,
    /// The error and its sources, cut at [`ERROR_TEXT_LIMIT`](crate::message::ERROR_TEXT_LIMIT)
    /// bytes.
    pub error: String,
}

impl ErrorRecord {
    /// An attempt that failed at a time with an error.
    #[must_use]
    pub fn new(at: DateTime<Utc>, attempt: u32, error: impl Into<String>) -> Self {
        Self {
            at,
            attempt,
            error: error.into(),
        }
    }

    /// Adds it to the errors of a mark, which keeps the newest [`ERRORS_KEPT`].
    pub(crate) fn add_to(self, errors: &mut Vec<Self>) {
        errors.push(self);
        errors.drain(..errors.len().saturating_sub(ERRORS_KEPT));
    }
}

/// The marks of several handlers on one message. They survive a retry.
///
/// ```
/// use ezq_core::message::{HandlerMark, HandlerName, HandlerState, Progress};
///
/// let mail = HandlerName::from("shop::mail");
/// let failed = HandlerMark::new(HandlerState::Retry).attempts(1);
/// let progress = Progress::from_iter([(mail.clone(), failed)]);
/// assert_eq!(progress.get(&mail).map(|mark| mark.attempts), Some(1));
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Progress(pub(crate) BTreeMap<HandlerName, HandlerMark>);

impl Progress {
    /// Reads the marks in a message's headers. A mark that cannot be read is ignored.
    #[must_use]
    pub fn from_headers(headers: &Headers) -> Self {
        // Most messages have no headers. An empty map costs less than collecting nothing.
        if headers.is_empty() {
            return Self::default();
        }
        let marks = headers.as_object().iter().filter_map(|(key, value)| {
            let name = HandlerName::from(key.strip_prefix(HANDLER_PREFIX)?);
            let mark = HandlerMark::deserialize(value).ok()?;
            Some((name, mark))
        });
        Self(marks.collect())
    }

    /// The mark of one handler alone.
    pub(crate) fn of_one(name: HandlerName, mark: HandlerMark) -> Self {
        Self([(name, mark)].into())
    }

    /// The mark of a handler.
    #[must_use]
    pub fn get(&self, handler: &HandlerName) -> Option<&HandlerMark> {
        self.0.get(handler)
    }

    /// Sets the mark of a handler.
    pub fn insert(&mut self, handler: HandlerName, mark: HandlerMark) {
        self.0.insert(handler, mark);
    }

    /// The handlers with their marks, sorted by name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&HandlerName, &HandlerMark)> {
        self.0.iter()
    }

    /// How many handlers have a mark.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no handler has a mark.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the message was only put aside, because handlers are paused.
    pub(crate) fn is_only_held(&self) -> bool {
        !self.0.is_empty() && self.0.values().all(|mark| mark.held.is_some())
    }

    /// These marks without those of handlers that are done, so that these handlers run again.
    pub(crate) fn without_done(mut self) -> Self {
        self.0.retain(|_, mark| mark.state != HandlerState::Done);
        self
    }

    /// The marks as headers, one flat key for each handler.
    #[must_use]
    pub fn to_headers(&self) -> serde_json::Map<String, serde_json::Value> {
        let marks = self.0.iter().map(|(name, mark)| {
            // A mark is plain data: writing it as JSON cannot fail.
            let value = serde_json::to_value(mark).unwrap_or_default();
            (format!("{HANDLER_PREFIX}{name}"), value)
        });
        marks.collect()
    }
}

impl FromIterator<(HandlerName, HandlerMark)> for Progress {
    fn from_iter<I: IntoIterator<Item = (HandlerName, HandlerMark)>>(marks: I) -> Self {
        Self(marks.into_iter().collect())
    }
}

impl Extend<(HandlerName, HandlerMark)> for Progress {
    fn extend<I: IntoIterator<Item = (HandlerName, HandlerMark)>>(&mut self, marks: I) {
        self.0.extend(marks);
    }
}

impl IntoIterator for Progress {
    type Item = (HandlerName, HandlerMark);
    type IntoIter = std::collections::btree_map::IntoIter<HandlerName, HandlerMark>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl Headers {
    /// Sets the mark of each handler, under a key of its own. Headers that were no object are kept
    /// under [`ORIGINAL_HEADERS`].
    pub fn merge(&mut self, progress: &Progress) {
        // Only now are they an object, so what stood in its place would be lost.
        if let Some(original) = self.original.take() {
            self.insert(ORIGINAL_HEADERS, original);
        }
        for (key, mark) in progress.to_headers() {
            self.insert(key, mark);
        }
    }

    /// Lets the handlers run at once that wait for a retry. Returns whether there were any.
    pub(crate) fn end_pauses(&mut self) -> bool {
        let mut waiting = Progress::from_headers(self);
        waiting
            .0
            .retain(|_, mark| mark.state == HandlerState::Retry && mark.due.is_some());
        for mark in waiting.0.values_mut() {
            mark.due = None;
        }
        self.merge(&waiting);
        !waiting.0.is_empty()
    }

    /// Records that a delivery ended by a retry or a release: merges the marks, and counts the
    /// delivery as [`returned`](Self::returned).
    pub fn give_back(&mut self, progress: &Progress) {
        self.merge(progress);
        self.insert(RETURNED, self.returned().saturating_add(1));
    }
}

/// Why a message is a dead letter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Reason {
    /// The kind of reason.
    pub kind: ReasonKind,
    /// The handler that failed, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handler: Option<HandlerName>,
    /// The error and its sources, or what was wrong with the message.
    pub error: String,
    /// How many attempts that handler had; without a handler, how often the message was delivered.
    pub attempts: u32,
}

impl Reason {
    /// A reason that names no handler.
    #[must_use]
    pub fn new(kind: ReasonKind, error: impl Into<String>, attempts: u32) -> Self {
        Self {
            kind,
            handler: None,
            error: error.into(),
            attempts,
        }
    }

    /// Sets the handler that failed.
    #[must_use]
    pub fn handler(mut self, handler: impl Into<Option<HandlerName>>) -> Self {
        self.handler = handler.into();
        self
    }
}

/// The kind of a [`Reason`].
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReasonKind {
    /// A handler returned an error that no retry can help.
    Fatal,
    /// A handler failed in as many attempts as its policy allows.
    MaxAttempts,
    /// The body is not an event, or not the event that it claims to be.
    Undecodable,
    /// No handler in this application takes the type.
    UnknownType,
    /// The event has a newer version than this application knows.
    NewerVersion,
    /// The message was delivered too often without being settled, so it is taken to kill its
    /// workers.
    MaxDeliveries,
    /// The store failed to begin or commit handlers' transactions, or another engine failed to
    /// publish their events, as often as `max_deliveries` allows.
    StoreFailed,
    /// An operator [gave the event up](crate::app::App::fail).
    Operator,
    /// An operator [cancelled the event](crate::admin::Events::cancel).
    Cancelled,
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
            Self::Cancelled => "cancelled",
        })
    }
}
