//! The publisher: what it knows of its application and of the event that is handled, and storing.
//!
//! How an event is written is in `writing.rs`. The calls that begin to publish stand beside the
//! builders that they return, in `builder.rs`, `all.rs` and `broadcast.rs`, which import this file and
//! not the other way round.

use std::sync::Arc;

use crate::delivery::received::Received;
use crate::engine::{Outgoing, PublishOutcome};
use crate::error::{Error, Result};
use crate::message::queue_name::QueueName;
use crate::publish::draft::Draft;
use crate::publish::options::PublishOptions;
use crate::publish::prepared::Prepared;
use crate::publish::published::Published;
use crate::publish::services::Services;
use crate::publish::transaction::Transaction;

/// Publishes events of an application; cheap to clone and to hand around.
///
/// It is also an extractor. Inside a handler, the events that it publishes name the handled event
/// as their cause and share its correlation id and trace. If the handler takes a transaction, they
/// are stored at its commit; until then their id is
/// [`MessageId::Pending`](crate::message::MessageId::Pending).
#[derive(Debug, Clone)]
pub struct Publisher {
    pub(crate) services: Arc<Services>,
    pub(crate) cause: Option<Arc<Received>>,
    pub(crate) transaction: Option<Arc<Transaction>>,
}

impl Publisher {
    pub(crate) fn new(services: Arc<Services>) -> Self {
        Self {
            services,
            cause: None,
            transaction: None,
        }
    }

    pub(crate) fn caused_by(services: &Arc<Services>, received: &Arc<Received>) -> Self {
        Self {
            cause: Some(Arc::clone(received)),
            ..Self::new(Arc::clone(services))
        }
    }

    /// Keeps what it publishes until a handler's transaction commits.
    pub(crate) fn within(self, transaction: Option<&Arc<Transaction>>) -> Self {
        Self {
            transaction: transaction.cloned(),
            ..self
        }
    }

    /// Makes a message of a draft that a handler returned.
    ///
    /// An event that is published is refused by the store itself. This one is stored by the statement
    /// of a settlement, which a refusal would spoil, so it is checked before.
    pub(crate) fn finish(&self, draft: Draft) -> Result<Outgoing> {
        let prepared = self.prepare(draft, &PublishOptions::default())?;
        let notices = &self.services.notices;
        prepared.announce(notices);

        let Prepared {
            outgoing,
            event_id,
            event_type,
        } = prepared;
        let queue = &outgoing.queue;
        let checked = self.services.engines.of(queue).check(&outgoing);
        checked.inspect_err(|error| {
            notices.published(queue, (&event_id, &event_type), Err(error));
        })?;
        Ok(outgoing)
    }

    /// Stores messages, one result each; in a handler that has a transaction, once that commits.
    pub(crate) async fn store(&self, messages: Vec<Prepared>) -> Result<Vec<Result<Published>>> {
        if let Some(transaction) = &self.transaction {
            let mut kept = Vec::with_capacity(messages.len());
            for message in messages {
                kept.push(transaction.publish(&self.services, message).await);
            }
            return Ok(kept);
        }

        let mut outgoing = Vec::with_capacity(messages.len());
        let mut names = Vec::with_capacity(messages.len());
        for message in messages {
            let queue = message.outgoing.queue.clone();
            names.push((queue, (message.event_id, message.event_type)));
            outgoing.push(message.outgoing);
        }

        let outcomes = self.services.engines.publish(outgoing).await;
        let mut outcomes = outcomes
            .inspect_err(|error| self.announce_failure(&names, error))?
            .into_iter();
        let published = names
            .into_iter()
            .map(|(queue, names)| self.published(queue, names, outcomes.next()));
        Ok(published.collect())
    }

    /// The result of one message, of which hooks are told.
    fn published(
        &self,
        queue: QueueName,
        names: (String, String),
        outcome: Option<PublishOutcome>,
    ) -> Result<Published> {
        let notices = &self.services.notices;
        if !notices.are_heard() {
            return Published::of(queue, names, outcome);
        }

        // The result takes the names, and an error does not give them back.
        let result = Published::of(queue.clone(), names.clone(), outcome);
        let (event_id, event_type) = &names;
        let stored = result.as_ref().map(Published::stored);
        notices.published(&queue, (event_id, event_type), stored);
        result
    }

    fn announce_failure(&self, names: &[(QueueName, (String, String))], error: &Error) {
        for (queue, (event_id, event_type)) in names {
            let names = (event_id.as_str(), event_type.as_str());
            self.services.notices.published(queue, names, Err(error));
        }
    }
}
