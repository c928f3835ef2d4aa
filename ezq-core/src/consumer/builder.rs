//! [`Consumer`]: the options of a consumer, their check, and how it begins.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::consumer::handle::{ConsumerHandle, Ending};
use crate::consumer::restart::run_with_restarts;
use crate::consumer::settings::Settings;
use crate::consumer::stop::listener::{StopListener, StopTokens, Tokens};
use crate::error::{Error, ErrorKind, Result, error_chain};
use crate::handler::retry::Backoff;
use crate::logging::error;
use crate::message::queue_name::{IntoQueueName, QueueName};
use crate::observe::report::Report;
use crate::observe::status::{ConsumerStatus, StatusGuard};
use crate::runtime::{check_runtime, cut_off};
use crate::shared::Shared;

/// A consumer of one queue, about to run.
///
/// ```
/// use ezq_core::app::App;
/// use ezq_core::consumer::StopReason;
/// use ezq_core::event::End;
/// use ezq_core::handler::{AnyEvent, Handler};
/// use ezq_core::memory::MemoryEngine;
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
    pub(super) app: Arc<Shared>,
    pub(super) queue: Result<QueueName>,
    concurrency: usize,
    lease: Duration,
    grace: Option<Duration>,
    tokens: Tokens,
    signals: bool,
    until_idle: bool,
    restart: Option<Backoff>,
    pub(super) subscribe: bool,
    /// The queues that other programs consume.
    pub(super) elsewhere: Result<BTreeSet<QueueName>>,
}

impl Consumer {
    pub(crate) fn new(app: Arc<Shared>) -> Self {
        let config = &app.config;
        Self {
            queue: Ok(config.queue.clone()),
            concurrency: config.concurrency,
            lease: config.lease,
            grace: config.grace,
            tokens: Tokens::default(),
            signals: false,
            until_idle: false,
            restart: None,
            subscribe: config.subscribe,
            elsewhere: Ok(BTreeSet::new()),
            app,
        }
    }

    /// The queue to consume. Defaults to the application's.
    pub fn queue(mut self, queue: impl IntoQueueName) -> Self {
        self.queue = queue.into_queue_name();
        self
    }

    /// How many events it handles at once, at least 1. Defaults to the application's.
    pub fn concurrency(mut self, concurrency: usize) -> Self {
        self.concurrency = concurrency;
        self
    }

    /// For how long it leases each event, at least a second. Leases are renewed while handlers run, so
    /// this is the time after which a crashed worker's events come again. Defaults to the
    /// application's.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// How long running handlers may take once a token, a signal or the handle stops the consumer.
    /// Then they are cancelled and their messages given back, within a second. Zero cancels at once.
    /// Defaults to the application's; if that has none, there is no limit.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = Some(grace);
        self
    }

    /// Stops when a token fires: nothing more is fetched, running handlers finish. May be called
    /// several times; then any of the tokens stops the consumer.
    pub fn stop_on(mut self, token: CancellationToken) -> Self {
        self.tokens.add(token);
        self
    }

    /// Stops on SIGINT and SIGTERM as on a token; a second signal interrupts. Signals are heard from
    /// the start of the consumer until its end, also while it waits to [start again](Self::restart).
    pub fn stop_on_signals(mut self) -> Self {
        self.signals = true;
        self
    }

    /// Stops when nothing is due, running or unsettled any more. Such a consumer fires no schedules.
    ///
    /// It looks at its own queue only. A retry that is not due yet does not keep it, and neither does an
    /// event that another queue's handler is about to publish here. With [`run_all`](Self::run_all), run
    /// all again until the report counts nothing handled.
    pub fn until_idle(mut self) -> Self {
        self.until_idle = true;
        self
    }

    /// Starts the consumer again after a pause when it fails. Without it a consumer rides out what
    /// passes by itself, such as a lost connection, and ends on the rest: a right that was taken away,
    /// an engine that panicked. An application that is wrong itself ends the consumer in any case.
    /// The pauses begin anew after a run of a minute. A [custom](Backoff::custom) backoff sees the
    /// consumer's [`Error`](crate::Error) as the source. Defaults to no restart.
    ///
    /// ```
    /// # use ezq_core::app::App;
    /// # use ezq_core::handler::Backoff;
    /// # use ezq_core::memory::MemoryEngine;
    /// # use std::time::Duration;
    /// # async fn example(app: App) {
    /// let pauses = Backoff::exponential(Duration::from_secs(1), Duration::from_secs(60));
    /// let handle = app.consumer().restart(pauses).spawn();
    /// # }
    /// ```
    pub fn restart(mut self, pauses: Backoff) -> Self {
        self.restart = Some(pauses);
        self
    }

    /// Subscribes the queue, when the consumer starts, to the types that its handlers take. So the
    /// queue gets a copy of what any application [broadcasts](crate::app::App::broadcast) of them.
    /// A handler that takes every event subscribes the queue to all types.
    ///
    /// Subscriptions are made for this [application](crate::app::AppBuilder::app), and only added,
    /// in whatever order processes start. To remove some, see
    /// [`Subscriptions`](crate::admin::Subscriptions). Defaults to
    /// [`Config::subscribe`](crate::config::Config::subscribe).
    pub fn subscribe(mut self) -> Self {
        self.subscribe = true;
        self
    }

    /// Runs until it is stopped.
    ///
    /// # Errors
    /// When an option is wrong, a handler asks for what is missing, or the queue cannot be created.
    /// What passes by itself, such as a lost connection, is ridden out.
    ///
    /// # Cancel safety
    /// Dropping the future stops its handlers where they are. Their messages come again when their
    /// leases end, and [`App::health`](crate::app::App::health) shows the consumer as failed.
    /// Prefer a token.
    pub async fn run(self) -> Result<Report> {
        check_runtime()?;
        let (stops, status) = self.begin();

        // A task of its own: the thread that waits in `main` would have to be woken for each event.
        let mut running = JoinSet::new();
        running.spawn(self.run_with(stops, status).in_current_span());
        match running.join_next().await {
            Some(Ok(ended)) => ended,
            Some(Err(error)) => Err(cut_off("the consumer", error)),
            None => Err(Error::new(
                ErrorKind::RuntimeEnded,
                "the runtime shut down while a consumer ran",
            )),
        }
    }

    /// Runs in the background, with a handle that stops, observes and awaits it.
    ///
    /// Outside of a tokio runtime nothing runs, and the handle's result is an
    /// [`ErrorKind::NoRuntime`].
    #[must_use = "the handle tells when it ended, and why"]
    pub fn spawn(self) -> ConsumerHandle {
        let (stops, guard) = self.begin();
        let app = Arc::clone(&self.app);
        let status = Arc::clone(&guard.0);

        let running = self.run_with(stops.clone(), guard);
        let queue = status.queue.clone();
        let ending = Ending::spawn(async move {
            running.await.inspect_err(|failure| {
                // Whoever spawned it may never look at the handle.
                let queue = queue.as_ref().map(QueueName::as_str);
                error!(queue, error = %error_chain(failure), "consumer failed");
            })
        });
        ConsumerHandle::new(app, stops, status, ending)
    }

    fn begin(&self) -> (StopTokens, StatusGuard) {
        (self.stop_tokens(), StatusGuard(self.status()))
    }

    /// Makes the consumer known to health. Before its task runs: that may never happen.
    pub(super) fn status(&self) -> Arc<ConsumerStatus> {
        let status = Arc::new(ConsumerStatus::new(self.queue.as_ref().ok()));
        self.app.note(&status);
        status
    }

    pub(super) fn stop_tokens(&self) -> StopTokens {
        StopTokens {
            given: self.tokens.clone(),
            ..StopTokens::default()
        }
    }

    /// The same consumer on another queue.
    pub(super) fn on(&self, queue: QueueName) -> Self {
        Self {
            app: Arc::clone(&self.app),
            queue: Ok(queue),
            tokens: self.tokens.clone(),
            restart: self.restart.clone(),
            elsewhere: Ok(BTreeSet::new()),
            ..*self
        }
    }

    pub(super) async fn run_with(self, stops: StopTokens, status: StatusGuard) -> Result<Report> {
        let app = Arc::clone(&self.app);
        let result = self.run_to_the_end(stops, &status.0).await;
        status.0.ended(&result);
        app.consumer_ended(&status.0).await;
        result
    }

    async fn run_to_the_end(
        self,
        stops: StopTokens,
        status: &Arc<ConsumerStatus>,
    ) -> Result<Report> {
        let settings = self.settings()?;
        let stops = StopListener::new(stops, self.signals, self.grace)?;
        run_with_restarts(self.app, settings, stops, self.restart, status).await
    }

    /// Checks the options.
    fn settings(&self) -> Result<Settings> {
        let queue = self.queue.as_ref().map_err(Error::without_source)?.clone();
        if self.concurrency == 0 {
            return Err(wrong("`concurrency` must be at least 1"));
        }
        if self.lease < Duration::from_secs(1) {
            return Err(wrong(
                "`lease` must be at least 1s, so that it can be renewed in time",
            ));
        }

        let engines = &self.app.services.engines;
        let engine = Arc::clone(engines.of(&queue));
        self.app.check_queue(&queue)?;
        let subscribe = if self.subscribe {
            engines.check_broadcast(&queue)?;
            engines.broadcasts()?;
            Some(self.app.patterns(&queue)?.into_iter().collect())
        } else {
            None
        };

        Ok(Settings {
            engine,
            queue,
            concurrency: self.concurrency,
            lease: self.lease,
            until_idle: self.until_idle,
            subscribe,
        })
    }
}

fn wrong(why: &str) -> Error {
    Error::new(ErrorKind::Configuration, why)
}
