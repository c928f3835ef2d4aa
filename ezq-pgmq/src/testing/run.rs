//! Runs a test on a database of its own.
#![allow(clippy::panic, clippy::print_stderr)]

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

use crate::testing::Database;

/// How long the threads of a failed test may still take.
const LEFT_BEHIND: Duration = Duration::from_secs(1);

/// How many dead letters a report shows.
const SHOWN: usize = 20;

/// What a test may return.
#[diagnostic::on_unimplemented(
    message = "a test cannot return `{Self}`",
    note = "return nothing, or a `Result` of nothing"
)]
pub trait Outcome {
    /// Whether the test succeeded.
    fn is_success(&self) -> bool;
}

impl Outcome for () {
    fn is_success(&self) -> bool {
        true
    }
}

impl<T: Outcome, E> Outcome for Result<T, E> {
    fn is_success(&self) -> bool {
        self.as_ref().is_ok_and(Outcome::is_success)
    }
}

/// Runs the body of a test, on a runtime and a database of its own. If the test succeeds, the database is
/// dropped; else it is kept, and its URL is printed with the failure.
///
/// # Panics
/// When the body does, and when the database cannot be made or dropped.
pub fn run<F, O>(test: &str, should_panic: bool, body: impl FnOnce(Arc<Database>) -> F) -> O
where
    F: Future<Output = O>,
    O: Outcome,
{
    let runtime = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => panic!("the test has no runtime: {error}"),
    };
    let database = match runtime.block_on(Database::create(test)) {
        Ok(database) => Arc::new(database),
        Err(error) => panic!("the test has no database: {error:?}"),
    };

    let running = AssertUnwindSafe(|| runtime.block_on(body(Arc::clone(&database))));
    let ended = catch_unwind(running);
    let is_success = match &ended {
        Ok(outcome) => outcome.is_success() && !should_panic,
        Err(_) => should_panic,
    };
    if is_success {
        remove(&runtime, &database);
    } else {
        // What the test left behind may hold locks on what the report reads: its connections end with its tasks.
        runtime.shutdown_timeout(LEFT_BEHIND);
        report(&database);
    }
    ended.unwrap_or_else(|panic| resume_unwind(panic))
}

fn remove(runtime: &Runtime, database: &Database) {
    if let Err(error) = runtime.block_on(database.remove()) {
        panic!("the database of the test cannot be dropped: {error:?}");
    }
}

/// Says where to look. The harness shows it with the failure.
fn report(database: &Database) {
    eprintln!("the test failed; its database is kept: {}", database.url());
    if !database.is_named() {
        eprintln!(
            "a development Postgres ends with this process, and the database with it: set DATABASE_URL to \
             look into the database of a failed test"
        );
    }
    match database.records() {
        Ok(records) => {
            eprintln!("it holds {} messages", records.messages.len());
            let left_out = records.dead.len().saturating_sub(SHOWN);
            for (queue, letter) in records.dead.into_iter().take(SHOWN) {
                let reason = letter.reason.map(|reason| reason.error).unwrap_or_default();
                eprintln!("a dead letter of the queue `{queue}`: {reason}");
            }
            if left_out > 0 {
                eprintln!("and {left_out} more dead letters");
            }
        }
        Err(error) => eprintln!("it cannot be read: {error:?}"),
    }
}
