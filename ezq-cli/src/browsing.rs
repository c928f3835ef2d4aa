//! `ezq event list` and `ezq errors`: what is in a queue, and what failed there.

use chrono::{DateTime, Utc};
use clap::Args;
use ezq::admin::{ErrorGroup, EventState};
use ezq::engine::EventCopy;
use serde::Serialize;

use crate::copies::CopyRow;
use crate::failure::Failure;
use crate::filters::Conditions;
use crate::names;
use crate::output::Row;
use crate::session::{Access, Session};
use crate::text;
use crate::values;

/// In the order in which they are listed without `--state`.
pub(crate) const STATES: [EventState; 5] = [
    EventState::Leased,
    EventState::Retrying,
    EventState::Ready,
    EventState::Scheduled,
    EventState::Dead,
];
/// The largest page of the library.
const PAGE: usize = 1000;

/// Which events of a queue are listed.
#[derive(Debug, Args)]
pub(crate) struct List {
    /// The queue
    queue: String,
    /// Only events in this state; may be repeated
    #[arg(long = "state", value_name = "STATE", value_parser = values::state)]
    states: Vec<EventState>,
    #[command(flatten)]
    conditions: Conditions,
    /// How many to list
    #[arg(long, value_name = "N", default_value = "50", value_parser = values::limit)]
    limit: usize,
}

pub(crate) async fn list(session: &Session, list: List) -> Result<(), Failure> {
    let ezq = session.connect(Access::Read).await?;
    let queue = names::queue(&ezq, &list.queue).await?;
    let events = ezq.events(&queue)?;
    let states = match list.states.is_empty() {
        true => &STATES[..],
        false => &list.states[..],
    };

    // One more than is shown, to know whether there are more.
    let asked = list.limit.saturating_add(1);
    let mut found: Vec<(EventState, EventCopy)> = Vec::new();
    for state in states {
        let mut next = None;
        while found.len() < asked {
            let room = asked.saturating_sub(found.len()).min(PAGE);
            let mut query = events
                .page(*state)
                .filter(list.conditions.build())
                .limit(room);
            if let Some(place) = next {
                query = query.after(place);
            }
            let page = query.await?;
            found.extend(page.events.into_iter().map(|event| (*state, event)));
            next = page.next;
            if next.is_none() {
                break;
            }
        }
    }
    ezq.close().await;

    let has_more = found.len() > list.limit;
    found.truncate(list.limit);
    let rows: Vec<CopyRow<'_>> = found
        .iter()
        .map(|(state, copy)| CopyRow::listed(copy, *state))
        .collect();
    session.output.list(&rows, "no events")?;
    if has_more {
        session.output.note(text::MORE);
    }
    Ok(())
}

/// `ezq errors`: what failed alike, those with most events first.
pub(crate) async fn errors(session: &Session, queue: &str, limit: usize) -> Result<(), Failure> {
    let ezq = session.connect(Access::Read).await?;
    let queue = names::queue(&ezq, queue).await?;
    let found = ezq.events(&queue)?.errors(limit).await?;
    ezq.close().await;

    let rows: Vec<ErrorRow<'_>> = found
        .groups
        .iter()
        .map(|group| ErrorRow::of(queue.as_str(), group))
        .collect();
    session.output.list(&rows, "no errors")?;
    if found.left_out > 0 {
        let more = text::counted(found.left_out, "more group");
        session
            .output
            .note(format!("{more}: `--limit` sets how many are listed"));
    }
    if !found.is_complete {
        session.output.note(
            "only the newest 10,000 dead letters and the next 10,000 attempts were looked at",
        );
    }
    Ok(())
}

/// A group of errors, as `--json` prints it.
#[derive(Serialize)]
struct ErrorRow<'a> {
    queue: &'a str,
    handler: Option<&'a str>,
    error: &'a str,
    count: u64,
    dead: u64,
    retrying: u64,
    first_at: DateTime<Utc>,
    last_at: DateTime<Utc>,
    example: &'a str,
    dead_letter_id: Option<String>,
    message_id: Option<String>,
}

impl<'a> ErrorRow<'a> {
    fn of(queue: &'a str, group: &'a ErrorGroup) -> Self {
        Self {
            queue,
            handler: group.key.handler.as_ref().map(|name| name.as_str()),
            error: &group.key.error,
            count: group.count(),
            dead: group.dead,
            retrying: group.retrying,
            first_at: group.first_at,
            last_at: group.last_at,
            example: &group.example,
            dead_letter_id: group.letter.as_ref().map(ToString::to_string),
            message_id: group.message.as_ref().map(ToString::to_string),
        }
    }
}

impl Row for ErrorRow<'_> {
    const COLUMNS: &'static [&'static str] =
        &["HANDLER", "ERROR", "DEAD", "RETRYING", "FIRST", "LAST"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.handler.unwrap_or("-").to_owned(),
            text::shortened(self.error).into_owned(),
            self.dead.to_string(),
            self.retrying.to_string(),
            text::time(self.first_at),
            text::time(self.last_at),
        ]
    }
}
