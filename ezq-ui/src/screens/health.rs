//! Health: whether the engines answer, and the consumers of this very process.

use askama::Template;
use axum::extract::State;
use axum::response::Response;
use ezq::admin::{ConsumerHealth, EngineHealth};

use crate::board::Board;
use crate::frame::{Frame, render};
use crate::text;

#[derive(Template)]
#[template(path = "health.html")]
struct Page {
    frame: Frame,
    is_known: bool,
    is_ready: bool,
    is_live: bool,
    engines: Vec<EngineRow>,
    consumers: Vec<ConsumerRow>,
}

struct EngineRow {
    name: String,
    kind: &'static str,
    answered: String,
    error: String,
}

struct ConsumerRow {
    queue: String,
    state: String,
    lag: String,
    restarts: u32,
    error: String,
}

impl EngineRow {
    fn of(engine: &EngineHealth) -> Self {
        let answered = engine.answered_in;

        Self {
            name: engine.name.clone().unwrap_or_else(|| "default".to_owned()),
            kind: engine.kind,
            answered: answered.map_or_else(
                || "no answer".to_owned(),
                |time| format!("in {} ms", time.as_millis()),
            ),
            error: engine.error.clone().unwrap_or_default(),
        }
    }
}

impl ConsumerRow {
    fn of(consumer: &ConsumerHealth) -> Self {
        let queue = consumer.queue.as_ref();

        Self {
            queue: queue.map_or_else(|| "–".to_owned(), ToString::to_string),
            state: match consumer.is_paused {
                true => format!("{}, paused", consumer.state),
                false => consumer.state.to_string(),
            },
            lag: consumer.lag.map_or_else(|| "–".to_owned(), text::duration),
            restarts: consumer.restarts,
            error: consumer.error.clone().unwrap_or_default(),
        }
    }
}

pub(crate) async fn show(State(board): State<Board>, frame: Frame) -> Response {
    let reading = board.health.look().await;
    let frame = frame.page("/health", "Health").live().figures(&reading);
    let health = reading.value.as_deref();
    let engines = health.map_or(&[][..], |health| &health.engines);
    let consumers = health.map_or(&[][..], |health| &health.consumers);

    render(&Page {
        is_known: health.is_some(),
        is_ready: health.is_some_and(ezq::admin::Health::is_ready),
        is_live: health.is_some_and(ezq::admin::Health::is_live),
        engines: engines.iter().map(EngineRow::of).collect(),
        consumers: consumers.iter().map(ConsumerRow::of).collect(),
        frame,
    })
}
