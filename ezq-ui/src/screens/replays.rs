//! Replays: archived events that were published again, and how far each is.

use askama::Template;
use axum::extract::State;
use axum::response::Response;
use chrono::Utc;
use ezq::pgmq::ReplayProgress;

use crate::board::Board;
use crate::frame::{Frame, render};
use crate::text;

#[derive(Template)]
#[template(path = "replays.html")]
struct Page {
    frame: Frame,
    is_known: bool,
    rows: Vec<ReplayRow>,
}

struct ReplayRow {
    name: String,
    queue: String,
    target: String,
    count: String,
    began: String,
    moved: String,
    is_finished: bool,
}

impl ReplayRow {
    fn of(replay: &ReplayProgress) -> Self {
        Self {
            name: replay.name.clone(),
            queue: replay.queue.to_string(),
            target: replay.target.to_string(),
            count: text::number(replay.handed_over),
            began: text::time(replay.began_at),
            moved: text::relative(replay.moved_at, Utc::now()),
            is_finished: replay.is_finished,
        }
    }
}

pub(crate) async fn show(State(board): State<Board>, frame: Frame) -> Response {
    let reading = board.replays.look().await;
    let frame = frame.page("/replays", "Replays").live().figures(&reading);
    let all = reading.value.as_deref().map_or(&[][..], Vec::as_slice);

    render(&Page {
        is_known: reading.value.is_some(),
        rows: all.iter().map(ReplayRow::of).collect(),
        frame,
    })
}
