//! The overview: what needs attention first, then queues, failing handlers and consumers.

use std::cmp::Reverse;

use askama::Template;
use axum::extract::State;
use axum::response::Response;
use chrono::Utc;
use ezq::admin::{ConsumerInfo, QueueSummary};

use crate::board::Board;
use crate::frame::{Frame, render};
use crate::sample::{FailingHandler, Queue, Sample};
use crate::screens::consumers::ConsumerRow;
use crate::screens::queues::{OLD, QueueRow, UnreadRow};
use crate::text;

#[derive(Template)]
#[template(path = "overview.html")]
struct Page {
    frame: Frame,
    is_known: bool,
    attention: Vec<Attention>,
    queues: Vec<QueueRow>,
    unread: Vec<UnreadRow>,
    failing: Vec<FailingRow>,
    consumers: Vec<ConsumerRow>,
}

/// Something that an operator should look at.
struct Attention {
    level: Level,
    text: String,
    detail: String,
    href: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Note,
    Warning,
    Error,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

pub(crate) struct FailingRow {
    pub(crate) handler: String,
    pub(crate) queue: String,
    pub(crate) href: String,
    pub(crate) events: String,
    pub(crate) error: String,
    pub(crate) ago: String,
}

impl FailingRow {
    pub(crate) fn of(frame: &Frame, failing: &FailingHandler) -> Self {
        let queue = failing.queue.as_str();

        let path = format!("/queues/{}/messages", text::encoded(queue));
        let filter = [("state", "retrying"), ("handler", failing.handler.as_str())];
        let more = if failing.is_capped { "+" } else { "" };

        Self {
            handler: failing.handler.to_string(),
            queue: queue.to_owned(),
            href: text::address(&frame.to(&path), &filter),
            events: format!("{}{more}", text::number(failing.events)),
            error: text::shortened(&failing.error, 160),
            ago: text::relative(failing.at, Utc::now()),
        }
    }
}

pub(crate) async fn show(State(board): State<Board>, frame: Frame) -> Response {
    let reading = board.sample.look().await;
    let frame = frame.page("/", "Overview").live().sampled(&reading);
    let sample = reading.value.as_deref();
    let failing = sample.map_or(&[][..], |sample| &sample.failing);
    let consumers = sample.map_or(&[][..], |sample| &sample.consumers);

    render(&Page {
        is_known: sample.is_some(),
        attention: sample.map_or_else(Vec::new, |sample| attention(&frame, sample)),
        queues: QueueRow::all(&frame, sample),
        unread: UnreadRow::all(&frame, sample),
        failing: failing
            .iter()
            .map(|one| FailingRow::of(&frame, one))
            .collect(),
        consumers: consumers
            .iter()
            .map(|one| ConsumerRow::of(&frame, one))
            .collect(),
        frame,
    })
}

/// What needs attention, the worst first.
fn attention(frame: &Frame, sample: &Sample) -> Vec<Attention> {
    let mut all = Vec::new();
    for queue in UnreadRow::all(frame, Some(sample)) {
        all.push(Attention {
            level: Level::Error,
            text: format!("{} cannot be read", queue.name),
            detail: queue.why,
            href: queue.href,
        });
    }
    for queue in &sample.queues {
        of_queue(frame, queue, &mut all);
    }
    for consumer in sample.consumers.iter().filter(|one| one.is_gone) {
        all.push(gone(frame, consumer));
    }
    // Stable, so that findings of one level stay in the order of queues.
    all.sort_by_key(|one| Reverse(one.level));
    all
}

fn of_queue(frame: &Frame, queue: &Queue, all: &mut Vec<Attention>) {
    let summary = &queue.summary;
    let name = &summary.queue;
    let path = frame.to(&format!("/queues/{}", text::encoded(name.as_str())));
    // Four kinds of findings share the fields.
    let mut add = |level, text: String, detail: String, href: &str| {
        all.push(Attention {
            level,
            text,
            detail,
            href: href.to_owned(),
        });
    };

    // Without a consumer it is an error, however short the wait is.
    let waits = summary.oldest_claimable.unwrap_or_default();
    if !summary.ready.is_zero() && queue.consumers == 0 && !summary.is_paused() {
        let detail = format!(
            "{} ready, the oldest for {}",
            summary.ready,
            text::duration(waits)
        );
        let text = format!("Nobody consumes {name}");
        add(Level::Error, text, detail, &path);
    } else if waits >= OLD {
        let text = format!("{name} is behind by {}", text::duration(waits));
        let detail = format!("{} ready", summary.ready);
        add(Level::Warning, text, detail, &path);
    }

    // Growing is worse than having some: somebody has to act now.
    let dead = format!("{path}/dead");
    if queue.new_dead > 0 {
        let text = format!("Dead letters of {name} grow");
        let detail = format!(
            "{} more while you looked, {} in all",
            text::number(queue.new_dead),
            summary.dead
        );
        add(Level::Error, text, detail, &dead);
    } else if !summary.dead.is_zero() {
        let text = format!("{name} has dead letters");
        add(Level::Warning, text, summary.dead.to_string(), &dead);
    }

    if let Some(text) = paused(summary) {
        let pause = summary.pauses.first();
        let detail = pause.map_or_else(String::new, |pause| {
            let reason = pause.reason.as_deref().unwrap_or("no reason given");
            let ago = text::relative(pause.since, summary.at);
            format!("by {}, {ago}: {}", pause.by, text::shortened(reason, 80))
        });
        add(Level::Note, text, detail, &path);
    }
}

fn paused(summary: &QueueSummary) -> Option<String> {
    let handlers = summary.pauses.iter();
    let handlers: Vec<&str> = handlers
        .filter_map(|pause| pause.target.handler.as_ref())
        .map(|handler| handler.as_str())
        .collect();
    match (summary.is_paused(), handlers.is_empty()) {
        (true, _) => Some(format!("{} is paused", summary.queue)),
        (false, false) => Some(format!(
            "{} of {} paused",
            handlers.join(", "),
            summary.queue
        )),
        (false, true) => None,
    }
}

fn gone(frame: &Frame, info: &ConsumerInfo) -> Attention {
    let consumer = &info.consumer;
    Attention {
        level: Level::Warning,
        text: format!("A consumer of {} is gone", consumer.queue),
        detail: format!(
            "{} on {}, process {}, last seen {} ago",
            consumer.application,
            consumer.host,
            consumer.process,
            text::duration(info.seen_ago)
        ),
        href: frame.to("/consumers"),
    }
}
