//! The options that every command takes, and the list of nouns. The verbs of a noun are beside what
//! they do.

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::captures::CaptureVerb;
use crate::check::Check;
use crate::consumers::ConsumerVerb;
use crate::dead_letters::DeadLetterVerb;
use crate::events::EventVerb;
use crate::migrations::MigrateVerb;
use crate::queues::QueueVerb;
use crate::replays::ReplayVerb;
use crate::schedules::ScheduleVerb;
use crate::subscriptions::SubscriptionVerb;

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

#[derive(Debug, Args)]
#[command(next_help_heading = "Options of every command")]
pub(crate) struct Global {
    /// The database. Others on this machine can read a command line: a password is better kept in a
    /// variable or a file of contexts [default: EZQ_DATABASE_URL, else DATABASE_URL]
    #[arg(long, global = true, value_name = "URL", conflicts_with = "context")]
    pub(crate) database_url: Option<String>,

    /// A database by its name in the file of contexts
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) context: Option<String>,

    /// The file of contexts [default: ezq/contexts.toml in XDG_CONFIG_HOME or ~/.config]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) context_file: Option<PathBuf>,

    /// Print JSON: one object on each line
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// Do not ask before something is destroyed
    #[arg(long, short, global = true)]
    pub(crate) yes: bool,

    /// Change nothing, and say what would be done
    #[arg(long, short = 'n', global = true)]
    pub(crate) dry_run: bool,

    /// When to use colours
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub(crate) color: Color,

    /// Print data and errors only
    #[arg(long, short, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,

    /// Log what is done; twice: in detail
    #[arg(long, short, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Noun {
    /// Queues: what they hold, and whether they are paused
    #[command(subcommand)]
    Queue(QueueVerb),

    /// Events: publishing one, and what became of it
    #[command(subcommand)]
    Event(EventVerb),

    /// Dead letters: events that were given up
    #[command(subcommand)]
    Dlq(DeadLetterVerb),

    /// Schedules: when they fire, and whether they are paused
    #[command(subcommand)]
    Schedule(ScheduleVerb),

    /// Consumers: who runs where
    #[command(subcommand)]
    Consumer(ConsumerVerb),

    /// Subscriptions: which queues get copies of which broadcast events
    #[command(subcommand)]
    Subscription(SubscriptionVerb),

    /// Captures: tables whose changes are events
    #[command(subcommand)]
    Capture(CaptureVerb),

    /// Replays: archived events, published again
    #[command(subcommand)]
    Replay(ReplayVerb),

    /// The SQL with which an administrator prepares a database
    #[command(subcommand)]
    Migrate(MigrateVerb),

    /// Check queues and consumers against limits, for monitoring
    Check(Check),

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
    Dev,
}
