//! Captures: tables whose changes are events.

use askama::Template;
use axum::extract::State;
use axum::response::Response;
use ezq::pgmq::CapturedTable;

use crate::board::Board;
use crate::frame::{Frame, render};

#[derive(Template)]
#[template(path = "captures.html")]
struct Page {
    frame: Frame,
    is_known: bool,
    rows: Vec<CaptureRow>,
}

struct CaptureRow {
    table: String,
    events: String,
    queue: String,
    columns: String,
    /// What is wrong with it; empty if nothing is.
    problems: String,
}

impl CaptureRow {
    fn of(table: &CapturedTable) -> Self {
        let mut problems = Vec::new();
        if !table.is_enabled {
            problems.push("disabled".to_owned());
        }
        if !table.uncovered.is_empty() {
            problems.push(format!("not covered: {}", table.uncovered.join(", ")));
        }
        if let Some(upgrade) = &table.upgrade {
            problems.push(format!("to be upgraded: {upgrade}"));
        }
        let queue = table.queue.as_ref();
        let columns = table.columns.as_ref();

        Self {
            table: format!("{}.{}", table.schema, table.table),
            events: table.name.clone(),
            queue: queue.map_or_else(|| "broadcast".to_owned(), ToString::to_string),
            columns: columns.map_or_else(|| "all".to_owned(), |columns| columns.join(", ")),
            problems: problems.join("; "),
        }
    }
}

pub(crate) async fn show(State(board): State<Board>, frame: Frame) -> Response {
    let reading = board.captures.look().await;
    let frame = frame.page("/captures", "Captures").live().figures(&reading);
    let all = reading.value.as_deref().map_or(&[][..], Vec::as_slice);

    render(&Page {
        is_known: reading.value.is_some(),
        rows: all.iter().map(CaptureRow::of).collect(),
        frame,
    })
}
