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
use crate::observe::metrics::{KnownType, PublishedAs};
use crate::publish::draft::Draft;
use crate::publish::options::PublishOptions;
use crate::publish::prepared::Prepared;
use crate::publish::published::Published;
use crate::publish::services::Services;
use crate::publish::transaction::Transaction;

/// Where an event goes, its type if the code names it, and its id and type name.
type Named = (QueueName, KnownType, (String, String));

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
            known_type,
        } = prepared;
        let queue = &outgoing.queue;
        let metrics = &self.services.metrics;
        let checked = self.services.engines.of(queue).check(&outgoing);
        checked.inspect_err(|error| {
            metrics.published(queue, known_type, PublishedAs::Failed);
            notices.published(queue, (&event_id, &event_type), Err(error));
        })?;
        metrics.published(queue, known_type, PublishedAs::HandedOver);
        Ok(outgoing)
    }

    /// Stores messages, one result each; in a handler that has a transaction, once that commits.
    pub(crate) async fn store(&self, messages: Vec<Prepared>) -> Result<Vec<Result<Published>>> {
        if let Some(transaction) = &self.transaction {
            let mut kept = Vec::with_capacity(messages.len());
            for message in messages {
                let queue = message.outgoing.queue.clone();
                let known_type = message.known_type;
                let result = transaction.publish(&self.services, message).await;
                let published_as = match &result {
                    Ok(_) => PublishedAs::HandedOver,
                    Err(_) => PublishedAs::Failed,
                };
                let metrics = &self.services.metrics;
                metrics.published(&queue, known_type, published_as);
                kept.push(result);
            }
            return Ok(kept);
        }

        let mut outgoing = Vec::with_capacity(messages.len());
        let mut names = Vec::with_capacity(messages.len());
        for message in messages {
            let queue = message.outgoing.queue.clone();
            let event = (message.event_id, message.event_type);
            names.push((queue, message.known_type, event));
            outgoing.push(message.outgoing);
        }

        let queues = names.iter().map(|(queue, ..)| queue);
        let call = self.services.metrics.call(queues);
        let outcomes = self.services.engines.publish(outgoing).await;
        call.end(outcomes.is_ok());
        let mut outcomes = outcomes
            .inspect_err(|error| self.announce_failure(&names, error))?
            .into_iter();
        let published = names
            .into_iter()
            .map(|(queue, known, names)| self.published(queue, known, names, outcomes.next()));
        Ok(published.collect())
    }

    /// The result of one message, of which hooks are told.
    fn published(
        &self,
        queue: QueueName,
        known_type: KnownType,
        names: (String, String),
        outcome: Option<PublishOutcome>,
    ) -> Result<Published> {
        let published_as = match &outcome {
            Some(PublishOutcome::Stored(_)) => PublishedAs::Stored,
            Some(PublishOutcome::Duplicate(_)) => PublishedAs::Duplicate,
            Some(PublishOutcome::Failed(_)) | None => PublishedAs::Failed,
        };
        let metrics = &self.services.metrics;
        metrics.published(&queue, known_type, published_as);

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

    fn announce_failure(&self, names: &[Named], error: &Error) {
        for (queue, known_type, (event_id, event_type)) in names {
            let metrics = &self.services.metrics;
            metrics.published(queue, *known_type, PublishedAs::Failed);
            let names = (event_id.as_str(), event_type.as_str());
            self.services.notices.published(queue, names, Err(error));
        }
    }
}
