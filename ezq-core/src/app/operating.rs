//! What operators ask of an application: looking into queues, and changing what is in them.
//!
//! # Giving a message up by hand
//!
//! `fail` leases one message by its id, due or not, and settles it as a dead letter. The lease is
//! refused while a worker has the message. It voids earlier receipts as any delivery does, so a
//! worker that comes back late settles nothing.

use std::sync::Arc;
use std::time::Duration;

use tracing::{Instrument, info};

use crate::admin::dead_letters::DeadLetterQueue;
use crate::admin::events::Events;
use crate::admin::history::HistoryRequest;
use crate::app::App;
use crate::engine::reader::Reader;
use crate::engine::{
    BlockedKey, Due, Engine, LeaseRequest, QueueStats, Receipt, Settle, SettleOutcome,
};
use crate::error::{Error, ErrorKind, Result, error_chain};
use crate::logging::warn;
use crate::message::message_id::MessageId;
use crate::message::queue_name::{IntoQueueName, QueueName};
use crate::message::settlement::{Progress, Reason, ReasonKind};
use crate::publish::published::Published;
use crate::publish::services::Services;
use crate::runtime::cut_off;
use crate::text::bounded;

/// How long a message is leased that an operator gives up. Long enough for one settlement.
const LEASE: Duration = Duration::from_secs(30);

impl App {
    /// Removes a scheduled event that was never delivered. Returns whether there was one.
    ///
    /// # Errors
    /// When the engine could not be asked.
    pub async fn cancel(&self, published: &Published) -> Result<bool> {
        self.engine(&published.queue)
            .cancel(&published.queue, &published.id)
            .await
    }

    /// Moves the due time of an event that was never delivered. Returns whether there was one.
    ///
    /// # Errors
    /// When the engine could not be asked.
    pub async fn reschedule(&self, published: &Published, due: Due) -> Result<bool> {
        self.engine(&published.queue)
            .reschedule(&published.queue, &published.id, due)
            .await
    }

    /// Gives up a waiting event: moves one message, due or not, to the dead letters, with the operator's
    /// own reason ([`ReasonKind::Operator`]). Returns whether there was one.
    ///
    /// The marks of its handlers stay, so a redrive runs only those that were not done. Queue and id are
    /// those from [`history`](Self::history) and [`blocked_keys`](Self::blocked_keys).
    ///
    /// ```
    /// # use ezq_core::admin::DeadLetterFilter;
    /// # use ezq_core::event::Event;
    /// # use ezq_core::handler::Handler;
    /// # use ezq_core::testing::TestApp;
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Serialize, Deserialize)] struct Paid { order: i64 }
    /// # impl Event for Paid { const TYPE: &'static str = "paid"; }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> ezq_core::Result<()> {
    /// # let app = TestApp::new(|app| app)?;
    /// let paid = app.publish(&Paid { order: 7 }).await?;
    /// assert!(app.fail(&paid.queue, &paid.id, "a test order (Ada)").await?);
    /// let letters = app.dead_letters(&paid.queue)?.list(&DeadLetterFilter::all(), 10).await?;
    /// assert_eq!(letters[0].reason.as_ref().unwrap().error, "a test order (Ada)");
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// - [`ErrorKind::LeaseLost`] while a worker holds the message; a retry after that helps.
    /// - [`ErrorKind::Unsupported`] if the engine cannot lease by id.
    /// - Otherwise when the engine could not be asked.
    ///
    /// After an error the message is as it was, with the same due time and one more delivery. If the
    /// process or the store fails in between, the message is due within half a minute, whatever its due
    /// time was.
    ///
    /// # Cancel safety
    /// The work is done in a task of its own, and goes on if this future is dropped.
    pub async fn fail(
        &self,
        queue: impl IntoQueueName,
        id: &MessageId,
        reason: impl Into<String>,
    ) -> Result<bool> {
        let queue = queue.into_queue_name()?;
        let given_up = give_up(
            Arc::clone(self.engine(&queue)),
            Arc::clone(&self.inner.services),
            queue,
            id.clone(),
            bounded(&reason.into()),
        );

        // In a task, so that a dropped future cannot leave the message leased.
        tokio::spawn(given_up.in_current_span())
            .await
            .unwrap_or_else(|error| Err(cut_off("giving an event up", error)))
    }

    /// How many messages a queue holds, by state.
    ///
    /// # Errors
    /// When the engine could not be asked.
    pub async fn stats(&self, queue: impl IntoQueueName) -> Result<QueueStats> {
        let queue = queue.into_queue_name()?;
        self.engine(&queue).stats(&queue).await
    }

    /// Removes every message of a queue, including leased ones, and returns how many there were. Dead
    /// letters stay.
    ///
    /// # Errors
    /// When the engine could not be asked. Some messages of a large queue may be removed by then.
    pub async fn purge(&self, queue: impl IntoQueueName) -> Result<u64> {
        let queue = queue.into_queue_name()?;
        self.engine(&queue).purge(&queue).await
    }

    /// Ordering keys that are blocked by their first event while others wait behind it: the first is
    /// being handled, waits for a retry, or is not due yet. At most `limit` of them, in no order.
    ///
    /// On PGMQ this reads the messages that are not due until it has found `limit` keys, and counts the
    /// messages that wait behind each.
    ///
    /// If a delivery of a message was never settled, only the marks of its handlers tell a later retry
    /// from a lease. Without marks, such as when another client consumes the queue, the message counts
    /// as leased until it is due.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] when the queue's engine does not order by key; otherwise when it could
    /// not be asked.
    pub async fn blocked_keys(
        &self,
        queue: impl IntoQueueName,
        limit: usize,
    ) -> Result<Vec<BlockedKey>> {
        let queue = queue.into_queue_name()?;
        self.engine(&queue).blocked_keys(&queue, limit).await
    }

    /// The dead letters of a queue, to list, redrive and discard them.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] when the queue's engine cannot list its dead letters.
    pub fn dead_letters(&self, queue: impl IntoQueueName) -> Result<DeadLetterQueue<'_>> {
        let queue = queue.into_queue_name()?;
        let engine = self.engine(&queue);
        let store = engine.dead_letters().ok_or_else(|| {
            let name = engine.capabilities().name;
            Error::new(
                ErrorKind::Unsupported,
                format!("the engine `{name}` does not support dead letters"),
            )
        })?;
        let reader = Reader::new(&self.inner.services.codecs);
        Ok(DeadLetterQueue::new(store, queue, reader))
    }

    /// The events of a queue, to page through them by state and filter, and to try one at once.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidQueueName`] for a text that is no queue name, and [`ErrorKind::Unsupported`]
    /// when the queue's engine cannot be browsed.
    pub fn events(&self, queue: impl IntoQueueName) -> Result<Events<'_>> {
        let queue = queue.into_queue_name()?;
        let reader = Reader::new(&self.inner.services.codecs);
        Events::new(self.inner.services.engines.of(&queue), queue, reader)
    }

    /// The history of an event when awaited: every copy of it in queues, archives and dead letters, with
    /// the attempts and the newest errors of its handlers.
    ///
    /// The id is [`Published::event_id`], or
    /// [`Context::event_id`](crate::handler::Context::event_id) in a handler. Nothing is kept of a
    /// handled event unless its queue has an archive or a trail; see
    /// [`Retention`](crate::message::Retention).
    ///
    /// Queues and dead letters are scanned, archives are searched by an index if there is one. No lock is
    /// taken.
    ///
    /// ```
    /// # use ezq_core::engine::CopyState;
    /// # use ezq_core::event::Event;
    /// # use ezq_core::handler::Handler;
    /// # use ezq_core::message::Retention;
    /// # use ezq_core::testing::TestApp;
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Serialize, Deserialize)] struct Paid { order: i64 }
    /// # impl Event for Paid { const TYPE: &'static str = "paid"; }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> ezq_core::Result<()> {
    /// # async fn receipt(_: Paid) {}
    /// let app = TestApp::new(|app| {
    ///     app.register(Handler::on("receipt", receipt)).retention("ezq", Retention::ARCHIVE)
    /// })?;
    /// let paid = app.publish(&Paid { order: 7 }).await?;
    /// app.drain().await?;
    /// let history = app.history(&paid.event_id).await?;
    /// println!("{history}");
    /// assert!(matches!(history.copies[0].state, CopyState::Archived { .. }));
    /// # Ok(()) }
    /// ```
    pub fn history(&self, event_id: impl Into<String>) -> HistoryRequest<'_> {
        let services = &self.inner.services;
        HistoryRequest::new(
            &services.engines,
            Reader::new(&services.codecs),
            event_id.into(),
        )
    }
}

/// Leases one message and moves it to the dead letters. A message that cannot be moved is put back with
/// the due time that it had.
async fn give_up(
    engine: Arc<dyn Engine>,
    services: Arc<Services>,
    queue: QueueName,
    id: MessageId,
    error: String,
) -> Result<bool> {
    let Some(delivery) = engine.lease_by_id(&queue, &id, LEASE).await? else {
        return Ok(false);
    };

    // The lease just taken is no delivery to a worker.
    let attempts = delivery.deliveries.saturating_sub(1);
    let reason = Reason {
        kind: ReasonKind::Operator,
        handler: None,
        error,
        attempts,
    };
    let receipt = &delivery.receipt;
    let settle = Settle::DeadLetter {
        reason: reason.clone(),
        progress: Progress::default(),
        outgoing: Vec::new(),
    };

    let failure = match engine.settle(&queue, vec![(receipt.clone(), settle)]).await {
        Ok(mut outcomes) => match outcomes.pop() {
            Some(SettleOutcome::Done) => None,
            Some(SettleOutcome::Failed { error, .. }) => Some(error),
            // The lease ended before this settlement, and a worker took the message.
            Some(SettleOutcome::LeaseLost) | None => return Err(LeaseRequest::held(&queue, &id)),
        },
        Err(error) => Some(error),
    };
    if let Some(error) = failure {
        if let Some(kept) = put_back(&*engine, &queue, receipt).await {
            let text = "the event could not be put back: it is delivered within half a minute, \
                        due or not";
            warn!(%queue, message_id = %id, error = kept, "{text}");
        }
        return Err(error);
    }

    info!(%queue, message_id = %id, error = reason.error, "an operator gave an event up");
    services.notices.given_up(&queue, &delivery, reason);
    Ok(true)
}

/// Gives a lease back. Returns why that failed, if it did.
async fn put_back(engine: &dyn Engine, queue: &QueueName, receipt: &Receipt) -> Option<String> {
    let released = engine
        .settle(queue, vec![(receipt.clone(), Settle::Release)])
        .await;
    match released.map(|mut outcomes| outcomes.pop()) {
        Ok(Some(SettleOutcome::Failed { error, .. })) | Err(error) => Some(error_chain(&error)),
        // Whoever has the message now, it is not this lease that keeps it.
        Ok(Some(SettleOutcome::Done | SettleOutcome::LeaseLost) | None) => None,
    }
}
