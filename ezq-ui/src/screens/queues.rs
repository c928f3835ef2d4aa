//! All queues in a table; the overview shows it too.

use std::time::Duration;

use askama::Template;
use axum::extract::State;
use axum::response::Response;
use chrono::Utc;
use ezq::QueueName;

use crate::board::Board;
use crate::failure::Failure;
use crate::frame::{Frame, render};
use crate::sample::{Queue, Sample};
use crate::spark;
use crate::text;

/// From this age on the oldest event of a queue is marked.
pub(crate) const OLD: Duration = Duration::from_secs(300);

#[derive(Template)]
#[template(path = "queues.html")]
struct Page {
    frame: Frame,
    is_known: bool,
    queues: Vec<QueueRow>,
    unread: Vec<UnreadRow>,
}

/// A row for a queue that could not be read.
pub(crate) struct UnreadRow {
    pub(crate) name: String,
    pub(crate) href: String,
    pub(crate) why: String,
}

impl UnreadRow {
    pub(crate) fn all(frame: &Frame, sample: Option<&Sample>) -> Vec<Self> {
        let unread = sample.map_or(&[][..], |sample| &sample.unread);
        let rows = unread.iter().map(|one| Self {
            name: one.queue.to_string(),
            href: frame.to(&format!("/queues/{}", text::encoded(one.queue.as_str()))),
            why: one.why.clone(),
        });
        rows.collect()
    }
}

/// A row of the table.
pub(crate) struct QueueRow {
    pub(crate) name: String,
    pub(crate) href: String,
    pub(crate) is_paused: bool,
    pub(crate) paused_handlers: usize,
    pub(crate) ready: String,
    pub(crate) leased: String,
    pub(crate) retrying: String,
    pub(crate) scheduled: String,
    pub(crate) dead: String,
    pub(crate) has_dead: bool,
    pub(crate) oldest: String,
    pub(crate) is_old: bool,
    pub(crate) stored: String,
    pub(crate) removed: String,
    pub(crate) consumers: usize,
    pub(crate) spark: String,
}

impl QueueRow {
    pub(crate) fn of(frame: &Frame, queue: &Queue) -> Self {
        let summary = &queue.summary;
        let name = summary.queue.as_str();
        let rates = queue.rates;
        let handlers = summary.pauses.iter();
        let oldest = summary.oldest_claimable;

        Self {
            name: name.to_owned(),
            href: frame.to(&format!("/queues/{}", text::encoded(name))),
            is_paused: summary.is_paused(),
            paused_handlers: handlers
                .filter(|pause| pause.target.handler.is_some())
                .count(),
            ready: summary.ready.to_string(),
            leased: summary.leased.to_string(),
            retrying: summary.retrying.to_string(),
            scheduled: summary.scheduled.to_string(),
            dead: summary.dead.to_string(),
            has_dead: !summary.dead.is_zero(),
            oldest: oldest.map_or_else(|| "–".to_owned(), text::duration),
            is_old: oldest.is_some_and(|age| age >= OLD),
            stored: rates.map_or_else(|| "–".to_owned(), |rates| text::rate(rates.stored)),
            removed: rates.map_or_else(|| "–".to_owned(), |rates| text::rate(rates.removed)),
            consumers: queue.consumers,
            spark: spark::svg(
                &queue.trail,
                summary.at.max(Utc::now() - crate::sample::TRAIL),
            ),
        }
    }

    pub(crate) fn all(frame: &Frame, sample: Option<&Sample>) -> Vec<Self> {
        let queues = sample.map_or(&[][..], |sample| &sample.queues);
        queues.iter().map(|queue| Self::of(frame, queue)).collect()
    }
}

pub(crate) async fn show(State(board): State<Board>, frame: Frame) -> Response {
    let reading = board.sample.look().await;
    let frame = frame.page("/queues", "Queues").live().sampled(&reading);
    let queues = QueueRow::all(&frame, reading.value.as_deref());
    let is_known = reading.value.is_some();
    let unread = UnreadRow::all(&frame, reading.value.as_deref());

    render(&Page {
        unread,
        frame,
        is_known,
        queues,
    })
}

/// A queue that a page names; or the failure that names the queue that was probably meant.
pub(crate) async fn find(board: &Board, name: &str) -> Result<QueueName, Failure> {
    let queue = QueueName::new(name)?;
    let reading = board.sample.look().await;
    let Some(sample) = reading.value else {
        // Nobody knows whether there is such a queue, so the page itself will tell.
        return Ok(queue);
    };
    if sample.queue(&queue).is_some() || sample.unread(&queue).is_some() {
        return Ok(queue);
    }

    // It may have been created since the sample.
    match board.ask(board.ezq.queues().get(&queue)).await {
        Ok(_) => Ok(queue),
        Err(failure) if failure.status != axum::http::StatusCode::NOT_FOUND => Err(failure),
        Err(_) => Err(missing(&queue, &sample)),
    }
}

/// The names of the other queues, to which events of one can move.
pub(crate) async fn others(board: &Board, queue: &QueueName) -> Vec<String> {
    let reading = board.sample.look().await;
    let queues = reading
        .value
        .as_deref()
        .map_or(&[][..], |sample| &sample.queues);
    let others = queues.iter().filter(|other| other.summary.queue != *queue);
    others
        .map(|other| other.summary.queue.to_string())
        .collect()
}

fn missing(queue: &QueueName, sample: &Sample) -> Failure {
    let known = sample.queues.iter().map(|one| one.summary.queue.as_str());
    let nearest = text::nearest(queue.as_str(), known);
    let mut failure = Failure::missing(format!("There is no queue {queue}."));
    failure.suggestion = nearest.map(|name| {
        let path = format!("/queues/{}", text::encoded(name));
        (name.to_owned(), path)
    });
    failure
}
