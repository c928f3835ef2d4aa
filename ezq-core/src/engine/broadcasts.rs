//! Broadcasting: queues subscribe to types of events, and each gets a copy of what is broadcast.

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::{Dedupe, Due, Outgoing, PublishOutcome};
use crate::error::Result;
use crate::event::pattern::Pattern;
use crate::message::headers::Headers;
use crate::message::queue_name::QueueName;

/// An event on its way to every queue that is subscribed to its type.
#[derive(Debug, Clone, PartialEq)]
pub struct BroadcastMessage {
    /// The event's type, which decides who gets a copy.
    pub event_type: String,
    /// The encoded event.
    pub body: String,
    /// Metadata beside it.
    pub headers: Headers,
    /// When the copies become readable.
    pub due: Due,
    /// Of what is broadcast under one key each queue stores one copy.
    pub dedupe: Option<Dedupe>,
}

impl BroadcastMessage {
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
    /// The application that subscribed it.
    pub app: String,
    /// The queue.
    pub queue: QueueName,
    /// Which types.
    pub pattern: Pattern,
    /// Since when, on the engine's clock.
    pub since: DateTime<Utc>,
    /// Whether the queue exists. One that was dropped gets no copies until it is there again.
    pub queue_exists: bool,
}

impl QueueSubscription {
    /// A subscription of a queue that exists.
    #[must_use]
    pub fn new(app: &str, queue: &QueueName, pattern: &Pattern, since: DateTime<Utc>) -> Self {
        let (app, queue, pattern) = (app.to_owned(), queue.clone(), pattern.clone());
        Self {
            app,
            queue,
            pattern,
            since,
            queue_exists: true,
        }
    }
}

/// What one application has to do with a type of event, as far as it said so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum EventRole {
    /// The type is the application's own: it decides what it means.
    Owner,
    /// The application publishes events of the type.
    Publisher,
}

/// One application's role for one type of event.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct EventParty {
    /// The type's name.
    pub event_type: String,
    /// The role.
    pub role: EventRole,
    /// The application.
    pub app: String,
}

/// What an engine that broadcasts can do. Subscriptions belong to the store: every client of it sees
/// the same, and a change counts from the next broadcast on, whoever publishes.
#[async_trait]
pub trait Broadcasts: Send + Sync {
    /// Makes sure that events can be broadcast; cheap when they can.
    ///
    /// # Errors
    /// When the store lacks what it needs, and it cannot be made.
    async fn ready(&self) -> Result<()>;

    /// Adds subscriptions of a queue for an application; how many are new. Whoever adds the same at
    /// the same time, each stands once.
    ///
    /// # Errors
    /// When the store could not be written.
    async fn subscribe(&self, app: &str, queue: &QueueName, patterns: &[Pattern]) -> Result<u64>;

    /// Removes an application's subscriptions; how many there were.
    ///
    /// # Errors
    /// When the store could not be written.
    async fn unsubscribe(&self, app: &str, which: &[(QueueName, Pattern)]) -> Result<u64>;

    /// Every subscription, by queue, pattern and application.
    ///
    /// # Errors
    /// When the store could not be read.
    async fn subscriptions(&self) -> Result<Vec<QueueSubscription>>;

    /// Stores a copy in each subscribed queue, one however many patterns match: all of them or none,
    /// in one step. What became of each, by queue, as publishing to it alone would have it. A
    /// subscribed queue that does not exist is [`PublishOutcome::Failed`] as
    /// [`ErrorKind::QueueMissing`](crate::ErrorKind::QueueMissing), and harms no other.
    ///
    /// # Errors
    /// When nothing is known to be stored.
    async fn broadcast(
        &self,
        message: BroadcastMessage,
    ) -> Result<Vec<(QueueName, PublishOutcome)>>;

    /// Records what applications said of types; what is known already is left as it is.
    ///
    /// # Errors
    /// When the store could not be written.
    async fn record(&self, parties: &[EventParty]) -> Result<()>;

    /// What applications said of a type, sorted.
    ///
    /// # Errors
    /// When the store could not be read.
    async fn parties(&self, event_type: &str) -> Result<Vec<EventParty>>;

    /// All that an application said, sorted.
    ///
    /// # Errors
    /// When the store could not be read.
    async fn said_by(&self, app: &str) -> Result<Vec<EventParty>>;

    /// Removes what applications said; how much of it there was.
    ///
    /// # Errors
    /// When the store could not be written.
    async fn forget(&self, parties: &[EventParty]) -> Result<u64>;
}
