//! The consumer: fetches from one queue, dispatches, settles, and stops when told.
//!
//! It is the only place that knows both an engine and the dispatcher.

mod coordinator;
mod fetcher;
mod handle;
mod intake;
mod leases;
mod pending;
mod prepare;
mod renewer;
mod run;
mod scope;
mod settings;
mod settle;
mod stop;
mod warnings;
mod workload;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::consumer::settings::Settings;
use crate::consumer::stop::listener::{StopListener, StopTokens, Tokens};

use crate::observe::report::Report;
use crate::observe::status::{Observed, Watched};
pub use handle::ConsumerHandle;

use crate::dispatch::dispatcher::pause;
use crate::error::{Error, ErrorKind, Result, error_chain};
use crate::handler::retry::Backoff;
use crate::logging::error;
use crate::message::queue_name::QueueName;
use crate::runtime::check_runtime;
use crate::shared::Shared;
use crate::text::panic_text;

/// What ran for so long before it failed is started again after the first pause.
const STEADY: Duration = Duration::from_secs(60);

/// A consumer of one queue, about to run.
///
/// ```
/// use ezq_core::{AnyEvent, App, End, Handler, StopReason, memory::MemoryEngine};
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
    app: Arc<Shared>,
    queue: Result<QueueName>,
    concurrency: usize,
    lease: Duration,
    grace: Option<Duration>,
    tokens: Tokens,
    signals: bool,
    until_idle: bool,
    restart: Option<Backoff>,
    subscribe: bool,
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
    /// are cancelled and their messages given back, within a second. Zero does not wait at all.
    /// Defaults to no limit.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = Some(grace);
        self
    }

    /// StopTokens when a token fires: nothing more is fetched, running handlers finish. Said again, it
    /// stops when any of the tokens does.
    pub fn stop_on(mut self, token: CancellationToken) -> Self {
        self.tokens.add(token);
        self
    }

    /// StopTokens on SIGINT and SIGTERM as on a token; a second signal interrupts. Signals are heard from
    /// when it starts until it has ended, also while it waits to [start again](Self::restart).
    pub fn stop_on_signals(mut self) -> Self {
        self.signals = true;
        self
    }

    /// StopTokens when nothing is due, handled or unsettled any more.
    pub fn until_idle(mut self) -> Self {
        self.until_idle = true;
        self
    }

    /// Starts it again when it fails, after a pause. It rides out what is passing, such as a lost
    /// connection, in any case; this is for the rest: a right that was taken away, an engine that
    /// panicked. What is wrong with the application itself ends it as before. The pauses begin anew
    /// once it ran for a minute. Defaults to no.
    ///
    /// ```
    /// # use ezq_core::{App, Backoff, MemoryEngine};
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
    /// leases end, and [`App::health`](crate::App::health) tells of it as failed. Prefer a token.
    pub async fn run(self) -> Result<Report> {
        check_runtime()?;
        let (stops, watched) = self.begin();
        // A task of its own: the thread that waits in `main` would have to be woken for each event.
        let mut running = JoinSet::new();
        running.spawn(self.run_with(stops, watched).in_current_span());
        match running.join_next().await {
            Some(Ok(ended)) => ended,
            _ => Err(Error::new(
                ErrorKind::Engine,
                "the runtime shut down while a consumer ran",
            )),
        }
    }

    /// Runs in the background, with a handle that stops, observes and awaits it.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    #[must_use = "the handle tells when it ended, and why"]
    pub fn spawn(self) -> ConsumerHandle {
        let (stops, watched) = self.begin();
        let (app, observed) = (Arc::clone(&self.app), Arc::clone(&watched.0));
        let running = self.run_with(stops.clone(), watched);
        let queue = observed.queue.clone();
        let task = tokio::spawn(async move {
            running.await.inspect_err(|failure| {
                // Who spawned it may never look at the handle.
                let queue = queue.as_ref().map(QueueName::as_str);
                error!(queue, error = %error_chain(failure), "consumer failed");
            })
        });
        ConsumerHandle {
            app,
            stops,
            observed,
            task,
        }
    }

    /// From here on it is told of. It is watched before its task has its first turn, since it may
    /// never have one.
    fn begin(&self) -> (StopTokens, Watched) {
        let observed = Arc::new(Observed::new(self.queue.as_ref().ok()));
        self.app.note(&observed);
        (
            StopTokens {
                given: self.tokens.clone(),
                ..StopTokens::default()
            },
            Watched(observed),
        )
    }

    async fn run_with(self, stops: StopTokens, watched: Watched) -> Result<Report> {
        let result = self.run_again_and_again(stops, &watched.0).await;
        watched.0.ended(&result);
        result
    }

    async fn run_again_and_again(
        self,
        stops: StopTokens,
        observed: &Arc<Observed>,
    ) -> Result<Report> {
        let settings = self.settings()?;
        let mut stops = StopListener::new(stops, self.signals, self.grace)?;
        let (restart, app) = (self.restart, self.app);
        let (began, mut failures) = (Instant::now(), 0);
        loop {
            let started = Instant::now();
            let (app, settings_now) = (Arc::clone(&app), settings.clone());
            let run = run::run(app, settings_now, &mut stops, Arc::clone(observed));
            let ended = AssertUnwindSafe(run)
                .catch_unwind()
                .await
                .unwrap_or_else(|panic| {
                    let text = format!("the consumer panicked: {}", panic_text(&*panic));
                    Err(Error::new(ErrorKind::Engine, text))
                });
            let (failure, pauses) = match (ended, restart) {
                (Err(failure), Some(pauses)) if !is_final(&failure) => (failure, pauses),
                (ended, _) => {
                    return ended.map(|report| Report {
                        elapsed: began.elapsed(),
                        ..report
                    });
                }
            };
            failures = if started.elapsed() >= STEADY {
                1
            } else {
                failures + 1
            };
            let why = error_chain(&failure);
            let pause = pause(pauses, failures, &why);
            error!(queue = %settings.queue, error = why, ?pause, "consumer failed and starts again");
            observed.restarts_after(&failure);
            let reason = match stops.requested() {
                // It failed while it stopped.
                Some(reason) => reason,
                None => tokio::select! {
                    () = sleep(pause) => continue,
                    request = stops.next() => request.reason(),
                },
            };
            let counts = observed.counters.counts();
            return Ok(Report {
                reason,
                counts,
                elapsed: began.elapsed(),
            });
        }
    }

    fn settings(&self) -> Result<Settings> {
        let queue = self.queue.as_ref().map_err(Error::without_source)?.clone();
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

/// Whether starting again cannot help: the application itself is wrong.
fn is_final(error: &Error) -> bool {
    use ErrorKind::{Configuration, InvalidQueueName, MissingState, Unsupported};
    matches!(
        error.kind(),
        Configuration | InvalidQueueName | MissingState | Unsupported
    )
}
