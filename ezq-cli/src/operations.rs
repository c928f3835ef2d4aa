//! `ezq operation`: what was started on many events at once, watched, stopped and resumed.

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use ezq::admin::{EventFilter, Operation, OperationStatus};
use ezq::{ErrorKind, Ezq, QueueName};
use serde::Serialize;
use serde_json::json;

use crate::bulk::{self, Run, done_of};
use crate::failure::Failure;
use crate::output::Row;
use crate::session::{Access, Session};
use crate::signed::{Signed, signed};
use crate::stopping::Signals;
use crate::text;
use crate::values;

#[derive(Debug, Subcommand)]
pub(crate) enum OperationVerb {
    /// List the newest operations
    List {
        /// How many to list
        #[arg(long, value_name = "N", default_value = "50", value_parser = values::limit)]
        limit: usize,
    },

    /// Show how far one operation is
    Show {
        /// Its id, as `list` shows it
        id: String,
    },

    /// Run an operation to its end: one that was stopped, or whose process died
    Resume(Resume),

    /// Stop an operation before its next step. What was done stays done
    Stop {
        /// Its id, as `list` shows it
        id: String,
        #[command(flatten)]
        signed: Signed,
    },
}

/// Which operation goes on.
#[derive(Debug, Args)]
pub(crate) struct Resume {
    /// Its id, as `list` shows it
    id: String,
    /// How many events a second at most, on average
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// Who resumes it [default: user@host of this machine]
    #[arg(long, value_name = "WHO")]
    by: Option<String>,
}

pub(crate) async fn run(session: &Session, verb: OperationVerb) -> Result<(), Failure> {
    match verb {
        OperationVerb::List { limit } => list(session, limit).await,
        OperationVerb::Show { id } => show(session, &id).await,
        OperationVerb::Resume(resume) => resume.run(session).await,
        OperationVerb::Stop { id, signed } => stop(session, &id, signed).await,
    }
}

async fn list(session: &Session, limit: usize) -> Result<(), Failure> {
    let ezq = session.connect(Access::Read).await?;
    // One more than is shown, to know whether there are more.
    let mut found = ezq.operations().list(limit.saturating_add(1)).await?;
    ezq.close().await;

    let has_more = found.len() > limit;
    found.truncate(limit);

    let rows: Vec<OperationRow<'_>> = found.iter().map(OperationRow::of).collect();
    session.output.list(&rows, "no operations")?;
    if has_more {
        session.output.note(text::MORE);
    }
    Ok(())
}

async fn show(session: &Session, id: &str) -> Result<(), Failure> {
    let ezq = session.connect(Access::Read).await?;
    let found = find(&ezq, id).await?;
    ezq.close().await;

    let row = OperationRow::of(&found);
    let filter = serde_json::to_string(&row.filter).unwrap_or_default();
    let fields = [
        ("operation", row.operation.to_owned()),
        ("queue", row.queue.to_owned()),
        ("state", row.state.clone()),
        ("action", row.what()),
        ("filter", filter),
        ("status", row.status.to_string()),
        ("progress", done_of(&found)),
        ("skipped", row.skipped.to_string()),
        ("failed", row.failed.to_string()),
        ("by", row.by.to_owned()),
        ("reason", row.reason.unwrap_or("-").to_owned()),
        ("began", text::time(row.began_at)),
        ("moved", text::time(row.moved_at)),
        ("ended", text::time_if_any(row.ended_at)),
    ];
    session.output.show(&row, &fields)
}

impl Resume {
    async fn run(self, session: &Session) -> Result<(), Failure> {
        let ezq = session.connect(Access::Change).await?;
        let found = find(&ezq, &self.id).await?;
        if found.status == OperationStatus::Ended {
            ezq.close().await;
            session
                .output
                .note(format!("the operation {} has ended already", found.id));
            return bulk::report(session, &found);
        }
        if session.global.dry_run {
            ezq.close().await;
            let text = format!("would go on: {} so far", done_of(&found));
            return session.output.done(&changed(&found, false, true), text);
        }

        let signals = Signals::new()?;
        let signed = Signed::by_only(self.by);
        let run = Run {
            session,
            ezq: &ezq,
            rate: self.rate,
            signed: &signed,
        };
        let ended = run.to_end(&found, signals).await?;
        ezq.close().await;
        bulk::report(session, &ended)
    }
}

async fn stop(session: &Session, id: &str, signed: Signed) -> Result<(), Failure> {
    let dry_run = session.global.dry_run;
    let ezq = session.connect(Access::Change).await?;
    let mut found = find(&ezq, id).await?;
    let was_running = found.is_running();
    if was_running && !dry_run {
        let request = ezq.operations().stop(id);
        found = signed!(request, signed).await?;
    }
    ezq.close().await;

    let text = match (was_running, dry_run) {
        (false, _) => format!("the operation {id} does not run: it is {}", found.status),
        (true, true) => format!("would stop the operation {id}"),
        (true, false) => format!("stopped the operation {id}: {} so far", done_of(&found)),
    };
    let is_changed = was_running && found.status == OperationStatus::Stopped;
    session
        .output
        .done(&changed(&found, is_changed, dry_run), text)
}

fn changed(found: &Operation, is_changed: bool, dry_run: bool) -> serde_json::Value {
    json!({
        "operation": found.id, "status": found.status.name(), "changed": is_changed, "dry_run": dry_run,
    })
}

async fn find(ezq: &Ezq, id: &str) -> Result<Operation, Failure> {
    ezq.operations().get(id).await.map_err(|error| {
        // The library names its own calls.
        match error.kind() {
            ErrorKind::OperationMissing => Failure::not_found(format!(
                "there is no operation `{id}`: `ezq operation list` lists them"
            )),
            _ => error.into(),
        }
    })
}

/// An operation, as `--json` prints it.
#[derive(Serialize)]
struct OperationRow<'a> {
    operation: &'a str,
    queue: &'a str,
    state: String,
    action: &'static str,
    target: Option<&'a str>,
    filter: &'a EventFilter,
    status: &'static str,
    total: Option<u64>,
    done: u64,
    skipped: u64,
    failed: u64,
    by: &'a str,
    reason: Option<&'a str>,
    began_at: DateTime<Utc>,
    moved_at: DateTime<Utc>,
    ended_at: Option<DateTime<Utc>>,
}

impl<'a> OperationRow<'a> {
    fn of(found: &'a Operation) -> Self {
        Self {
            operation: &found.id,
            queue: found.selection.queue.as_str(),
            state: found.selection.state.to_string(),
            action: found.action.name(),
            target: found.action.target().map(QueueName::as_str),
            filter: &found.selection.filter,
            status: found.status.name(),
            total: found.total,
            done: found.done,
            skipped: found.skipped,
            failed: found.failed,
            by: &found.signature.by,
            reason: found.signature.reason.as_deref(),
            began_at: found.began_at,
            moved_at: found.moved_at,
            ended_at: found.ended_at,
        }
    }

    /// The action, with the queue that events are moved to.
    fn what(&self) -> String {
        match self.target {
            Some(to) => format!("{} to {to}", self.action),
            None => self.action.to_owned(),
        }
    }
}

impl Row for OperationRow<'_> {
    const COLUMNS: &'static [&'static str] = &[
        "OPERATION",
        "QUEUE",
        "EVENTS",
        "ACTION",
        "DONE",
        "TOTAL",
        "BY",
        "BEGAN",
        "STATUS",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.operation.to_owned(),
            self.queue.to_owned(),
            self.state.clone(),
            self.what(),
            self.done.to_string(),
            self.total
                .map_or_else(|| "-".to_owned(), |total| total.to_string()),
            self.by.to_owned(),
            text::time(self.began_at),
            self.status.to_owned(),
        ]
    }
}
