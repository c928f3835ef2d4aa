//! What the stores still know of one event: every copy of it, where it stands and what its handlers
//! did.
//!
//! It is read from messages as they are now, so it tells no more than they keep: the newest errors
//! of each handler, and of an acknowledged event only what an archive holds.

mod show;
mod status;

use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::engine::{Death, MessageId};
use crate::message::headers::{CE_ID, CE_TYPE, CODEC, Headers, REDRIVEN, REPLAY};
use crate::message::queue_name::QueueName;
use crate::message::settlement::{HandlerState, Progress, Reason};

pub use status::EventStatus;

/// Every stored copy of an event, oldest first; [`App::history`](crate::App::history) asks for it.
/// Displayed, it is a report for people.
#[derive(Debug, Clone, PartialEq)]
pub struct History {
    /// The event's id.
    pub event_id: String,
    /// When it was asked for, on the engine's clock.
    pub asked_at: DateTime<Utc>,
    /// The copies; none where nothing is kept of it.
    pub copies: Vec<EventCopy>,
    /// What could not be looked into: queues that may not be read, engines that keep no history.
    pub unread: Vec<String>,
}

/// One stored copy of an event.
#[derive(Debug, Clone, PartialEq)]
pub struct EventCopy {
    /// Its queue; for an archived or dead one, the queue it was in.
    pub queue: QueueName,
    /// The id that it has, or had, in the queue.
    pub message_id: MessageId,
    /// Its type's name, where it has one.
    pub event_type: Option<String>,
    /// When it was stored first.
    pub published_at: DateTime<Utc>,
    /// How often it was delivered since it was published or redriven.
    pub deliveries: u32,
    /// Where it stands.
    pub state: CopyState,
    /// The handlers' attempts and newest errors, as of the last retry or of its death. A handler
    /// that succeeded in the delivery that ended it may not be among them.
    pub handlers: Progress,
    /// The replay that handed it over, where one did.
    pub replay: Option<String>,
    /// What it had died of before it was last redriven.
    pub died_before: Option<Death>,
}

/// Where a copy of an event stands. Times are on the engine's clock.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum CopyState {
    /// To be handed out from a time on, which may have passed.
    Waiting {
        /// From when.
        due: DateTime<Utc>,
    },
    /// With a worker.
    Leased {
        /// When the lease ends unless it is renewed.
        until: DateTime<Utc>,
    },
    /// Given back by a worker, to be handed out again from a time on, which may have passed.
    Retrying {
        /// From when.
        due: DateTime<Utc>,
    },
    /// Handled, and kept.
    Archived {
        /// When it was acknowledged.
        at: DateTime<Utc>,
    },
    /// Handled and deleted: the trail tells of it.
    Handled {
        /// When it was acknowledged.
        at: DateTime<Utc>,
    },
    /// A dead letter.
    Dead {
        /// Its id among the dead letters.
        letter: MessageId,
        /// When it died.
        at: DateTime<Utc>,
        /// Of what, where that is known.
        reason: Option<Reason>,
    },
}

impl CopyState {
    /// The state of a message that stands in its queue, from what engines keep: when it is due,
    /// whether it was delivered, and its headers.
    #[must_use]
    pub fn of(due: DateTime<Utc>, deliveries: u32, headers: &Headers, now: DateTime<Utc>) -> Self {
        // Where an earlier delivery ended in a crash, counts tell a lease from a retry no more. But
        // nothing is handed out before the first of its marks is due.
        let marks = Progress::from_headers(headers).0.into_values();
        let waiting = marks.filter(|mark| mark.state == HandlerState::Retry);
        let next = waiting.filter_map(|mark| mark.due).min();
        let is_given_back = deliveries <= headers.returned() || next.is_some_and(|next| next > now);
        match deliveries {
            0 => Self::Waiting { due },
            _ if is_given_back => Self::Retrying { due },
            _ if due > now => Self::Leased { until: due },
            _ => Self::Waiting { due },
        }
    }
}

impl History {
    /// A history of these copies, sorted here.
    #[must_use]
    pub fn new(event_id: &str, asked_at: DateTime<Utc>, copies: Vec<EventCopy>) -> Self {
        let event_id = event_id.to_owned();
        let mut history = Self {
            event_id,
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
        let place = |copy: &EventCopy| {
            (
                copy.published_at,
                copy.queue.clone(),
                copy.message_id.clone(),
            )
        };
        self.copies.sort_by_key(place);
    }
}

impl EventCopy {
    /// A copy from what a message holds. What was redriven tells when it was published first.
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
        }
    }
}

/// Whether a body is the event with an id, and the name of its type. An event in the flat form is
/// known by where it was stored first, one that another codec wrote by its headers.
pub(crate) fn identify(
    body: &str,
    headers: &Headers,
    event_id: &str,
    flat_id: &str,
) -> Option<Option<String>> {
    let (id, event_type) = names(body, headers);
    (id.as_deref().unwrap_or(flat_id) == event_id).then_some(event_type)
}

/// The id and the type of a message's event, as far as it says them: one in the flat form has no id
/// but its place.
pub(crate) fn names(body: &str, headers: &Headers) -> (Option<String>, Option<String>) {
    let body: Value = serde_json::from_str(body).unwrap_or_default();
    let text = |name: &str| Some(body.get(name).and_then(Value::as_str)?.to_owned());
    let beside = |name: &str| headers.text(name).map(str::to_owned);
    match (body.get("specversion"), body.get("_type")) {
        _ if headers.text(CODEC).is_some() => (beside(CE_ID), beside(CE_TYPE)),
        // What has no id has none by its place either.
        (Some(_), _) => (Some(text("id").unwrap_or_default()), text("type")),
        (None, Some(_)) => (None, text("_type")),
        (None, None) => (beside(CE_ID), beside(CE_TYPE)),
    }
}
