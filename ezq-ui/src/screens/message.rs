//! One event: each stored copy with its timeline, payload and headers. Also one dead letter by its id,
//! which may be nothing that can be read as an event.

use askama::Template;
use axum::extract::{Path, Query, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use ezq::Envelope;
use ezq::QueueName;
use ezq::admin::{CopyState, EventCopy};
use ezq::engine::DeadLetter;
use ezq::event::AttributeValue;
use ezq::message::{HandlerState, MessageId, Progress};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::board::Board;
use crate::failure::Failure;
use crate::frame::{Frame, render};
use crate::payload::{Payload, Payloads, Shown};
use crate::screens::{messages, queues};
use crate::text;

#[derive(Template)]
#[template(path = "message.html")]
struct Page {
    frame: Frame,
    queue: String,
    queue_href: String,
    title: String,
    here: String,
    /// The address of the same as JSON, with what this page shows.
    as_json: String,
    copies: Vec<CopyView>,
    /// The queues to which it can move.
    targets: Vec<String>,
    unread: Vec<String>,
}

struct CopyView {
    id: String,
    event_id: String,
    event_type: String,
    state: &'static str,
    when: String,
    deliveries: String,
    attributes: Vec<(String, String)>,
    timeline: Vec<Entry>,
    payload: Shown,
    unreadable: String,
    headers: String,
    can_retry: bool,
    /// Whether it waits, so that it can be moved and discarded.
    is_waiting: bool,
    is_leased: bool,
    letter: String,
}

/// Something that happened to an event, or will.
struct Entry {
    at: Option<DateTime<Utc>>,
    time: String,
    level: &'static str,
    title: String,
    text: String,
}

/// An event as JSON.
#[derive(Serialize)]
struct CopyJson<'a> {
    queue: &'a str,
    message_id: String,
    event_id: Option<&'a str>,
    event_type: Option<&'a str>,
    state: &'static str,
    published_at: DateTime<Utc>,
    deliveries: u32,
    error: Option<&'a str>,
    headers: &'a serde_json::Map<String, serde_json::Value>,
    /// The data with every digit of its numbers; a text if it is no JSON; absent while it is hidden.
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Box<RawValue>>,
}

/// What the two kinds of page have in common.
struct Stored<'a> {
    queue: &'a QueueName,
    copy: &'a EventCopy,
    envelope: ezq::Result<Option<Envelope>>,
}

/// How a page is asked for.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct MessageQuery {
    /// `data` shows a payload that is hidden at first.
    show: String,
    /// `json` asks for JSON.
    format: String,
}

pub(crate) async fn event(
    State(board): State<Board>,
    frame: Frame,
    Path((name, event_id)): Path<(String, String)>,
    Query(query): Query<MessageQuery>,
) -> Result<Response, Failure> {
    let queue = queues::find(&board, &name).await?;
    // Only of this queue: other copies have pages of their own.
    let history = board.ezq.history(&event_id).queue(&queue);
    let history = board.ask(history).await?;
    if history.is_empty() {
        let text = format!(
            "Nothing is kept of the event {event_id} in {queue}. An event is deleted once it is handled, \
             unless its queue keeps an archive or a trail."
        );
        return Err(Failure::missing(text));
    }
    let stored = history.copies.iter().map(|copy| Stored {
        queue: &queue,
        copy,
        envelope: copy.envelope(),
    });
    let stored = stored.collect();
    Ok(page(
        &board,
        &queue,
        frame,
        &query,
        stored,
        history.unread.clone(),
    )
    .await)
}

pub(crate) async fn letter(
    State(board): State<Board>,
    frame: Frame,
    Path((name, id)): Path<(String, String)>,
    Query(query): Query<MessageQuery>,
) -> Result<Response, Failure> {
    let queue = queues::find(&board, &name).await?;
    let letters = board.ezq.dead_letters(&queue)?;
    let found = board.ask(letters.get(&message_id(&id))).await?;
    let Some(found) = found else {
        let text = format!(
            "There is no dead letter {id} of {queue} any more: it was redriven or discarded meanwhile."
        );
        let mut failure = Failure::missing(text);

        let path = format!("/queues/{}/dead", text::encoded(queue.as_str()));
        failure.suggestion = Some((format!("the dead letters of {queue}"), path));
        return Err(failure);
    };

    let envelope = found.envelope().map(Some);
    let copy = copy_of(&queue, found);
    let stored = Stored {
        queue: &queue,
        copy: &copy,
        envelope,
    };
    Ok(page(&board, &queue, frame, &query, vec![stored], Vec::new()).await)
}

fn copy_of(queue: &QueueName, letter: DeadLetter) -> EventCopy {
    let id = letter.original_id.clone();
    let event_type = letter.event_type();
    let state = CopyState::Dead {
        letter: letter.id.clone(),
        at: letter.died_at,
        reason: letter.reason,
    };
    let id = id.unwrap_or(letter.id);
    EventCopy::new(queue, id, letter.enqueued_at, &letter.headers, state)
        .event_type(event_type)
        .body(letter.body)
}

async fn page(
    board: &Board,
    queue: &QueueName,
    frame: Frame,
    query: &MessageQuery,
    stored: Vec<Stored<'_>>,
    unread: Vec<String>,
) -> Response {
    let is_asked_for = query.show == "data";
    // For scripts and for the clipboard.
    if query.format == "json" {
        let copies: Vec<CopyJson<'_>> = stored
            .iter()
            .map(|one| one.json(&board.payloads, is_asked_for))
            .collect();
        return json(&copies);
    }

    let copies: Vec<CopyView> = stored
        .iter()
        .map(|one| one.view(&board.payloads, is_asked_for))
        .collect();
    let targets = queues::others(board, queue).await;
    let title = copies.first().map_or("Event", |copy| &copy.event_type);
    let frame = frame.about(board, queue).page("/queues", title);
    let here = frame.here.split('?').next().unwrap_or_default().to_owned();

    render(&Page {
        targets,
        queue: queue.to_string(),
        queue_href: frame.to(&format!("/queues/{}", text::encoded(queue.as_str()))),
        title: frame.title.clone(),
        as_json: match is_asked_for {
            true => format!("{here}?format=json&show=data"),
            false => format!("{here}?format=json"),
        },
        here,
        copies,
        unread,
        frame,
    })
}

fn json(copies: &[CopyJson<'_>]) -> Response {
    match serde_json::to_string_pretty(copies) {
        Ok(text) => ([(CONTENT_TYPE, "application/json")], text).into_response(),
        Err(error) => Failure::wrong(error.to_string()).into_response(),
    }
}

impl Stored<'_> {
    /// The data of the event; the body if it cannot be read.
    fn payload(&self) -> Payload<'_> {
        let body = self.copy.body.as_deref().unwrap_or_default();
        let data = match &self.envelope {
            Ok(Some(envelope)) => envelope.data().or(envelope.data_base64()).unwrap_or("null"),
            Ok(None) | Err(_) => body,
        };
        Payload {
            queue: self.queue,
            event_type: self.copy.event_type.as_deref(),
            data,
        }
    }

    fn envelope(&self) -> Option<&Envelope> {
        self.envelope.as_ref().ok()?.as_ref()
    }

    fn view(&self, payloads: &Payloads, is_asked_for: bool) -> CopyView {
        let copy = self.copy;
        let headers = serde_json::to_string(copy.headers.as_object());
        let letter = match &copy.state {
            CopyState::Dead { letter, .. } => letter.to_string(),
            _ => String::new(),
        };
        let unreadable = match &self.envelope {
            Err(error) => ezq::error::error_chain(error),
            Ok(_) => String::new(),
        };

        CopyView {
            id: copy.message_id.to_string(),
            event_id: self
                .envelope()
                .map_or_else(String::new, |one| one.id().to_owned()),
            event_type: copy
                .event_type
                .clone()
                .unwrap_or_else(|| "no event type".to_owned()),
            state: state(&copy.state),
            when: messages::when(&copy.state),
            deliveries: match (&copy.state, copy.deliveries) {
                // What has died was delivered; a letter by its id does not tell how often.
                (CopyState::Dead { .. }, 0) => "–".to_owned(),
                (_, deliveries) => deliveries.to_string(),
            },
            attributes: self.envelope().map_or_else(Vec::new, attributes),
            timeline: timeline(copy),
            payload: payloads.shown(&self.payload(), is_asked_for),
            unreadable,
            headers: crate::payload::indented(&headers.unwrap_or_default()).0,
            // The same holds for one that is scheduled.
            can_retry: matches!(
                copy.state,
                CopyState::Retrying { due } | CopyState::Waiting { due } if due > Utc::now()
            ),
            is_waiting: matches!(
                copy.state,
                CopyState::Retrying { .. } | CopyState::Waiting { .. }
            ),
            is_leased: matches!(copy.state, CopyState::Leased { .. }),
            letter,
        }
    }

    fn json(&self, payloads: &Payloads, is_asked_for: bool) -> CopyJson<'_> {
        let payload = self.payload();
        let data = match payloads.is_hidden(&payload) && !is_asked_for {
            true => None,
            false => Some(payloads.redacted(&payload).into_owned()),
        };

        CopyJson {
            queue: self.queue.as_str(),
            message_id: self.copy.message_id.to_string(),
            event_id: self.envelope().map(Envelope::id),
            event_type: self.copy.event_type.as_deref(),
            state: state(&self.copy.state),
            published_at: self.copy.published_at,
            deliveries: self.copy.deliveries,
            error: messages::error(self.copy),
            headers: self.copy.headers.as_object(),
            data: data.map(raw),
        }
    }
}

/// A text as JSON: as it is, or as a text if it is no JSON.
fn raw(data: String) -> Box<RawValue> {
    // What was stored raw may be no JSON at all.
    let quoted = serde_json::Value::String(data.clone()).to_string();
    RawValue::from_string(data)
        .or_else(|_| RawValue::from_string(quoted))
        .unwrap_or_else(|_| RawValue::NULL.to_owned())
}

fn state(state: &CopyState) -> &'static str {
    match state {
        CopyState::Waiting { due } | CopyState::Retrying { due } if *due <= Utc::now() => "ready",
        CopyState::Waiting { .. } => "scheduled",
        CopyState::Leased { .. } => "leased",
        CopyState::Retrying { .. } => "retrying",
        CopyState::Archived { .. } => "archived",
        CopyState::Handled { .. } => "handled",
        CopyState::Dead { .. } => "dead",
        // A state that a later version adds.
        _ => "unknown",
    }
}

fn attributes(envelope: &Envelope) -> Vec<(String, String)> {
    let optional = [
        ("subject", envelope.subject()),
        ("content type", envelope.datacontenttype()),
        ("schema", envelope.dataschema()),
    ];
    let mut all = vec![
        ("id".to_owned(), envelope.id().to_owned()),
        ("source".to_owned(), envelope.source().to_owned()),
    ];
    if let Some(time) = envelope.time() {
        all.push(("time".to_owned(), time.to_rfc3339()));
    }
    let given = optional
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)));
    all.extend(given.map(|(name, value)| (name.to_owned(), value.to_owned())));
    let extensions = envelope.extensions().iter();
    all.extend(extensions.map(|(name, value)| (name.clone(), attribute(value))));
    all
}

fn attribute(value: &AttributeValue) -> String {
    match value {
        AttributeValue::Boolean(value) => value.to_string(),
        AttributeValue::Integer(value) => value.to_string(),
        AttributeValue::Text(text) => text.clone(),
        // A kind that a later version adds.
        other => format!("{other:?}"),
    }
}

/// What happened to a copy, oldest first, and what comes next.
fn timeline(copy: &EventCopy) -> Vec<Entry> {
    let mut entries = vec![Entry::new(copy.published_at, "", "Published", "")];
    if let Some(death) = &copy.died_before {
        let reason = death.reason.as_ref();
        let text = reason.map_or("", |reason| &reason.error);
        let mut entry = Entry::new(
            copy.published_at,
            "error",
            "Had died, and was redriven",
            text,
        );
        entry.at = death.died_at;
        entry.time = text::time_if_any(death.died_at);
        entries.push(entry);
    }
    of_handlers(&copy.handlers, &mut entries);
    entries.sort_by_key(|entry| entry.at);

    match &copy.state {
        CopyState::Dead { at, reason, .. } => {
            let kind = reason.as_ref().map(|reason| reason.kind.to_string());
            let title = format!(
                "Died: {}",
                kind.as_deref().unwrap_or("the reason is not known")
            );
            let text = reason.as_ref().map_or("", |reason| &reason.error);
            entries.push(Entry::new(*at, "error", &title, text));
        }
        CopyState::Archived { at } | CopyState::Handled { at } => {
            entries.push(Entry::new(*at, "good", "Handled", ""));
        }
        CopyState::Leased { until } => {
            entries.push(Entry::new(
                *until,
                "",
                "A worker has it; its lease ends",
                "",
            ));
        }
        CopyState::Retrying { due } => entries.push(Entry::new(*due, "", "Next attempt", "")),
        CopyState::Waiting { due } => entries.push(Entry::new(*due, "", "Due", "")),
        // A state that a later version adds.
        _ => {}
    }
    entries
}

fn of_handlers(handlers: &Progress, entries: &mut Vec<Entry>) {
    for (name, mark) in handlers.iter() {
        for record in &mark.errors {
            let title = format!("{name}: attempt {} failed", record.attempt);
            entries.push(Entry::new(record.at, "error", &title, &record.error));
        }
        let end = match (mark.state, mark.held) {
            (HandlerState::Done, _) => ("good", format!("{name}: done")),
            (HandlerState::Retry, Some(_)) => ("", format!("{name}: put aside while it is paused")),
            _ => continue,
        };
        let last = mark.errors.last().map(|record| record.at);
        let mut entry = Entry::new(Utc::now(), end.0, &end.1, "");
        // A mark does not tell when it was made, so it stands behind its errors.
        entry.at = last;
        entry.time = String::new();
        entries.push(entry);
    }
}

impl Entry {
    fn new(at: DateTime<Utc>, level: &'static str, title: &str, text: &str) -> Self {
        Self {
            at: Some(at),
            time: text::time(at),
            level,
            title: title.to_owned(),
            text: text::visible(text).into_owned(),
        }
    }
}

/// An id as it stands in an address.
pub(crate) fn message_id(text: &str) -> MessageId {
    match text.parse() {
        Ok(number) => MessageId::Number(number),
        Err(_) => MessageId::Text(text.into()),
    }
}
