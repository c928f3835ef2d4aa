//! [`NatsSink`]: events as messages of JetStream.
//!
//! A batch is sent in pipelines: all messages of one go out before their confirmations are awaited. A
//! pipeline holds no two events of one ordering key: if the first of them failed, the second would already
//! be on its way.

use std::time::Duration;

use async_nats::jetstream::context::PublishAckFuture;
use async_nats::jetstream::stream;
use ezq_core::broker::{Outbound, SendOutcome, Sink, SinkCapabilities, send_in_pipelines};
use ezq_core::{Error, ErrorKind, Result, async_trait};

use crate::binding::{ContentMode, encode};
use crate::config::NatsConfig;
use crate::connection::Connection;
use crate::error::{Refusal, away, not_stored, refusal};

/// A sink to JetStream. The [topic](Outbound::topic) is the subject of the message, which a stream must take.
#[derive(Clone)]
pub struct NatsSink {
    connection: Connection,
    capabilities: SinkCapabilities,
    mode: ContentMode,
}

impl NatsSink {
    /// Connects to servers, such as `nats://127.0.0.1:4222`. See [`NatsConfig::new`] for the URLs.
    ///
    /// # Errors
    /// - [`ErrorKind::Configuration`] if a URL is wrong.
    /// - [`ErrorKind::Connection`] if no server answers within 5 s.
    /// - [`ErrorKind::Permission`] if it refuses the user.
    pub async fn connect(urls: &str) -> Result<Self> {
        Self::connect_with(&NatsConfig::new(urls)?).await
    }

    /// Connects as configured.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn connect_with(config: &NatsConfig) -> Result<Self> {
        let connection = Connection::open(config).await?;
        let max_payload = connection.client.max_payload();
        let capabilities = SinkCapabilities::new("nats").ordered();
        Ok(Self {
            connection,
            capabilities: capabilities.max_message(max_payload),
            mode: ContentMode::default(),
        })
    }

    /// A sink that connects when a server is there, so a program starts while it is away.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`] if the configuration cannot be used.
    pub async fn connect_lazily(config: &NatsConfig) -> Result<Self> {
        Ok(Self {
            connection: Connection::open_lazily(config).await?,
            capabilities: SinkCapabilities::new("nats").ordered(),
            mode: ContentMode::default(),
        })
    }

    /// How events are written. Defaults to [`ContentMode::Binary`].
    #[must_use]
    pub fn content_mode(mut self, mode: ContentMode) -> Self {
        self.mode = mode;
        self
    }

    /// Makes sure that a stream is there: one of this name is taken as it is, or else created with these
    /// subjects, on disk and with the server's defaults.
    ///
    /// The sink then declares the stream's dedupe window in its
    /// [capabilities](SinkCapabilities::dedupe); of several streams, the shortest. Streams that are not named
    /// here drop duplicates as well, which the sink then says nothing of.
    ///
    /// # Errors
    /// - [`ErrorKind::Configuration`] if the name or a subject cannot be used, or another stream takes it.
    /// - [`ErrorKind::Connection`] if JetStream does not answer.
    pub async fn stream(mut self, name: &str, subjects: &[&str]) -> Result<Self> {
        self.connection.ready().await?;
        let config = stream::Config {
            name: name.to_owned(),
            subjects: subjects.iter().map(ToString::to_string).collect(),
            ..stream::Config::default()
        };
        let found = self.connection.context.get_or_create_stream(config).await;
        let stream = found.map_err(|error| self.no_stream(name, error))?;

        let window = stream.cached_info().config.duplicate_window;
        let shortest = self
            .capabilities
            .dedupe
            .map_or(window, |old| old.min(window));
        if shortest > Duration::ZERO {
            self.capabilities = self.capabilities.dedupe(shortest);
        }
        Ok(self)
    }

    fn no_stream(
        &self,
        name: &str,
        error: async_nats::jetstream::context::CreateStreamError,
    ) -> Error {
        use async_nats::jetstream::context::CreateStreamErrorKind as Kind;

        let kind = match error.kind() {
            Kind::TimedOut | Kind::JetStreamUnavailable => ErrorKind::Connection,
            _ => ErrorKind::Configuration,
        };
        let address = self.connection.address();
        let text = format!("the NATS server at {address} has no stream `{name}` and created none");
        Error::new(kind, text).with_source(error)
    }

    /// Sends messages of which no two have one key.
    async fn send_pipeline(&self, messages: &[Outbound]) -> Vec<SendOutcome> {
        let moment = self.connection.moment();
        let losses = self.connection.losses();
        let mut sent = Vec::with_capacity(messages.len());
        for message in messages {
            sent.push(self.begin(message).await);
        }

        let mut outcomes = Vec::with_capacity(messages.len());
        for (message, begun) in messages.iter().zip(sent) {
            let outcome = match begun {
                Ok(confirmation) => {
                    self.finish(message.topic(), confirmation, moment, losses)
                        .await
                }
                Err(outcome) => outcome,
            };
            outcomes.push(outcome);
        }
        outcomes
    }

    /// Sends one message and does not wait for its confirmation. A message that no server can take is not
    /// sent.
    async fn begin(&self, message: &Outbound) -> Result<PublishAckFuture, SendOutcome> {
        check_subject(message.topic()).map_err(SendOutcome::Rejected)?;
        let (headers, payload) = encode(message, self.mode).map_err(SendOutcome::Rejected)?;
        let subject = message.topic().to_owned();
        let context = &self.connection.context;
        let begun = context
            .publish_with_headers(subject, headers, payload.into())
            .await;
        begun.map_err(|error| self.outcome(message.topic(), error))
    }

    async fn finish(
        &self,
        subject: &str,
        confirmation: PublishAckFuture,
        moment: u64,
        losses: u64,
    ) -> SendOutcome {
        tokio::select! {
            biased;
            confirmed = confirmation.into_future() => match confirmed {
                // A duplicate is stored already.
                Ok(_) => SendOutcome::Sent,
                Err(error) => self.outcome(subject, error),
            },
            // No confirmation comes for it: the server has dropped the message.
            () = self.connection.forbidden(subject, moment) => {
                let address = self.connection.address();
                let text = format!(
                    "the NATS server at {address} forbids this user the subject `{subject}`: \
                     let the user publish to it"
                );
                SendOutcome::Rejected(Error::new(ErrorKind::Permission, text))
            }
            // No confirmation outlives its connection. If the message was stored all the same, the
            // stream drops the next one.
            () = self.connection.lost_after(losses) => SendOutcome::Failed(away(self.connection.address())),
        }
    }

    fn outcome(
        &self,
        subject: &str,
        error: async_nats::jetstream::context::PublishError,
    ) -> SendOutcome {
        let refusal = refusal(&error);
        let error = not_stored(self.connection.address(), subject, error);
        match refusal {
            Refusal::TooLarge => SendOutcome::Rejected(error),
            _ => SendOutcome::Failed(error),
        }
    }
}

#[async_trait]
impl Sink for NatsSink {
    fn capabilities(&self) -> &SinkCapabilities {
        &self.capabilities
    }

    async fn send(&self, batch: &[Outbound]) -> Result<Vec<SendOutcome>> {
        // Without a connection the client would keep the messages and send them later.
        self.connection.ready().await?;
        send_in_pipelines(batch, async |pipeline: &[Outbound]| {
            Ok(self.send_pipeline(pipeline).await)
        })
        .await
    }

    async fn health_check(&self) -> Result<()> {
        self.connection.health_check().await
    }

    async fn close(&self) {
        self.connection.close().await;
    }
}

/// Refuses a subject that no message can have.
fn check_subject(subject: &str) -> Result<()> {
    let is_empty = subject.split('.').any(str::is_empty);
    let is_wild = subject.split('.').any(|token| token == "*" || token == ">");
    if is_empty || is_wild || subject.contains(char::is_whitespace) {
        let subject = subject.escape_debug();
        let text = format!(
            "`{subject}` is no subject of NATS: it needs parts between its dots, without white \
             space, and none may be `*` or `>`"
        );
        return Err(Error::new(ErrorKind::InvalidEvent, text));
    }
    Ok(())
}

impl std::fmt::Debug for NatsSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NatsSink")
            .field("address", &self.connection.address())
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}
