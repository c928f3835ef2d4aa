//! Inline dispatch: an event's handlers run in this process, now, without a queue.
//!
//! Nothing is stored and nothing is leased. A failure is reported, and never retried.

use std::fmt;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;

use crate::delivery::attempt::Attempt;
use crate::dispatch::batch_attempt;
use crate::dispatch::batch_member::Member;
use crate::dispatch::commit::{CommitError, commit};
use crate::dispatch::dispatcher::Dispatcher;
use crate::dispatch::permit::permit;
use crate::dispatch::run::Dispatch;
use crate::dispatch::run_outcome::{Failure, RunOutcome};
use crate::dispatch::work::Work;
use crate::engine::{Outgoing, UnitOfWork};
use crate::error::{Error, ErrorKind, Result, error_chain};
use crate::handler::Handler;
use crate::handler::invoke::{Invoke, InvokeBatch};
use crate::handler::outcome::HandlerErrorKind;
use crate::message::settlement::{HandlerMark, HandlerName, Progress};

/// Tells what each handler did with an event that was dispatched inline.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
#[must_use = "failures are reported here and nowhere else, and are not retried"]
pub struct InlineReport {
    /// The event's id.
    pub event_id: String,
    /// The event's type name.
    pub event_type: String,
    /// Each handler that takes the event, in the order in which they ran. Empty if none does.
    pub outcomes: Vec<(HandlerName, InlineOutcome)>,
}

/// The outcome of one handler for an event that was dispatched inline.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum InlineOutcome {
    /// The handler succeeded. Its transaction, if it has one, is committed, and its events are
    /// published.
    Done,
    /// The event was of no use to the handler, for this reason.
    Discarded(String),
    /// The handler asked to be run later. Nobody does that: the caller decides.
    PutOff {
        /// How much later it asked for.
        after: Duration,
        /// Its error, or `snoozed`.
        error: String,
    },
    /// The handler failed. Its transaction, if it has one, is rolled back.
    Failed {
        /// Its error, a panic, a timeout, or what kept its transaction or its events from being stored.
        error: String,
        /// True if a retry cannot help.
        is_fatal: bool,
    },
}

impl InlineOutcome {
    /// True if nothing is left to do.
    #[must_use]
    pub fn is_done(&self) -> bool {
        matches!(self, Self::Done | Self::Discarded(_))
    }
}

impl InlineReport {
    /// True if every handler is done, or there is none.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.outcomes.iter().all(|(_, outcome)| outcome.is_done())
    }

    /// The handlers that are not done.
    pub fn failures(&self) -> impl Iterator<Item = (&HandlerName, &InlineOutcome)> {
        let undone = self
            .outcomes
            .iter()
            .filter(|(_, outcome)| !outcome.is_done());
        undone.map(|(name, outcome)| (name, outcome))
    }

    /// Turns the report into a `Result`, for `?`.
    ///
    /// # Errors
    /// [`ErrorKind::HandlerFailed`] if a handler is not done. Its message names each such handler, and
    /// why.
    pub fn into_result(self) -> Result<()> {
        if self.is_done() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::HandlerFailed, self.to_string()))
    }
}

impl fmt::Display for InlineOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done => f.write_str("done"),
            Self::Discarded(reason) => write!(f, "discarded: {reason}"),
            Self::PutOff { after, error } => write!(f, "put off for {after:?}: {error}"),
            Self::Failed { error, .. } => write!(f, "failed: {error}"),
        }
    }
}

impl fmt::Display for InlineReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` was dispatched inline", self.event_type)?;
        let outcomes = self.outcomes.iter();
        outcomes
            .clone()
            .try_for_each(|(name, outcome)| write!(f, "; `{name}` {outcome}"))?;
        if outcomes.len() == 0 {
            f.write_str("; no handler takes it")
        } else {
            Ok(())
        }
    }
}

impl Dispatcher {
    /// Runs the handlers of an event here and now, in their stated order.
    pub(crate) async fn run_inline(&self, work: &Work) -> Vec<(HandlerName, InlineOutcome)> {
        let received = &work.received;
        let handlers = self.registry.find(&received.queue, &received.envelope);
        let dispatch = Dispatch {
            work,
            handlers: &handlers,
            known: &Progress::default(),
        };
        let mut outcomes = Vec::with_capacity(handlers.len());
        for group in handlers.chunk_by(|a, b| a.order == b.order) {
            let runs = group
                .iter()
                .map(|handler| self.run_one_inline(handler, dispatch));
            let names = group.iter().map(|handler| handler.name.clone());
            outcomes.extend(names.zip(join_all(runs).await));
        }
        outcomes
    }

    async fn run_one_inline(&self, handler: &Handler, dispatch: Dispatch<'_>) -> InlineOutcome {
        let outcome = match &handler.invoke {
            Invoke::One(_) => self.run(handler, &dispatch, None).await,
            Invoke::Batch(invoke) => self.run_batch_of_one(handler, invoke, dispatch.work).await,
        };

        match outcome {
            RunOutcome::Done(events, unit) => match self.publish_inline(events, unit).await {
                Ok(()) => InlineOutcome::Done,
                Err(error) => failed(error),
            },
            RunOutcome::Marked | RunOutcome::Settled => InlineOutcome::Done,
            RunOutcome::Failed(failure) => handler_failed(&failure),
            RunOutcome::StoreFailed(error) => {
                failed(format!("its transaction could not begin: {error}"))
            }
            // Nothing is paused outside of a consumer.
            RunOutcome::Cancelled | RunOutcome::Held => failed("it was cancelled".to_owned()),
        }
    }

    async fn run_batch_of_one(
        &self,
        handler: &Handler,
        invoke: &InvokeBatch,
        work: &Work,
    ) -> RunOutcome {
        let member = Member {
            attempt: Attempt {
                received: Arc::clone(&work.received),
                number: 1,
            },
            done: HandlerMark::done_after(None),
            is_sole: true,
        };
        let runner = self.batch_runner(handler, invoke);
        // Nothing is leased, so nothing cancels the wait.
        let _permit = permit(runner.limit, &work.admission, pending()).await;

        match batch_attempt::run(runner, &[member], Vec::new(), true).await {
            Ok(mut outcomes) => outcomes.pop().unwrap_or(RunOutcome::Cancelled),
            Err(failure) => failure,
        }
    }

    /// Publishes the events of a handler that succeeded, in its transaction if it has one. There is
    /// no message to fence or to mark.
    async fn publish_inline(
        &self,
        events: Vec<Outgoing>,
        unit: Option<Box<dyn UnitOfWork>>,
    ) -> Result<(), String> {
        let Some(unit) = unit else {
            return self.services.publish_returned(events).await.map_err(|why| {
                format!("its events could not be published: {}", error_chain(&why))
            });
        };

        match commit(&self.services, unit, &mut [], events, None).await {
            Ok(()) => Ok(()),
            Err(CommitError::Cancelled | CommitError::LeaseLost) => {
                Err("its transaction had ended".to_owned())
            }
            Err(CommitError::Failed(error)) => Err(format!(
                "it could not be committed: {}",
                error_chain(&error)
            )),
        }
    }
}

/// What the handler's own error asks for.
fn handler_failed(failure: &Failure) -> InlineOutcome {
    let error = failure.text().to_owned();
    match failure.error().kind() {
        HandlerErrorKind::Discard => InlineOutcome::Discarded(error),
        HandlerErrorKind::Snooze(after) | HandlerErrorKind::RetryAfter(after) => {
            InlineOutcome::PutOff { after, error }
        }
        HandlerErrorKind::Retry => failed(error),
        HandlerErrorKind::Fatal
        | HandlerErrorKind::Undecodable
        | HandlerErrorKind::NewerVersion => InlineOutcome::Failed {
            error,
            is_fatal: true,
        },
    }
}

/// A failure that a retry may mend.
fn failed(error: String) -> InlineOutcome {
    InlineOutcome::Failed {
        error,
        is_fatal: false,
    }
}
