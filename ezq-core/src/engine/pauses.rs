//! Pauses: which queues and handlers an operator has paused, for every process.
//!
//! The engine keeps the pauses and tells of changes. What a consumer does then is its own affair: see
//! `consumer/pausing/`.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use tokio::sync::watch;

use crate::error::Result;
use crate::message::message_id::MessageId;
use crate::message::queue_name::QueueName;
use crate::message::settlement::HandlerName;

/// What is paused: a queue, or one handler of a queue.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct PauseTarget {
    /// The queue.
    pub queue: QueueName,
    /// The handler. `None` means the whole queue.
    pub handler: Option<HandlerName>,
}

impl PauseTarget {
    /// A whole queue.
    #[must_use]
    pub fn queue(queue: QueueName) -> Self {
        let handler = None;
        Self { queue, handler }
    }

    /// One handler of a queue.
    #[must_use]
    pub fn handler(queue: QueueName, handler: HandlerName) -> Self {
        let handler = Some(handler);
        Self { queue, handler }
    }
}

impl fmt::Display for PauseTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.handler {
            None => write!(f, "the queue `{}`", self.queue),
            Some(handler) => write!(f, "the handler `{handler}` of the queue `{}`", self.queue),
        }
    }
}

/// A pause, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pause {
    /// What is paused.
    pub target: PauseTarget,
    /// Since when, by the engine's clock.
    pub since: DateTime<Utc>,
    /// Who paused it.
    pub by: String,
    /// Why, if a reason was given.
    pub reason: Option<String>,
}

impl Pause {
    /// A pause without a reason.
    #[must_use]
    pub fn new(target: PauseTarget, since: DateTime<Utc>, by: impl Into<String>) -> Self {
        Self {
            target,
            since,
            by: by.into(),
            reason: None,
        }
    }

    /// Sets why.
    #[must_use]
    pub fn reason(mut self, reason: impl Into<Option<String>>) -> Self {
        self.reason = reason.into();
        self
    }
}

/// The pauses of one queue: its own, and those of its handlers.
pub type QueuePauses = Arc<[Pause]>;

/// How far a queue was searched for messages of some types, and what was found.
///
/// The default begins a search: at the newest messages, of which the engine chooses how many it reads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TypeSearch {
    /// The last message that was read. The next call goes on behind it.
    pub reached: Option<MessageId>,
    /// The messages of these types that are still in the queue.
    pub found: Vec<MessageId>,
    /// Those of them that are due now, in the order of the queue.
    pub due: Vec<MessageId>,
    /// Whether messages behind the last one were left for the next call.
    pub has_more: bool,
}

/// The pauses that an engine keeps.
///
/// Such an engine leases messages by their ids, too: a consumer of a paused queue claims nothing, and
/// finds its control events by [`search`](Self::search).
#[async_trait]
pub trait Pauses: Send + Sync {
    /// Pauses a queue or a handler, and tells every process. Returns false if it was paused already;
    /// then nothing changes.
    ///
    /// # Errors
    /// [`ErrorKind::QueueMissing`](crate::ErrorKind::QueueMissing) if there is no such queue;
    /// otherwise when the store could not be written.
    async fn pause(&self, target: &PauseTarget, by: &str, reason: Option<&str>) -> Result<bool>;

    /// Ends a pause, and tells every process. Returns false if there was none.
    ///
    /// # Errors
    /// When the store could not be written.
    async fn resume(&self, target: &PauseTarget, by: &str) -> Result<bool>;

    /// Every pause, sorted by queue, those of whole queues first.
    ///
    /// # Errors
    /// When the store could not be read.
    async fn list(&self) -> Result<Vec<Pause>>;

    /// The pauses of a queue, as they are now and from now on. They were looked up when this answers.
    /// Later changes come within a second as a rule, and within a few seconds if one is missed.
    ///
    /// # Errors
    /// When they could not be looked up.
    async fn watch(&self, queue: &QueueName) -> Result<watch::Receiver<QueuePauses>>;

    /// Makes messages due at once that were put aside for a paused handler and not handed out since:
    /// those whose mark of the handler says so ([`held`](crate::message::HandlerMark::held)). Returns
    /// how many there were.
    ///
    /// # Errors
    /// When the store could not be written. Messages that were made due before stay so.
    async fn release_held(&self, queue: &QueueName, handler: &HandlerName) -> Result<u64>;

    /// Searches for messages of event types, behind what an earlier search has reached and among what it
    /// found. It reads a bounded number of messages and changes nothing. A large body may be passed over.
    ///
    /// # Errors
    /// When the store could not be read.
    async fn search(
        &self,
        queue: &QueueName,
        types: &[&str],
        so_far: TypeSearch,
    ) -> Result<TypeSearch>;
}
