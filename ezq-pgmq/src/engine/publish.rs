//! Publishing: by itself through the pool, and in a caller's transaction.

use ezq_core::engine::{Outgoing, PublishOutcome};
use ezq_core::message::QueueName;
use ezq_core::{Error, ErrorKind, Result};
use sqlx::postgres::PgConnection;

use super::{Inner, PgmqEngine};
use crate::error;
use crate::message::storable;
use crate::publish::{self, ByQueue, Row, key_lock};

impl PgmqEngine {
    /// Stores messages in the caller's transaction, in their order. They become visible when it
    /// commits, and never if it does not. There is one outcome for each, known at once; none is
    /// [`PublishOutcome::Failed`].
    ///
    /// Events are published with [`PublishWithin`](crate::PublishWithin), which comes down to this.
    ///
    /// The transaction locks its own rows only, and may be prepared for a two-phase commit.
    ///
    /// This process wakes the consumers: it asks the server whether the transaction has committed,
    /// first after 5 ms, then each time that a quarter of the transaction's age has passed, for ten
    /// minutes at most.
    ///
    /// A roll-back frees the dedupe keys as well. Until the transaction ends, others who publish with
    /// one of these keys wait. Transactions that publish several times with keys, in different
    /// orders, may end in a deadlock, of which Postgres fails one.
    ///
    /// # Errors
    /// After an error of the database the transaction can only be rolled back.
    /// - [`ErrorKind::InvalidEvent`] when the store cannot keep one of the messages, in all but rare
    ///   cases found before anything is sent
    /// - [`ErrorKind::SchemaMissing`] where dedupe keys have no table, found before anything is sent
    /// - [`ErrorKind::QueueMissing`], and the database's errors otherwise
    pub async fn publish_in(
        &self,
        connection: &mut PgConnection,
        messages: Vec<Outgoing>,
    ) -> Result<Vec<PublishOutcome>> {
        let inner = &self.inner;
        let mut outcomes = unanswered(&messages);
        inner.ready_for(messages.iter()).await?;
        let mut queues = ByQueue::default();

        for (index, message) in messages.into_iter().enumerate() {
            let queue = message.queue.clone();
            queues.push(queue, index, Row::new(message, inner.settings.encoding)?);
        }

        inner.start_notifying();
        for (queue, rows) in queues.into_inner() {
            let (places, rows): (Vec<usize>, Vec<Row>) = rows.into_iter().unzip();
            let stored = publish::insert_in(connection, &queue, &rows).await;
            let (stored, writer) =
                stored.map_err(|failure| inner.publish_failed(failure, &queue))?;

            let is_new = stored
                .iter()
                .any(|outcome| matches!(outcome, PublishOutcome::Stored(_)));
            for (index, outcome) in places.into_iter().zip(stored) {
                outcomes[index] = Some(outcome);
            }

            if is_new && let Some(writer) = writer {
                inner.wake.announce_after(writer, &queue);
            }
        }

        outcomes.into_iter().collect::<Option<_>>().ok_or_else(lost)
    }

    /// Takes the lock of an ordering key until the caller's transaction ends. Others who take the
    /// lock of this key wait until then. So events of the key are in the order in which their
    /// transactions commit.
    ///
    /// Without the lock, two transactions that run at once may become visible in either order. Then
    /// a later event may be handled before an earlier one is committed.
    ///
    /// # Errors
    /// The database's errors; after one the transaction can only be rolled back.
    pub async fn lock_key(
        &self,
        connection: &mut PgConnection,
        queue: &QueueName,
        key: &str,
    ) -> Result<()> {
        let locked = key_lock::take(connection, queue, key).await;
        locked.map_err(|failure| error::of(failure, self.inner.connections.connector.place()))
    }
}

/// What became of the messages of one call so far.
struct Outcomes {
    all: Vec<Option<PublishOutcome>>,
    /// The first message that failed for another reason than what it holds.
    broken: Option<usize>,
    /// Something is stored, or known to be stored already.
    stored_any: bool,
}

impl Inner {
    /// Stores messages through the pool; an outcome each, in their order.
    ///
    /// # Errors
    /// Nothing is stored, and not for what a message holds.
    pub(crate) async fn publish(&self, messages: Vec<Outgoing>) -> Result<Vec<PublishOutcome>> {
        let mut outcomes = Outcomes {
            all: unanswered(&messages),
            broken: None,
            stored_any: false,
        };

        let mut no_keys = self.ready_for(messages.iter()).await.err();
        let mut queues = ByQueue::default();
        for (index, message) in messages.into_iter().enumerate() {
            let queue = message.queue.clone();
            match (Row::new(message, self.settings.encoding), &mut no_keys) {
                (Ok(row), Some(error)) if row.dedupe.is_some() => {
                    // The first one gets the error with its source.
                    let again = error.without_source();
                    outcomes.fail(index, std::mem::replace(error, again));
                }
                (Ok(row), _) => queues.push(queue, index, row),
                (Err(error), _) => outcomes.all[index] = Some(PublishOutcome::Failed(error)),
            }
        }

        for (queue, rows) in queues.into_inner() {
            let (places, rows): (Vec<usize>, Vec<Row>) = rows.into_iter().unzip();
            // Created before the first message with a key is claimed, where that is possible.
            if rows.iter().any(Row::is_keyed) {
                self.known
                    .queues
                    .index_keys(
                        &queue,
                        &self.connections.control,
                        self.settings.manage_schema,
                    )
                    .await;
            }

            let stored = self.store(&queue, rows).await;
            if self.record(&mut outcomes, &queue, places.into_iter().zip(stored)) {
                self.announce(&queue);
            }
        }

        outcomes.into_result()
    }

    /// Records what became of the messages of one queue; whether a new one is stored.
    fn record(
        &self,
        outcomes: &mut Outcomes,
        queue: &QueueName,
        stored: impl Iterator<Item = (usize, PublishOutcome)>,
    ) -> bool {
        let mut is_new = false;
        for (index, outcome) in stored {
            match &outcome {
                PublishOutcome::Stored(_) => is_new = true,
                PublishOutcome::Duplicate(_) => outcomes.stored_any = true,
                PublishOutcome::Failed(error) => {
                    if error.kind() == ErrorKind::QueueMissing {
                        self.known.queues.forget(queue);
                    }
                    if error.kind() != ErrorKind::InvalidEvent {
                        outcomes.broken = outcomes.broken.or(Some(index));
                    }
                }
                // This engine makes no other outcome.
                _ => {}
            }

            outcomes.all[index] = Some(outcome);
        }

        outcomes.stored_any |= is_new;
        is_new
    }

    /// The error of an insert in a caller's transaction.
    fn publish_failed(&self, failure: sqlx::Error, queue: &QueueName) -> Error {
        self.note(&failure, queue);
        if error::is_data(&failure) {
            return storable::refused_with(failure, "its body or headers");
        }
        error::on_queue(failure, queue, self.connections.connector.place())
    }
}

impl Outcomes {
    fn fail(&mut self, index: usize, error: Error) {
        self.all[index] = Some(PublishOutcome::Failed(error));
        self.broken = self.broken.or(Some(index));
    }

    fn into_result(mut self) -> Result<Vec<PublishOutcome>> {
        // Nothing is stored, and not for what the messages hold: the call as a whole failed.
        if let Some(index) = self.broken
            && !self.stored_any
            && let Some(PublishOutcome::Failed(error)) = self.all[index].take()
        {
            return Err(error);
        }

        let outcomes = self.all.into_iter();
        Ok(outcomes
            .map(|outcome| outcome.unwrap_or_else(|| PublishOutcome::Failed(lost())))
            .collect())
    }
}

fn unanswered(messages: &[Outgoing]) -> Vec<Option<PublishOutcome>> {
    messages.iter().map(|_| None).collect()
}

fn lost() -> Error {
    Error::new(
        ErrorKind::Engine,
        "the database returned fewer ids than messages",
    )
}
