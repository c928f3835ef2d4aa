//! The status of a consumer: how far it is, when it last claimed, and what fails.
//!
//! The consumer writes it; its handle and health read it, at any time and without waiting.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::error::{Error, ErrorKind, Result, error_chain};
use crate::message::queue_name::QueueName;
use crate::observe::metrics::ConsumersGauge;
use crate::observe::presence::PresenceOf;
use crate::observe::report::{Counters, Report};

/// How far a consumer is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConsumerState {
    /// It makes sure that its queue exists.
    Starting,
    /// It claims and handles.
    Running,
    /// It was asked to stop and waits for what still runs.
    Stopping,
    /// It failed with this error and starts again after a pause.
    Restarting(Arc<str>),
    /// It ended as it was asked to.
    Stopped(Report),
    /// It ended with this error.
    Failed(Arc<str>),
}

impl ConsumerState {
    /// Its label in metrics. One that has ended has none: its status may be kept while the process runs.
    fn label(&self) -> Option<&'static str> {
        match self {
            Self::Starting => Some("starting"),
            Self::Running => Some("running"),
            Self::Stopping => Some("stopping"),
            Self::Restarting(_) => Some("restarting"),
            Self::Stopped(_) | Self::Failed(_) => None,
        }
    }

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

/// The status of one consumer, across its restarts.
#[derive(Debug)]
pub(crate) struct ConsumerStatus {
    /// `None` if the queue's name is not valid.
    pub(crate) queue: Option<QueueName>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) began: Instant,
    state: watch::Sender<ConsumerState>,
    failed: OnceLock<Instant>,
    /// Milliseconds from `began` to the newest answered claim, plus one; 0 before the first.
    claimed: AtomicU64,
    failures: Failures,
    /// Since when the store refuses claims because a right is missing.
    refused: Mutex<Option<Instant>>,
    restarts: AtomicU32,
    gauge: ConsumersGauge,
    is_paused: AtomicBool,
    /// What others are told of it, once it runs; none of a consumer that runs until its queue is idle.
    presence: OnceLock<PresenceOf>,
}

/// What fails just now, each with its error.
#[derive(Debug, Default)]
struct Failures {
    claiming: Mutex<Option<String>>,
    renewing: Mutex<Option<String>>,
    /// Settling whole batches. Claims may go on for a while.
    settling: Mutex<Option<String>>,
    /// Settling some events while others are settled.
    settling_some: Mutex<Option<String>>,
}

/// The present value of a field. No lock here is held for longer than one read or write.
fn lock<T>(field: &Mutex<T>) -> MutexGuard<'_, T> {
    field.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sets or clears a failure.
fn note(failure: &Mutex<Option<String>>, what: &str, answer: Result<(), &Error>) {
    let text = answer
        .err()
        .map(|error| format!("{what} fails: {}", error_chain(error)));
    *lock(failure) = text;
}

impl ConsumerStatus {
    pub(crate) fn new(queue: Option<&QueueName>) -> Self {
        Self {
            queue: queue.cloned(),
            counters: Arc::new(queue.map(Counters::of).unwrap_or_default()),
            began: Instant::now(),
            state: watch::Sender::new(ConsumerState::Starting),
            failed: OnceLock::new(),
            claimed: AtomicU64::new(0),
            failures: Failures::default(),
            refused: Mutex::default(),
            restarts: AtomicU32::new(0),
            gauge: queue
                .map(|queue| ConsumersGauge::of(queue, ConsumerState::Starting.label()))
                .unwrap_or_default(),
            is_paused: AtomicBool::new(false),
            presence: OnceLock::new(),
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

    /// Whether it has consumed its queue at any time.
    pub(crate) fn has_run(&self) -> bool {
        self.last_claim().is_some() || *self.state.borrow() == ConsumerState::Running
    }

    /// How long ago the newest claim was answered.
    pub(crate) fn last_claim(&self) -> Option<Duration> {
        let claimed = self.claimed.load(Ordering::Relaxed).checked_sub(1)?;
        let claimed = Duration::from_millis(claimed);
        Some(self.began.elapsed().saturating_sub(claimed))
    }

    /// What fails just now: of several failures the one that holds up most.
    pub(crate) fn failure(&self) -> Option<String> {
        let failures = &self.failures;
        [
            &failures.claiming,
            &failures.renewing,
            &failures.settling,
            &failures.settling_some,
        ]
        .into_iter()
        .find_map(|failure| lock(failure).clone())
    }

    /// For how long the store has refused its claims.
    pub(crate) fn refused_for(&self) -> Option<Duration> {
        lock(&self.refused).map(|since| since.elapsed())
    }

    pub(crate) fn restarts(&self) -> u32 {
        self.restarts.load(Ordering::Relaxed)
    }

    /// Notes that a run begins of which others are told, and how to ask it what is in flight.
    pub(crate) fn runs_in_public(
        &self,
        concurrency: usize,
        in_flight: impl Fn() -> usize + Send + Sync + 'static,
    ) {
        let presence = self.presence.get_or_init(|| PresenceOf::new(concurrency));
        // One that is started again keeps its id.
        presence.measure(in_flight);
    }

    /// What others are told of it.
    pub(crate) fn presence(&self) -> Option<&PresenceOf> {
        self.presence.get()
    }

    /// Notes whether its queue is paused. Probes read it, and nothing is ordered by it.
    pub(crate) fn paused(&self, is_paused: bool) {
        self.is_paused.store(is_paused, Ordering::Relaxed);
    }

    /// Whether its queue is paused, as far as it knows.
    pub(crate) fn is_paused(&self) -> bool {
        self.is_paused.load(Ordering::Relaxed)
    }

    /// Notes how the store answered a claim.
    pub(crate) fn claimed(&self, answer: Result<(), &Error>) {
        *lock(&self.failures.claiming) = answer.err().map(|error| error_chain(error));

        let is_refused = answer.is_err_and(|error| error.kind() == ErrorKind::Permission);
        let mut refused = lock(&self.refused);
        *refused = is_refused.then(|| refused.unwrap_or_else(Instant::now));
        drop(refused);

        if answer.is_ok() {
            let millis = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
            self.claimed
                // One more, since zero means never. Probes read it, and nothing is ordered by it.
                .store(millis.saturating_add(1), Ordering::Relaxed);
        }
    }

    /// Notes how the store answered a batch of settlements.
    pub(crate) fn settled(&self, answer: Result<(), &Error>) {
        note(&self.failures.settling, "settling", answer);
    }

    /// Notes how the store answered settlements that failed in their batch. Several such remainders
    /// may be tried side by side; the newest answer counts.
    pub(crate) fn settled_later(&self, answer: Result<(), &Error>) {
        note(&self.failures.settling_some, "settling some events", answer);
    }

    /// Notes whether leases can be renewed.
    pub(crate) fn renewed(&self, answer: Result<(), &Error>) {
        note(&self.failures.renewing, "renewing leases", answer);
    }

    /// Notes that it runs, or that it stops.
    pub(crate) fn runs(&self, is_stopping: bool) {
        self.set_state(if is_stopping {
            ConsumerState::Stopping
        } else {
            ConsumerState::Running
        });
    }

    /// Notes that it failed and starts again.
    pub(crate) fn restarts_after(&self, error: &Error) {
        self.restarts.fetch_add(1, Ordering::Relaxed);

        // The run that follows has settled and renewed nothing yet.
        self.settled(Ok(()));
        self.settled_later(Ok(()));
        self.renewed(Ok(()));
        self.set_state(ConsumerState::Restarting(error_chain(error).into()));
    }

    /// Notes that it ended for good.
    pub(crate) fn ended(&self, result: &Result<Report>) {
        // It claims no more: a store that refused it is no reason for a new process.
        *lock(&self.refused) = None;
        self.set_state(match result {
            Ok(report) => ConsumerState::Stopped(*report),
            Err(error) => ConsumerState::Failed(error_chain(error).into()),
        });
    }

    fn set_state(&self, state: ConsumerState) {
        if matches!(state, ConsumerState::Failed(_)) {
            self.failed.get_or_init(Instant::now);
        }

        // Called in every round of the coordinator: watchers are woken only by a change.
        self.state.send_if_modified(|current| {
            let is_changed = *current != state;
            if is_changed {
                self.gauge.change(current.label(), state.label());
                *current = state;
            }
            is_changed
        });
    }
}

/// Marks a consumer as failed when its future is dropped before it ended.
pub(crate) struct StatusGuard(pub(crate) Arc<ConsumerStatus>);

impl Drop for StatusGuard {
    fn drop(&mut self) {
        if !self.0.state().is_ended() {
            let text = "its future was dropped: its events are delivered again when their leases \
                        end";
            self.0.set_state(ConsumerState::Failed(text.into()));
        }
    }
}
