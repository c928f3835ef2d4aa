//! What operators ask of an application: looking into queues, and changing what is in them.

use crate::admin::audit::Audit;
use crate::admin::bulk::BulkOperations;
use crate::admin::dead_letters::DeadLetterQueue;
use crate::admin::doctor::DoctorRequest;
use crate::admin::events::Events;
use crate::admin::fail::FailRequest;
use crate::admin::history::HistoryRequest;
use crate::admin::purge::PurgeRequest;
use crate::app::App;
use crate::engine::reader::Reader;
use crate::engine::{BlockedKey, Due, QueueStats};
use crate::error::{Error, ErrorKind, Result};
use crate::message::message_id::MessageId;
use crate::message::queue_name::IntoQueueName;
use crate::publish::published::Published;

impl App {
    /// Removes a scheduled event that was never delivered. Returns whether there was one.
    ///
    /// It is what a program does to an event of its own, so the [audit trail](Self::audit) has no entry of
    /// it. An operator [cancels](crate::admin::Events::cancel) by the queue and the id.
    ///
    /// # Errors
    /// When the engine could not be asked.
    pub async fn cancel(&self, published: &Published) -> Result<bool> {
        self.engine(&published.queue)
            .cancel(&published.queue, &published.id)
            .await
    }

    /// Moves the due time of an event that was never delivered. Returns whether there was one. As of
    /// [`cancel`](Self::cancel), the audit trail has no entry of it.
    ///
    /// # Errors
    /// When the engine could not be asked.
    pub async fn reschedule(&self, published: &Published, due: Due) -> Result<bool> {
        self.engine(&published.queue)
            .reschedule(&published.queue, &published.id, due)
            .await
    }

    /// Gives up a waiting event when awaited: moves one message, due or not, to the dead letters, with the
    /// operator's own [reason](crate::message::ReasonKind::Operator). Returns whether there was one.
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
    pub fn fail(
        &self,
        queue: impl IntoQueueName,
        id: &MessageId,
        reason: impl Into<String>,
    ) -> FailRequest<'_> {
        let queue = queue.into_queue_name();
        FailRequest::new(&self.inner, queue, id.clone(), &reason.into())
    }

    /// How many messages a queue holds, by state.
    ///
    /// On PGMQ this reads the whole queue and its dead letters, and what was handled but not vacuumed
    /// yet. If the queue's table is larger than 8 MiB, an engine gives the same answer again for ten
    /// times as long as it took. [`queues`](App::queues) counts up to a limit, by indexes.
    ///
    /// # Errors
    /// When the engine could not be asked.
    pub async fn stats(&self, queue: impl IntoQueueName) -> Result<QueueStats> {
        let queue = queue.into_queue_name()?;
        self.engine(&queue).stats(&queue).await
    }

    /// Removes every message of a queue when awaited, including leased ones, and returns how many there
    /// were. Dead letters stay.
    pub fn purge(&self, queue: impl IntoQueueName) -> PurgeRequest<'_> {
        PurgeRequest::new(&self.inner, queue.into_queue_name())
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
        Ok(DeadLetterQueue::new(
            &self.inner,
            (engine, store),
            queue,
            reader,
        ))
    }

    /// The events of a queue, to page through them by state and filter, and to act on one of
    /// them or on all that match.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidQueueName`] for a text that is no queue name, and [`ErrorKind::Unsupported`]
    /// when the queue's engine cannot be browsed.
    pub fn events(&self, queue: impl IntoQueueName) -> Result<Events<'_>> {
        let queue = queue.into_queue_name()?;
        let reader = Reader::new(&self.inner.services.codecs);
        Events::new(&self.inner, queue, reader)
    }

    /// Examines the stores when awaited, and answers what is wrong with each, with the measured values
    /// and the SQL that mends it.
    ///
    /// Nothing is changed or created, and a role that may only read is enough. It takes a fraction of a
    /// second as a rule. Each check is given up after 2 s, and is then a finding itself.
    ///
    /// ```no_run
    /// # async fn example(app: ezq_core::app::App) {
    /// use ezq_core::admin::Severity;
    ///
    /// for finding in app.doctor().await {
    ///     if finding.severity > Severity::Ok {
    ///         println!("{finding}");
    ///         println!("{}", finding.remedy.unwrap_or_default());
    ///     }
    /// }
    /// # }
    /// ```
    pub fn doctor(&self) -> DoctorRequest<'_> {
        DoctorRequest::new(&self.inner.services.engines)
    }

    /// The operations on all events that match a filter, of every process: to list, resume and stop them.
    #[must_use]
    pub fn operations(&self) -> BulkOperations<'_> {
        BulkOperations::new(&self.inner)
    }

    /// The audit trail: who did what in which queue.
    #[must_use]
    pub fn audit(&self) -> Audit<'_> {
        Audit::new(&self.inner)
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
