//! The list of nouns. The verbs of a noun are beside what they do, and the options of every command in
//! `global.rs`.

use clap::{Parser, Subcommand};
use clap_complete::Shell;

use crate::audits::AuditVerb;
use crate::captures::CaptureVerb;
use crate::check::Check;
use crate::consumers::ConsumerVerb;
use crate::dead_letters::DeadLetterVerb;
use crate::doctor::Doctor;
use crate::events::EventVerb;
use crate::global::Global;
use crate::migrations::MigrateVerb;
use crate::monitoring::MonitoringFile;
use crate::operations::OperationVerb;
use crate::queues::QueueVerb;
use crate::replays::ReplayVerb;
use crate::schedules::ScheduleVerb;
use crate::sources::SourceVerb;
use crate::subscriptions::SubscriptionVerb;
use crate::ui::Ui;
use crate::values;

const EXIT_CODES: &str = "\
Exit codes: 0 done, 1 error, 2 wrong usage, 3 not found, 4 refused without confirmation.
Data goes to stdout, everything else to stderr.";

/// See into the queues of a database, and steer them.
#[derive(Debug, Parser)]
#[command(name = "ezq", version, after_help = EXIT_CODES, disable_help_subcommand = true)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) noun: Noun,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Noun {
    /// Queues: what they hold, and whether they are paused
    #[command(subcommand)]
    Queue(QueueVerb),

    /// Events: publishing one, and what became of it
    #[command(subcommand)]
    Event(EventVerb),

    /// Errors of a queue, grouped by handler and message
    Errors {
        /// The queue
        queue: String,
        /// How many groups to list
        #[arg(long, value_name = "N", default_value = "20", value_parser = values::limit)]
        limit: usize,
    },

    /// Dead letters: events that were given up
    #[command(subcommand)]
    Dlq(DeadLetterVerb),

    /// Operations: what was started on many events at once
    #[command(subcommand)]
    Operation(OperationVerb),

    /// The audit trail: who did what
    #[command(subcommand)]
    Audit(AuditVerb),

    /// Schedules: when they fire, and whether they are paused
    #[command(subcommand)]
    Schedule(ScheduleVerb),

    /// Consumers: who runs where
    #[command(subcommand)]
    Consumer(ConsumerVerb),

    /// Sources: how far the messages of brokers are stored
    #[command(subcommand)]
    Source(SourceVerb),

    /// Subscriptions: which queues get copies of which broadcast events
    #[command(subcommand)]
    Subscription(SubscriptionVerb),

    /// Captures: tables whose changes are events
    #[command(subcommand)]
    Capture(CaptureVerb),

    /// Replays: archived events, published again
    #[command(subcommand)]
    Replay(ReplayVerb),

    /// The schema of ezq: what is applied, and the SQL with which an administrator prepares a database
    #[command(subcommand)]
    Migrate(MigrateVerb),

    /// Check queues and consumers against limits, for monitoring
    Check(Check),

    /// Examine the database: what is wrong, and the SQL that mends it
    Doctor(Doctor),

    /// Serve the dashboard, print its link, and keep it until Ctrl-C
    Ui(Ui),

    /// Print a file for monitoring, by the metrics that ezq exports
    Generate {
        /// Which file
        #[arg(value_enum)]
        file: MonitoringFile,
    },

    /// Print completions for a shell
    Completions {
        /// The shell
        #[arg(value_enum)]
        shell: Shell,
    },

    /// Print the manual page
    Man,

    /// Start a development Postgres, print its URL, and keep it until Ctrl-C
    #[cfg(feature = "embedded")]
    Dev {
        /// Also run a shop on it, with a worker, customers and the dashboard, and print its link
        #[arg(long)]
        demo: bool,
    },
}

impl Noun {
    /// Whether the command has handlers that are meant to fail, so that their failures are no news.
    pub(crate) fn fails_on_purpose(&self) -> bool {
        match self {
            #[cfg(feature = "embedded")]
            Self::Dev { demo } => *demo,
            _ => false,
        }
    }
}
