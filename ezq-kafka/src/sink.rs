//! [`KafkaSink`]: events as records of topics.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ezq_core::broker::{Outbound, SendOutcome, Sink, SinkCapabilities};
use ezq_core::{Result, async_trait};

use crate::connection::Connection;
use crate::producer::Producer;
use crate::record::Record;
use crate::sending::Sending;

/// What the client sends at most in one message, unless the URL says otherwise.
const MAX_MESSAGE: usize = 1_000_000;

/// A sink to topics of Kafka. The [topic](Outbound::topic) names the topic, and the
/// [ordering key](Outbound::ordering_key) is the key of the record. It can be cloned; the clones share one
/// client.
#[derive(Clone)]
pub struct KafkaSink {
    connection: Connection,
    capabilities: SinkCapabilities,
    is_structured: bool,
    answer_limit: Duration,
    /// The client at work. It is replaced when it is spent.
    producer: Arc<Mutex<Option<Arc<Producer>>>>,
}

impl KafkaSink {
    /// Connects to a cluster, such as `kafka://127.0.0.1:9092`.
    ///
    /// # Errors
    /// - [`ErrorKind::Configuration`](ezq_core::ErrorKind::Configuration) if the URL is wrong, or demands
    ///   what a feature of this crate would bring.
    /// - [`ErrorKind::Connection`](ezq_core::ErrorKind::Connection) if no broker answers within 5 s.
    /// - [`ErrorKind::Permission`](ezq_core::ErrorKind::Permission) if it refuses the user or the password.
    pub async fn connect(url: &str) -> Result<Self> {
        let sink = Self::connect_lazily(url)?;
        sink.health_check().await?;
        Ok(sink)
    }

    /// A sink that connects when the first event is sent, so a program starts while the cluster is away.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`](ezq_core::ErrorKind::Configuration) if the URL is wrong, or demands what
    /// a feature of this crate would bring.
    pub fn connect_lazily(url: &str) -> Result<Self> {
        let connection = Connection::parse(url)?;
        let limit = connection.setting("message.max.bytes");
        let limit = limit.and_then(|bytes| bytes.parse().ok());

        let sink = Self {
            capabilities: SinkCapabilities::new("kafka")
                .ordered()
                .max_message(limit.unwrap_or(MAX_MESSAGE)),
            connection,
            is_structured: false,
            answer_limit: Duration::from_secs(20),
            producer: Arc::default(),
        };

        // What is wrong with the settings is seen now.
        sink.producer()?;
        Ok(sink)
    }

    /// Writes each event as one JSON text, in the structured content mode of CloudEvents. Defaults to the
    /// binary mode: attributes as headers that begin with `ce_`, the data as the value.
    #[must_use]
    pub fn structured(mut self) -> Self {
        self.is_structured = true;
        self
    }

    /// How long the cluster may take to store a batch. After that its events count as not stored, and are
    /// sent again. Keep it below the relay's
    /// [send timeout](https://docs.rs/ezq-core/latest/ezq_core/relay/struct.Relay.html#method.send_timeout).
    /// Defaults to 20 s. A cluster of which no broker can be reached is given up after 3 s.
    #[must_use]
    pub fn answer_limit(mut self, limit: Duration) -> Self {
        self.answer_limit = limit;
        self
    }

    /// The client at work, or a new one if that is spent.
    fn producer(&self) -> Result<Arc<Producer>> {
        let mut slot = self.producer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(producer) = slot.as_ref().filter(|producer| !producer.is_spent()) {
            return Ok(Arc::clone(producer));
        }
        let producer = Arc::new(Producer::new(&self.connection)?);
        *slot = Some(Arc::clone(&producer));
        Ok(producer)
    }

    fn record(&self, message: &Outbound) -> Result<Record> {
        if self.is_structured {
            Record::structured(message)
        } else {
            Record::binary(message)
        }
    }
}

#[async_trait]
impl Sink for KafkaSink {
    fn capabilities(&self) -> &SinkCapabilities {
        &self.capabilities
    }

    async fn send(&self, batch: &[Outbound]) -> Result<Vec<SendOutcome>> {
        let mut sending = Sending::new(batch, |message| self.record(message));
        let producer = self.producer()?;
        sending.find_topics(&producer).await?;
        sending
            .run(&producer, &self.connection, self.answer_limit)
            .await?;
        sending.finish()
    }

    async fn health_check(&self) -> Result<()> {
        let began = Instant::now();
        let producer = self.producer()?;
        let checked = producer.check_health().await;
        checked.map_err(|error| producer.failed("does not answer", &error, began))
    }

    async fn close(&self) {
        let mut slot = self.producer.lock().unwrap_or_else(PoisonError::into_inner);
        // Its threads end beside the runtime. A later call makes a new one.
        *slot = None;
    }
}

impl std::fmt::Debug for KafkaSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KafkaSink")
            .field("brokers", &self.connection.brokers)
            .field("is_structured", &self.is_structured)
            .finish_non_exhaustive()
    }
}
