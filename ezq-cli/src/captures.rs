//! `ezq capture`: tables whose changes are events.

use clap::Subcommand;
use ezq::pgmq::CapturedTable;
use serde::Serialize;

use crate::failure::Failure;
use crate::output::Row;
use crate::session::{Access, Session};

#[derive(Debug, Subcommand)]
pub(crate) enum CaptureVerb {
    /// List the tables whose changes are stored as events
    List,
}

pub(crate) async fn run(session: &Session, verb: CaptureVerb) -> Result<(), Failure> {
    match verb {
        CaptureVerb::List => list(session).await,
    }
}

async fn list(session: &Session) -> Result<(), Failure> {
    let ezq = session.connect(Access::Read).await?;
    let found = ezq.pgmq().captures().list().await?;
    ezq.close().await;

    let rows: Vec<CaptureRow<'_>> = found.iter().map(CaptureRow::of).collect();
    session.output.list(&rows, "no captured tables")
}

/// A captured table, as `--json` prints it.
#[derive(Serialize)]
struct CaptureRow<'a> {
    schema: &'a str,
    table: &'a str,
    name: &'a str,
    source: &'a str,
    /// `null` if its events are broadcast.
    queue: Option<&'a str>,
    /// `null` if all are captured.
    columns: Option<&'a [String]>,
    key: Option<&'a str>,
    uncovered: &'a [String],
    is_enabled: bool,
    upgrade: Option<&'a str>,
}

impl<'a> CaptureRow<'a> {
    fn of(found: &'a CapturedTable) -> Self {
        Self {
            schema: &found.schema,
            table: &found.table,
            name: &found.name,
            source: &found.source,
            queue: found.queue.as_ref().map(|queue| queue.as_str()),
            columns: found.columns.as_deref(),
            key: found.key.as_deref(),
            uncovered: &found.uncovered,
            is_enabled: found.is_enabled,
            upgrade: found.upgrade.as_deref(),
        }
    }

    fn state(&self) -> String {
        // Several may hold at once, and each asks for another remedy.
        let mut states = Vec::new();
        if !self.is_enabled {
            states.push("disabled".to_owned());
        }
        if !self.uncovered.is_empty() {
            states.push(format!("not covered: {}", self.uncovered.join(", ")));
        }
        if let Some(upgrade) = self.upgrade {
            states.push(format!("to be upgraded: {upgrade}"));
        }
        match states.is_empty() {
            true => "-".to_owned(),
            false => states.join("; "),
        }
    }
}

impl Row for CaptureRow<'_> {
    const COLUMNS: &'static [&'static str] = &["TABLE", "EVENTS", "QUEUE", "COLUMNS", "STATE"];

    fn cells(&self) -> Vec<String> {
        let columns = self.columns.map(|columns| columns.join(", "));
        vec![
            format!("{}.{}", self.schema, self.table),
            self.name.to_owned(),
            self.queue.unwrap_or("broadcast").to_owned(),
            columns.unwrap_or_else(|| "all".to_owned()),
            self.state(),
        ]
    }
}
