//! [`RedisSink`]: events as entries of streams.
//!
//! A batch is one pipeline of `XADD`. Each of them is answered for itself. A pipeline holds no two events of
//! one ordering key: if the first of them failed, the second would already be on its way.

use std::time::Duration;

use ezq_core::broker::{Outbound, SendOutcome, Sink, SinkCapabilities, send_in_pipelines};
use ezq_core::{Error, ErrorKind, Result, async_trait};
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Pipeline, RedisError, Value};

use crate::connect::{CONNECT_LIMIT, address, client};
use crate::error::{failed, wrong_type};

/// How long the server may take to answer a pipeline.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// How long the replicas may take, in milliseconds. It is part of the time that the server has.
const REPLICAS_LIMIT_MS: u32 = 5_000;

/// A sink to streams of Redis or Valkey. The [topic](Outbound::topic) is the name of the stream, which the
/// server makes when the first event arrives.
#[derive(Clone)]
pub struct RedisSink {
    connection: ConnectionManager,
    address: String,
    field: String,
    max_len: Option<usize>,
    replicas: Option<usize>,
}

impl RedisSink {
    /// Connects to a server, such as `redis://127.0.0.1:6379`.
    ///
    /// # Errors
    /// - [`ErrorKind::Configuration`] if the URL is wrong, or demands TLS without the feature for it.
    /// - [`ErrorKind::Connection`] if the server does not answer within 5 s.
    /// - [`ErrorKind::Permission`] if it refuses the user or the password.
    pub async fn connect(url: &str) -> Result<Self> {
        let sink = Self::connect_lazily(url)?;
        sink.health_check().await?;
        Ok(sink)
    }

    /// A sink that connects when the first event is sent, so a program starts while the server is away.
    /// Call it inside of a tokio runtime.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`] if the URL is wrong, or demands TLS without the feature for it.
    pub fn connect_lazily(url: &str) -> Result<Self> {
        let client = client(url)?;
        let address = address(&client);

        // The relay has pauses of its own, so the connection tries once for each call.
        let config = ConnectionManagerConfig::new()
            .set_number_of_retries(1)
            .set_connection_timeout(Some(CONNECT_LIMIT))
            .set_response_timeout(Some(ANSWER_LIMIT));
        let connection = ConnectionManager::new_lazy_with_config(client, config)
            .map_err(|error| failed(&address, "cannot be connected to", error))?;
        Ok(Self {
            connection,
            address,
            field: "cloud_event".to_owned(),
            max_len: None,
            replicas: None,
        })
    }

    /// The field of an entry that holds the event. Defaults to `cloud_event`.
    #[must_use]
    pub fn field(mut self, name: impl Into<String>) -> Self {
        self.field = name.into();
        self
    }

    /// Trims each stream to about so many entries when one is added, whether they were read or not.
    /// Defaults to no limit.
    #[must_use]
    pub fn max_len(mut self, entries: usize) -> Self {
        self.max_len = Some(entries);
        self
    }

    /// Waits until so many replicas have the events. If they do not within 5 s, the events count as not
    /// stored, and are sent again. Defaults to no replica.
    #[must_use]
    pub fn replicas(mut self, count: usize) -> Self {
        self.replicas = Some(count);
        self
    }

    /// Sends messages of which no two have one key.
    async fn send_pipeline(&self, messages: &[Outbound]) -> Result<Vec<SendOutcome>> {
        let mut pipeline = Pipeline::with_capacity(messages.len() + 1);
        pipeline.ignore_errors();
        for message in messages {
            let command = pipeline.cmd("XADD").arg(message.topic());
            if let Some(entries) = self.max_len {
                // `~` trims whole nodes of the stream, which is far cheaper.
                command.arg("MAXLEN").arg("~").arg(entries);
            }
            command.arg("*").arg(&self.field).arg(message.structured()?);
        }
        if let Some(count) = self.replicas {
            pipeline.cmd("WAIT").arg(count).arg(REPLICAS_LIMIT_MS);
        }

        let mut connection = self.connection.clone();
        let answered = pipeline.query_async::<Vec<Value>>(&mut connection).await;
        let mut answers =
            answered.map_err(|error| failed(&self.address, "did not store the events", error))?;

        if let Some(count) = self.replicas {
            self.check_replicas(count, answers.pop())?;
        }
        let answered = messages.iter().zip(answers);
        Ok(answered
            .map(|(message, answer)| self.outcome(message, answer))
            .collect())
    }

    fn outcome(&self, message: &Outbound, answer: Value) -> SendOutcome {
        let Value::ServerError(error) = answer else {
            return SendOutcome::Sent;
        };
        let error = RedisError::from(error);
        // It stays so until somebody removes what has the name, and events of other streams go on.
        if error.code() == Some("WRONGTYPE") {
            let refused = wrong_type(&self.address, message.topic(), error);
            return SendOutcome::Rejected(refused);
        }
        SendOutcome::Failed(failed(&self.address, "did not store an event", error))
    }

    /// Checks that as many replicas have the events as are asked for.
    fn check_replicas(&self, asked: usize, answer: Option<Value>) -> Result<()> {
        match answer {
            Some(Value::Int(reached)) if usize::try_from(reached).is_ok_and(|n| n >= asked) => {
                Ok(())
            }
            Some(Value::Int(reached)) => {
                let address = &self.address;
                let text = format!(
                    "{reached} of {asked} replicas of the Redis server at {address} have the events"
                );
                Err(Error::new(ErrorKind::Transient, text))
            }
            Some(Value::ServerError(error)) => Err(failed(
                &self.address,
                "did not wait for its replicas",
                error.into(),
            )),
            _ => Err(Error::new(
                ErrorKind::Engine,
                "`WAIT` was answered by no number",
            )),
        }
    }
}

#[async_trait]
impl Sink for RedisSink {
    fn capabilities(&self) -> &SinkCapabilities {
        const { &SinkCapabilities::new("redis").ordered() }
    }

    async fn send(&self, batch: &[Outbound]) -> Result<Vec<SendOutcome>> {
        send_in_pipelines(batch, |pipeline| self.send_pipeline(pipeline)).await
    }

    async fn health_check(&self) -> Result<()> {
        let mut connection = self.connection.clone();
        let answered = redis::cmd("PING").query_async::<()>(&mut connection).await;
        answered.map_err(|error| failed(&self.address, "does not answer", error))
    }
}

impl std::fmt::Debug for RedisSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisSink")
            .field("address", &self.address)
            .field("max_len", &self.max_len)
            .finish_non_exhaustive()
    }
}
