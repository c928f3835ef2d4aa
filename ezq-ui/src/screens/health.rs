//! Health: whether the engines answer, the consumers of this very process, and what an examination of the
//! database has found.

use askama::Template;
use axum::extract::State;
use axum::response::Response;
use chrono::Utc;
use ezq::admin::{ConsumerHealth, EngineHealth, Finding, Severity};

use crate::board::Board;
use crate::failure::Failure;
use crate::frame::{Frame, Prefix, render};
use crate::notes::Done;
use crate::rights::Operator;
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
    /// When the database was examined; empty if it was not yet.
    examined: String,
    not_examined: String,
    findings: Vec<FindingRow>,
    well: Vec<FindingRow>,
}

/// A text in parts, of which some are names.
type Marked = Vec<(bool, String)>;

/// What a check of the examination found.
struct FindingRow {
    severity: String,
    check: &'static str,
    subject: Marked,
    evidence: Marked,
    advice: Marked,
    sql: String,
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

impl FindingRow {
    fn of(finding: &Finding) -> Self {
        let marked = |found: &Option<String>| found.as_deref().map_or_else(Vec::new, text::marked);
        Self {
            severity: finding.severity.to_string(),
            check: finding.check,
            subject: marked(&finding.subject),
            evidence: text::marked(&finding.evidence),
            advice: marked(&finding.advice),
            sql: finding.remedy.clone().unwrap_or_default(),
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
    // Not waited for: it looks into every queue. The next refresh shows it.
    let examination = board.examination.glance();
    let found = examination.value.as_deref().map_or(&[][..], Vec::as_slice);
    let rows = |is_well: bool| {
        let chosen = found.iter();
        let chosen = chosen.filter(move |one| (one.severity == Severity::Ok) == is_well);
        chosen.map(FindingRow::of).collect()
    };
    let consumers = health.map_or(&[][..], |health| &health.consumers);

    render(&Page {
        is_known: health.is_some(),
        is_ready: health.is_some_and(ezq::admin::Health::is_ready),
        is_live: health.is_some_and(ezq::admin::Health::is_live),
        engines: engines.iter().map(EngineRow::of).collect(),
        examined: examination
            .at
            .map_or_else(String::new, |at| text::relative(at, Utc::now())),
        not_examined: examination.failure.unwrap_or_default(),
        findings: rows(false),
        well: rows(true),
        consumers: consumers.iter().map(ConsumerRow::of).collect(),
        frame,
    })
}

/// Examines the database again.
pub(crate) async fn examine(
    State(board): State<Board>,
    _: Operator,
    prefix: Prefix,
) -> Result<Response, Failure> {
    board.examination.change();
    Ok(prefix.redirect(&Done::Examining.at("/health", 1)))
}
