//! [`JetStreamBuilder`]: what can be set before an engine connects.

use std::sync::Arc;
use std::time::Duration;

use ezq_core::engine::Capabilities;
use ezq_core::{Error, ErrorKind, Result};

use super::contract::JetStreamEngine;
use super::keeper::keep;
use super::state::{Settings, State};
use crate::config::NatsConfig;
use crate::connection::Connection;
use crate::error::wrong_config;

/// What is left of the server's `max_payload` for headers: marks and errors of handlers, which a message
/// takes along into its next attempt.
const ROOM_FOR_HEADERS: usize = 64 * 1024;

/// Makes a [`JetStreamEngine`].
#[derive(Debug, Clone)]
#[must_use = "connect it"]
pub struct JetStreamBuilder {
    config: NatsConfig,
    settings: Settings,
}

impl JetStreamEngine {
    /// Connects to servers, such as `nats://127.0.0.1:4222`. See [`NatsConfig::new`] for the URLs.
    ///
    /// # Errors
    /// As [`JetStreamBuilder::connect`].
    pub async fn connect(urls: &str) -> Result<Self> {
        Self::builder(NatsConfig::new(urls)?).connect().await
    }

    /// An engine with options.
    pub fn builder(config: NatsConfig) -> JetStreamBuilder {
        JetStreamBuilder::new(config)
    }
}

impl JetStreamBuilder {
    fn new(config: NatsConfig) -> Self {
        Self {
            config,
            settings: Settings {
                namespace: "ezq".to_owned(),
                ack_wait: Duration::from_secs(30),
                replicas: 1,
                dedupe_window: Duration::from_secs(120),
            },
        }
    }

    /// The beginning of the names of all streams and subjects, so that several applications share a server:
    /// letters, digits, `-` and `_`. Defaults to `ezq`.
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.settings.namespace = namespace.into();
        self
    }

    /// How long the server waits for a worker that has died before it hands a message out again, at least
    /// 1 s. A queue keeps the value with which it was made. Defaults to 30 s.
    ///
    /// A worker's own lease may be shorter or longer: one that is longer is renewed, and one that is shorter
    /// is given back when it ends.
    pub fn ack_wait(mut self, wait: Duration) -> Self {
        self.settings.ack_wait = wait;
        self
    }

    /// How many servers of a cluster keep each queue: 1, 3 or 5. A queue keeps the value with which it was
    /// made. Defaults to 1.
    pub fn replicas(mut self, count: usize) -> Self {
        self.settings.replicas = count;
        self
    }

    /// Connects.
    ///
    /// # Errors
    /// - [`ErrorKind::Configuration`] if an option is wrong, or JetStream is not turned on.
    /// - [`ErrorKind::Unsupported`] if the server is older than NATS 2.12, which has no schedules.
    /// - [`ErrorKind::Connection`] if no server answers in time.
    /// - [`ErrorKind::Permission`] if it refuses the user.
    pub async fn connect(self) -> Result<JetStreamEngine> {
        self.check()?;
        let connection = Connection::open(&self.config).await?;
        check_server(&connection)?;
        connection.health_check().await?;

        let max_payload = connection.client.max_payload();
        let mut capabilities = Capabilities::new("jetstream");
        capabilities.durable = true;
        capabilities.delayed = true;
        capabilities.exact_bodies = true;
        capabilities.fenced_by_clock = true;
        capabilities.max_body = Some(max_payload.saturating_sub(ROOM_FOR_HEADERS));
        let state = Arc::new(State {
            connection,
            capabilities,
            settings: self.settings,
            clock: Default::default(),
            leases: Default::default(),
            queues: Default::default(),
            wakeups: Default::default(),
        });
        tokio::spawn(keep(Arc::downgrade(&state), Arc::clone(&state.leases)));
        Ok(JetStreamEngine::new(state))
    }

    fn check(&self) -> Result<()> {
        let namespace = &self.settings.namespace;
        let is_usable = namespace
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
        if namespace.is_empty() || !is_usable {
            let namespace = namespace.escape_debug();
            return Err(wrong_config(format!(
                "the namespace `{namespace}` must have letters, digits, `-` and `_` only"
            )));
        }
        // The keeper gives nothing back in the last second, and renews after a third.
        if self.settings.ack_wait < Duration::from_secs(1) {
            return Err(wrong_config("`ack_wait` must be at least 1 s"));
        }
        if !(1..=5).contains(&self.settings.replicas) {
            return Err(wrong_config("`replicas` must be 1 to 5"));
        }
        Ok(())
    }
}

/// Refuses a server that takes a schedule as an ordinary header, and so would hand every retry out at once.
fn check_server(connection: &Connection) -> Result<()> {
    let info = connection.client.server_info();
    let address = connection.address();
    let version = &info.version;
    if !connection.client.is_server_compatible(2, 12, 0) {
        let text = format!(
            "the NATS server at {address} is {version}: this engine needs 2.12 or newer, whose streams \
             can keep a message until a time"
        );
        return Err(Error::new(ErrorKind::Unsupported, text));
    }
    if !info.jetstream {
        return Err(wrong_config(format!(
            "JetStream is not turned on at {address}: start the server with `-js`, or add \
             `jetstream {{}}` to its configuration"
        )));
    }
    Ok(())
}
