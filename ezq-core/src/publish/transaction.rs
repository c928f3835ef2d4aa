//! The transaction of one run of a handler: begun before the run, and finished or abandoned after it.
//!
//! What the handler publishes is kept here and stored at the end, so that the store is asked once.
//! The lock is never held across an await: whoever must await takes the open transaction out and puts
//! it back.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::engine::{BroadcastMessage, Delivery, Engine, Outgoing, PublishOutcome, UnitOfWork};
use crate::error::{Error, ErrorKind, Result};
use crate::message::message_id::MessageId;
use crate::message::queue_name::QueueName;
use crate::publish::engines::ensure;
use crate::publish::prepared::Prepared;
use crate::publish::published::Published;
use crate::publish::services::Services;

/// A handler's transaction, with what the handler published so far.
pub(crate) struct Transaction {
    engine: Arc<dyn Engine>,
    queue: QueueName,
    state: Mutex<Option<Open>>,
}

struct Open {
    unit: Box<dyn UnitOfWork>,
    published: Vec<Outgoing>,
}

impl Transaction {
    /// Begins the transaction of a handler, whose run takes at most `limit` if that is known.
    pub(crate) async fn begin(
        services: &Services,
        queue: &QueueName,
        limit: Option<Duration>,
    ) -> Result<Self> {
        let engine = Arc::clone(services.engines.of(queue));
        let unit = engine.begin(queue, limit).await?;

        let state = Mutex::new(Some(Open {
            unit,
            published: Vec::new(),
        }));
        Ok(Self {
            engine,
            queue: queue.clone(),
            state,
        })
    }

    /// Takes messages out of the queue inside the transaction.
    pub(crate) async fn claim(&self, max: usize) -> Result<Vec<Delivery>> {
        // The handler has not begun, so nobody else looks while it is taken out.
        let Some(mut open) = self.state().take() else {
            return Ok(Vec::new());
        };
        let claimed = open.unit.claim(max).await;
        *self.state() = Some(open);
        claimed
    }

    /// Shows the unit to its engine's extractor; `None` once the transaction has ended.
    pub(crate) fn with<R>(&self, show: impl FnOnce(&mut dyn UnitOfWork) -> R) -> Option<R> {
        self.state().as_mut().map(|open| show(&mut *open.unit))
    }

    /// Keeps an event until the transaction commits.
    pub(crate) async fn publish(
        &self,
        services: &Services,
        prepared: Prepared,
    ) -> Result<Published> {
        self.accept(services, std::slice::from_ref(&prepared.outgoing))
            .await?;

        let mut state = self.state();
        let Some(open) = state.as_mut() else {
            return Err(ended());
        };
        open.published.push(prepared.outgoing.clone());
        drop(state);

        prepared.published(PublishOutcome::Stored(MessageId::Pending))
    }

    /// Keeps an event for every subscribed queue until the transaction commits.
    pub(crate) async fn broadcast(
        &self,
        services: &Services,
        message: BroadcastMessage,
    ) -> Result<()> {
        services.engines.check_broadcast(&self.queue)?;
        services.engines.broadcasts()?.ready().await?;
        self.with(|unit| unit.broadcast(message))
            .unwrap_or_else(|| Err(ended()))
    }

    /// Checks that the transaction can store events, as far as that can be told beforehand, and creates
    /// their queues: a refusal at the end would cost the handler's whole run.
    async fn accept(&self, services: &Services, events: &[Outgoing]) -> Result<()> {
        self.check(services, events)?;
        ensure(&*self.engine, events.iter()).await
    }

    /// The same for the events that the handler returned. It has ended and given the transaction back, so
    /// queues that the transaction itself has made can be told apart.
    pub(crate) async fn accept_returned(
        &self,
        services: &Services,
        events: &[Outgoing],
    ) -> Result<()> {
        self.check(services, events)?;

        let queues: BTreeSet<&QueueName> = events.iter().map(|event| &event.queue).collect();
        for queue in queues {
            if !self.has_made(queue).await {
                self.engine.ensure_queue(queue).await?;
            }
        }
        Ok(())
    }

    async fn has_made(&self, queue: &QueueName) -> bool {
        // Taken out, so that the lock is not held while the server is asked.
        let Some(mut open) = self.state().take() else {
            return false;
        };
        let has_made = open.unit.has_made(queue).await;
        *self.state() = Some(open);
        has_made
    }

    fn check(&self, services: &Services, events: &[Outgoing]) -> Result<()> {
        for event in events {
            if !services.engines.same(&self.queue, &event.queue) {
                let text = format!(
                    "the queue `{}` is kept by another engine: no transaction can store its events",
                    event.queue
                );
                return Err(Error::new(ErrorKind::Unsupported, text));
            }
            self.engine.check(event)?;
        }
        Ok(())
    }

    /// Ends it for the handler: the unit, and what was published in it.
    pub(crate) fn close(&self) -> Option<(Box<dyn UnitOfWork>, Vec<Outgoing>)> {
        self.state().take().map(|open| (open.unit, open.published))
    }

    pub(crate) async fn abandon(&self) {
        if let Some((unit, _)) = self.close() {
            unit.abandon().await;
        }
    }

    fn state(&self) -> MutexGuard<'_, Option<Open>> {
        // A panic leaves a whole state behind: each step replaces it at once.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn ended() -> Error {
    let text = "the handler's transaction has ended: publish before the handler returns";
    Error::new(ErrorKind::TransactionEnded, text)
}

impl std::fmt::Debug for Transaction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transaction")
            .field("open", &self.state().is_some())
            .finish_non_exhaustive()
    }
}
