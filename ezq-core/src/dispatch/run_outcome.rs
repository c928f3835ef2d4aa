//! What one run of one handler came to, as the steps after it see it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::{fmt, mem};

use crate::engine::{Outgoing, UnitOfWork};
use crate::handler::outcome::HandlerError;
use crate::logging::warn;
use crate::text::{bounded, panic_text};

/// What one run of one handler came to.
pub(super) enum RunOutcome {
    /// It succeeded. Its transaction, if it has one, is still to be committed, with its events.
    Done(Vec<Outgoing>, Option<Box<dyn UnitOfWork>>),
    /// It succeeded, and its transaction has marked it done and published its events.
    Marked,
    /// It succeeded, and its transaction has settled the whole delivery.
    Settled,
    /// It failed.
    Failed(Box<Failure>),
    /// Its lease was lost, or its consumer was interrupted.
    Cancelled,
    /// It did not run, because it is paused.
    Held,
    /// The store kept it from running, or may have kept it from committing, with this error: no
    /// attempt of the handler, but counted on the message.
    StoreFailed(String),
}

/// The error of a run, which a custom backoff sees as the handler returned it.
///
/// Invariant: the user's error cannot panic outside a guard. Its text is written when it comes, and
/// its drop is caught, wherever the failure is dropped.
pub(super) struct Failure {
    error: HandlerError,
    /// The error and its sources, as a message keeps them.
    text: String,
}

impl Failure {
    /// In a box: a failure is rare, and the outcome of a run is part of each attempt's future.
    pub(super) fn new(error: impl Into<HandlerError>) -> Box<Self> {
        let error = error.into();
        let text = bounded(&error.to_string());
        Box::new(Self { error, text })
    }

    pub(super) fn error(&self) -> &HandlerError {
        &self.error
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }
}

impl Drop for Failure {
    fn drop(&mut self) {
        let error = mem::replace(&mut self.error, HandlerError::retry(Dropped));
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(error))) {
            let panic = panic_text(&*panic);
            warn!(
                error = self.text,
                panic, "the error of a handler panicked when it was dropped"
            );
        }
    }
}

/// Stands where an error was. It has no size, so nothing is allocated for it.
#[derive(Debug)]
struct Dropped;

impl fmt::Display for Dropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the error was dropped")
    }
}

impl std::error::Error for Dropped {}
