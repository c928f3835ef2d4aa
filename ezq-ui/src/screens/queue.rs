//! One queue: its figures, its handlers, its consumers, the keys that wait; and its pauses.

use std::collections::BTreeSet;

use askama::Template;
use axum::Form;
use axum::extract::{Path, State};
use axum::response::Response;
use ezq::QueueName;
use ezq::admin::BlockedKey;
use serde::Deserialize;

use crate::board::Board;
use crate::failure::Failure;
use crate::frame::{Frame, Prefix, render};
use crate::notes::Done;
use crate::rights::Operator;
use crate::sample::{Queue, Sample};
use crate::screens::consumers::ConsumerRow;
use crate::screens::overview::FailingRow;
use crate::screens::queues::{self, QueueRow};
use crate::text;

#[derive(Template)]
#[template(path = "queue.html")]
struct Page {
    frame: Frame,
    name: String,
    path: String,
    row: Option<QueueRow>,
    /// Why its figures could not be read; empty if they could.
    unreadable: String,
    pause: Option<PauseView>,
    handlers: Vec<HandlerRow>,
    failing: Vec<FailingRow>,
    consumers: Vec<ConsumerRow>,
    keys: Vec<KeyRow>,
}

struct PauseView {
    by: String,
    ago: String,
    reason: String,
}

struct HandlerRow {
    name: String,
    pause: Option<PauseView>,
}

struct KeyRow {
    key: String,
    blocker: String,
    waiting: String,
    until: String,
    href: String,
}

pub(crate) async fn show(
    State(board): State<Board>,
    frame: Frame,
    Path(name): Path<String>,
) -> Result<Response, Failure> {
    let queue = queues::find(&board, &name).await?;
    let reading = board.sample.look().await;
    let frame = frame
        .page("/queues", queue.as_str())
        .live()
        .sampled(&reading);
    let path = frame.to(&format!("/queues/{}", text::encoded(queue.as_str())));
    let sample = reading.value.as_deref();
    let found = sample.and_then(|sample| sample.queue(&queue));

    // An engine without ordering has no such keys, and a slow answer is no reason to show nothing.
    let keys = match found.is_some_and(|found| !found.summary.ready.is_zero()) {
        true => board.keys.of(&queue).look().await.value,
        false => None,
    };
    let keys = keys.as_deref().map_or(&[][..], Vec::as_slice);
    let page = Page {
        name: queue.to_string(),
        unreadable: sample
            .and_then(|sample| sample.unread(&queue))
            .map_or_else(String::new, |unread| unread.why.clone()),
        row: found.map(|found| QueueRow::of(&frame, found)),
        pause: found.and_then(|found| pause_of(found, None)),
        handlers: found.map_or_else(Vec::new, |found| handlers(&board, sample, found)),
        failing: sample.map_or_else(Vec::new, |sample| failing(&frame, sample, &queue)),
        consumers: sample.map_or_else(Vec::new, |sample| consumers(&frame, sample, &queue)),
        keys: keys.iter().map(|key| KeyRow::of(&path, key)).collect(),
        path,
        frame,
    };

    Ok(render(&page))
}

fn failing(frame: &Frame, sample: &Sample, queue: &QueueName) -> Vec<FailingRow> {
    let own = sample.failing.iter().filter(|one| one.queue == *queue);
    own.map(|one| FailingRow::of(frame, one)).collect()
}

fn consumers(frame: &Frame, sample: &Sample, queue: &QueueName) -> Vec<ConsumerRow> {
    let own = sample
        .consumers
        .iter()
        .filter(|one| one.consumer.queue == *queue);
    own.map(|one| ConsumerRow::of(frame, one)).collect()
}

fn pause_of(queue: &Queue, handler: Option<&str>) -> Option<PauseView> {
    let pause = queue.summary.pauses.iter().find(|pause| {
        let paused = pause.target.handler.as_ref().map(|name| name.as_str());
        paused == handler
    })?;
    Some(PauseView {
        by: pause.by.clone(),
        ago: text::relative(pause.since, queue.summary.at),
        reason: pause.reason.clone().unwrap_or_default(),
    })
}

/// The handlers that consumers of the queue have told of, and those that are paused.
fn handlers(board: &Board, sample: Option<&Sample>, queue: &Queue) -> Vec<HandlerRow> {
    // Of all applications, by what their consumers told.
    let name = &queue.summary.queue;
    let consumers = sample.map_or(&[][..], |sample| &sample.consumers);
    let mut names: BTreeSet<String> = consumers
        .iter()
        .filter(|one| one.consumer.queue == *name)
        .flat_map(|one| one.consumer.handlers.iter())
        .map(ToString::to_string)
        .collect();
    let pauses = queue.summary.pauses.iter();
    names.extend(pauses.filter_map(|pause| Some(pause.target.handler.as_ref()?.to_string())));
    // Without a consumer the handlers of this application are known all the same.
    if names.is_empty() && board.ezq.consumed_queues().contains(name) {
        names.extend(
            board
                .ezq
                .handlers()
                .map(|handler| handler.name().to_string()),
        );
    }

    let rows = names.into_iter().map(|name| HandlerRow {
        pause: pause_of(queue, Some(&name)),
        name,
    });
    rows.collect()
}

impl KeyRow {
    fn of(path: &str, key: &BlockedKey) -> Self {
        let messages = format!("{path}/messages");

        Self {
            key: key.key.clone(),
            blocker: format!("{:?}", key.blocker).to_lowercase(),
            waiting: text::number(key.waiting),
            until: text::time(key.until),
            href: text::address(&messages, &[("state", "ready"), ("key", &key.key)]),
        }
    }
}

/// What a form says of a pause.
#[derive(Debug, Deserialize)]
pub(crate) struct PauseForm {
    #[serde(default)]
    handler: String,
    #[serde(default)]
    reason: String,
}

pub(crate) async fn pause(
    State(board): State<Board>,
    Operator { by }: Operator,
    prefix: Prefix,
    Path(name): Path<String>,
    Form(form): Form<PauseForm>,
) -> Result<Response, Failure> {
    let queue = queues::find(&board, &name).await?;
    let target = board.ezq.queues();
    let mut request = match form.handler.as_str() {
        "" => target.pause(&queue),
        handler => target.pause_handler(&queue, handler),
    };
    request = request.by(by);
    if !form.reason.trim().is_empty() {
        request = request.reason(form.reason.trim());
    }

    // One that was paused already keeps who paused it, and why.
    let is_new = board.ask(request).await?;
    board.change();
    let done = if is_new {
        Done::Paused
    } else {
        Done::WasPaused
    };
    Ok(back(&prefix, &queue, done))
}

pub(crate) async fn resume(
    State(board): State<Board>,
    Operator { by }: Operator,
    prefix: Prefix,
    Path(name): Path<String>,
    Form(form): Form<PauseForm>,
) -> Result<Response, Failure> {
    let queue = queues::find(&board, &name).await?;
    let queues = board.ezq.queues();
    let was_paused = match form.handler.as_str() {
        "" => board.ask(queues.resume(&queue).by(by)).await?,
        handler => {
            board
                .ask(queues.resume_handler(&queue, handler).by(by))
                .await?
        }
    };
    board.change();
    let done = match was_paused {
        true => Done::Resumed,
        false => Done::WasNotPaused,
    };
    Ok(back(&prefix, &queue, done))
}

fn back(prefix: &Prefix, queue: &QueueName, done: Done) -> Response {
    let path = format!("/queues/{}", text::encoded(queue.as_str()));
    prefix.redirect(&done.at(&path, 1))
}
