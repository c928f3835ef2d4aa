//! Figures that are read again and again while somebody looks at them: once for all viewers.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use ezq::error::error_chain;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};

use crate::failure::LIMIT;

mod shelf;

pub(crate) use shelf::Shelf;

/// How long a page waits for figures: for one question that began just before, and for its own.
const PATIENCE: Duration = Duration::from_millis(4_200);
/// The figures are read no more after so many rounds without a viewer.
const IDLE_ROUNDS: u32 = 3;
/// Nor after so much longer than a round.
const IDLE: Duration = Duration::from_secs(15);

type Ask<T> = Box<dyn Fn() -> BoxFuture<'static, ezq::Result<T>> + Send + Sync>;

/// What was read last, and why there is nothing newer.
#[derive(Debug)]
pub(crate) struct Reading<T> {
    /// `None` until a question was answered.
    pub(crate) value: Option<Arc<T>>,
    /// When the value was asked for, by this machine's clock.
    pub(crate) at: Option<DateTime<Utc>>,
    /// Why the newest question was not answered.
    pub(crate) failure: Option<String>,
    /// When the newest question began.
    asked: Option<Instant>,
    /// How many actions had changed the figures before that.
    changes: u64,
}

/// Figures, read in one task whatever the number of viewers.
pub(crate) struct Watched<T> {
    inner: Arc<Inner<T>>,
}

struct Inner<T> {
    ask: Ask<T>,
    every: Duration,
    /// After so long a question is given up.
    limit: Duration,
    reading: watch::Sender<Reading<T>>,
    state: Mutex<State>,
    /// Ends the wait for the next round.
    nudge: Notify,
}

struct State {
    looked: Instant,
    /// How many actions have changed the figures so far.
    changes: u64,
    is_running: bool,
}

impl<T: Send + Sync + 'static> Watched<T> {
    /// Asks by `ask`, once in `every` while somebody looks.
    pub(crate) fn new(
        every: Duration,
        ask: impl Fn() -> BoxFuture<'static, ezq::Result<T>> + Send + Sync + 'static,
    ) -> Self {
        Self::within(every, LIMIT, ask)
    }

    /// The same for questions that take up to `limit`.
    pub(crate) fn within(
        every: Duration,
        limit: Duration,
        ask: impl Fn() -> BoxFuture<'static, ezq::Result<T>> + Send + Sync + 'static,
    ) -> Self {
        let state = State {
            looked: Instant::now(),
            changes: 0,
            is_running: false,
        };
        let inner = Inner {
            ask: Box::new(ask),
            every,
            limit,
            reading: watch::Sender::new(Reading::nothing()),
            state: Mutex::new(state),
            nudge: Notify::new(),
        };

        Self {
            inner: Arc::new(inner),
        }
    }

    /// The figures. Those of an earlier round count if they are fresh; otherwise this waits for a round,
    /// and answers with what there is when that takes too long.
    pub(crate) async fn look(&self) -> Reading<T> {
        let mut readings = self.inner.reading.subscribe();
        let (oldest, changes) = self.inner.note_viewer();
        if self.inner.begin() {
            tokio::spawn(Arc::clone(&self.inner).run());
        }

        let fresh = readings.wait_for(|reading| {
            reading.changes >= changes && reading.asked.is_some_and(|asked| asked >= oldest)
        });
        // After the time the old figures are shown. The sender lives as long as `self`.
        let _ = timeout(PATIENCE, fresh).await;
        self.inner.reading.borrow().clone()
    }

    /// The figures as they are, without waiting for any. They are read if there are none, or old ones.
    pub(crate) fn glance(&self) -> Reading<T> {
        self.inner.note_viewer();
        if self.inner.begin() {
            tokio::spawn(Arc::clone(&self.inner).run());
        }
        self.inner.reading.borrow().clone()
    }

    /// Whether somebody looks, or did a short time ago.
    fn is_looked_at(&self) -> bool {
        self.inner.state().is_running
    }

    /// Says that an action has changed the figures: the next look waits for newer ones.
    pub(crate) fn change(&self) {
        self.inner.state().changes += 1;
        self.inner.nudge.notify_one();
    }
}

impl<T: Send + Sync + 'static> Inner<T> {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that somebody looks. Tells how old figures may be, and how many changes they must show.
    fn note_viewer(&self) -> (Instant, u64) {
        let now = Instant::now();
        let mut state = self.state();
        state.looked = now;
        // A round takes its time, so two rounds are not too old.
        let oldest = now.checked_sub(self.every.saturating_mul(2) + self.limit);
        // At the begin of the clock nothing is too old.
        (oldest.unwrap_or(now), state.changes)
    }

    /// Whether the caller has to start the task.
    fn begin(&self) -> bool {
        let mut state = self.state();
        !std::mem::replace(&mut state.is_running, true)
    }

    /// Ends the task when nobody has looked for some rounds. Under one lock with [`Self::begin`], so that
    /// no viewer finds a task that is about to end.
    fn may_end(&self) -> bool {
        let mut state = self.state();
        // Of long rounds one more is enough.
        let idle = self
            .every
            .saturating_mul(IDLE_ROUNDS)
            .min(self.every + IDLE);
        let is_idle = state.looked.elapsed() > idle;
        state.is_running = !is_idle;
        is_idle
    }

    async fn run(self: Arc<Self>) {
        loop {
            let asked = Instant::now();
            let at = Utc::now();
            let changes = self.state().changes;
            // A panic must not end the task: viewers would wait for it for ever.
            let question = AssertUnwindSafe((self.ask)()).catch_unwind();
            let failure = match timeout(self.limit, question).await {
                Ok(Ok(Ok(value))) => {
                    self.keep(asked, at, changes, value);
                    None
                }
                Ok(Ok(Err(error))) => Some(error_chain(&error)),
                Ok(Err(_)) => Some("the question panicked, which is a bug".to_owned()),
                Err(_) => Some(format!("no answer within {:?}", self.limit)),
            };
            if let Some(failure) = failure {
                tracing::debug!(%failure, "the dashboard could not read its figures");
                self.reading.send_modify(|reading| {
                    reading.failure = Some(failure);
                    reading.asked = Some(asked);
                    reading.changes = changes;
                });
            }

            tokio::select! {
                // The next round is due.
                () = sleep(self.every) => {}
                // An action has changed the figures.
                () = self.nudge.notified() => {}
            }
            if self.may_end() {
                return;
            }
        }
    }

    fn keep(&self, asked: Instant, at: DateTime<Utc>, changes: u64, value: T) {
        self.reading.send_replace(Reading {
            value: Some(Arc::new(value)),
            at: Some(at),
            failure: None,
            asked: Some(asked),
            changes,
        });
    }
}

impl<T> Reading<T> {
    fn nothing() -> Self {
        Self {
            value: None,
            at: None,
            failure: None,
            asked: None,
            changes: 0,
        }
    }
}

impl<T> Clone for Reading<T> {
    fn clone(&self) -> Self {
        Self {
            value: self.value.clone(),
            at: self.at,
            failure: self.failure.clone(),
            asked: self.asked,
            changes: self.changes,
        }
    }
}

#[cfg(test)]
mod tests;
