//! The consumer: fetches from one queue, dispatches, settles, and stops when told.
//!
//! It is the only place that knows both an engine and the dispatcher.

mod direct;
mod fetch;
mod intake;
mod lanes;
mod lease;
mod pace;
mod report;
mod run;
mod settle;
mod shutdown;
mod signals;
mod task;

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) use report::Counters;
pub use report::{Counts, Report, StopReason};

use crate::inner::Inner;
use crate::{Error, ErrorKind, QueueName, Result};

/// A consumer of one queue, about to run.
///
/// ```
/// use ezq_core::{AnyEvent, App, End, Handler, StopReason, engine::memory::MemoryEngine};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> ezq_core::Result<()> {
/// let app = App::builder()
///     .without_discovered_handlers()
///     .register(Handler::on("log", |event: AnyEvent| async move {
///         println!("{}", event.event_type());
///     }))
///     .build(MemoryEngine::new())?;
/// app.publish(&End::default()).await?;
/// let report = app.consumer().run().await?;
/// assert_eq!(report.reason, StopReason::End);
/// # Ok(()) }
/// ```
#[derive(Debug)]
#[must_use = "a consumer does nothing until it is run or spawned"]
pub struct Consumer {
    app: Arc<Inner>,
    queue: Result<QueueName>,
    concurrency: usize,
    lease: Duration,
    grace: Option<Duration>,
    token: CancellationToken,
    signals: bool,
    until_idle: bool,
    subscribe: bool,
}

impl Consumer {
    pub(crate) fn new(app: Arc<Inner>) -> Self {
        let config = &app.config;
        Self {
            queue: Ok(config.queue.clone()),
            concurrency: config.concurrency,
            lease: config.lease,
            grace: config.grace,
            token: CancellationToken::new(),
            signals: false,
            until_idle: false,
            subscribe: config.subscribe,
            app,
        }
    }

    /// Which queue. Defaults to the application's.
    pub fn queue(mut self, queue: impl TryInto<QueueName, Error = Error>) -> Self {
        self.queue = queue.try_into();
        self
    }

    /// How many events it handles at once. Defaults to the application's.
    pub fn concurrency(mut self, concurrency: usize) -> Self {
        self.concurrency = concurrency;
        self
    }

    /// For how long it leases. Defaults to the application's.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// How long running handlers may take once a token, a signal or the handle stops it; then they
    /// are cancelled and their messages given back. Zero does not wait at all. Defaults to no
    /// limit.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = Some(grace);
        self
    }

    /// Stops when a token fires: nothing more is fetched, running handlers finish.
    pub fn stop_on(mut self, token: CancellationToken) -> Self {
        self.token = token;
        self
    }

    /// Stops on SIGINT and SIGTERM as on a token; a second signal interrupts.
    pub fn stop_on_signals(mut self) -> Self {
        self.signals = true;
        self
    }

    /// Stops when nothing is due, handled or unsettled any more.
    pub fn until_idle(mut self) -> Self {
        self.until_idle = true;
        self
    }

    /// Subscribes its queue, when it starts, to the types that the queue's handlers take, so that it
    /// gets a copy of what any application [broadcasts](crate::App::broadcast) of them. A handler
    /// that takes every event subscribes it to all. Subscriptions are only added, for this
    /// [application](crate::AppBuilder::app), in whatever order processes start; to remove some, see
    /// [`Subscriptions`](crate::Subscriptions). Defaults to
    /// [`Config::subscribe`](crate::Config::subscribe).
    pub fn subscribe(mut self) -> Self {
        self.subscribe = true;
        self
    }

    /// Runs until it is stopped.
    ///
    /// # Errors
    /// When an option is wrong, a handler asks for what is missing, or the queue cannot be created.
    /// What is passing, such as a lost connection, is ridden out.
    ///
    /// # Cancel safety
    /// Dropping the future stops its handlers where they are; their messages come again when their
    /// leases end. Prefer a token.
    pub async fn run(self) -> Result<Report> {
        let stops = Stops { token: self.token.clone(), ..Stops::default() };
        self.run_with(stops, Arc::default()).await
    }

    /// Runs in the background, with a handle that stops, observes and awaits it.
    #[must_use = "the handle tells when it ended, and why"]
    pub fn spawn(self) -> ConsumerHandle {
        let stops = Stops { token: self.token.clone(), ..Stops::default() };
        let counters = Arc::new(Counters::default());
        let task = tokio::spawn(self.run_with(stops.clone(), Arc::clone(&counters)));
        ConsumerHandle { stops, counters, task }
    }

    async fn run_with(self, stops: Stops, counters: Arc<Counters>) -> Result<Report> {
        let queue = self.queue?;
        let wrong = |why: &str| Err(Error::new(ErrorKind::Configuration, why));
        if self.concurrency == 0 {
            return wrong("`concurrency` must be at least 1");
        }
        if self.lease < Duration::from_secs(1) {
            return wrong("`lease` must be at least 1s, so that it can be renewed in time");
        }
        let engine = Arc::clone(self.app.services.engines.of(&queue));
        self.app.check_queue(&queue)?;
        let subscribe = if self.subscribe {
            self.app.services.engines.check_broadcast(&queue)?;
            self.app.services.engines.broadcasts()?;
            Some(self.app.patterns(&queue)?.into_iter().collect())
        } else {
            None
        };
        let settings = run::Settings {
            engine,
            queue,
            concurrency: self.concurrency,
            lease: self.lease,
            grace: self.grace,
            signals: self.signals,
            until_idle: self.until_idle,
            subscribe,
        };
        run::run(self.app, settings, stops, counters).await
    }
}

/// What can stop a consumer from outside.
#[derive(Debug, Clone, Default)]
struct Stops {
    token: CancellationToken,
    handle: CancellationToken,
    interrupt: CancellationToken,
}

/// A consumer that runs in the background.
///
/// Dropping the handle does not stop it.
#[derive(Debug)]
pub struct ConsumerHandle {
    stops: Stops,
    counters: Arc<Counters>,
    task: JoinHandle<Result<Report>>,
}

impl ConsumerHandle {
    /// Lets it finish what runs, within its grace, and end.
    pub fn stop(&self) {
        self.stops.handle.cancel();
    }

    /// Cancels what runs and ends it.
    pub fn interrupt(&self) {
        self.stops.interrupt.cancel();
    }

    /// What it did so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counters.counts()
    }

    /// Whether it still runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        !self.task.is_finished()
    }

    /// Waits until it ends.
    ///
    /// # Errors
    /// As [`Consumer::run`].
    pub async fn wait(self) -> Result<Report> {
        self.task.await.unwrap_or_else(|error| {
            Err(Error::new(ErrorKind::Engine, "the consumer's task was ended").with_source(error))
        })
    }
}
