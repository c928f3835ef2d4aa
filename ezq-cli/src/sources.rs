//! `ezq source`: how far the messages of brokers are stored.

use chrono::{DateTime, Utc};
use clap::Subcommand;
use ezq::engine::StoredPosition;
use serde::Serialize;

use crate::failure::Failure;
use crate::output::Row;
use crate::session::{Access, Session};
use crate::text;

#[derive(Debug, Subcommand)]
pub(crate) enum SourceVerb {
    /// List how far each partition of each source is stored, and since when
    List,
}

pub(crate) async fn run(session: &Session, verb: SourceVerb) -> Result<(), Failure> {
    match verb {
        SourceVerb::List => list(session).await,
    }
}

async fn list(session: &Session) -> Result<(), Failure> {
    let ezq = session.connect(Access::Read).await?;
    let found = ezq.sources().list().await?;
    ezq.close().await;

    let rows: Vec<SourceRow<'_>> = found.iter().map(SourceRow::of).collect();
    session
        .output
        .list(&rows, "no sources: nothing of a broker was ever taken in")
}

/// A partition, as `--json` prints it.
#[derive(Serialize)]
struct SourceRow<'a> {
    source: &'a str,
    partition: &'a str,
    position: Option<String>,
    moved_at: DateTime<Utc>,
}

impl<'a> SourceRow<'a> {
    fn of(found: &'a StoredPosition) -> Self {
        Self {
            source: &found.source,
            partition: &found.partition,
            position: found.position.map(|position| position.to_string()),
            moved_at: found.moved_at,
        }
    }
}

impl Row for SourceRow<'_> {
    const COLUMNS: &'static [&'static str] = &["SOURCE", "PARTITION", "POSITION", "MOVED AT"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.source.to_owned(),
            self.partition.to_owned(),
            self.position.clone().unwrap_or_else(|| "-".to_owned()),
            text::time(self.moved_at),
        ]
    }
}
