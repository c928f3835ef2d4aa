//! The options that every command takes.

use std::path::PathBuf;

use clap::{ArgAction, Args, ValueEnum};

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

    /// Do not ask before something is destroyed, or many events are changed
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
