//! Operations on all events that matched: the newest of every process, and one with its progress.

use std::time::Duration;

use askama::Template;
use axum::extract::{Path, State};
use axum::response::Response;
use chrono::{DateTime, Utc};
use ezq::QueueName;
use ezq::admin::{Operation, OperationStatus};

use crate::board::Board;
use crate::driver::{Driven, Driver};
use crate::failure::Failure;
use crate::frame::{Frame, Prefix, render};
use crate::notes::Done;
use crate::rights::Operator;
use crate::screens::filter::says;
use crate::text;
use crate::verb::{Verb, plural};

/// A step takes much less. After so long without one, nobody seems to take any.
const STILL: Duration = Duration::from_secs(15);
/// For so long an operation that has ended is shown beside the events that it was about.
const RECENT: Duration = Duration::from_secs(600);

#[derive(Template)]
#[template(path = "operations.html")]
struct ListPage {
    frame: Frame,
    is_known: bool,
    rows: Vec<OperationView>,
}

#[derive(Template)]
#[template(path = "operation.html")]
struct OnePage {
    frame: Frame,
    one: OperationView,
}

/// An operation, in a list or on its page.
pub(crate) struct OperationView {
    pub(crate) id: String,
    pub(crate) href: String,
    pub(crate) title: String,
    pub(crate) queue: String,
    pub(crate) queue_href: String,
    pub(crate) filter: String,
    pub(crate) state: &'static str,
    pub(crate) by: String,
    pub(crate) reason: String,
    pub(crate) began: String,
    pub(crate) began_ago: String,
    pub(crate) moved: String,
    pub(crate) ended: String,
    /// How far it is: `1,200 of 10,000`.
    pub(crate) progress: String,
    pub(crate) seen: u64,
    pub(crate) total: Option<u64>,
    pub(crate) done: String,
    pub(crate) skipped: String,
    pub(crate) failed: String,
    pub(crate) has_failed: bool,
    pub(crate) can_stop: bool,
    pub(crate) can_resume: bool,
    /// Why this process takes no steps, if it should.
    pub(crate) trouble: String,
}

impl OperationView {
    pub(crate) fn of(frame: &Frame, driver: &Driver, operation: &Operation) -> Self {
        let now = Utc::now();
        let driven = driver.of(&operation.id);
        let state = state(operation, driven.as_ref(), now);
        let selection = &operation.selection;
        let verb = Verb::of_action(&operation.action);
        let to = operation.action.target();
        let to = to.map_or_else(String::new, |to| format!(" to {to}"));
        let seen = text::number(operation.seen());
        let queue = selection.queue.as_str();

        Self {
            href: frame.to(&path(&operation.id)),
            title: format!(
                "{} {} of {queue}{to}",
                verb.label(),
                plural(selection.state)
            ),
            queue: queue.to_owned(),
            queue_href: frame.to(&format!("/queues/{}", text::encoded(queue))),
            filter: says(&selection.filter),
            state,
            by: operation.signature.by.clone(),
            reason: operation.signature.reason.clone().unwrap_or_default(),
            began: text::time(operation.began_at),
            began_ago: text::relative(operation.began_at, now),
            moved: text::relative(operation.moved_at, now),
            ended: text::time_if_any(operation.ended_at),
            progress: match operation.total {
                Some(total) => format!("{seen} of {}", text::number(total)),
                None => seen,
            },
            seen: operation.seen(),
            total: operation.total,
            done: text::number(operation.done),
            skipped: text::number(operation.skipped),
            failed: text::number(operation.failed),
            has_failed: operation.failed > 0,
            can_stop: operation.is_running(),
            can_resume: matches!(state, "stopped" | "stalled"),
            trouble: match driven {
                Some(Driven::Waiting(why)) => format!("It is tried again: {why}"),
                Some(Driven::GaveUp(why)) if operation.ended_at.is_none() => {
                    format!("This dashboard has given it up: {why}")
                }
                _ => String::new(),
            },
            id: operation.id.clone(),
        }
    }

    /// Those of a queue that run, or moved a short time ago.
    pub(crate) fn of_queue(
        frame: &Frame,
        board: &Board,
        all: &[Operation],
        queue: &QueueName,
    ) -> Vec<Self> {
        let now = Utc::now();
        let own = all.iter().filter(|one| {
            one.selection.queue == *queue && (one.is_running() || age(one, now) < RECENT)
        });
        own.map(|one| Self::of(frame, &board.driver, one)).collect()
    }
}

fn path(id: &str) -> String {
    format!("/operations/{}", text::encoded(id))
}

/// How long ago an operation moved, by a clock that may be some seconds off.
fn age(operation: &Operation, now: DateTime<Utc>) -> Duration {
    (now - operation.moved_at).to_std().unwrap_or_default()
}

/// What an operation does, as far as its progress tells: the store does not know who takes its steps.
fn state(operation: &Operation, driven: Option<&Driven>, now: DateTime<Utc>) -> &'static str {
    let is_ours = matches!(driven, Some(Driven::Running | Driven::Waiting(_)));
    match operation.status {
        OperationStatus::Running if is_ours || age(operation, now) < STILL => "running",
        OperationStatus::Running => "stalled",
        OperationStatus::Stopped => "stopped",
        // `Ended`, and what a later version adds.
        _ => "ended",
    }
}

pub(crate) async fn list(State(board): State<Board>, frame: Frame) -> Response {
    let reading = board.operations.look().await;
    let frame = frame
        .page("/operations", "Operations")
        .live()
        .figures(&reading);
    let all = reading.value.as_deref().map_or(&[][..], Vec::as_slice);

    render(&ListPage {
        is_known: reading.value.is_some(),
        rows: all
            .iter()
            .map(|one| OperationView::of(&frame, &board.driver, one))
            .collect(),
        frame,
    })
}

pub(crate) async fn show(
    State(board): State<Board>,
    frame: Frame,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    let reading = board.operations.look().await;
    let mut frame = frame.page("/operations", "Operation").figures(&reading);
    let found = reading
        .value
        .as_deref()
        .and_then(|all| all.iter().find(|one| one.id == id));
    // Older ones are not in the list.
    let operation = match found {
        Some(operation) => operation.clone(),
        None => board.ask(board.ezq.operations().get(&id)).await?,
    };

    let one = OperationView::of(&frame, &board.driver, &operation);
    frame.title.clone_from(&one.title);
    let page = OnePage {
        frame: match operation.ended_at {
            Some(_) => frame,
            None => frame.live(),
        },
        one,
    };
    Ok(render(&page))
}

pub(crate) async fn act(
    State(board): State<Board>,
    Operator { by }: Operator,
    prefix: Prefix,
    Path((id, action)): Path<(String, String)>,
) -> Result<Response, Failure> {
    let operations = board.ezq.operations();
    let done = match action.as_str() {
        "stop" => {
            board.ask(operations.stop(&id).by(by)).await?;
            Done::Stopped
        }
        "resume" => {
            // A mistyped id is told at once, and not in a task.
            board.ask(operations.get(&id)).await?;
            board.drive(id.clone(), by);
            Done::GoesOn
        }
        _ => return Err(Failure::missing("There is no such action.")),
    };
    board.operations.change();
    board.audit.change();
    Ok(prefix.redirect(&done.at(&path(&id), 1)))
}
