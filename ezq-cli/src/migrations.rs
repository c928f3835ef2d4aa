//! `ezq migrate`: the SQL with which an administrator prepares a database.

use clap::Subcommand;
use ezq::pgmq::setup_sql;

use crate::failure::Failure;
use crate::session::Session;

#[derive(Debug, Subcommand)]
pub(crate) enum MigrateVerb {
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

pub(crate) fn run(session: &Session, verb: MigrateVerb) -> Result<(), Failure> {
    match verb {
        MigrateVerb::Print { queues, role } => {
            let script = setup_sql(&queues, role.as_deref())?;
            session.output.script(&script)
        }
    }
}
