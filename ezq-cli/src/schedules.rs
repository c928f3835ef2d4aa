//! `ezq schedule`: the schedules of every application.

use chrono::{DateTime, Utc};
use clap::Subcommand;
use ezq::Ezq;
use ezq::admin::ScheduleStatus;
use serde::Serialize;
use serde_json::json;

use crate::failure::Failure;
use crate::names;
use crate::output::Row;
use crate::session::{Access, Session};
use crate::signed::{Signed, signed};
use crate::text;

#[derive(Debug, Subcommand)]
pub(crate) enum ScheduleVerb {
    /// List all schedules
    List,

    /// Publish what a schedule publishes, once and now, also while it is paused. Its ticks stay as they are
    Run {
        /// Its name
        name: String,
        #[command(flatten)]
        signed: Signed,
    },

    /// Pause a schedule in every process: its ticks pass unused
    Pause {
        /// Its name
        name: String,
        #[command(flatten)]
        signed: Signed,
    },

    /// Resume a schedule, from its next tick on
    Resume {
        /// Its name
        name: String,
        #[command(flatten)]
        signed: Signed,
    },
}

pub(crate) async fn run(session: &Session, verb: ScheduleVerb) -> Result<(), Failure> {
    match verb {
        ScheduleVerb::List => list(session).await,
        ScheduleVerb::Run { name, signed } => run_now(session, &name, &signed).await,
        ScheduleVerb::Pause { name, signed } => set_paused(session, &name, true, &signed).await,
        ScheduleVerb::Resume { name, signed } => set_paused(session, &name, false, &signed).await,
    }
}

async fn list(session: &Session) -> Result<(), Failure> {
    let ezq = session.connect(Access::Read).await?;
    let found = all(&ezq).await?;
    ezq.close().await;

    let rows: Vec<ScheduleRow<'_>> = found.iter().map(ScheduleRow::of).collect();
    session.output.list(&rows, "no schedules")
}

async fn all(ezq: &Ezq) -> Result<Vec<ScheduleStatus>, Failure> {
    Ok(ezq.schedules()?.list().await?)
}

/// A schedule that exists. It is looked up first: the library knows no name that is nearly right.
async fn find(ezq: &Ezq, name: &str) -> Result<ScheduleStatus, Failure> {
    let mut found = all(ezq).await?;
    if let Some(at) = found.iter().position(|schedule| schedule.name == name) {
        return Ok(found.swap_remove(at));
    }
    let known = found.iter().map(|schedule| schedule.name.as_str());
    let text = names::missing("schedule", name, known, "there is no");
    Err(Failure::not_found(text))
}

async fn run_now(session: &Session, name: &str, signed: &Signed) -> Result<(), Failure> {
    let ezq = session.connect(Access::Change).await?;
    let schedule = find(&ezq, name).await?;
    if session.global.dry_run {
        ezq.close().await;
        if !schedule.can_run {
            let text = format!(
                "what the schedule `{name}` publishes is not stored: fire it from `{}`, whose code has it",
                schedule.application
            );
            return Err(Failure::error(text));
        }
        let answer = json!({
            "schedule": name, "queue": null, "event_id": null, "event_type": null, "id": null, "dry_run": true,
        });
        let text = format!("would publish the event of the schedule `{name}`");
        return session.output.done(&answer, text);
    }

    let published = signed!(ezq.schedules()?.run_now(name), signed).await?;
    ezq.close().await;
    let queue = &published.queue;
    let answer = json!({
        "schedule": name, "queue": queue.as_str(), "event_id": published.event_id,
        "event_type": published.event_type, "id": published.id.to_string(), "dry_run": false,
    });
    let paused = match schedule.is_paused {
        true => ", which stays paused",
        false => "",
    };
    let text =
        format!("published the event of the schedule `{name}`{paused}, in the queue `{queue}`");
    session.output.done(&answer, text)?;
    session.output.data(&published.event_id)
}

async fn set_paused(
    session: &Session,
    name: &str,
    pause: bool,
    signed: &Signed,
) -> Result<(), Failure> {
    let ezq = session.connect(Access::Change).await?;
    let schedule = find(&ezq, name).await?;
    let dry_run = session.global.dry_run;
    let is_changed = schedule.is_paused != pause;
    if is_changed && !dry_run {
        let request = match pause {
            true => ezq.schedules()?.pause(name),
            false => ezq.schedules()?.resume(name),
        };
        signed!(request, signed).await?;
    }
    ezq.close().await;

    let text = match (is_changed, dry_run, pause) {
        (false, _, true) => format!("the schedule `{name}` is paused already"),
        (false, _, false) => format!("the schedule `{name}` is not paused"),
        (true, true, true) => format!("would pause the schedule `{name}`"),
        (true, true, false) => format!("would resume the schedule `{name}`"),
        (true, false, true) => format!("paused the schedule `{name}`"),
        (true, false, false) => format!("resumed the schedule `{name}`"),
    };
    let answer = json!({"schedule": name, "changed": is_changed && !dry_run, "dry_run": dry_run});
    session.output.done(&answer, text)
}

/// A schedule, as `--json` prints it.
#[derive(Serialize)]
struct ScheduleRow<'a> {
    schedule: &'a str,
    application: &'a str,
    definition: &'a str,
    next_at: Option<DateTime<Utc>>,
    last_tick: Option<DateTime<Utc>>,
    fired_at: Option<DateTime<Utc>>,
    is_paused: bool,
}

impl<'a> ScheduleRow<'a> {
    fn of(found: &'a ScheduleStatus) -> Self {
        Self {
            schedule: &found.name,
            application: &found.application,
            definition: &found.definition,
            next_at: found.next_at,
            last_tick: found.last_tick,
            fired_at: found.fired_at,
            is_paused: found.is_paused,
        }
    }
}

impl Row for ScheduleRow<'_> {
    const COLUMNS: &'static [&'static str] =
        &["SCHEDULE", "APPLICATION", "WHEN", "NEXT", "LAST", "STATE"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.schedule.to_owned(),
            self.application.to_owned(),
            self.definition.to_owned(),
            text::time_if_any(self.next_at),
            text::time_if_any(self.last_tick),
            if self.is_paused { "paused" } else { "-" }.to_owned(),
        ]
    }
}
