//! Takes the steps of stored operations, in tasks that no request owns: a browser that goes away ends none.
//!
//! What an operation has done is stored with it. If this process dies, a process that is asked to goes on.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ezq::error::error_chain;
use ezq::{Ezq, Result};
use tokio::time::sleep;

/// How often an operation is tried again that the database does not let go on, one step after another.
const TRIES: u32 = 20;
/// The first wait between two tries; the next ones are twice as long, up to the longest.
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// So many failures are remembered.
const KEPT: usize = 100;

/// The operations that this process takes steps of.
#[derive(Debug, Default)]
pub(crate) struct Driver(Mutex<BTreeMap<String, Driven>>);

/// What this process does about an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Driven {
    /// It takes steps.
    Running,
    /// The database does not let it, and it tries again: why.
    Waiting(String),
    /// It has given up: why.
    GaveUp(String),
}

impl Driver {
    /// What this process does about an operation; `None` for nothing.
    pub(crate) fn of(&self, id: &str) -> Option<Driven> {
        self.all().get(id).cloned()
    }

    /// Takes steps of an operation until it has ended or somebody stops it. One that was stopped goes on,
    /// and `by` is who wanted that. `changed` is called at the end.
    pub(crate) fn drive(
        self: &Arc<Self>,
        ezq: Ezq,
        id: String,
        by: String,
        changed: impl FnOnce() + Send + 'static,
    ) {
        if !self.begin(&id) {
            return;
        }
        let driver = Arc::clone(self);
        tokio::spawn(async move {
            let ended = driver.go(&ezq, &id, by).await;
            driver.end(id, ended.err().map(|error| error_chain(&error)));
            changed();
        });
    }

    async fn go(&self, ezq: &Ezq, id: &str, by: String) -> Result<()> {
        let operations = ezq.operations();
        let mut failure = match operations.resume(id).by(by).await {
            Ok(_) => return Ok(()),
            Err(failure) => failure,
        };

        let mut wait = FIRST_WAIT;
        let mut tries = 0;
        while failure.is_transient() && tries < TRIES {
            self.set(id, Driven::Waiting(error_chain(&failure)));
            sleep(wait).await;
            wait = wait.saturating_mul(2).min(LONGEST_WAIT);
            tries += 1;

            // Only steps: another resume would go on with what somebody has stopped meanwhile.
            loop {
                match operations.step(id).await {
                    Ok(operation) if operation.is_running() => {
                        self.set(id, Driven::Running);
                        wait = FIRST_WAIT;
                        tries = 0;
                    }
                    Ok(_) => return Ok(()),
                    Err(newer) => {
                        failure = newer;
                        break;
                    }
                }
            }
        }
        Err(failure)
    }

    /// Notes that this process takes the steps. Returns false if it does already.
    fn begin(&self, id: &str) -> bool {
        let mut all = self.all();
        if matches!(all.get(id), Some(Driven::Running | Driven::Waiting(_))) {
            return false;
        }
        all.insert(id.to_owned(), Driven::Running);
        true
    }

    fn end(&self, id: String, failure: Option<String>) {
        let mut all = self.all();
        match failure {
            None => drop(all.remove(&id)),
            Some(failure) => {
                tracing::info!(id, failure, "the dashboard has given an operation up");
                all.insert(id, Driven::GaveUp(failure));
            }
        }
        // Ids begin with the time, so the first one is the oldest.
        let given_up = all.iter().filter(|(_, one)| is_given_up(one));
        let surplus = given_up.clone().count().saturating_sub(KEPT);
        let oldest: Vec<String> = given_up.take(surplus).map(|(id, _)| id.clone()).collect();
        for id in oldest {
            all.remove(&id);
        }
    }

    fn set(&self, id: &str, driven: Driven) {
        self.all().insert(id.to_owned(), driven);
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<String, Driven>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_given_up(driven: &Driven) -> bool {
    matches!(driven, Driven::GaveUp(_))
}
