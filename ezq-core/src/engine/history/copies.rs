//! The copies of an event, as engines tell them.

use chrono::{DateTime, Utc};

use crate::engine::dead_letters::Death;
use crate::engine::reader::{self, Reader};
use crate::error::Result;
use crate::event::Event;
use crate::event::envelope::Envelope;
use crate::message::headers::{Headers, REDRIVEN, REPLAY};
use crate::message::message_id::MessageId;
use crate::message::queue_name::QueueName;
use crate::message::settlement::{HandlerState, Progress, Reason};

/// Every stored copy of an event, oldest first. Get it by
/// [`App::history`](crate::app::App::history); its `Display` is a report for people.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct History {
    /// The event's id.
    pub event_id: String,
    /// When it was read, by the engine's clock.
    pub asked_at: DateTime<Utc>,
    /// The copies; empty if nothing is kept of the event.
    pub copies: Vec<EventCopy>,
    /// What could not be read: queues without the right to read them, engines without a history.
    pub unread: Vec<String>,
}

/// One stored copy of an event.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct EventCopy {
    /// The queue that it is in; for an archived copy or a dead letter, the queue that it was in.
    pub queue: QueueName,
    /// The id that it has, or had, in the queue.
    pub message_id: MessageId,
    /// The name of its type, if it has one.
    pub event_type: Option<String>,
    /// When it was first stored.
    pub published_at: DateTime<Utc>,
    /// How often it was delivered since it was published or redriven.
    pub deliveries: u32,
    /// Its state.
    pub state: CopyState,
    /// The handlers' attempts and newest errors, as of the last retry or of its death. A handler that
    /// succeeded in the last delivery may be missing.
    pub handlers: Progress,
    /// The name of the replay that published this copy, if one did.
    pub replay: Option<String>,
    /// How it had died before it was last redriven, if it was.
    pub died_before: Option<Death>,
    /// The body; `None` if the store keeps it no longer, as in a trail, or could not send it.
    pub body: Option<String>,
    /// The headers.
    pub headers: Headers,
    pub(crate) reader: Reader,
}

/// The state of a copy of an event. Times are by the engine's clock.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum CopyState {
    /// It waits to be delivered.
    Waiting {
        /// When it is due; this may have passed.
        due: DateTime<Utc>,
    },
    /// A worker holds it.
    Leased {
        /// When the lease ends, unless it is renewed.
        until: DateTime<Utc>,
    },
    /// A worker gave it back, and it waits to be delivered again.
    Retrying {
        /// When it is due; this may have passed.
        due: DateTime<Utc>,
    },
    /// It was handled, and is kept in the archive.
    Archived {
        /// When it was acknowledged.
        at: DateTime<Utc>,
    },
    /// It was handled and deleted, and the trail has a line about it.
    Handled {
        /// When it was acknowledged.
        at: DateTime<Utc>,
    },
    /// It is a dead letter.
    Dead {
        /// Its id among the dead letters.
        letter: MessageId,
        /// When it died.
        at: DateTime<Utc>,
        /// Why it died, if that is known.
        reason: Option<Reason>,
    },
}

impl CopyState {
    /// The state of a message in its queue, worked out from what every engine stores: when the message
    /// is due, how often it was delivered, and its headers.
    #[must_use]
    pub fn of(due: DateTime<Utc>, deliveries: u32, headers: &Headers, now: DateTime<Utc>) -> Self {
        // After a crash the counts no longer tell a retry from a lease. But a message that waits for
        // a retry is not delivered before the first of its marks is due.
        let marks = Progress::from_headers(headers);
        let waiting = marks
            .0
            .values()
            .filter(|mark| mark.state == HandlerState::Retry);
        let next = waiting.clone().filter_map(|mark| mark.due).min();
        // One that was put aside for a paused handler, and not delivered since.
        let is_held = waiting.clone().any(|mark| mark.held == Some(deliveries));
        let is_given_back =
            is_held || deliveries <= headers.returned() || next.is_some_and(|next| next > now);

        match deliveries {
            0 => Self::Waiting { due },
            _ if is_given_back => Self::Retrying { due },
            _ if due > now => Self::Leased { until: due },
            _ => Self::Waiting { due },
        }
    }
}

impl History {
    /// A history of these copies, which are sorted here.
    #[must_use]
    pub fn new(event_id: &str, asked_at: DateTime<Utc>, copies: Vec<EventCopy>) -> Self {
        let mut history = Self {
            event_id: event_id.to_owned(),
            asked_at,
            copies,
            unread: Vec::new(),
        };
        history.sort();
        history
    }

    /// Whether nothing is kept of the event.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.copies.is_empty()
    }

    pub(crate) fn sort(&mut self) {
        self.copies.sort_by_key(|copy| {
            (
                copy.published_at,
                copy.queue.clone(),
                copy.message_id.clone(),
            )
        });
    }
}

impl EventCopy {
    /// A copy, worked out from a stored message. For a message that was redriven, `published_at` is
    /// replaced by the time in its headers at which it was first stored.
    #[must_use]
    pub fn new(
        queue: &QueueName,
        message_id: MessageId,
        published_at: DateTime<Utc>,
        headers: &Headers,
        state: CopyState,
    ) -> Self {
        let died_before = headers.value(REDRIVEN).map(Death::read);
        let replay = headers
            .value(REPLAY)
            .and_then(|replay| replay.get("name")?.as_str());
        let first = died_before.as_ref().and_then(|death| death.enqueued_at);

        Self {
            queue: queue.clone(),
            message_id,
            event_type: None,
            published_at: first.unwrap_or(published_at),
            deliveries: 0,
            state,
            handlers: Progress::from_headers(headers),
            replay: replay.map(str::to_owned),
            died_before,
            body: None,
            headers: headers.clone(),
            reader: Reader::default(),
        }
    }

    /// Sets the name of its type.
    #[must_use]
    pub fn event_type(mut self, event_type: impl Into<Option<String>>) -> Self {
        self.event_type = event_type.into();
        self
    }

    /// Sets how often it was delivered.
    #[must_use]
    pub fn deliveries(mut self, deliveries: u32) -> Self {
        self.deliveries = deliveries;
        self
    }

    /// Sets its body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Option<String>>) -> Self {
        self.body = body.into();
        self
    }

    /// The event with all its attributes, read by the codec that wrote it. `None` if the store keeps only
    /// a line of it; see [`Retention`](crate::message::Retention).
    ///
    /// # Errors
    /// As [`DeadLetter::envelope`](crate::engine::DeadLetter::envelope).
    pub fn envelope(&self) -> Result<Option<Envelope>> {
        let Some(body) = &self.body else {
            return Ok(None);
        };
        let stored = (body.as_str(), &self.headers);
        let read = self
            .reader
            .read(&self.queue, &self.message_id, self.published_at, stored);
        read.map(Some)
    }

    /// The event; `None` if the store keeps only a line of it.
    ///
    /// # Errors
    /// As [`DeadLetter::event`](crate::engine::DeadLetter::event).
    pub fn event<E: Event>(&self) -> Result<Option<E>> {
        self.envelope()?.as_ref().map(reader::event).transpose()
    }
}
