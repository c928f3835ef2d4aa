//! What others may see of a consumer while it runs: how far it is, when it last claimed, what fails.

use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::error::{Error, ErrorKind, Result, error_chain};
use crate::message::queue_name::QueueName;
use crate::observe::report::{Counters, Report};

/// How far a consumer is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConsumerState {
    /// It makes sure of its queue.
    Starting,
    /// It claims and handles.
    Running,
    /// It was told to stop, and lets end what is to end.
    Stopping,
    /// It failed with this error, and is started again after a pause.
    Restarting(Arc<str>),
    /// It ended as it was told to.
    Stopped(Report),
    /// It ended with this error.
    Failed(Arc<str>),
}

impl ConsumerState {
    /// Whether it has ended for good.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        matches!(self, Self::Stopped(_) | Self::Failed(_))
    }
}

impl fmt::Display for ConsumerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Starting => f.write_str("starting"),
            Self::Running => f.write_str("running"),
            Self::Stopping => f.write_str("stopping"),
            Self::Restarting(error) => write!(f, "restarting after a failure: {error}"),
            Self::Stopped(report) => report.fmt(f),
            Self::Failed(error) => write!(f, "failed: {error}"),
        }
    }
}

/// What a consumer shows of itself.
#[derive(Debug)]
pub(crate) struct Observed {
    pub(crate) queue: Option<QueueName>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) began: Instant,
    state: watch::Sender<ConsumerState>,
    failed: OnceLock<Instant>,
    /// Milliseconds from `began` to the newest claim that was answered, and one; 0 before it.
    claimed: AtomicU64,
    /// Why claiming fails, while it does.
    failing: Mutex<Option<String>>,
    /// Since when the store refuses claims for want of a right, while it does.
    refused: Mutex<Option<Instant>>,
    /// Why settling fails, while it does: claims may go on for a while.
    unsettled: Mutex<Option<String>>,
    /// Why some settlements fail while others succeed.
    left: Mutex<Option<String>>,
    /// Why leases cannot be renewed, while they cannot: nothing is claimed then.
    unrenewed: Mutex<Option<String>>,
    restarts: AtomicU32,
}

impl Observed {
    pub(crate) fn new(queue: Option<&QueueName>) -> Self {
        Self {
            queue: queue.cloned(),
            counters: Arc::default(),
            began: Instant::now(),
            state: watch::Sender::new(ConsumerState::Starting),
            failed: OnceLock::new(),
            claimed: AtomicU64::new(0),
            failing: Mutex::default(),
            refused: Mutex::default(),
            unsettled: Mutex::default(),
            left: Mutex::default(),
            unrenewed: Mutex::default(),
            restarts: AtomicU32::new(0),
        }
    }

    pub(crate) fn state(&self) -> ConsumerState {
        self.state.borrow().clone()
    }

    pub(crate) fn states(&self) -> watch::Receiver<ConsumerState> {
        self.state.subscribe()
    }

    /// When it failed for good.
    pub(crate) fn failed(&self) -> Option<Instant> {
        self.failed.get().copied()
    }

    /// Whether it consumes its queue, or did.
    pub(crate) fn has_run(&self) -> bool {
        self.last_claim().is_some() || *self.state.borrow() == ConsumerState::Running
    }

    /// How long ago a claim was answered, if one was.
    pub(crate) fn last_claim(&self) -> Option<Duration> {
        let claimed = self.claimed.load(Ordering::Relaxed).checked_sub(1)?;
        Some(
            self.began
                .elapsed()
                .saturating_sub(Duration::from_millis(claimed)),
        )
    }

    pub(crate) fn failing(&self) -> Option<String> {
        let now =
            |of: &Mutex<Option<String>>| of.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let failures = [&self.failing, &self.unrenewed, &self.unsettled, &self.left];
        failures.into_iter().find_map(now)
    }

    /// For how long the store has refused its claims.
    pub(crate) fn refused_for(&self) -> Option<Duration> {
        let refused = *self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.map(|since| since.elapsed())
    }

    pub(crate) fn restarts(&self) -> u32 {
        self.restarts.load(Ordering::Relaxed)
    }

    /// Notes how a claim was answered.
    pub(crate) fn claimed(&self, answer: Result<(), &Error>) {
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        *failing = answer.err().map(|error| error_chain(error));
        let is_refused = answer.is_err_and(|error| error.kind() == ErrorKind::Permission);
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        *refused = is_refused.then(|| refused.unwrap_or_else(Instant::now));
        drop(refused);
        if answer.is_ok() {
            let millis = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
            self.claimed
                .store(millis.saturating_add(1), Ordering::Relaxed);
        }
    }

    /// Notes how a batch of settlements was answered.
    pub(crate) fn settled(&self, answer: Result<(), &Error>) {
        let mut unsettled = self
            .unsettled
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let told = answer
            .err()
            .map(|error| format!("settling fails: {}", error_chain(error)));
        *unsettled = told;
    }

    /// Notes how those were answered that could not be settled with their batch. Several such
    /// batches may be tried beside each other: each notes anew with every try.
    pub(crate) fn settled_later(&self, answer: Result<(), &Error>) {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        *left = answer
            .err()
            .map(|error| format!("settling some events fails: {}", error_chain(error)));
    }

    /// Notes whether leases can be renewed.
    pub(crate) fn renewed(&self, answer: Result<(), &Error>) {
        let mut unrenewed = self
            .unrenewed
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *unrenewed = answer
            .err()
            .map(|error| format!("renewing leases fails: {}", error_chain(error)));
    }

    /// It claims and handles, or it was told to stop.
    pub(crate) fn runs(&self, is_stopping: bool) {
        self.turn(if is_stopping {
            ConsumerState::Stopping
        } else {
            ConsumerState::Running
        });
    }

    pub(crate) fn restarts_after(&self, error: &Error) {
        self.restarts.fetch_add(1, Ordering::Relaxed);
        // The one that starts again has settled nothing yet.
        self.settled(Ok(()));
        self.settled_later(Ok(()));
        self.renewed(Ok(()));
        self.turn(ConsumerState::Restarting(error_chain(error).into()));
    }

    pub(crate) fn ended(&self, result: &Result<Report>) {
        // It claims no more: a store that refused it is no reason for a new process.
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.turn(match result {
            Ok(report) => ConsumerState::Stopped(*report),
            Err(error) => ConsumerState::Failed(error_chain(error).into()),
        });
    }

    fn turn(&self, state: ConsumerState) {
        if matches!(state, ConsumerState::Failed(_)) {
            self.failed.get_or_init(Instant::now);
        }
        self.state.send_if_modified(|current| {
            let changed = *current != state;
            if changed {
                *current = state;
            }
            changed
        });
    }
}

/// Says so when a consumer's future is dropped before it ended.
pub(crate) struct Watched(pub(crate) Arc<Observed>);

impl Drop for Watched {
    fn drop(&mut self) {
        if !self.0.state().is_ended() {
            let text = "its future was dropped: what it held comes again when its leases end";
            self.0.turn(ConsumerState::Failed(text.into()));
        }
    }
}
