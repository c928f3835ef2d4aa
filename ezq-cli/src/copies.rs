//! Stored copies of events, as they are printed.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use ezq::admin::EventState;
use ezq::engine::{CopyState, EventCopy, History};
use ezq::message::headers::KEY;
use ezq::message::{HandlerMark, Reason};
use serde::Serialize;

use crate::body::Body;
use crate::output::Row;
use crate::text;

/// The history of an event, as `--json` prints it.
#[derive(Serialize)]
pub(crate) struct HistoryRow<'a> {
    event_id: &'a str,
    asked_at: DateTime<Utc>,
    status: Option<String>,
    copies: Vec<CopyRow<'a>>,
    unread: &'a [String],
}

#[derive(Serialize)]
pub(crate) struct CopyRow<'a> {
    queue: &'a str,
    message_id: String,
    event_type: Option<&'a str>,
    published_at: DateTime<Utc>,
    deliveries: u32,
    state: &'static str,
    /// When it is due, its lease ends, or when it was handled or died.
    state_at: DateTime<Utc>,
    dead_letter_id: Option<String>,
    reason: Option<&'a Reason>,
    replay: Option<&'a str>,
    was_redriven: bool,
    handlers: BTreeMap<&'a str, &'a HandlerMark>,
    body: Option<Body<'a>>,
    #[serde(skip)]
    found: &'a EventCopy,
}

impl<'a> HistoryRow<'a> {
    pub(crate) fn of(history: &'a History) -> Self {
        Self {
            event_id: &history.event_id,
            asked_at: history.asked_at,
            status: history.status().map(|status| status.to_string()),
            copies: history.copies.iter().map(CopyRow::of).collect(),
            unread: &history.unread,
        }
    }
}

impl<'a> CopyRow<'a> {
    pub(crate) fn of(copy: &'a EventCopy) -> Self {
        let mut letter = None;
        let mut reason = None;
        let (state, state_at) = match &copy.state {
            CopyState::Waiting { due } => ("waiting", *due),
            CopyState::Leased { until } => ("leased", *until),
            CopyState::Retrying { due } => ("retrying", *due),
            CopyState::Archived { at } => ("archived", *at),
            CopyState::Handled { at } => ("handled", *at),
            CopyState::Dead {
                letter: id,
                at,
                reason: why,
            } => {
                letter = Some(id.to_string());
                reason = why.as_ref();
                ("dead", *at)
            }
            // A state of a newer library.
            _ => ("unknown", copy.published_at),
        };
        let handlers = copy.handlers.iter();

        Self {
            queue: copy.queue.as_str(),
            message_id: copy.message_id.to_string(),
            event_type: copy.event_type.as_deref(),
            published_at: copy.published_at,
            deliveries: copy.deliveries,
            state,
            state_at,
            dead_letter_id: letter,
            reason,
            replay: copy.replay.as_deref(),
            was_redriven: copy.died_before.is_some(),
            handlers: handlers.map(|(name, mark)| (name.as_str(), mark)).collect(),
            body: copy.body.as_deref().map(Body::of),
            found: copy,
        }
    }

    /// The same with the state by which events are listed, which tells what can be handled now.
    pub(crate) fn listed(copy: &'a EventCopy, state: EventState) -> Self {
        Self {
            state: match state {
                EventState::Ready => "ready",
                EventState::Leased => "leased",
                EventState::Retrying => "retrying",
                EventState::Scheduled => "scheduled",
                EventState::Dead => "dead",
                // A state of a newer library.
                _ => "unknown",
            },
            ..Self::of(copy)
        }
    }

    /// The id by which it is cancelled, retried or, of a dead letter, redriven.
    fn id(&self) -> &str {
        self.dead_letter_id.as_deref().unwrap_or(&self.message_id)
    }

    /// The newest error of a handler, or of what the event died of.
    fn error(&self) -> &str {
        let newest = self.handlers.values().filter_map(|mark| mark.errors.last());
        let newest = newest.max_by_key(|record| record.at);
        let died_of = self.reason.map(|reason| &*reason.error);
        died_of
            .or(newest.map(|record| &*record.error))
            .unwrap_or("-")
    }
}

impl Row for CopyRow<'_> {
    const COLUMNS: &'static [&'static str] =
        &["ID", "TYPE", "STATE", "AT", "DELIVERIES", "KEY", "ERROR"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.id().to_owned(),
            self.event_type.unwrap_or("-").to_owned(),
            self.state.to_owned(),
            text::time(self.state_at),
            self.deliveries.to_string(),
            self.found.headers.text(KEY).unwrap_or("-").to_owned(),
            text::shortened(self.error()).into_owned(),
        ]
    }
}
