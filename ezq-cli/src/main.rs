//! The command line of ezq, `ezq NOUN VERB`: an operator's view of the queues of a database.
//!
//! Every command calls the library; none has a statement of its own. What a command answers goes to
//! stdout, and everything else to stderr.
//!
//! | to see | open |
//! |---|---|
//! | the nouns, and the options of every command | `arguments.rs`, `global.rs` |
//! | which database a command uses, and how it connects | `session.rs`, `contexts.rs` |
//! | tables, JSON and colours | `output.rs`, `text.rs` |
//! | what a failure says, and its exit code | `failure.rs` |
//! | everything that matches, changed at once | `bulk.rs`, `filters.rs`, `progress.rs` |
//! | who says so, and why | `signed.rs` |
//! | what is asked before something is destroyed | `confirmation.rs` |
//! | the commands | the file of their noun, such as `queues.rs`, with `emptying.rs`, `queue_rows.rs` and `rates.rs`; dead letters also `letters.rs`, events `browsing.rs`, `following.rs`, `one_event.rs`, `types.rs` and `copies.rs`, and `check` also `exposition.rs` |

mod arguments;
mod audits;
mod body;
mod browsing;
mod bulk;
mod captures;
mod check;
mod confirmation;
mod consumers;
mod contexts;
mod copies;
mod dead_letters;
#[cfg(feature = "embedded")]
mod demo;
#[cfg(feature = "embedded")]
mod dev;
mod doctor;
mod emptying;
mod events;
mod exposition;
mod failure;
mod filters;
mod following;
mod generated;
mod global;
mod letters;
mod migrations;
mod monitoring;
mod names;
mod one_event;
mod operations;
mod output;
mod partitioning;
mod progress;
mod queue_rows;
mod queues;
mod rates;
mod replays;
mod schedules;
mod session;
mod signed;
mod sources;
mod stopping;
mod subscriptions;
mod text;
mod types;
mod ui;
mod values;

use std::process::ExitCode;

use clap::Parser as _;

use crate::arguments::{Arguments, Noun};
use crate::failure::Failure;
use crate::output::Output;
use crate::session::Session;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(usage) => {
            match usage.use_stderr() {
                true => output::complain(&usage.to_string()),
                // Whoever closed the stream does not read it.
                false => {
                    let _ = usage.print();
                }
            }
            return u8::try_from(usage.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from);
        }
    };

    let output = Output::new(&arguments.global);
    session::log(&arguments.global, arguments.noun.fails_on_purpose());
    match run(arguments, output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => output.fail(&failure),
    }
}

fn run(arguments: Arguments, output: Output) -> Result<(), Failure> {
    let Arguments { global, noun } = arguments;
    let session = Session::new(global, output);
    // One thread: a command waits for one answer of one database at a time.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::error(format!("the program cannot start: {error}")))?;

    runtime.block_on(async {
        match noun {
            Noun::Queue(verb) => queues::run(&session, verb).await,
            Noun::Event(verb) => events::run(&session, verb).await,
            Noun::Errors { queue, limit } => browsing::errors(&session, &queue, limit).await,
            Noun::Dlq(verb) => dead_letters::run(&session, verb).await,
            Noun::Operation(verb) => operations::run(&session, verb).await,
            Noun::Audit(verb) => audits::run(&session, verb).await,
            Noun::Schedule(verb) => schedules::run(&session, verb).await,
            Noun::Consumer(verb) => consumers::run(&session, verb).await,
            Noun::Source(verb) => sources::run(&session, verb).await,
            Noun::Subscription(verb) => subscriptions::run(&session, verb).await,
            Noun::Capture(verb) => captures::run(&session, verb).await,
            Noun::Replay(verb) => replays::run(&session, verb).await,
            Noun::Migrate(verb) => migrations::run(&session, verb).await,
            Noun::Check(check) => check::run(&session, check).await,
            Noun::Doctor(doctor) => doctor::run(&session, doctor).await,
            Noun::Ui(ui) => ui::run(&session, ui).await,
            Noun::Generate { file } => monitoring::generate(&session, file),
            Noun::Completions { shell } => generated::completions(&session, shell),
            Noun::Man => generated::manual(&session),
            #[cfg(feature = "embedded")]
            Noun::Dev { demo } => dev::run(&session, demo).await,
        }
    })
}
