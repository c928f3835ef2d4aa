//! `ezq migrate`: the changes of ezq's own schema, and the SQL with which an administrator prepares a
//! database.

use clap::Subcommand;
use ezq::pgmq::{MigrationStatus, setup_sql};
use serde::Serialize;
use serde_json::json;

use crate::failure::Failure;
use crate::output::Row;
use crate::session::{Access, Session};
use crate::text;

#[derive(Debug, Subcommand)]
pub(crate) enum MigrateVerb {
    /// List the changes of ezq's own schema, and which are applied
    Status,

    /// Apply every change now, instead of each when it is first needed
    Up,

    /// Print the SQL that creates PGMQ, queues and ezq's own tables. No database is asked
    Print {
        /// The queues to create
        #[arg(value_name = "QUEUE")]
        queues: Vec<String>,
        /// The role to which the rights are granted that an application needs
        #[arg(long, value_name = "ROLE")]
        role: Option<String>,
    },
}

pub(crate) async fn run(session: &Session, verb: MigrateVerb) -> Result<(), Failure> {
    match verb {
        MigrateVerb::Status => status(session).await,
        MigrateVerb::Up => up(session).await,
        MigrateVerb::Print { queues, role } => {
            let script = setup_sql(&queues, role.as_deref())?;
            session.output.script(&script)
        }
    }
}

async fn status(session: &Session) -> Result<(), Failure> {
    let ezq = session.connect(Access::Read).await?;
    let found = ezq.pgmq().migrations().await?;
    ezq.close().await;

    let rows: Vec<MigrationRow<'_>> = found.iter().map(MigrationRow::of).collect();
    session.output.list(&rows, "no changes")
}

async fn up(session: &Session) -> Result<(), Failure> {
    let dry_run = session.global.dry_run;
    let ezq = session.connect(Access::Change).await?;
    let missing = missing(&ezq.pgmq().migrations().await?);
    if !dry_run {
        ezq.pgmq().migrate().await?;
    }
    ezq.close().await;

    let changes = text::counted(missing.len(), "change");
    let text = match (missing.is_empty(), dry_run) {
        (true, _) => "every change is applied already".to_owned(),
        (false, true) => format!("would apply {changes}"),
        (false, false) => format!("applied {changes}"),
    };
    let answer = json!({"versions": missing, "dry_run": dry_run});
    session.output.done(&answer, text)
}

/// The versions that are not applied, without those of the inbox, which is in other databases.
fn missing(found: &[MigrationStatus]) -> Vec<i32> {
    let missing = found
        .iter()
        .filter(|one| !one.is_applied && !one.is_of_inbox);
    missing.map(|one| one.version).collect()
}

/// A change of the schema, as `--json` prints it.
#[derive(Serialize)]
struct MigrationRow<'a> {
    version: i32,
    name: Option<&'a str>,
    is_applied: bool,
    #[serde(skip)]
    is_of_inbox: bool,
}

impl<'a> MigrationRow<'a> {
    fn of(found: &'a MigrationStatus) -> Self {
        Self {
            version: found.version,
            name: found.name,
            is_applied: found.is_applied,
            is_of_inbox: found.is_of_inbox,
        }
    }
}

impl Row for MigrationRow<'_> {
    const COLUMNS: &'static [&'static str] = &["VERSION", "NAME", "STATE"];

    fn cells(&self) -> Vec<String> {
        let state = match (self.is_applied, self.is_of_inbox) {
            (true, _) => "applied",
            (false, true) => "made by handlers that use an inbox",
            (false, false) => "when it is first needed",
        };
        vec![
            self.version.to_string(),
            self.name.unwrap_or("of a newer ezq").to_owned(),
            state.to_owned(),
        ]
    }
}
