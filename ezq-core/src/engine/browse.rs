//! Browsing: the messages of a queue and its dead letters, page by page, at a bounded cost for each page.

use std::fmt;
use std::str::FromStr;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::engine::failures::{FailureKey, Failures};
use crate::engine::history::{CopyState, EventCopy};
use crate::error::{Error, ErrorKind, Result};
use crate::message::headers::KEY;
use crate::message::queue_name::QueueName;
use crate::message::settlement::{HandlerName, HandlerState, ReasonKind};

/// The state of a stored event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum EventState {
    /// It can be handled now.
    Ready,
    /// A worker has it.
    Leased,
    /// It was delivered, and waits for another attempt or for a paused handler.
    Retrying,
    /// It was never delivered, and is due later.
    Scheduled,
    /// It is a dead letter.
    Dead,
}

impl EventState {
    /// The state of a copy, at a time. `None` of one that was handled.
    #[must_use]
    pub fn of(copy: &EventCopy, now: DateTime<Utc>) -> Option<Self> {
        match &copy.state {
            CopyState::Waiting { due } | CopyState::Retrying { due } if *due <= now => {
                Some(Self::Ready)
            }
            CopyState::Waiting { .. } => Some(Self::Scheduled),
            CopyState::Leased { .. } => Some(Self::Leased),
            CopyState::Retrying { .. } => Some(Self::Retrying),
            CopyState::Dead { .. } => Some(Self::Dead),
            _ => None,
        }
    }
}

impl fmt::Display for EventState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ready => "ready",
            Self::Leased => "leased",
            Self::Retrying => "retrying",
            Self::Scheduled => "scheduled",
            Self::Dead => "dead",
        })
    }
}

impl FromStr for EventState {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "ready" => Ok(Self::Ready),
            "leased" => Ok(Self::Leased),
            "retrying" => Ok(Self::Retrying),
            "scheduled" => Ok(Self::Scheduled),
            "dead" => Ok(Self::Dead),
            _ => Err(Error::new(
                ErrorKind::Configuration,
                format!(
                    "`{}` is no state of an event: use `ready`, `leased`, `retrying`, `scheduled` or \
                     `dead`",
                    text.escape_debug()
                ),
            )),
        }
    }
}

/// Selects events: those that meet every condition that is set. Without a condition, all of them.
///
/// ```
/// use ezq_core::engine::EventFilter;
///
/// let failing = EventFilter::all().event_type("order.paid").error("connection refused");
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct EventFilter {
    /// The name of the event's type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_type: Option<String>,
    /// The ordering key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// A handler that has not finished the event: it failed, waits, or gave up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handler: Option<HandlerName>,
    /// A part of the newest error of a handler, or of the reason of a dead letter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What failed: the events of one group of errors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<FailureKey>,
    /// The handler that gave a dead letter up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub died_by: Option<HandlerName>,
    /// The kind of reason for which a dead letter died.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub died_of: Option<ReasonKind>,
    /// The event was stored at this time or later. Of a dead letter: it died then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stored_after: Option<DateTime<Utc>>,
    /// The event was stored before this time. Of a dead letter: it died before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stored_before: Option<DateTime<Utc>>,
}

impl EventFilter {
    /// Every event.
    #[must_use]
    pub fn all() -> Self {
        Self::default()
    }

    /// Only those of this type.
    #[must_use]
    pub fn event_type(mut self, name: impl Into<String>) -> Self {
        self.event_type = Some(name.into());
        self
    }

    /// Only those of this ordering key.
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Only those that this handler has not finished: it failed, waits, or gave up.
    #[must_use]
    pub fn handler(mut self, name: &str) -> Self {
        self.handler = Some(HandlerName::from(name));
        self
    }

    /// Only those whose newest error, or reason of death, has this text in it.
    #[must_use]
    pub fn error(mut self, part: impl Into<String>) -> Self {
        self.error = Some(part.into());
        self
    }

    /// Only those that failed so: dead letters that died of it, and events that wait for another attempt
    /// of the handler after it.
    #[must_use]
    pub fn failure(mut self, key: FailureKey) -> Self {
        self.failure = Some(key);
        self
    }

    /// Only dead letters that this handler gave up.
    #[must_use]
    pub fn died_by(mut self, handler: &str) -> Self {
        self.died_by = Some(HandlerName::from(handler));
        self
    }

    /// Only dead letters that died for this kind of reason.
    #[must_use]
    pub fn died_of(mut self, kind: ReasonKind) -> Self {
        self.died_of = Some(kind);
        self
    }

    /// Only those that were stored at this time or later, by the engine's clock. Of dead letters the time of
    /// death counts: that is when they were stored where they are.
    #[must_use]
    pub fn stored_after(mut self, time: DateTime<Utc>) -> Self {
        self.stored_after = Some(time);
        self
    }

    /// Only those that were stored before this time, by the engine's clock; of dead letters, those that died
    /// before.
    #[must_use]
    pub fn stored_before(mut self, time: DateTime<Utc>) -> Self {
        self.stored_before = Some(time);
        self
    }

    /// Whether a copy meets every condition. For engines that do not search by themselves.
    #[must_use]
    pub fn matches(&self, copy: &EventCopy) -> bool {
        let is_of_type = self
            .event_type
            .as_ref()
            .is_none_or(|name| copy.event_type.as_ref() == Some(name));
        let has_key = self
            .key
            .as_deref()
            .is_none_or(|key| copy.headers.text(KEY) == Some(key));
        let stored_at = match &copy.state {
            // It is stored among the dead letters since then.
            CopyState::Dead { at, .. } => *at,
            _ => copy.published_at,
        };
        let is_in_time = self.stored_after.is_none_or(|time| stored_at >= time)
            && self.stored_before.is_none_or(|time| stored_at < time);
        let has_failed_so = self.failure.as_ref().is_none_or(|key| key.is_of(copy));
        let is_wanted = is_of_type && has_key && is_in_time && has_failed_so;
        is_wanted && self.fits_handler(copy) && self.fits_error(copy) && self.fits_death(copy)
    }

    fn fits_death(&self, copy: &EventCopy) -> bool {
        let reason = match &copy.state {
            CopyState::Dead { reason, .. } => reason.as_ref(),
            _ => None,
        };
        let has_handler = self
            .died_by
            .as_ref()
            .is_none_or(|name| reason.is_some_and(|reason| reason.handler.as_ref() == Some(name)));
        let is_of_kind = self
            .died_of
            .is_none_or(|kind| reason.is_some_and(|reason| reason.kind == kind));
        has_handler && is_of_kind
    }

    fn fits_handler(&self, copy: &EventCopy) -> bool {
        let Some(handler) = &self.handler else {
            return true;
        };
        let mark = copy.handlers.get(handler);
        mark.is_some_and(|mark| mark.state != HandlerState::Done)
    }

    fn fits_error(&self, copy: &EventCopy) -> bool {
        let Some(part) = &self.error else {
            return true;
        };
        let newest = copy
            .handlers
            .iter()
            .filter_map(|(_, mark)| mark.errors.last());
        let mut errors = newest.map(|record| record.error.as_str());
        let reason = match &copy.state {
            CopyState::Dead { reason, .. } => reason.as_ref().map(|reason| reason.error.as_str()),
            _ => None,
        };
        errors.any(|error| error.contains(part)) || reason.is_some_and(|error| error.contains(part))
    }
}

/// A page to read.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PageRequest {
    /// The queue.
    pub queue: QueueName,
    /// The state of the events.
    pub state: EventState,
    /// What the events must be like.
    pub filter: EventFilter,
    /// Where the page before this one ended; `None` for the first.
    pub after: Option<PageCursor>,
    /// How many events to return at most; at least 1.
    pub limit: usize,
    /// How many events to look at for it, so that a filter that matches little costs no more.
    pub scan: usize,
}

impl PageRequest {
    /// The first page of up to 50 events, for which at most 10,000 are looked at.
    #[must_use]
    pub fn new(queue: QueueName, state: EventState) -> Self {
        Self {
            queue,
            state,
            filter: EventFilter::all(),
            after: None,
            limit: 50,
            scan: 10_000,
        }
    }
}

/// A place between two pages. Its text is for addresses and files; only the engine that made it can
/// read it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PageCursor(String);

impl PageCursor {
    /// A place, in the words of its engine.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The error for a cursor that an engine cannot read.
    #[must_use]
    pub fn refused(&self) -> Error {
        let text = format!(
            "`{}` is no place between two pages: begin at the first page",
            self.0.escape_debug()
        );
        Error::new(ErrorKind::Configuration, text)
    }
}

impl fmt::Display for PageCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One page.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct EventPage {
    /// The events, in order: those that are due or were due first, and dead letters by their ids.
    pub events: Vec<EventCopy>,
    /// Where the next page begins; `None` if this is the last one. With a filter a page may be empty and
    /// not the last.
    pub next: Option<PageCursor>,
}

impl EventPage {
    /// A page with a place where the next one begins.
    #[must_use]
    pub fn new(events: Vec<EventCopy>, next: Option<PageCursor>) -> Self {
        Self { events, next }
    }
}

/// The browsing of an engine.
#[async_trait]
pub trait Browse: Send + Sync {
    /// Reads one page. It takes no lock and changes nothing. Its cost is bounded by
    /// [`scan`](PageRequest::scan), not by what the queue holds.
    ///
    /// # Errors
    /// - [`ErrorKind::QueueMissing`] if there is no such queue.
    /// - [`ErrorKind::Configuration`] for a cursor that is none of this engine's.
    /// - Otherwise when the store could not be read.
    async fn page(&self, request: &PageRequest) -> Result<EventPage>;

    /// What dead letters died of, and what the handlers of events that wait for another attempt failed of
    /// last. It looks at the newest `scan` dead letters, and at the `scan` events that are due next; it
    /// takes no lock and changes nothing. Failures of one [key](crate::engine::FailureKey) may be told as one.
    ///
    /// # Errors
    /// [`ErrorKind::QueueMissing`] if there is no such queue; otherwise when the store could not be read.
    async fn failures(&self, queue: &QueueName, scan: usize) -> Result<Failures>;

    /// The highest number of a message in a queue; `None` if it is empty.
    ///
    /// # Errors
    /// - [`ErrorKind::Unsupported`] if the engine does not number its messages, which is the default.
    /// - [`ErrorKind::QueueMissing`] if there is no such queue.
    /// - Otherwise when the store could not be read.
    async fn newest(&self, queue: &QueueName) -> Result<Option<i64>> {
        Err(unnumbered(queue))
    }

    /// The messages of a queue with numbers behind `after`, without those in `except`: the lowest `limit`
    /// of them, by number, whatever their state. It takes no lock and changes nothing.
    ///
    /// # Errors
    /// As [`newest`](Self::newest).
    async fn numbered_after(
        &self,
        queue: &QueueName,
        after: i64,
        except: &[i64],
        limit: usize,
    ) -> Result<Vec<EventCopy>> {
        let _ = (after, except, limit);
        Err(unnumbered(queue))
    }
}

fn unnumbered(queue: &QueueName) -> Error {
    let text = format!("the engine of the queue `{queue}` does not number its messages");
    Error::new(ErrorKind::Unsupported, text)
}
