//! The events of a queue in one state, page by page.

use askama::Template;
use axum::extract::{Path, Query, State};
use axum::response::Response;
use chrono::Utc;
use ezq::admin::{CopyState, EventCopy, EventState, PageCursor};
use ezq::message::headers;

use crate::board::Board;
use crate::failure::Failure;
use crate::frame::{Frame, render};
use crate::screens::filter::{Chip, FilterQuery};
use crate::screens::links::{BulkLink, links};
use crate::screens::queues;
use crate::text;

/// How many events a page has.
pub(crate) const PAGE: usize = 50;

const STATES: [EventState; 5] = [
    EventState::Ready,
    EventState::Leased,
    EventState::Retrying,
    EventState::Scheduled,
    EventState::Dead,
];

#[derive(Template)]
#[template(path = "messages.html")]
struct Page {
    frame: Frame,
    name: String,
    queue_href: String,
    path: String,
    query: FilterQuery,
    states: Vec<StateTab>,
    chips: Vec<Chip>,
    rows: Vec<MessageRow>,
    bulk: Vec<BulkLink>,
    next: Option<String>,
    is_first: bool,
}

struct StateTab {
    name: String,
    href: String,
    is_here: bool,
}

/// An event in a list.
pub(crate) struct MessageRow {
    pub(crate) id: String,
    /// The page of the event; empty if its id cannot be read.
    pub(crate) href: String,
    pub(crate) event_type: String,
    pub(crate) key: String,
    pub(crate) published: String,
    pub(crate) deliveries: u32,
    pub(crate) when: String,
    pub(crate) error: String,
    /// The id among the dead letters; empty if it is none.
    pub(crate) letter: String,
}

impl MessageRow {
    pub(crate) fn of(queue_path: &str, event: &EventCopy) -> Self {
        let (letter, href) = match &event.state {
            CopyState::Dead { letter, .. } => {
                let letter = letter.to_string();
                let href = format!("{queue_path}/dead/{}", text::encoded(&letter));
                (letter, href)
            }
            _ => (String::new(), event_href(queue_path, event)),
        };

        Self {
            id: event.message_id.to_string(),
            href,
            event_type: event.event_type.clone().unwrap_or_else(|| "–".to_owned()),
            key: event
                .headers
                .text(headers::KEY)
                .unwrap_or_default()
                .to_owned(),
            published: text::time(event.published_at),
            deliveries: event.deliveries,
            when: when(&event.state),
            error: error(event).map_or_else(String::new, |error| text::shortened(error, 160)),
            letter,
        }
    }
}

impl MessageRow {
    /// The id by which it is known where it is.
    pub(crate) fn name(&self) -> &str {
        match self.letter.as_str() {
            "" => &self.id,
            letter => letter,
        }
    }
}

fn event_href(queue_path: &str, event: &EventCopy) -> String {
    let id = event
        .envelope()
        .ok()
        .flatten()
        .map(|envelope| envelope.id().to_owned());
    id.map_or_else(String::new, |id| {
        format!("{queue_path}/events/{}", text::encoded(&id))
    })
}

/// When the state of an event ends or began.
pub(crate) fn when(state: &CopyState) -> String {
    let now = Utc::now();
    match state {
        CopyState::Waiting { due } | CopyState::Retrying { due } if *due <= now => {
            format!("ready {}", text::relative(*due, now))
        }
        CopyState::Waiting { due } => format!("due {}", text::relative(*due, now)),
        CopyState::Leased { until } => format!("leased, ends {}", text::relative(*until, now)),
        CopyState::Retrying { due } => format!("next attempt {}", text::relative(*due, now)),
        CopyState::Archived { at } | CopyState::Handled { at } => {
            format!("handled {}", text::relative(*at, now))
        }
        CopyState::Dead { at, .. } => format!("died {}", text::relative(*at, now)),
        // A state that a later version adds.
        _ => String::new(),
    }
}

/// Why an event died, or else the newest error of a handler.
pub(crate) fn error(event: &EventCopy) -> Option<&str> {
    if let CopyState::Dead { reason, .. } = &event.state
        && let Some(reason) = reason
    {
        return Some(&reason.error);
    }
    let newest = event
        .handlers
        .iter()
        .filter_map(|(_, mark)| mark.errors.last())
        .max_by_key(|record| record.at);
    newest.map(|record| record.error.as_str())
}

pub(crate) async fn show(
    State(board): State<Board>,
    frame: Frame,
    Path(name): Path<String>,
    Query(mut query): Query<FilterQuery>,
) -> Result<Response, Failure> {
    let queue = queues::find(&board, &name).await?;
    if query.state.is_empty() {
        query.state = EventState::Ready.to_string();
    }
    let state: EventState = query.state.parse()?;
    let queue_path = frame.to(&format!("/queues/{}", text::encoded(queue.as_str())));

    let path = format!("{queue_path}/messages");

    let events = board.ezq.events(&queue)?;
    let mut page = events.page(state).filter(query.filter()?).limit(PAGE);
    if !query.after.is_empty() {
        page = page.after(PageCursor::new(&query.after));
    }
    let found = board.ask(page).await?;

    let frame = frame
        .about(&board, &queue)
        .page("/queues", format!("Events of {queue}"));
    let states = STATES.iter().map(|one| StateTab {
        name: one.to_string(),
        href: query.in_state(&path, &one.to_string()),
        is_here: *one == state,
    });
    let rows = found.events.iter();

    Ok(render(&Page {
        name: queue.to_string(),
        states: states.collect(),
        chips: query.chips(&path),
        rows: rows
            .map(|event| MessageRow::of(&queue_path, event))
            .collect(),
        bulk: links(&queue_path, state, &query),
        next: found.next.map(|next| query.next(&path, next.as_str())),
        is_first: query.after.is_empty(),
        queue_href: queue_path,
        path,
        query,
        frame,
    }))
}
