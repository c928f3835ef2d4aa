//! One connection to the servers, which the client makes again by itself when it is lost.
//!
//! Two things happen beside the calls and are kept here: whether the connection is up, and which subjects
//! the server forbade. A forbidden message gets no answer of its own: the server drops it and says so once,
//! by an error of the connection.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::{self, context::ContextBuilder};
use async_nats::{Client, ClientError, ConnectErrorKind, Event, ServerError};
use bytes::Bytes;
use ezq_core::{Error, ErrorKind, Result};
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::config::NatsConfig;
use crate::error::{away, not_connected, refused};

/// How long the server may take to answer a call.
pub(crate) const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// How long a call waits for a connection that is down.
const RECONNECT_LIMIT: Duration = Duration::from_secs(5);
/// How many messages may wait for their confirmation at once.
const MOST_UNCONFIRMED: usize = 20_000;
/// How many forbidden subjects are kept. Topics are few; a server that forbids more loses nothing but time.
const MOST_FORBIDDEN: usize = 1_000;

#[derive(Clone)]
pub(crate) struct Connection {
    pub(crate) client: Client,
    pub(crate) context: jetstream::Context,
    address: Arc<str>,
    events: Events,
}

/// What the client told beside its answers.
#[derive(Clone)]
struct Events {
    link: watch::Sender<Link>,
    forbidden: watch::Sender<HashMap<String, u64>>,
    /// How often a subject was forbidden so far.
    count: Arc<AtomicU64>,
}

/// The state of a connection.
#[derive(Debug, Clone, Copy, Default)]
struct Link {
    is_up: bool,
    /// How often it was lost. A loss and a return are seen here even if nobody looked in between.
    losses: u64,
    /// Whether the server refused the user when the client last tried.
    is_refused: bool,
}

impl Connection {
    /// Connects, or fails within the limit.
    pub(crate) async fn open(config: &NatsConfig) -> Result<Self> {
        Self::make(config, false).await
    }

    /// Connects when the server is there. Only a configuration that cannot be used is an error.
    pub(crate) async fn open_lazily(config: &NatsConfig) -> Result<Self> {
        Self::make(config, true).await
    }

    async fn make(config: &NatsConfig, is_lazy: bool) -> Result<Self> {
        let address = config.address();
        let events = Events::new();
        let told = events.clone();
        let mut options = config.options().await?.event_callback(move |event| {
            told.note(&event);
            async {}
        });
        if is_lazy {
            options = options.retry_on_initial_connect();
        }

        // Without credentials, as the client may log them.
        let connecting = options.connect(config.servers());
        // The client's own limit is for each address that a name stands for.
        let connected = timeout(config.limit(), connecting).await;
        let client = connected
            .map_err(|_| away(&address))?
            .map_err(|error| not_connected(&address, error))?;
        if client.connection_state() == State::Connected {
            events.note(&Event::Connected);
        }

        let context = ContextBuilder::new()
            .timeout(ANSWER_LIMIT)
            .max_ack_inflight(MOST_UNCONFIRMED)
            .backpressure_on_inflight(true)
            .build(client.clone());
        Ok(Self {
            client,
            context,
            address: address.into(),
            events,
        })
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Waits until the connection is up, for a few seconds at most.
    pub(crate) async fn ready(&self) -> Result<()> {
        let mut link = self.events.link.subscribe();
        let waited = timeout(RECONNECT_LIMIT, link.wait_for(|link| link.is_up)).await;
        match waited {
            Ok(Ok(_)) => Ok(()),
            _ if self.events.link.borrow().is_refused => Err(refused(&self.address)),
            _ => Err(away(&self.address)),
        }
    }

    /// The moment after which a subject counts as [forbidden](Self::forbidden) for a message.
    pub(crate) fn moment(&self) -> u64 {
        self.events.count.load(Ordering::Relaxed)
    }

    /// Waits until the server forbids a subject, after a moment.
    pub(crate) async fn forbidden(&self, subject: &str, after: u64) {
        let mut forbidden = self.events.forbidden.subscribe();
        if forbidden
            .wait_for(|subjects| subjects.get(subject).is_some_and(|at| *at > after))
            .await
            .is_err()
        {
            // The sender lives in `self`, so this is never reached.
            std::future::pending::<()>().await;
        }
    }

    /// How often the connection was lost so far.
    pub(crate) fn losses(&self) -> u64 {
        self.events.link.borrow().losses
    }

    /// Waits until the connection was lost more often than so many times. No answer outlives its connection,
    /// so whoever awaits one counts before the question is sent.
    pub(crate) async fn lost_after(&self, losses: u64) {
        self.wait_for(|link| link.losses > losses).await;
    }

    /// Waits until a connection that was lost is there again. Returns how often it was lost by then.
    pub(crate) async fn restored_after(&self, losses: u64) -> u64 {
        self.wait_for(|link| link.is_up && link.losses > losses)
            .await
            .losses
    }

    async fn wait_for(&self, holds: impl FnMut(&Link) -> bool) -> Link {
        let mut link = self.events.link.subscribe();
        let seen = link.wait_for(holds).await.map(|link| *link);
        match seen {
            Ok(link) => link,
            // The sender lives in `self`, so this is never reached.
            Err(_) => std::future::pending().await,
        }
    }

    /// Checks that JetStream answers.
    pub(crate) async fn health_check(&self) -> Result<()> {
        self.ready().await?;
        let address = &self.address;
        // The client cannot read the answer of an older server, and whether there is one is enough.
        let answered = self.client.request("$JS.API.INFO", Bytes::new()).await;
        let answer = answered.map_err(|error| {
            let text = format!("JetStream of the NATS server at {address} does not answer");
            Error::new(ErrorKind::Connection, text).with_source(error)
        })?;

        let answer: Value = serde_json::from_slice(&answer.payload).unwrap_or_default();
        match answer.pointer("/error/description").and_then(Value::as_str) {
            None => Ok(()),
            Some(why) => {
                let text =
                    format!("JetStream of the NATS server at {address} is not usable: {why}");
                Err(Error::new(ErrorKind::Configuration, text))
            }
        }
    }

    /// Sends what waits, and closes the connection.
    pub(crate) async fn close(&self) {
        // It fails if the connection is closed already.
        let _ = self.client.drain().await;
    }
}

impl Events {
    fn new() -> Self {
        Self {
            link: watch::Sender::default(),
            forbidden: watch::Sender::default(),
            count: Arc::default(),
        }
    }

    fn note(&self, event: &Event) {
        match event {
            Event::Connected => self.link.send_modify(|link| {
                link.is_up = true;
                link.is_refused = false;
            }),
            Event::Disconnected | Event::Closed => self.link.send_modify(|link| {
                link.is_up = false;
                link.losses = link.losses.saturating_add(1);
            }),
            // Of an attempt to connect that failed the client tells its kind, as a text.
            Event::ClientError(ClientError::Other(kind)) => {
                let refusal = ConnectErrorKind::AuthorizationViolation.to_string();
                self.link
                    .send_modify(|link| link.is_refused = *kind == refusal);
            }
            Event::ServerError(ServerError::Other(text)) => self.note_forbidden(text),
            _ => {}
        }
    }

    /// Of `Permissions Violation for Publish to "orders"` it keeps the subject.
    fn note_forbidden(&self, text: &str) {
        let Some((before, rest)) = text.split_once('"') else {
            return;
        };
        if !before
            .to_ascii_lowercase()
            .contains("permissions violation for publish")
        {
            return;
        }

        let subject = rest.split('"').next().unwrap_or_default().to_owned();
        let at = self.count.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        self.forbidden.send_modify(|subjects| {
            if subjects.len() >= MOST_FORBIDDEN {
                subjects.clear();
            }
            subjects.insert(subject, at);
        });
    }
}
