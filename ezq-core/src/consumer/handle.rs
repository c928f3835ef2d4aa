//! The handle of a consumer in the background.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::admin::health::ConsumerHealth;
use crate::consumer::stop::listener::StopTokens;
use crate::error::{Error, Result};
use crate::observe::report::{Counts, Report};
use crate::observe::status::{ConsumerState, ConsumerStatus};
use crate::runtime::{check_runtime, cut_off};
use crate::shared::Shared;

/// A consumer that runs in the background.
///
/// ```
/// # use ezq_core::app::App;
/// # use ezq_core::consumer::{ConsumerState, StopReason};
/// # use ezq_core::handler::{AnyEvent, Handler};
/// # use ezq_core::memory::MemoryEngine;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> ezq_core::Result<()> {
/// # let log = Handler::on("log", |_: AnyEvent| async {});
/// # let app = App::builder().without_discovered_handlers().register(log).build(MemoryEngine::new())?;
/// let handle = app.consumer().spawn();
/// handle.states().wait_for(|state| *state == ConsumerState::Running).await;
/// assert!(handle.health().await.is_ready());
///
/// handle.stop(); // what runs may finish
/// let report = handle.await?;
/// assert_eq!(report.reason, StopReason::Handle);
/// # Ok(()) }
/// ```
///
/// The handle is a future of the consumer's report, and can be awaited by reference. So one `select!`
/// waits for the consumer and for whatever stops it:
///
/// ```
/// # use ezq_core::app::App;
/// # use ezq_core::consumer::StopReason;
/// # use ezq_core::handler::{AnyEvent, Handler};
/// # use ezq_core::memory::MemoryEngine;
/// # use std::time::Duration;
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> ezq_core::Result<()> {
/// # let log = Handler::on("log", |_: AnyEvent| async {});
/// # let app = App::builder().without_discovered_handlers().register(log).build(MemoryEngine::new())?;
/// # async fn the_shift_ends() { tokio::time::sleep(Duration::from_secs(3600)).await }
/// let mut handle = app.consumer().spawn();
/// let report = tokio::select! {
///     report = &mut handle => report?, // it ended by itself: an `End`, a failure
///     () = the_shift_ends() => {
///         handle.stop();
///         handle.wait().await?
///     }
/// };
/// assert_eq!(report.reason, StopReason::Handle);
/// # Ok(()) }
/// ```
///
/// Dropping the handle does not stop it.
#[derive(Debug)]
pub struct ConsumerHandle {
    pub(crate) app: Arc<Shared>,
    pub(crate) stops: StopTokens,
    pub(crate) status: Arc<ConsumerStatus>,
    ending: Ending<Report>,
}

impl ConsumerHandle {
    pub(super) fn new(
        app: Arc<Shared>,
        stops: StopTokens,
        status: Arc<ConsumerStatus>,
        ending: Ending<Report>,
    ) -> Self {
        Self {
            app,
            stops,
            status,
            ending,
        }
    }

    /// Asks the consumer to stop: what runs may finish within the [grace](super::Consumer::grace).
    pub fn stop(&self) {
        self.stops.handle.cancel();
    }

    /// Cancels what runs and stops the consumer, within a second. A handler that does not end by then
    /// is left behind. Its event, and one that cannot be given back because the store does not answer,
    /// comes again when its lease ends.
    pub fn interrupt(&self) {
        self.stops.interrupt.cancel();
    }

    /// What the consumer did so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.status.counters.counts()
    }

    /// Whether the consumer still runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.ending.is_running()
    }

    /// How far the consumer is; once it ended, why.
    #[must_use]
    pub fn state(&self) -> ConsumerState {
        self.status.state()
    }

    /// The consumer's states to watch, from the present one on.
    #[must_use]
    pub fn states(&self) -> watch::Receiver<ConsumerState> {
        self.status.states()
    }

    /// How the consumer is, and how far behind its queue is. The engine is asked, for at most
    /// [`connect_timeout`](crate::config::Config::connect_timeout).
    ///
    /// # Cancel safety
    /// It changes nothing.
    pub async fn health(&self) -> ConsumerHealth {
        ConsumerHealth::of(&self.app, &self.status).await
    }

    /// Waits until the consumer ends, as awaiting the handle itself does.
    ///
    /// # Errors
    /// As [`Consumer::run`](super::Consumer::run). A second call returns an error of the same kind and
    /// message, without its source.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped: the consumer runs on, and the next call waits for it.
    pub async fn wait(&mut self) -> Result<Report> {
        poll_fn(|context| self.ending.poll(context)).await
    }
}

/// The consumer's report, as [`ConsumerHandle::wait`] returns it.
impl Future for ConsumerHandle {
    type Output = Result<Report>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.ending.poll(context)
    }
}

/// The end of a task. A task gives its result once; this gives it as often as it is asked.
#[derive(Debug)]
pub(crate) enum Ending<R> {
    Running(JoinHandle<Result<R>>),
    Ended(Result<R>),
}

impl<R: Clone + Send + 'static> Ending<R> {
    /// Runs it in the background. Outside of a tokio runtime it has ended, with that error.
    pub(crate) fn spawn(running: impl Future<Output = Result<R>> + Send + 'static) -> Self {
        match check_runtime() {
            Ok(()) => Self::Running(tokio::spawn(running)),
            Err(error) => Self::Ended(Err(error)),
        }
    }

    pub(crate) fn is_running(&self) -> bool {
        matches!(self, Self::Running(task) if !task.is_finished())
    }

    /// The task's result. A repeated error has no source.
    pub(crate) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<R>> {
        let task = match self {
            Self::Running(task) => task,
            Self::Ended(ended) => return Poll::Ready(again(ended)),
        };

        let joined = ready!(Pin::new(task).poll(context));
        let ended = joined.unwrap_or_else(|error| Err(cut_off("the background task", error)));
        *self = Self::Ended(again(&ended));
        Poll::Ready(ended)
    }
}

fn again<R: Clone>(ended: &Result<R>) -> Result<R> {
    ended.as_ref().cloned().map_err(Error::without_source)
}
