//! The results of publishing and broadcasting.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use crate::engine::{Original, PublishOutcome};
use crate::error::{Error, ErrorKind, Result};
use crate::logging::warn;
use crate::message::message_id::MessageId;
use crate::message::queue_name::QueueName;

/// Where a published event is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Published {
    /// The queue.
    pub queue: QueueName,
    /// The message's id in the queue. A scheduled event can be cancelled or moved with it.
    pub id: MessageId,
    /// The event's id.
    pub event_id: String,
    /// The event's type name.
    pub event_type: String,
    /// Whether an event with the same [dedupe key](crate::publish::Publish::dedupe_key) was
    /// published before. Then nothing was stored, and the ids are that event's.
    pub is_duplicate: bool,
}

impl Published {
    /// The id under which it is stored, and whether it was stored before.
    pub(crate) fn stored(&self) -> (&MessageId, bool) {
        (&self.id, self.is_duplicate)
    }

    /// The result of one message, from the engine's outcome.
    pub(crate) fn of(
        queue: QueueName,
        (event_id, event_type): (String, String),
        outcome: Option<PublishOutcome>,
    ) -> Result<Self> {
        match outcome {
            Some(PublishOutcome::Stored(id)) => Ok(Self {
                queue,
                id,
                event_id,
                event_type,
                is_duplicate: false,
            }),
            Some(PublishOutcome::Duplicate(Some(Original {
                message_id: id,
                event_id,
            }))) => Ok(Self {
                queue,
                id,
                event_id,
                event_type,
                is_duplicate: true,
            }),
            Some(PublishOutcome::Failed(error)) => Err(error),
            Some(PublishOutcome::Duplicate(None)) | None => Err(Error::new(
                ErrorKind::Engine,
                "the engine did not say where the event is stored",
            )),
        }
    }
}

/// Where the copies of a broadcast event are stored.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Broadcasted {
    /// The event's id, the same for every copy.
    pub event_id: String,
    /// The copies, one for each subscribed queue, sorted by queue; empty if no queue is subscribed. A
    /// scheduled copy can be cancelled or moved with its id.
    pub copies: Vec<Published>,
    /// Subscribed queues that do not exist and so got no copy. Create them, or remove their
    /// [subscriptions](crate::admin::Subscriptions).
    pub missing: Vec<QueueName>,
    /// Whether it was broadcast in a handler's transaction. Then the subscriptions are read and the
    /// copies stored at the commit, so no copy is known here.
    pub is_pending: bool,
}

impl Broadcasted {
    /// Whether no queue got a copy: no queue is subscribed to the type, or none of these exists. False
    /// for a broadcast that is [pending](Self::is_pending), of which that is not known yet.
    #[must_use]
    pub fn reached_nobody(&self) -> bool {
        self.copies.is_empty() && !self.is_pending
    }
}

/// Warns once for each type that no queue is subscribed to it. That may be meant, but it is more often
/// a forgotten `.subscribe()`.
pub fn warn_of_nobody(event_type: &str) {
    /// The most types that are remembered. Type names may come from outside, so the set is bounded.
    const MOST: usize = 1000;
    static WARNED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

    let mut warned = WARNED.lock().unwrap_or_else(PoisonError::into_inner);
    let is_new = warned.len() < MOST && warned.insert(event_type.to_owned());
    // A subscriber of the log may broadcast as well.
    drop(warned);

    if is_new {
        warn!(
            event_type,
            "an event was broadcast to nobody: no queue is subscribed to its type (a consumer \
             subscribes its queue by `.subscribe()`)"
        );
    }
}
