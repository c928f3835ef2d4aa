//! The benchmarks of ezq: `cargo run --release -p ezq-bench -- [case ...] [--json]`.
//!
//! Each case runs ezq and a plain loop over the same work in turn, in one process and on one database.
//! It reports the median of their ratios, so that the machine and its noise cancel out. Every run
//! checks that exactly the right number of events was handled. `--help` lists the options.

mod application;
mod arguments;
mod bodies;
#[cfg(any(feature = "redis", feature = "nats", feature = "kafka"))]
mod by_hand;
mod case;
mod cases;
mod check;
mod children;
mod database;
mod error;
mod options;
mod outcome;
mod pairs;
mod payload;
mod progress;
mod queues;
mod rows;
mod statements;

use std::process::ExitCode;

use crate::arguments::{Arguments, Wish};
use crate::database::Database;
use crate::error::Result;

#[tokio::main]
async fn main() -> ExitCode {
    // Before all else: handles are kept from the first use on, in children as well.
    #[cfg(feature = "metrics")]
    if children::exports()
        && let Err(error) = metrics_exporter_prometheus::PrometheusBuilder::new().install_recorder()
    {
        return ended(Err(error.into()));
    }

    // Before the arguments: a child gets its role from the environment and has none.
    if let Some(result) = cases::work_as_child().await {
        return ended(result);
    }

    let wish = match Arguments::read(std::env::args().skip(1)) {
        Ok(wish) => wish,
        Err(wrong) => {
            eprintln!("error: {wrong}\n\n{}", arguments::HELP);
            return ExitCode::from(2);
        }
    };
    ended(fulfil(wish).await)
}

fn ended(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", ezq::error::error_chain(&*error));
            ExitCode::FAILURE
        }
    }
}

async fn fulfil(wish: Wish) -> Result<()> {
    let arguments = match wish {
        Wish::Help => {
            println!("{}", arguments::HELP);
            return Ok(());
        }
        Wish::List => {
            for case in cases::ALL.iter().chain(cases::GROWTH) {
                println!("{:<18} {}", case.name, case.about);
            }
            return Ok(());
        }
        Wish::Run(arguments) => arguments,
    };

    if cfg!(debug_assertions) {
        // A warning and no error: a debug build still checks every count.
        eprintln!("warning: this is no release build, its figures mean nothing");
    }
    let database = Database::open(arguments.database_url.as_deref()).await?;
    if !arguments.json {
        println!("{}", outcome::TITLE);
    }

    for case in &arguments.cases {
        for outcome in (case.run)(&arguments.options, &database).await? {
            let line = if arguments.json {
                outcome.json()
            } else {
                outcome.row()
            };
            println!("{line}");
        }
    }
    Ok(())
}
