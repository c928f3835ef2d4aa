//! Looking into queues and changing what is in them: what operators ask of an application.

use std::sync::Arc;
use std::time::Duration;

use tracing::{Instrument, info};

use crate::admin::dead_letters::DeadLetterQueue;
use crate::admin::history::HistoryRequest;
use crate::app::App;
use crate::engine::{
    BlockedKey, Due, Engine, LeaseRequest, MessageId, QueueStats, Receipt, Settle, SettleOutcome,
};
use crate::error::{Error, ErrorKind, Result, error_chain};
use crate::logging::warn;
use crate::message::queue_name::QueueName;
use crate::message::settlement::{Progress, Reason, ReasonKind};
use crate::publish::publisher::Published;
use crate::publish::services::Services;
use crate::text::bounded;

/// For how long a message is leased that an operator gives up: for one settlement.
const LEASE: Duration = Duration::from_secs(30);

impl App {
    /// Takes back a scheduled event; whether it was still there and never delivered.
    ///
    /// # Errors
    /// When the engine could not be asked.
    pub async fn cancel(&self, published: &Published) -> Result<bool> {
        self.engine(&published.queue)
            .cancel(&published.queue, &published.id)
            .await
    }

    /// Moves a scheduled event; whether it was still there and never delivered.
    ///
    /// # Errors
    /// When the engine could not be asked.
    pub async fn reschedule(&self, published: &Published, due: Due) -> Result<bool> {
        self.engine(&published.queue)
            .reschedule(&published.queue, &published.id, due)
            .await
    }

    /// Gives up an event that waits: moves one message, due or not, to the dead letters, with the
    /// operator's own reason ([`ReasonKind::Operator`]); whether it was there. Its handlers' marks
    /// stay, so that a redrive runs what was not done. Queue and id are those that
    /// [`history`](Self::history) and [`blocked_keys`](Self::blocked_keys) tell.
    ///
    /// ```
    /// # use ezq_core::testing::TestApp;
    /// # use ezq_core::{DeadLetterFilter, Event, Handler};
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
    /// [`ErrorKind::LeaseLost`] while a worker has the message, [`ErrorKind::Unsupported`] where the
    /// engine cannot lease by id; when the engine could not be asked.
    ///
    /// When it fails, the message stays as it was, due when it was due, with one delivery more. Only
    /// where the process or the store ends in between it comes within half a minute, due or not.
    ///
    /// # Cancel safety
    /// What has begun is done in a task of its own, also if this future is dropped.
    pub async fn fail(
        &self,
        queue: &QueueName,
        id: &MessageId,
        reason: impl Into<String>,
    ) -> Result<bool> {
        let given_up = give_up(
            Arc::clone(self.engine(queue)),
            Arc::clone(&self.inner.services),
            queue.clone(),
            id.clone(),
            bounded(&reason.into()),
        );
        tokio::spawn(given_up.in_current_span())
            .await
            .unwrap_or_else(|cut| {
                Err(
                    Error::new(ErrorKind::Engine, "giving an event up was cut off")
                        .with_source(cut),
                )
            })
    }

    /// How many messages a queue holds.
    ///
    /// # Errors
    /// When the engine could not be asked.
    pub async fn stats(&self, queue: &QueueName) -> Result<QueueStats> {
        self.engine(queue).stats(queue).await
    }

    /// Removes every message of a queue; how many there were.
    ///
    /// # Errors
    /// When the engine could not be asked.
    pub async fn purge(&self, queue: &QueueName) -> Result<u64> {
        self.engine(queue).purge(queue).await
    }

    /// Ordering keys that wait although events stand behind their first one: it is being handled,
    /// waits for a retry, or is not due yet. At most `limit`, in no order. On PGMQ, it reads the
    /// messages that are not due until it found so many, and counts what waits behind each.
    ///
    /// Once a delivery of a message was never settled, a later retry is told from a lease by what its
    /// handlers left in its headers. If they left nothing, as where another client consumes the queue,
    /// the message counts as leased until it is due.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] when the queue's engine does not order by key; else when it could
    /// not be asked.
    pub async fn blocked_keys(&self, queue: &QueueName, limit: usize) -> Result<Vec<BlockedKey>> {
        self.engine(queue).blocked_keys(queue, limit).await
    }

    /// The dead letters of a queue.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] when the queue's engine keeps none that can be looked at.
    pub fn dead_letters(&self, queue: &QueueName) -> Result<DeadLetterQueue<'_>> {
        let engine = self.engine(queue);
        let store = engine.dead_letters().ok_or_else(|| {
            let name = engine.capabilities().name;
            Error::new(
                ErrorKind::Unsupported,
                format!("the engine `{name}` lists no dead letters"),
            )
        })?;
        Ok(DeadLetterQueue::new(store, queue))
    }

    /// Asks, when awaited, what is kept of an event: every copy of it in the queues, archives and
    /// dead letters, with its handlers' attempts and newest errors. Its id is
    /// [`Published::event_id`], and [`Context::event_id`](crate::Context::event_id) in a handler.
    ///
    /// Queues and dead letters are read through, archives by an index where there is one; no lock
    /// is taken. Nothing is kept of a handled event, unless its queue has an archive or a trail; see
    /// [`Retention`](crate::Retention).
    ///
    /// ```
    /// # use ezq_core::testing::TestApp;
    /// # use ezq_core::{CopyState, Event, Handler, Retention};
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
        HistoryRequest::new(&self.inner.services.engines, event_id.into())
    }
}

/// Leases one message and moves it to the dead letters. One that cannot be moved is put back, due when
/// it was due.
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
    // Without this lease.
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
            Some(SettleOutcome::LeaseLost) | None => return Err(LeaseRequest::held(&queue, &id)),
        },
        Err(error) => Some(error),
    };
    if let Some(error) = failure {
        if let Some(kept) = put_back(&*engine, &queue, receipt).await {
            let text = "it could not be put back: it comes within half a minute, due or not";
            warn!(%queue, message_id = %id, error = kept, "{text}");
        }
        return Err(error);
    }
    info!(%queue, message_id = %id, error = reason.error, "an operator gave an event up");
    services.notices.given_up(&queue, &delivery, reason);
    Ok(true)
}

/// Gives a lease back; why that did not work, if it did not.
async fn put_back(engine: &dyn Engine, queue: &QueueName, receipt: &Receipt) -> Option<String> {
    let released = engine
        .settle(queue, vec![(receipt.clone(), Settle::Release)])
        .await;
    match released.map(|mut outcomes| outcomes.pop()) {
        Ok(Some(SettleOutcome::Failed { error, .. })) | Err(error) => Some(error_chain(&error)),
        Ok(Some(SettleOutcome::Done | SettleOutcome::LeaseLost) | None) => None,
    }
}
