//! What the parts of an engine share.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ezq_core::engine::Capabilities;
use ezq_core::message::QueueName;
use tokio::sync::watch;

use super::leases::Leases;
use super::names::{Names, Queue};
use super::server_clock::ServerClock;
use crate::connection::Connection;

/// What can be set for the streams of an engine.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) namespace: String,
    pub(crate) ack_wait: Duration,
    pub(crate) replicas: usize,
    pub(crate) dedupe_window: Duration,
}

pub(crate) struct State {
    pub(crate) connection: Connection,
    pub(crate) capabilities: Capabilities,
    pub(crate) settings: Settings,
    pub(crate) clock: ServerClock,
    pub(crate) leases: Arc<Leases>,
    /// Queues that were found or made.
    pub(crate) queues: Mutex<HashMap<QueueName, Arc<Queue>>>,
    /// Counters of queues whose wake-ups are listened to.
    pub(crate) wakeups: Mutex<HashMap<QueueName, watch::Sender<u64>>>,
}

impl State {
    pub(crate) fn names(&self, queue: &QueueName) -> Names {
        Names::new(&self.settings.namespace, queue)
    }

    /// A part of a subject, or of an id, that no other message has.
    pub(crate) fn unique(&self) -> String {
        let inbox = self.connection.client.new_inbox();
        inbox.rsplit('.').next().unwrap_or_default().to_owned()
    }
}
