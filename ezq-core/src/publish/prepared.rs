//! Messages that are written and not stored yet, for one queue or for all that are subscribed.

use crate::engine::{BroadcastMessage, Outgoing, PublishOutcome};
use crate::error::{ErrorKind, Result};
use crate::logging::warn;
use crate::message::queue_name::QueueName;
use crate::observe::metrics::KnownType;
use crate::observe::notices::Notices;
use crate::publish::published::{Broadcasted, Published, warn_of_nobody};

/// A message for one queue, ready to be stored.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Prepared {
    /// The message.
    pub outgoing: Outgoing,
    /// The event's id, which the body may not hold.
    pub event_id: String,
    /// The event's type name, which the body may not hold.
    pub event_type: String,
    pub(crate) known_type: KnownType,
}

impl Prepared {
    /// Tells hooks that it is about to be stored.
    pub(crate) fn announce(&self, notices: &Notices) {
        notices.publishing(&self.outgoing.queue, &self.event_id, &self.event_type);
    }

    /// The result of publishing, from the engine's answer.
    ///
    /// # Errors
    /// What kept the message from being stored.
    pub fn published(self, outcome: PublishOutcome) -> Result<Published> {
        Published::of(
            self.outgoing.queue,
            (self.event_id, self.event_type),
            Some(outcome),
        )
    }
}

/// A message for every subscribed queue, ready to be stored.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PreparedBroadcast {
    /// The message.
    pub message: BroadcastMessage,
    /// The event's id, which the body may not hold.
    pub event_id: String,
    pub(crate) known_type: KnownType,
}

impl PreparedBroadcast {
    /// The same message for one queue only.
    pub(crate) fn addressed_to(self, queue: QueueName) -> Prepared {
        let BroadcastMessage {
            event_type,
            body,
            headers,
            due,
            dedupe,
        } = self.message;
        Prepared {
            outgoing: Outgoing {
                queue,
                body,
                headers,
                due,
                dedupe,
            },
            event_id: self.event_id,
            event_type,
            known_type: self.known_type,
        }
    }

    /// The result of broadcasting, from the engine's answer for each copy. A queue that does not exist
    /// is listed in the result and logged.
    ///
    /// # Errors
    /// What kept a copy from being stored in a queue that exists.
    pub fn broadcasted(self, copies: Vec<(QueueName, PublishOutcome)>) -> Result<Broadcasted> {
        let Self {
            message, event_id, ..
        } = self;
        let event_type = message.event_type;
        if copies.is_empty() {
            warn_of_nobody(&event_type);
        }

        let mut stored = Vec::new();
        let mut missing = Vec::new();
        for (queue, outcome) in copies {
            match outcome {
                PublishOutcome::Failed(error) if error.kind() == ErrorKind::QueueMissing => {
                    warn!(
                        %queue, event_type, event_id,
                        "a subscribed queue does not exist and gets no copy: create it, or remove \
                         its subscriptions"
                    );
                    missing.push(queue);
                }
                outcome => {
                    let names = (event_id.clone(), event_type.clone());
                    stored.push(Published::of(queue, names, Some(outcome))?);
                }
            }
        }

        Ok(Broadcasted {
            event_id,
            copies: stored,
            missing,
            is_pending: false,
        })
    }
}
