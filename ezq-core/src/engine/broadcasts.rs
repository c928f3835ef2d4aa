//! Broadcasting: queues subscribe to event types, and each subscribed queue gets a copy of an event.

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::{Dedupe, Due, Outgoing, PublishOutcome};
use crate::error::Result;
use crate::event::pattern::Pattern;
use crate::message::headers::Headers;
use crate::message::queue_name::QueueName;

/// An event on its way to every queue that is subscribed to its type.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct BroadcastMessage {
    /// The event's type, which decides which queues get a copy.
    pub event_type: String,
    /// The encoded event.
    pub body: String,
    /// Metadata that is stored beside the body.
    pub headers: Headers,
    /// When the copies become readable.
    pub due: Due,
    /// The dedupe key, if it has one: each queue stores one copy under it.
    pub dedupe: Option<Dedupe>,
}

impl BroadcastMessage {
    /// An event of a type, whose copies are readable at once and have no dedupe key.
    #[must_use]
    pub fn new(event_type: impl Into<String>, body: impl Into<String>, headers: Headers) -> Self {
        Self {
            event_type: event_type.into(),
            body: body.into(),
            headers,
            due: Due::Now,
            dedupe: None,
        }
    }

    /// Sets when the copies become readable.
    #[must_use]
    pub fn due(mut self, due: Due) -> Self {
        self.due = due;
        self
    }

    /// Sets its dedupe key.
    #[must_use]
    pub fn dedupe(mut self, dedupe: impl Into<Option<Dedupe>>) -> Self {
        self.dedupe = dedupe.into();
        self
    }

    /// The copy for one queue.
    #[must_use]
    pub fn copy(&self, queue: &QueueName) -> Outgoing {
        let Self {
            body,
            headers,
            due,
            dedupe,
            ..
        } = self.clone();
        Outgoing {
            queue: queue.clone(),
            body,
            headers,
            due,
            dedupe,
        }
    }
}

/// A queue that gets a copy of every broadcast event whose type matches a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueSubscription {
    /// The application that made the subscription.
    pub app: String,
    /// The queue.
    pub queue: QueueName,
    /// The event types, by pattern.
    pub pattern: Pattern,
    /// When the subscription was made, by the engine's clock.
    pub since: DateTime<Utc>,
    /// Whether the queue exists. A queue that was dropped gets no copies until it is created again.
    pub queue_exists: bool,
}

impl QueueSubscription {
    /// A subscription of a queue that exists.
    #[must_use]
    pub fn new(app: &str, queue: &QueueName, pattern: &Pattern, since: DateTime<Utc>) -> Self {
        Self {
            app: app.to_owned(),
            queue: queue.clone(),
            pattern: pattern.clone(),
            since,
            queue_exists: true,
        }
    }
}

/// The role that an application declares for an event type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum EventRole {
    /// The application owns the type: it decides what the event means.
    Owner,
    /// The application publishes events of the type.
    Publisher,
}

/// The declared role of one application for one event type.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct EventParty {
    /// The name of the type.
    pub event_type: String,
    /// The role.
    pub role: EventRole,
    /// The application.
    pub app: String,
}

impl EventParty {
    /// The role of an application for an event type.
    #[must_use]
    pub fn new(event_type: impl Into<String>, role: EventRole, app: impl Into<String>) -> Self {
        Self {
            event_type: event_type.into(),
            role,
            app: app.into(),
        }
    }
}

/// The subscriptions of an engine that can broadcast.
///
/// They belong to the store: every client of it sees the same subscriptions, and a change applies from
/// the next broadcast on, by whichever client.
#[async_trait]
pub trait Broadcasts: Send + Sync {
    /// Makes sure that the store has what broadcasting needs. Cheap when it has.
    ///
    /// # Errors
    /// When it is missing and cannot be created.
    async fn ready(&self) -> Result<()>;

    /// Adds subscriptions of a queue for an application, and returns how many of them are new. Each is
    /// stored once, also when several clients add it at the same time.
    ///
    /// # Errors
    /// When the store could not be written.
    async fn subscribe(&self, app: &str, queue: &QueueName, patterns: &[Pattern]) -> Result<u64>;

    /// Removes subscriptions of an application, and returns how many of them there were.
    ///
    /// # Errors
    /// When the store could not be written.
    async fn unsubscribe(&self, app: &str, which: &[(QueueName, Pattern)]) -> Result<u64>;

    /// Every subscription, sorted by queue, pattern and application.
    ///
    /// # Errors
    /// When the store could not be read.
    async fn subscriptions(&self) -> Result<Vec<QueueSubscription>>;

    /// Stores one copy in each subscribed queue, however many of its patterns match, and returns the
    /// outcome for each queue. All copies are stored in one step, or none.
    ///
    /// The outcome of a queue is that of publishing to it alone. For a subscribed queue that does not
    /// exist it is [`PublishOutcome::Failed`] with
    /// [`ErrorKind::QueueMissing`](crate::ErrorKind::QueueMissing), which harms no other queue.
    ///
    /// # Errors
    /// When nothing is known to be stored.
    async fn broadcast(
        &self,
        message: BroadcastMessage,
    ) -> Result<Vec<(QueueName, PublishOutcome)>>;

    /// Records declared roles. Those that are recorded already stay as they are.
    ///
    /// # Errors
    /// When the store could not be written.
    async fn record(&self, parties: &[EventParty]) -> Result<()>;

    /// The roles that applications declared for an event type, sorted.
    ///
    /// # Errors
    /// When the store could not be read.
    async fn parties(&self, event_type: &str) -> Result<Vec<EventParty>>;

    /// The roles that an application declared, sorted.
    ///
    /// # Errors
    /// When the store could not be read.
    async fn parties_of(&self, app: &str) -> Result<Vec<EventParty>>;

    /// Removes declared roles, and returns how many of them there were.
    ///
    /// # Errors
    /// When the store could not be written.
    async fn forget(&self, parties: &[EventParty]) -> Result<u64>;
}
