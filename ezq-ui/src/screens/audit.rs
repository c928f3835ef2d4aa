//! The audit trail: who did what to which events, newest first.

use askama::Template;
use axum::extract::{Query, State};
use axum::response::Response;
use ezq::admin::{AuditAction, AuditEntry, AuditPage, EventRef, PageCursor};
use serde::Deserialize;

use crate::board::Board;
use crate::failure::Failure;
use crate::frame::{Frame, render};
use crate::screens::filter::{exact, moment, says};
use crate::text;
use crate::verb::plural;

/// How many entries a page has.
const PAGE: usize = 50;

#[derive(Template)]
#[template(path = "audit.html")]
struct Page {
    frame: Frame,
    path: String,
    query: AuditQuery,
    is_filtered: bool,
    rows: Vec<AuditRow>,
    next: Option<String>,
}

struct AuditRow {
    at: String,
    ago: String,
    by: String,
    action: &'static str,
    queue: String,
    queue_href: String,
    /// What it was done to.
    what: String,
    href: String,
    count: String,
    reason: String,
}

/// The filter, as it stands in the address.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default)]
pub(crate) struct AuditQuery {
    queue: String,
    by: String,
    action: String,
    since: String,
    after: String,
}

impl AuditQuery {
    fn conditions(&self) -> [(&'static str, &str); 4] {
        [
            ("queue", self.queue.trim()),
            ("by", self.by.trim()),
            ("action", self.action.trim()),
            ("since", self.since.trim()),
        ]
    }

    fn is_filtered(&self) -> bool {
        self.conditions().iter().any(|(_, value)| !value.is_empty())
    }
}

pub(crate) async fn show(
    State(board): State<Board>,
    frame: Frame,
    Query(mut query): Query<AuditQuery>,
) -> Result<Response, Failure> {
    if !query.since.trim().is_empty() {
        // What is said to be ago moves on from page to page.
        query.since = exact(moment(&query.since)?);
    }
    let frame = frame.page("/audit", "Audit");
    // The newest entries are read once for all viewers, other pages for who asks.
    let is_newest = query.after.is_empty() && !query.is_filtered();
    let (found, frame) = if is_newest {
        let reading = board.audit.look().await;
        let frame = frame.live().figures(&reading);
        let found = reading.value.as_deref().cloned();
        (found.unwrap_or_default(), frame)
    } else {
        (read(&board, &query).await?, frame)
    };
    let path = frame.to("/audit");
    let next = found.next.map(|next| {
        let mut all = query.conditions().to_vec();
        all.push(("after", next.as_str()));
        text::address(&path, &all)
    });
    let rows = found.entries.iter();

    Ok(render(&Page {
        rows: rows.map(|entry| AuditRow::of(&frame, entry)).collect(),
        is_filtered: query.is_filtered(),
        next,
        path,
        query,
        frame,
    }))
}

/// Reads a page for who asks.
async fn read(board: &Board, query: &AuditQuery) -> Result<AuditPage, Failure> {
    let mut list = board.ezq.audit().list().limit(PAGE);
    let [(_, queue), (_, by), (_, action), (_, since)] = query.conditions();
    if !queue.is_empty() {
        list = list.queue(queue);
    }
    if !by.is_empty() {
        list = list.by(by);
    }
    if !action.is_empty() {
        // A mistyped action would fit nothing, and look as if nothing was done: it is refused.
        list = list.action(action.parse()?);
    }
    if !since.is_empty() {
        list = list.since(moment(since)?);
    }
    if !query.after.is_empty() {
        list = list.after(PageCursor::new(&query.after));
    }
    board.ask(list).await
}

impl AuditRow {
    fn of(frame: &Frame, entry: &AuditEntry) -> Self {
        let queue = entry.queue.as_ref();
        let queue = queue.map_or_else(String::new, ToString::to_string);
        let queue_href = frame.to(&format!("/queues/{}", text::encoded(&queue)));
        let (what, href) = what(frame, &queue_href, entry);

        Self {
            at: text::time(entry.at),
            ago: text::relative(entry.at, chrono::Utc::now()),
            by: entry.signature.by.clone(),
            action: entry.action.name(),
            queue_href,
            queue,
            what,
            href,
            count: entry.count.map_or_else(String::new, text::number),
            reason: entry.signature.reason.clone().unwrap_or_default(),
        }
    }
}

/// What something was done to, and where that is to be seen; an empty address for nowhere.
fn what(frame: &Frame, queue_href: &str, entry: &AuditEntry) -> (String, String) {
    let to = entry.target.as_ref();
    let to = to.map_or_else(String::new, |to| format!(" to {to}"));
    if let Some(id) = &entry.operation {
        let which = entry.selection.as_ref();
        let which = which.map_or_else(String::new, |(state, filter)| {
            format!("{}: {}", plural(*state), says(filter))
        });
        let href = frame.to(&format!("/operations/{}", text::encoded(id)));
        return (format!("{which}{to}"), href);
    }
    if let Some(thing) = entry.thing() {
        let page = match entry.action {
            _ if entry.schedule.is_some() => "/schedules",
            AuditAction::Capture | AuditAction::EndCapture => "/captures",
            AuditAction::Replay | AuditAction::ForgetReplay => "/replays",
            AuditAction::Publish => return (thing, String::new()),
            AuditAction::Partition => return (thing, queue_href.to_owned()),
            _ => "/subscriptions",
        };
        return (format!("{thing}{to}"), frame.to(page));
    }
    match (&entry.event, &entry.handler) {
        (Some(EventRef::Dead(id)), _) => {
            let href = format!("{queue_href}/dead/{}", text::encoded(&id.to_string()));
            (format!("dead letter {id}{to}"), href)
        }
        (Some(event), _) => (format!("message {}{to}", event.id()), String::new()),
        (None, Some(handler)) => (format!("handler {handler}"), queue_href.to_owned()),
        (None, None) => match &entry.selection {
            Some((state, filter)) => {
                let which = format!("{}: {}{to}", plural(*state), says(filter));
                (which, String::new())
            }
            None => ("the whole queue".to_owned(), queue_href.to_owned()),
        },
    }
}
