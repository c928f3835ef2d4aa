//! The methods of an engine.

use std::any::Any;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;

use crate::engine::{
    BlockedKey, Broadcasts, Browse, Cancellations, Capabilities, DeadLetters, Delivery, Doctor,
    Due, ExtendOutcome, History, LeaseRequest, Leased, Operations, Outgoing, Pauses, Positions,
    Presence, PublishOutcome, QueueOverview, Receipt, ScheduleStore, Settle, SettleOutcome,
    SharedLooks, UnitOfWork,
};
use crate::error::{Error, ErrorKind, Result};
use crate::message::message_id::MessageId;
use crate::message::queue_name::QueueName;
use crate::message::retention::Retention;

/// A store of messages.
///
/// An engine is shared: every method may be called concurrently. Unless a method says otherwise,
/// dropping its future leaves it open whether the store did the work.
///
/// An error means that nothing is known to be done, unless the method says otherwise. Its kind
/// decides what ezq does, so give a failure that will pass a [transient](Error::is_transient) kind:
///
/// - Leases are asked for again after any error.
/// - A settlement is sent again after a transient error. After another one, a settlement with
///   events to publish counts as refused, and its message becomes a dead letter.
/// - A handler's transaction that fails to begin or commit by a transient error is not an attempt
///   of the handler. By another one it is a failed attempt.
///
/// An engine is [`Any`], so that an extension finds its own engine behind `dyn Engine`. Publishing
/// in a caller's transaction needs that: it uses a connection of the engine's own kind, which this
/// contract does not know. See [`Publish::prepare_for`](crate::publish::Publish::prepare_for).
#[async_trait]
pub trait Engine: Any + Send + Sync {
    /// What the engine can do, probed when it connected. It must not change afterwards: an
    /// application is checked against it once, when it is built.
    fn capabilities(&self) -> &Capabilities;

    /// Makes sure that a queue and the place for its dead letters exist. Called often, so it must
    /// be cheap when they do.
    ///
    /// # Errors
    /// When the queue is missing and cannot be created.
    async fn ensure_queue(&self, queue: &QueueName) -> Result<()>;

    /// Sets what becomes of a queue's messages when they are acknowledged from now on. The setting
    /// lasts until the engine is closed; what is archived already stays.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] for an archive or a trail, unless the engine has
    /// [`Capabilities::archive`].
    fn set_retention(&self, queue: &QueueName, retention: Retention) -> Result<()> {
        match retention {
            Retention::Delete => Ok(()),
            Retention::Archive { .. } | Retention::Trail { .. } => Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "the engine `{}` supports neither an archive nor a trail: use \
                     `Retention::Delete` for the queue `{queue}`",
                    self.capabilities().name
                ),
            )),
        }
    }

    /// Checks whether the store can keep a message, as far as that is known without asking the
    /// store. An event that a handler returned and that cannot be kept then fails its handler,
    /// before anything is settled. By default every message passes.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidEvent`] or [`ErrorKind::TooLarge`] if the store would refuse the
    /// message.
    fn check(&self, message: &Outgoing) -> Result<()> {
        let _ = message;
        Ok(())
    }

    /// Stores messages, in their order, and answers one outcome each, in their order. A message
    /// that the store refuses harms no other.
    ///
    /// # Errors
    /// When nothing is known to be stored, such as when the server cannot be reached. Some messages
    /// may be stored all the same, so publishing them again may duplicate them.
    async fn publish(&self, messages: Vec<Outgoing>) -> Result<Vec<PublishOutcome>>;

    /// Leases messages that are due. It answers at once: where nothing is due, with no deliveries.
    ///
    /// With [`Capabilities::keys`], messages of one ordering key are handed out one after another:
    ///
    /// - A message with a key is handed out only as the first of its key, by id, in the queue, and
    ///   only while no message of the key is leased.
    /// - One call may hand out several messages of a key that follow each other. Their places then
    ///   rise with their ids, and the caller handles them in that order.
    ///
    /// A call that hands out messages may pass over one that another client gave back to its old
    /// place. A call that hands out none has passed over nothing.
    ///
    /// # Errors
    /// [`ErrorKind::QueueMissing`] when the queue is gone; otherwise when the store could not be
    /// asked.
    ///
    /// # Cancel safety
    /// Not cancel safe: deliveries of a dropped call stay leased until their leases end.
    async fn lease(&self, request: LeaseRequest) -> Result<Leased>;

    /// A counter that changes when a message may have become readable, or `None` (the default) if
    /// the engine cannot tell. Consumers poll either way, less often if they are woken.
    ///
    /// # Errors
    /// When the engine cannot listen at present.
    async fn wakeups(&self, queue: &QueueName) -> Result<Option<watch::Receiver<u64>>> {
        let _ = queue;
        Ok(None)
    }

    /// Wakes whoever waits for messages of a queue, because a transaction that the engine did not
    /// see commit has stored something there. A hint: by default it does nothing.
    fn wake(&self, queue: &QueueName) {
        let _ = queue;
    }

    /// Settles deliveries and answers one outcome each, in their order. With
    /// [`Capabilities::fenced_by_clock`] a receipt is void as soon as its lease has ended by the clock of the
    /// process that leased it, and in every other process. If a call holds several
    /// settlements of one delivery, the first that does not fail counts; those after it answer
    /// [`SettleOutcome::LeaseLost`].
    ///
    /// # Errors
    /// When nothing is known to be settled. Settling again with the same receipts is safe: a
    /// settlement that had succeeded then answers [`SettleOutcome::LeaseLost`].
    async fn settle(
        &self,
        queue: &QueueName,
        settlements: Vec<(Receipt, Settle)>,
    ) -> Result<Vec<SettleOutcome>>;

    /// Renews leases, to end `ttl` from now, and answers one outcome each, in their order.
    ///
    /// # Errors
    /// When the store could not be asked. The leases then end when they would have ended.
    async fn extend(
        &self,
        queue: &QueueName,
        receipts: &[Receipt],
        ttl: Duration,
    ) -> Result<Vec<ExtendOutcome>>;

    /// Begins a transaction for one run of a handler on deliveries of a queue.
    ///
    /// `limit` is the longest time that the run may take, if there is one. A transaction that is
    /// idle for much longer has lost its worker, and the engine may end it.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] unless the engine has [`Capabilities::transactions`]; otherwise
    /// when the store could not begin one.
    async fn begin(
        &self,
        queue: &QueueName,
        limit: Option<Duration>,
    ) -> Result<Box<dyn UnitOfWork>> {
        let _ = (queue, limit);
        Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "the engine `{}` has no transactions",
                self.capabilities().name
            ),
        ))
    }

    /// Removes a message that was never delivered, such as a scheduled event. Returns whether there
    /// was one. By default there is none: an engine without [`Capabilities::delayed`] keeps none.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] if the engine keeps scheduled messages and has no
    /// [`Capabilities::movable`]; otherwise when the store could not be asked.
    async fn cancel(&self, queue: &QueueName, id: &MessageId) -> Result<bool> {
        let _ = (queue, id);
        Ok(false)
    }

    /// Moves the due time of a message that was never delivered. Returns whether there was one. By
    /// default there is none, as for [`cancel`](Self::cancel).
    ///
    /// # Errors
    /// When the store could not be asked.
    async fn reschedule(&self, queue: &QueueName, id: &MessageId, due: Due) -> Result<bool> {
        let _ = (queue, id, due);
        Ok(false)
    }

    /// Leases one message by its id, due or not and without regard to ordering keys. Returns `None`
    /// if there is no such message.
    ///
    /// It counts as a delivery and voids every earlier receipt. It is for an operator who decides
    /// what becomes of a message; see [`App::fail`](crate::app::App::fail).
    ///
    /// # Errors
    /// - [`ErrorKind::LeaseLost`] while a worker holds the message; a retry after that helps.
    /// - [`ErrorKind::Unsupported`] if the engine cannot lease by id, which is the default.
    /// - Otherwise when the store could not be asked.
    ///
    /// # Cancel safety
    /// As [`lease`](Self::lease).
    async fn lease_by_id(
        &self,
        queue: &QueueName,
        id: &MessageId,
        ttl: Duration,
    ) -> Result<Option<Delivery>> {
        let _ = (queue, id, ttl);
        let name = self.capabilities().name;
        let text = format!("the engine `{name}` cannot lease a message by its id");
        Err(Error::new(ErrorKind::Unsupported, text))
    }

    /// Removes every message of a queue, leased ones included, and returns how many there were.
    /// Messages that are published at the same time may stay. Dead letters stay.
    ///
    /// # Errors
    /// When the store could not be asked. Some messages of a large queue may be removed by then.
    async fn purge(&self, queue: &QueueName) -> Result<u64>;

    /// How many messages a queue holds, by state. Of a large queue, an engine may give an answer of
    /// before for a while.
    ///
    /// # Errors
    /// When the store could not be asked.
    async fn stats(&self, queue: &QueueName) -> Result<QueueStats>;

    /// How long the oldest readable message has been due; `None` if no message is readable.
    ///
    /// Health probes ask often. The default calls [`stats`](Self::stats): where that counts rows,
    /// answer this in a cheaper way. Of a large queue, an engine may give an answer of before for a while.
    ///
    /// # Errors
    /// When the store could not be asked.
    async fn lag(&self, queue: &QueueName) -> Result<Option<Duration>> {
        Ok(self.stats(queue).await?.oldest_ready)
    }

    /// Ordering keys whose first message cannot be handed out at present while others wait behind
    /// it; at most `limit` of them, in no order.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] unless the engine has [`Capabilities::keys`]; otherwise when the
    /// store could not be asked.
    async fn blocked_keys(&self, queue: &QueueName, limit: usize) -> Result<Vec<BlockedKey>> {
        let _ = (queue, limit);
        let name = self.capabilities().name;
        let text = format!("the engine `{name}` does not support ordering keys");
        Err(Error::new(ErrorKind::Unsupported, text))
    }

    /// Checks whether the store answers. By default it does, which is right for a store in this
    /// process.
    ///
    /// # Errors
    /// What keeps the store from answering.
    async fn health_check(&self) -> Result<()> {
        Ok(())
    }

    /// The engine's dead letters, or `None` (the default) if they cannot be listed and redriven.
    fn dead_letters(&self) -> Option<&dyn DeadLetters> {
        None
    }

    /// The engine's schedules, or `None` (the default) if it keeps none.
    fn schedules(&self) -> Option<&dyn ScheduleStore> {
        None
    }

    /// The engine's subscriptions, or `None` (the default) if it does not broadcast.
    fn broadcasts(&self) -> Option<&dyn Broadcasts> {
        None
    }

    /// The engine's browsing, or `None` (the default) if its messages cannot be read page by page.
    fn browse(&self) -> Option<&dyn Browse> {
        None
    }

    /// The engine's operations on stored events, or `None` (the default) if it acts on none by id and
    /// filter.
    fn operations(&self) -> Option<&dyn Operations> {
        None
    }

    /// Who consumes the engine's queues, or `None` (the default) if the engine does not keep that.
    fn presence(&self) -> Option<&dyn Presence> {
        None
    }

    /// The engine's looks into idle queues, or `None` (the default) if each consumer claims by itself to see
    /// whether there is something.
    fn shared_looks(&self) -> Option<&dyn SharedLooks> {
        None
    }

    /// The engine's positions of sources, or `None` (the default) if it stores no messages of brokers.
    fn positions(&self) -> Option<&dyn Positions> {
        None
    }

    /// The engine's overview of its queues, or `None` (the default) if it cannot list and count them
    /// cheaply.
    fn overview(&self) -> Option<&dyn QueueOverview> {
        None
    }

    /// The engine's pauses, or `None` (the default) if queues and handlers cannot be paused. An engine
    /// that has them can also [lease by id](Self::lease_by_id).
    fn pauses(&self) -> Option<&dyn Pauses> {
        None
    }

    /// The engine's cancellations, or `None` (the default) if a message cannot be cancelled while a worker
    /// holds it. An engine that has them can also [lease by id](Self::lease_by_id).
    fn cancellations(&self) -> Option<&dyn Cancellations> {
        None
    }

    /// The engine's examination of its store, or `None` (the default) if it has none.
    fn doctor(&self) -> Option<&dyn Doctor> {
        None
    }

    /// Every stored copy of an event, found by the event's id: in one queue with its archive and
    /// its dead letters, or in those of all queues. Takes no lock and changes nothing.
    ///
    /// A body that a codec wrote ([`CODEC`](crate::message::headers::CODEC)) cannot be read here.
    /// Its event's id and type are in the headers [`CE_ID`](crate::message::headers::CE_ID) and
    /// [`CE_TYPE`](crate::message::headers::CE_TYPE).
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] unless the engine keeps a history; otherwise when the store could
    /// not be read.
    async fn history(&self, event_id: &str, queue: Option<&QueueName>) -> Result<History> {
        let _ = (event_id, queue);
        Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "the engine `{}` does not support the history of events",
                self.capabilities().name
            ),
        ))
    }

    /// Stops background work and closes connections. What is stored stays.
    async fn close(&self) {}
}

/// How many messages a queue holds, by state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueStats {
    /// Messages that can be leased now.
    pub ready: u64,
    /// Messages that were delivered before and cannot be leased now: leased, or waiting for a
    /// retry.
    pub in_progress: u64,
    /// Messages that were never delivered and are not due yet.
    pub scheduled: u64,
    /// Dead letters.
    pub dead: u64,
    /// How long the oldest message that can be leased has been due; `None` if there is none.
    pub oldest_ready: Option<Duration>,
}
