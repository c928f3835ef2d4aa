//! Consumers: who runs where.

use askama::Template;
use axum::extract::State;
use axum::response::Response;
use ezq::admin::ConsumerInfo;

use crate::board::Board;
use crate::frame::{Frame, render};
use crate::text;

#[derive(Template)]
#[template(path = "consumers.html")]
struct Page {
    frame: Frame,
    is_known: bool,
    consumers: Vec<ConsumerRow>,
}

/// A row of the table.
pub(crate) struct ConsumerRow {
    pub(crate) application: String,
    pub(crate) version: String,
    pub(crate) host: String,
    pub(crate) process: u32,
    pub(crate) queue: String,
    pub(crate) href: String,
    pub(crate) handlers: String,
    pub(crate) in_flight: String,
    pub(crate) handled: String,
    pub(crate) retried: String,
    pub(crate) dead: String,
    pub(crate) seen: String,
    pub(crate) uptime: String,
    pub(crate) state: &'static str,
}

impl ConsumerRow {
    pub(crate) fn of(frame: &Frame, info: &ConsumerInfo) -> Self {
        let consumer = &info.consumer;
        let handlers: Vec<&str> = consumer.handlers.iter().map(|name| name.as_str()).collect();
        let queue = consumer.queue.as_str();

        Self {
            application: consumer.application.clone(),
            version: consumer.version.clone().unwrap_or_default(),
            host: consumer.host.clone(),
            process: consumer.process,
            queue: queue.to_owned(),
            href: frame.to(&format!("/queues/{}", text::encoded(queue))),
            handlers: handlers.join(", "),
            in_flight: format!("{} of {}", consumer.in_flight, consumer.concurrency),
            handled: text::number(consumer.handled),
            retried: text::number(consumer.retried),
            dead: text::number(consumer.dead_lettered),
            seen: format!("{} ago", text::duration(info.seen_ago)),
            uptime: text::duration(consumer.uptime),
            state: state(info),
        }
    }
}

fn state(info: &ConsumerInfo) -> &'static str {
    let consumer = &info.consumer;
    match (info.is_gone, consumer.is_stopping, consumer.is_paused) {
        (true, _, _) => "gone",
        (_, true, _) => "stopping",
        (_, _, true) => "paused",
        _ => "running",
    }
}

pub(crate) async fn show(State(board): State<Board>, frame: Frame) -> Response {
    let reading = board.sample.look().await;
    let frame = frame
        .page("/consumers", "Consumers")
        .live()
        .sampled(&reading);
    let consumers = reading.value.as_deref();
    let consumers = consumers.map_or(&[][..], |sample| &sample.consumers);

    render(&Page {
        is_known: reading.value.is_some(),
        consumers: consumers
            .iter()
            .map(|one| ConsumerRow::of(&frame, one))
            .collect(),
        frame,
    })
}
