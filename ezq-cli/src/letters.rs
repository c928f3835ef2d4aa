//! A dead letter, as it is printed.

use chrono::{DateTime, Utc};
use ezq::engine::DeadLetter;
use ezq::message::Reason;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::body::Body;
use crate::output::Row;
use crate::text;

/// A dead letter in a list.
#[derive(Serialize)]
pub(crate) struct Letter<'a> {
    queue: &'a str,
    /// Ids are texts: they may be larger than the numbers that a reader of JSON keeps exact.
    id: String,
    original_id: Option<String>,
    event_id: Option<String>,
    event_type: Option<String>,
    enqueued_at: DateTime<Utc>,
    died_at: DateTime<Utc>,
    /// `null` if something other than ezq put it there.
    reason: Option<&'a Reason>,
}

/// A dead letter with all that it holds.
#[derive(Serialize)]
pub(crate) struct WholeLetter<'a> {
    #[serde(flatten)]
    letter: Letter<'a>,
    headers: &'a Map<String, Value>,
    body: Body<'a>,
}

impl<'a> Letter<'a> {
    pub(crate) fn of(queue: &'a str, letter: &'a DeadLetter) -> Self {
        Self {
            queue,
            id: letter.id.to_string(),
            original_id: letter.original_id.as_ref().map(ToString::to_string),
            event_id: letter.event_id(),
            event_type: letter.event_type(),
            enqueued_at: letter.enqueued_at,
            died_at: letter.died_at,
            reason: letter.reason.as_ref(),
        }
    }

    fn shown(text: Option<&String>) -> String {
        text.map_or_else(|| "-".to_owned(), Clone::clone)
    }

    fn handler(&self) -> String {
        let handler = self.reason.and_then(|reason| reason.handler.as_ref());
        handler.map_or_else(|| "-".to_owned(), ToString::to_string)
    }

    fn kind(&self) -> String {
        self.reason
            .map_or_else(|| "-".to_owned(), |reason| reason.kind.to_string())
    }

    fn error(&self) -> &str {
        self.reason.map_or("-", |reason| &reason.error)
    }
}

impl Row for Letter<'_> {
    const COLUMNS: &'static [&'static str] = &["ID", "TYPE", "DIED", "REASON", "HANDLER", "ERROR"];

    fn cells(&self) -> Vec<String> {
        // The error is cut in a list, and whole in `show`.
        vec![
            self.id.clone(),
            Self::shown(self.event_type.as_ref()),
            text::time(self.died_at),
            self.kind(),
            self.handler(),
            text::shortened(self.error()).into_owned(),
        ]
    }
}

impl<'a> WholeLetter<'a> {
    pub(crate) fn of(queue: &'a str, letter: &'a DeadLetter) -> Self {
        Self {
            letter: Letter::of(queue, letter),
            headers: letter.headers.as_object(),
            body: Body::of(&letter.body),
        }
    }

    /// What is shown to people.
    pub(crate) fn fields(&self) -> Vec<(&'static str, String)> {
        let letter = &self.letter;
        let attempts = letter.reason.map(|reason| reason.attempts.to_string());
        let headers = serde_json::to_string(self.headers).unwrap_or_default();

        vec![
            ("id", letter.id.clone()),
            ("original id", Letter::shown(letter.original_id.as_ref())),
            ("event", Letter::shown(letter.event_id.as_ref())),
            ("type", Letter::shown(letter.event_type.as_ref())),
            ("published", text::time(letter.enqueued_at)),
            ("died", text::time(letter.died_at)),
            ("reason", letter.kind()),
            ("handler", letter.handler()),
            ("attempts", Letter::shown(attempts.as_ref())),
            ("error", letter.error().to_owned()),
            ("headers", headers),
            ("body", self.body.text().to_owned()),
        ]
    }
}
