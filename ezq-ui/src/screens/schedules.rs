//! Schedules: when each ticks, in words too; paused, resumed, fired by hand.

use askama::Template;
use axum::extract::{Path, State};
use axum::response::Response;
use chrono::Utc;
use croner::parser::{CronParser, Seconds, Year};
use ezq::admin::ScheduleStatus;

use crate::board::Board;
use crate::failure::Failure;
use crate::frame::{Frame, Prefix, render};
use crate::notes::Done;
use crate::rights::Operator;
use crate::text;

#[derive(Template)]
#[template(path = "schedules.html")]
struct Page {
    frame: Frame,
    is_known: bool,
    schedules: Vec<ScheduleRow>,
}

struct ScheduleRow {
    name: String,
    path: String,
    application: String,
    definition: String,
    words: String,
    next: String,
    next_in: String,
    fired: String,
    fired_ago: String,
    is_paused: bool,
    /// Whether it can be fired by hand from here.
    can_run: bool,
}

impl ScheduleRow {
    fn of(frame: &Frame, schedule: &ScheduleStatus) -> Self {
        let now = Utc::now();
        let ago = |time| text::relative(time, now);

        Self {
            name: schedule.name.clone(),
            path: frame.to(&format!("/schedules/{}", text::encoded(&schedule.name))),
            application: schedule.application.clone(),
            words: words(&schedule.definition),
            definition: schedule.definition.clone(),
            next: text::time_if_any(schedule.next_at),
            next_in: schedule.next_at.map_or_else(String::new, ago),
            fired: text::time_if_any(schedule.fired_at),
            fired_ago: schedule.fired_at.map_or_else(String::new, ago),
            is_paused: schedule.is_paused,
            can_run: schedule.can_run,
        }
    }
}

/// When a schedule ticks, in words; empty if the definition is of another form.
fn words(definition: &str) -> String {
    if let Some(rest) = definition.strip_prefix("every ") {
        let length = rest.split(',').next().unwrap_or_default();
        return every(length);
    }

    // `cron 0 9 * * MON (Europe/Berlin), missed: …`
    let cron = definition.strip_prefix("cron ");
    let Some((expression, rest)) = cron.and_then(|cron| cron.split_once(" (")) else {
        return String::new();
    };
    let zone = rest.split(')').next().unwrap_or_default();
    // As ezq itself reads them.
    let parser = CronParser::builder()
        .seconds(Seconds::Optional)
        .year(Year::Disallowed)
        .build();
    match parser.parse(expression) {
        Ok(cron) => format!("{} ({zone})", cron.describe().trim_end_matches('.')),
        Err(_) => String::new(),
    }
}

/// `Every 1h 30m`, of `5400s`.
fn every(length: &str) -> String {
    let seconds = length.strip_suffix('s').and_then(|text| text.parse().ok());
    match seconds {
        Some(seconds) => {
            let length = std::time::Duration::from_secs(seconds);
            format!("Every {}", text::duration(length))
        }
        // Milliseconds and fractions are short already.
        None => format!("Every {length}"),
    }
}

pub(crate) async fn show(State(board): State<Board>, frame: Frame) -> Response {
    let reading = board.schedules.look().await;
    let frame = frame
        .page("/schedules", "Schedules")
        .live()
        .figures(&reading);
    let schedules = reading.value.as_deref().map_or(&[][..], Vec::as_slice);

    render(&Page {
        is_known: reading.value.is_some(),
        schedules: schedules
            .iter()
            .map(|one| ScheduleRow::of(&frame, one))
            .collect(),
        frame,
    })
}

pub(crate) async fn act(
    State(board): State<Board>,
    Operator { by }: Operator,
    prefix: Prefix,
    Path((name, action)): Path<(String, String)>,
) -> Result<Response, Failure> {
    let schedules = board.ezq.schedules()?;
    let done = match action.as_str() {
        "pause" => {
            board.ask(schedules.pause(&name).by(by)).await?;
            Done::Paused
        }
        "resume" => {
            board.ask(schedules.resume(&name).by(by)).await?;
            Done::Resumed
        }
        "run" => {
            board.ask(schedules.run_now(&name).by(by)).await?;
            Done::Fired
        }
        _ => return Err(Failure::missing("There is no such action.")),
    };
    // The page that follows must show it.
    board.schedules.change();
    board.audit.change();
    Ok(prefix.redirect(&done.at("/schedules", 1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_definition_is_said_in_words() {
        let monday = "cron 0 9 * * MON (Europe/Berlin), missed: fire once, `sweep` to ezq";
        let said = words(monday);
        assert!(
            said.contains("Monday") && said.ends_with("(Europe/Berlin)"),
            "{said}"
        );
        assert_eq!(
            words("every 5400s, missed: skip, `sweep` to ezq"),
            "Every 1h 30m"
        );
        assert_eq!(
            words("every 1.5s, missed: skip, `sweep` to ezq"),
            "Every 1.5s"
        );
        assert_eq!(words("whenever"), "");
    }
}
