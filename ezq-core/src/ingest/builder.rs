//! [`Ingest`]: the options of an ingest, their check, and how it begins.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::broker::{Inbound, Source};
use crate::consumer::handle::Ending;
use crate::consumer::stop::listener::{StopListener, StopTokens, Tokens};
use crate::error::{Error, ErrorKind, Result, error_chain};
use crate::event::attributes::{check_source, check_type};
use crate::ingest::convert::{Converter, PlainType};
use crate::ingest::handle::IngestHandle;
use crate::ingest::partitions::Partitions;
use crate::ingest::run::Run;
use crate::logging::error;
use crate::message::queue_name::{IntoQueueName, QueueName};
use crate::observe::ingest::{IngestGuard, IngestReport, IngestStatus};
use crate::runtime::check_runtime;
use crate::shared::Shared;

/// Stores the messages of a [`Source`] as events of a queue, about to run. Get it by
/// [`App::ingest`](crate::app::App::ingest).
///
/// CloudEvents in structured or binary mode are taken as they are, ids included. Other messages need a type:
/// [`plain`](Self::plain). The message's key becomes the event's ordering key, and its headers those of the
/// event, except those whose names ezq keeps for itself. The header `ezq-ingest` says where it came from.
///
/// ```
/// # use ezq_core::app::App;
/// # use ezq_core::async_trait;
/// # use ezq_core::broker::{Arrival, Inbound, Source, SourceCapabilities, SourcePosition};
/// # use ezq_core::memory::MemoryEngine;
/// # struct Two(Option<u64>);
/// # #[async_trait]
/// # impl Source for Two {
/// #     fn name(&self) -> &str { "two" }
/// #     fn capabilities(&self) -> &SourceCapabilities { const { &SourceCapabilities::new("two") } }
/// #     async fn next(&mut self, _: usize) -> ezq_core::Result<Arrival> {
/// #         let Some(last) = self.0 else { return Ok(Arrival::Assigned(vec!["0".into()])) };
/// #         self.0 = Some(2);
/// #         let rest = (last + 1..=2).map(|n| Inbound::new("0", SourcePosition::from(n), format!("{n}")));
/// #         Ok(Arrival::Messages(rest.collect()))
/// #     }
/// #     async fn seek(&mut self, _: &str, after: Option<SourcePosition>) -> ezq_core::Result<Option<SourcePosition>> {
/// #         self.0 = Some(after.map_or(0, SourcePosition::major));
/// #         Ok(after)
/// #     }
/// # }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> ezq_core::Result<()> {
/// # let app = App::builder().without_discovered_handlers().build(MemoryEngine::new())?;
/// # for stored in [2, 0] {
/// #     let source = Two(None);
/// let ingest = app.ingest(source).into("orders").plain("order.placed");
/// let report = ingest.until_idle().run().await?;
/// println!("{report}");
/// #     assert_eq!(report.stored, stored);
/// # }
/// # Ok(()) }
/// ```
#[must_use = "an ingest does nothing until it is run or spawned"]
pub struct Ingest {
    app: Arc<Shared>,
    source: Box<dyn Source>,
    name: String,
    queue: Result<QueueName>,
    plain: PlainType,
    batch_size: usize,
    grace: Option<Duration>,
    tokens: Tokens,
    signals: bool,
    until_idle: bool,
}

impl Ingest {
    pub(crate) fn new(app: Arc<Shared>, source: impl Source) -> Self {
        Self {
            name: source.name().to_owned(),
            source: Box::new(source),
            queue: Ok(app.config.queue.clone()),
            plain: PlainType::None,
            batch_size: 500,
            grace: app.config.grace,
            tokens: Tokens::default(),
            signals: false,
            until_idle: false,
            app,
        }
    }

    /// The queue that gets the events. Defaults to the application's.
    pub fn into(mut self, queue: impl IntoQueueName) -> Self {
        self.queue = queue.into_queue_name();
        self
    }

    /// The name under which positions are stored, and the `source` of events that name none themselves.
    /// Under another name everything that the broker still has is stored again. Defaults to the
    /// [name](Source::name) of the source.
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// The type of the events of messages that are no CloudEvents. Their ids are made of source, partition
    /// and position. Without a type such a message becomes a dead letter.
    pub fn plain(mut self, event_type: impl Into<String>) -> Self {
        self.plain = PlainType::Fixed(event_type.into());
        self
    }

    /// As [`plain`](Self::plain), with a type that depends on the message.
    ///
    /// ```
    /// # use ezq_core::ingest::Ingest;
    /// # fn example(ingest: Ingest) -> Ingest {
    /// ingest.plain_by(|message| message.header_text("kind").map(str::to_owned))
    /// # }
    /// ```
    pub fn plain_by(
        mut self,
        event_type: impl Fn(&Inbound) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        self.plain = PlainType::By(Box::new(event_type));
        self
    }

    /// How many messages are stored in one transaction at most, at least 1. Defaults to 500.
    pub fn batch_size(mut self, size: usize) -> Self {
        self.batch_size = size;
        self
    }

    /// Stops when a token fires: nothing more is read, what was read is stored. May be called several
    /// times.
    pub fn stop_on(mut self, token: CancellationToken) -> Self {
        self.tokens.add(token);
        self
    }

    /// Stops on SIGINT and SIGTERM as on a token; a second signal interrupts.
    pub fn stop_on_signals(mut self) -> Self {
        self.signals = true;
        self
    }

    /// Stops once the source has nothing to give.
    pub fn until_idle(mut self) -> Self {
        self.until_idle = true;
        self
    }

    /// Runs until it is stopped.
    ///
    /// # Errors
    /// - [`ErrorKind::Unsupported`] if the engine of the queue stores no positions.
    /// - [`ErrorKind::Configuration`] if an option is wrong.
    /// - What does not pass by itself, as long as nothing was read. Later, everything is ridden out.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing: the next ingest goes on behind the stored position.
    pub async fn run(self) -> Result<IngestReport> {
        check_runtime()?;
        let (stops, guard) = self.begin();
        self.run_with(stops, guard).await
    }

    /// Runs in the background, with a handle that stops, observes and awaits it.
    #[must_use = "the handle tells when it ended, and why"]
    pub fn spawn(self) -> IngestHandle {
        let (stops, guard) = self.begin();
        let status = Arc::clone(&guard.0);
        let running = self.run_with(stops.clone(), guard).in_current_span();
        let source = status.source.clone();
        let ending = Ending::spawn(async move {
            running.await.inspect_err(|failure| {
                // Whoever spawned it may never look at the handle.
                error!(source, error = %error_chain(failure), "ingest failed");
            })
        });
        IngestHandle::new(stops, status, ending)
    }

    /// Makes the ingest known to health. Before its task runs: that may never happen.
    fn begin(&self) -> (StopTokens, IngestGuard) {
        let status = Arc::new(IngestStatus::new(&self.name, self.queue.as_ref().ok()));
        self.app.note_ingest(&status);
        let stops = StopTokens {
            given: self.tokens.clone(),
            ..StopTokens::default()
        };
        (stops, IngestGuard(status))
    }

    async fn run_with(self, stops: StopTokens, guard: IngestGuard) -> Result<IngestReport> {
        let status = Arc::clone(&guard.0);
        // The guard lives to the end: a future that is dropped before shows as failed.
        let result = match StopListener::new(stops, self.signals, self.grace) {
            Ok(stops) => match self.checked(Arc::clone(&status)) {
                Ok(run) => run.drive(stops).await,
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        status.ended(&result);
        result
    }

    /// Checks the options.
    fn checked(self, status: Arc<IngestStatus>) -> Result<Run> {
        let queue = self.queue?;
        if self.batch_size == 0 {
            return Err(wrong("`batch_size` of an ingest must be at least 1"));
        }
        check_source(&self.name)
            .map_err(|why| wrong(&format!("the name of an ingest is unusable: {why}")))?;
        if let PlainType::Fixed(event_type) = &self.plain {
            check_type(event_type)
                .map_err(|why| wrong(&format!("the type of plain messages: {why}")))?;
        }

        let services = Arc::clone(&self.app.services);
        let engine = Arc::clone(services.engines.of(&queue));
        if engine.positions().is_none() {
            let text = format!(
                "the engine `{}` stores no positions of sources, so it cannot take in their messages",
                engine.capabilities().name
            );
            return Err(Error::new(ErrorKind::Unsupported, text));
        }

        let converter = Converter {
            services,
            engine: Arc::clone(&engine),
            source: self.name.clone(),
            queue: queue.clone(),
            plain: self.plain,
        };
        let partitions = Partitions::new(self.source, self.name, engine, converter, status);
        Ok(Run::new(
            partitions,
            queue,
            self.batch_size,
            self.until_idle,
        ))
    }
}

fn wrong(why: &str) -> Error {
    Error::new(ErrorKind::Configuration, why)
}

impl std::fmt::Debug for Ingest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ingest")
            .field("source", &self.name)
            .field("queue", &self.queue)
            .finish_non_exhaustive()
    }
}
