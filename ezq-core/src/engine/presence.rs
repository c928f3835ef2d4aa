//! Presence: which consumers run where. Each process notes its own now and then; whoever is not noted
//! any more is gone.

use std::time::Duration;

use async_trait::async_trait;

use crate::error::Result;
use crate::message::queue_name::QueueName;
use crate::message::settlement::HandlerName;

/// A consumer that runs, as its own process tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConsumerPresence {
    /// Its id, which no other consumer has or had.
    pub id: String,
    /// The name of its application.
    pub application: String,
    /// The version of its application, if that tells one.
    pub version: Option<String>,
    /// The version of ezq in its program.
    pub ezq_version: String,
    /// The name of its machine.
    pub host: String,
    /// The id of its process on that machine.
    pub process: u32,
    /// Its queue.
    pub queue: QueueName,
    /// Its handlers, in the order in which they run.
    pub handlers: Vec<HandlerName>,
    /// How many events it handles at once.
    pub concurrency: u64,
    /// How many events it has leased and not settled.
    pub in_flight: u64,
    /// Whether its queue is paused, as far as it knows.
    pub is_paused: bool,
    /// Whether it was asked to stop and waits for what still runs.
    pub is_stopping: bool,
    /// How many events were handled: all their handlers are done.
    pub handled: u64,
    /// How many were put off to another attempt.
    pub retried: u64,
    /// How many became dead letters.
    pub dead_lettered: u64,
    /// For how long it has run.
    pub uptime: Duration,
}

impl ConsumerPresence {
    /// A consumer of a queue that has just begun, in a process of this machine.
    #[must_use]
    pub fn new(
        id: impl Into<String>,
        application: impl Into<String>,
        queue: QueueName,
        host: impl Into<String>,
        process: u32,
    ) -> Self {
        Self {
            id: id.into(),
            application: application.into(),
            version: None,
            ezq_version: env!("CARGO_PKG_VERSION").to_owned(),
            host: host.into(),
            process,
            queue,
            handlers: Vec::new(),
            concurrency: 1,
            in_flight: 0,
            is_paused: false,
            is_stopping: false,
            handled: 0,
            retried: 0,
            dead_lettered: 0,
            uptime: Duration::ZERO,
        }
    }

    /// Its place in a list: by queue, application, host, process and id.
    pub(crate) fn place(&self) -> (&QueueName, &str, &str, u32, &str) {
        let Self {
            queue,
            application,
            host,
            process,
            id,
            ..
        } = self;
        (queue, application, host, *process, id)
    }
}

/// A consumer as it was last noted.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SeenConsumer {
    /// What its process told.
    pub consumer: ConsumerPresence,
    /// How long ago, by the engine's clock.
    pub seen_ago: Duration,
}

impl SeenConsumer {
    /// A consumer that was noted so long ago.
    #[must_use]
    pub fn new(consumer: ConsumerPresence, seen_ago: Duration) -> Self {
        Self { consumer, seen_ago }
    }
}

/// The presence of consumers, as an engine keeps it.
#[async_trait]
pub trait Presence: Send + Sync {
    /// Notes that consumers run, and removes what was not noted for a day.
    ///
    /// # Errors
    /// [`ErrorKind::SchemaMissing`](crate::ErrorKind::SchemaMissing) when the store's table is missing
    /// and may not be created; otherwise when the store could not be written.
    async fn note(&self, running: &[ConsumerPresence]) -> Result<()>;

    /// Removes a consumer that has ended. Nothing happens if it was never noted.
    ///
    /// # Errors
    /// When the store could not be written.
    async fn remove(&self, id: &str) -> Result<()>;

    /// Every consumer that was noted in the last day and not removed, sorted by queue, application,
    /// host and process.
    ///
    /// # Errors
    /// When the store could not be read.
    async fn consumers(&self) -> Result<Vec<SeenConsumer>>;
}
