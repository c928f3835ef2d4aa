//! A consumer for each queue of a program, run and stopped as one.

use std::collections::{BTreeMap, BTreeSet};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::Instrument;

use crate::consumer::builder::Consumer;
use crate::consumer::handle::Ending;
use crate::consumer::stop::listener::StopTokens;
use crate::error::{Error, ErrorKind, Result, error_chain};
use crate::logging::error;
use crate::message::queue_name::{IntoQueueName, QueueName};
use crate::observe::report::{Counts, Report, ReportOfAll};
use crate::observe::status::{ConsumerStatus, StatusGuard};
use crate::runtime::{check_runtime, cut_off};

impl Consumer {
    /// Says that another program consumes a queue, to which routes or schedules of this one publish.
    /// [`run_all`](Self::run_all) and [`spawn_all`](Self::spawn_all) refuse such a queue otherwise. May
    /// be called for several queues. A consumer of one queue does not look at it.
    ///
    /// ```
    /// # use ezq_core::app::App;
    /// # async fn example(app: App) -> ezq_core::Result<()> {
    /// // A schedule publishes to `reports`, which a program of its own works off.
    /// app.consumer().consumed_elsewhere("reports").stop_on_signals().run_all().await?;
    /// # Ok(()) }
    /// ```
    pub fn consumed_elsewhere(mut self, queue: impl IntoQueueName) -> Self {
        self.elsewhere = self.elsewhere.and_then(|mut queues| {
            queues.insert(queue.into_queue_name()?);
            Ok(queues)
        });
        self
    }

    /// Runs a consumer with these options for each [queue of this
    /// program](crate::app::App::consumed_queues), until all of them are stopped.
    ///
    /// A token, a signal and an [`End`](crate::event::End) that is published with `all` stop as they stop
    /// one consumer. An `End` in one queue stops the consumer of that queue, and the others run on. If one
    /// consumer fails, the others are stopped.
    ///
    /// Queues that a route or a schedule of this program fills, and that nobody here consumes, are an
    /// error that names them: what is published there would wait for ever. Where another program
    /// consumes one, say so by [`consumed_elsewhere`](Self::consumed_elsewhere).
    ///
    /// ```
    /// use ezq_core::app::App;
    /// use ezq_core::event::Event;
    /// use ezq_core::handler::Handler;
    /// use ezq_core::memory::MemoryEngine;
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Serialize, Deserialize)] struct Paid { order: i64 }
    /// # impl Event for Paid { const TYPE: &'static str = "paid"; }
    /// # #[derive(Serialize, Deserialize)] struct Receipt { order: i64 }
    /// # impl Event for Receipt { const TYPE: &'static str = "receipt"; const QUEUE: Option<&'static str> = Some("mail"); }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> ezq_core::Result<()> {
    /// async fn pay(_: Paid) {}
    /// async fn mail(_: Receipt) {}
    /// let app = App::builder()
    ///     .without_discovered_handlers()
    ///     .queue("orders")
    ///     .register(Handler::on("pay", pay))
    ///     .register(Handler::on("mail", mail).queue("mail"))
    ///     .build(MemoryEngine::new())?;
    /// app.publish_many().add(&Paid { order: 7 }).add(&Receipt { order: 7 }).await?;
    ///
    /// // In a service: `app.consumer().stop_on_signals().run_all().await?`
    /// let report = app.consumer().until_idle().run_all().await?;
    /// assert_eq!(report.queues.len(), 2);
    /// assert_eq!(report.counts.handled, 2);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// - [`ErrorKind::Configuration`] for queues that are filled here and consumed nowhere; the message
    ///   names them.
    /// - As [`run`](Self::run), of the consumer that failed first; the message names its queue.
    ///
    /// # Cancel safety
    /// As [`run`](Self::run), for each consumer.
    pub async fn run_all(self) -> Result<ReportOfAll> {
        check_runtime()?;
        let stops = self.stop_tokens();
        self.start_all(&stops)?.finish(stops).await
    }

    /// Runs the consumers of [`run_all`](Self::run_all) in the background, with a handle for all of them.
    ///
    /// # Errors
    /// - [`ErrorKind::InvalidQueueName`] for a wrong [`queue`](Self::queue).
    /// - [`ErrorKind::Configuration`] for queues that are filled here and consumed nowhere.
    /// - [`ErrorKind::NoRuntime`] outside of a tokio runtime.
    ///
    /// All else is an error of the handle.
    pub fn spawn_all(self) -> Result<ConsumersHandle> {
        check_runtime()?;
        let stops = self.stop_tokens();
        let running = self.start_all(&stops)?;
        let statuses = running.statuses.clone();

        let finished = running.finish(stops.clone());
        let ending = Ending::spawn(async move {
            finished.await.inspect_err(|failure| {
                // Whoever spawned them may never look at the handle.
                error!(error = %error_chain(failure), "consumers failed");
            })
        });
        Ok(ConsumersHandle {
            stops,
            statuses,
            ending,
        })
    }

    /// Starts a consumer for each queue, all with the same tokens.
    fn start_all(self, stops: &StopTokens) -> Result<Running> {
        let queue = self.queue.as_ref().map_err(Error::without_source)?.clone();
        let mut queues = self.app.queues();
        // Broadcasts come to it, whatever is published there.
        if queue != self.app.config.queue || self.subscribe {
            queues.insert(queue.clone());
        }
        self.check_consumed(&queues)?;

        let mut running = Running {
            began: Instant::now(),
            consumers: JoinSet::new(),
            statuses: Vec::with_capacity(queues.len()),
        };
        for name in queues {
            let subscribes = name == queue || self.app.dispatcher.registry.owners(&name).is_some();
            let mut consumer = self.on(name.clone());
            // A handler that takes events of several queues gets one copy of a broadcast.
            consumer.subscribe = self.subscribe && subscribes;
            let status = consumer.status();
            running.statuses.push((name.clone(), Arc::clone(&status)));

            let run = consumer.run_with(stops.clone(), StatusGuard(status));
            let named = async move { (name, run.await) };
            running.consumers.spawn(named.in_current_span());
        }
        Ok(running)
    }

    /// Checks that nothing is published to where it would wait for ever.
    fn check_consumed(&self, consumed: &BTreeSet<QueueName>) -> Result<()> {
        let elsewhere = self.elsewhere.as_ref().map_err(Error::without_source)?;
        let unconsumed: Vec<String> = self
            .app
            .filled_queues()
            .into_iter()
            .filter(|queue| !consumed.contains(queue) && !elsewhere.contains(queue))
            .map(|queue| format!("`{queue}`"))
            .collect();
        if unconsumed.is_empty() {
            return Ok(());
        }

        let text = format!(
            "routes and schedules of this program publish to queues that nobody here consumes: {}. Give \
             a handler that `queue`, or say `consumed_elsewhere` of a queue that another program consumes",
            unconsumed.join(", ")
        );
        Err(Error::new(ErrorKind::Configuration, text))
    }
}

/// Consumers that run.
struct Running {
    began: Instant,
    consumers: JoinSet<(QueueName, Result<Report>)>,
    statuses: Vec<(QueueName, Arc<ConsumerStatus>)>,
}

impl Running {
    /// Waits until all have ended. The first failure stops the others.
    async fn finish(mut self, stops: StopTokens) -> Result<ReportOfAll> {
        let mut queues = BTreeMap::new();
        let mut failure = None;
        while let Some(ended) = self.consumers.join_next().await {
            let failed = match ended {
                Ok((queue, Ok(report))) => {
                    queues.insert(queue, report);
                    continue;
                }
                Ok((queue, Err(error))) => {
                    let text = format!("the consumer of the queue `{queue}` failed: {error}");
                    Error::new(error.kind(), text).with_source(error)
                }
                Err(cut) => cut_off("a consumer", cut),
            };
            failure.get_or_insert(failed);
            stops.handle.cancel();
        }

        match failure {
            Some(failure) => Err(failure),
            None => Ok(ReportOfAll::new(queues, self.began.elapsed())),
        }
    }
}

/// The consumers of all queues of a program, which run in the background.
///
/// It is a future of their report, and can be awaited by reference, as a
/// [`ConsumerHandle`](super::ConsumerHandle). Dropping it does not stop them.
///
/// ```
/// # use ezq_core::app::App;
/// # async fn example(app: App) -> ezq_core::Result<()> {
/// let mut handle = app.consumer().spawn_all()?;
/// tokio::select! {
///     report = &mut handle => println!("{}", report?),
///     _ = tokio::signal::ctrl_c() => {
///         handle.stop();
///         println!("{}", handle.wait().await?);
///     }
/// }
/// # Ok(()) }
/// ```
#[derive(Debug)]
#[must_use = "the handle tells when they ended, and why"]
pub struct ConsumersHandle {
    stops: StopTokens,
    statuses: Vec<(QueueName, Arc<ConsumerStatus>)>,
    ending: Ending<ReportOfAll>,
}

impl ConsumersHandle {
    /// Asks all of them to stop: what runs may finish within the [grace](Consumer::grace).
    pub fn stop(&self) {
        self.stops.handle.cancel();
    }

    /// Cancels what runs and stops all of them, as [`ConsumerHandle::interrupt`] does.
    ///
    /// [`ConsumerHandle::interrupt`]: super::ConsumerHandle::interrupt
    pub fn interrupt(&self) {
        self.stops.interrupt.cancel();
    }

    /// The queues that are consumed.
    pub fn queues(&self) -> impl Iterator<Item = &QueueName> {
        self.statuses.iter().map(|(queue, _)| queue)
    }

    /// What all of them did so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let each = self.statuses.iter();
        each.map(|(_, status)| status.counters.counts()).sum()
    }

    /// Whether any of them still runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.ending.is_running()
    }

    /// Waits until all of them ended, as awaiting the handle itself does.
    ///
    /// # Errors
    /// As [`Consumer::run_all`]. A second call returns an error of the same kind and message, without its
    /// source.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped: the consumers run on, and the next call waits for them.
    pub async fn wait(&mut self) -> Result<ReportOfAll> {
        poll_fn(|context| self.ending.poll(context)).await
    }
}

/// The report of all, as [`ConsumersHandle::wait`] returns it.
impl Future for ConsumersHandle {
    type Output = Result<ReportOfAll>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.ending.poll(context)
    }
}
