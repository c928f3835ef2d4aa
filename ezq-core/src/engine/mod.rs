//! The contract between ezq and a store of messages.
//!
//! An engine knows no handler and the dispatcher knows no engine; they meet in the consumer. Every
//! engine passes the suite of the crate `ezq-conformance`, which states these rules as tests:
//! a settlement is fenced by its receipt, outcomes are per message, a lease that ran out makes the
//! message readable again, and one bad message harms no other.

mod broadcasts;
mod capabilities;
mod dead_letters;
mod dedupe;
mod delivery;
mod keys;

pub(crate) mod history;
mod schedules;
mod settle;
mod unit_of_work;

use std::any::Any;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;

pub use crate::message::message_id::MessageId;
pub use broadcasts::{BroadcastMessage, Broadcasts, EventParty, EventRole, QueueSubscription};
pub use capabilities::Capabilities;
pub use dead_letters::{DeadLetter, DeadLetters, Death};
pub use dedupe::{DEDUPE_KEY_LIMIT, Dedupe, Original};
pub use delivery::{
    Delivery, Due, LeaseRequest, Leased, Outgoing, Position, PublishOutcome, Receipt,
};
pub use keys::{BlockedKey, Blocker};
pub use schedules::{
    Advance, Fired, Firing, KeptSchedules, Registration, ScheduleRow, ScheduleStore,
};
pub use settle::Settle;
pub use unit_of_work::{Finished, UnitOfWork};

use crate::engine::history::History;
use crate::error::{Error, ErrorKind, Result};
use crate::message::queue_name::QueueName;
use crate::message::retention::Retention;

/// A store of messages.
///
/// All methods may be called concurrently. Unless a method says otherwise, dropping its future
/// leaves it open whether the store did the work.
///
/// An engine is [`Any`], so that an extension finds its own engine behind `dyn Engine`: publishing in
/// a caller's transaction needs a connection of the engine's own kind, which this contract does not
/// know. See [`Publish::prepare_for`](crate::Publish::prepare_for).
#[async_trait]
pub trait Engine: Any + Send + Sync {
    /// What it can do, probed when it connected.
    fn capabilities(&self) -> &Capabilities;

    /// Makes sure that a queue and its dead letters exist. Cheap when they do.
    ///
    /// # Errors
    /// When the queue is missing and cannot be created.
    async fn ensure_queue(&self, queue: &QueueName) -> Result<()>;

    /// Says what becomes of a queue's messages from now on when they are acknowledged. Forgotten when
    /// the engine is closed; what is archived stays.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] for an archive or a trail, unless the engine has [`Capabilities::archive`].
    fn set_retention(&self, queue: &QueueName, retention: Retention) -> Result<()> {
        match retention {
            Retention::Delete => Ok(()),
            Retention::Archive { .. } | Retention::Trail { .. } => Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "the engine `{}` keeps no archive and no trail, which the queue `{queue}` is to have",
                    self.capabilities().name
                ),
            )),
        }
    }

    /// Whether the store can keep a message, as far as that can be told without asking it: so that
    /// an event a handler returned fails that handler, before anything is settled. Defaults to yes.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidEvent`] or [`ErrorKind::TooLarge`] when it cannot.
    fn check(&self, message: &Outgoing) -> Result<()> {
        let _ = message;
        Ok(())
    }

    /// Stores messages, in their order; one outcome each, in their order. One that the store
    /// refuses harms no other.
    ///
    /// # Errors
    /// When nothing is known to be stored, such as when the server cannot be reached.
    async fn publish(&self, messages: Vec<Outgoing>) -> Result<Vec<PublishOutcome>>;

    /// Hands out what is due, at once and without waiting.
    ///
    /// With [`Capabilities::keys`], no two calls hold messages of one ordering key at once: a message
    /// with a key is handed out only when no earlier one of its key, by id, is in the queue and none
    /// of its key is leased. One call may hand out several of a key that follow each other; then
    /// their places rise with their ids, and whoever got them handles them in that order.
    ///
    /// # Errors
    /// When the store could not be asked; [`ErrorKind::QueueMissing`] when the queue is gone.
    ///
    /// # Cancel safety
    /// Not cancel safe: deliveries of a dropped call stay leased until their time runs out.
    async fn lease(&self, request: LeaseRequest) -> Result<Leased>;

    /// A counter that changes when a message may have become readable. `None` if the engine cannot
    /// tell; consumers poll either way, only less often where they are told.
    ///
    /// # Errors
    /// When the engine cannot listen just now.
    async fn wakeups(&self, queue: &QueueName) -> Result<Option<watch::Receiver<u64>>> {
        let _ = queue;
        Ok(None)
    }

    /// Says that something was stored in a queue by a transaction that this engine did not see
    /// commit: whoever waits there is woken. A hint, and nothing by default.
    fn wake(&self, queue: &QueueName) {
        let _ = queue;
    }

    /// Settles deliveries; one outcome each, in their order. Of several settlements of one delivery
    /// in a call, the first that does not fail counts, and those after it come too late.
    ///
    /// # Errors
    /// When nothing is known to be settled. Settling again with the same receipts is safe: what had
    /// succeeded answers [`SettleOutcome::LeaseLost`].
    async fn settle(
        &self,
        queue: &QueueName,
        settlements: Vec<(Receipt, Settle)>,
    ) -> Result<Vec<SettleOutcome>>;

    /// Renews leases for `ttl` from now; one outcome each, in their order.
    ///
    /// # Errors
    /// When the store could not be asked.
    async fn extend(
        &self,
        queue: &QueueName,
        receipts: &[Receipt],
        ttl: Duration,
    ) -> Result<Vec<ExtendOutcome>>;

    /// Begins a transaction for a run of a handler on deliveries of a queue. It takes at most
    /// `limit`, if that is known: a transaction that is idle for much longer has lost its worker.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] unless the engine has [`Capabilities::transactions`].
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

    /// Takes back a message that was never delivered (a scheduled event); whether it was there.
    /// Defaults to no: an engine that is not [`Capabilities::delayed`] keeps none.
    ///
    /// # Errors
    /// When the store could not be asked.
    async fn cancel(&self, queue: &QueueName, id: &MessageId) -> Result<bool> {
        let _ = (queue, id);
        Ok(false)
    }

    /// Moves the due time of a message that was never delivered; whether it was there. Defaults to
    /// no, as [`cancel`](Self::cancel).
    ///
    /// # Errors
    /// When the store could not be asked.
    async fn reschedule(&self, queue: &QueueName, id: &MessageId, due: Due) -> Result<bool> {
        let _ = (queue, id, due);
        Ok(false)
    }

    /// Leases one message by its id, due or not, ordering keys aside; `None` where it is not there.
    /// It counts as a delivery, and voids every earlier receipt. For an operator who decides what
    /// becomes of it: see [`App::fail`](crate::App::fail).
    ///
    /// # Errors
    /// [`ErrorKind::LeaseLost`] while a worker has it, [`ErrorKind::Unsupported`] unless the engine
    /// can do so (the default), and when the store could not be asked.
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
        let text = format!("the engine `{name}` leases no message by its id");
        Err(Error::new(ErrorKind::Unsupported, text))
    }

    /// Removes every message of a queue, leased ones included; how many there were. What is published
    /// meanwhile may stay.
    ///
    /// # Errors
    /// When the store could not be asked. Where there are many, some may be removed by then.
    async fn purge(&self, queue: &QueueName) -> Result<u64>;

    /// How many messages a queue holds, by state.
    ///
    /// # Errors
    /// When the store could not be asked.
    async fn stats(&self, queue: &QueueName) -> Result<QueueStats>;

    /// How long the oldest message that is readable has been due, `None` if none is. Asked by
    /// health probes: where [`stats`](Self::stats), the default, counts, tell it in a cheaper way.
    ///
    /// # Errors
    /// When the store could not be asked.
    async fn lag(&self, queue: &QueueName) -> Result<Option<Duration>> {
        Ok(self.stats(queue).await?.oldest_ready)
    }

    /// Ordering keys whose first message cannot be handed out just now while others wait behind it,
    /// at most `limit`.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] unless the engine has [`Capabilities::keys`]; else when the store
    /// could not be asked.
    async fn blocked_keys(&self, queue: &QueueName, limit: usize) -> Result<Vec<BlockedKey>> {
        let _ = (queue, limit);
        let name = self.capabilities().name;
        let text = format!("the engine `{name}` does not order by key");
        Err(Error::new(ErrorKind::Unsupported, text))
    }

    /// Whether the store answers. Defaults to yes, which is right for one in this process.
    ///
    /// # Errors
    /// What keeps it from answering.
    async fn health_check(&self) -> Result<()> {
        Ok(())
    }

    /// The engine's dead letters, if it keeps them where they can be looked at.
    fn dead_letters(&self) -> Option<&dyn DeadLetters> {
        None
    }

    /// The engine's schedules, if it keeps any. Defaults to none.
    fn schedules(&self) -> Option<&dyn ScheduleStore> {
        None
    }

    /// The engine's subscriptions, if it broadcasts.
    fn broadcasts(&self) -> Option<&dyn Broadcasts> {
        None
    }

    /// Every stored copy of an event, by its id: in a queue, its archive and its dead letters, or in
    /// those of all queues. Takes no lock and changes nothing. Where a codec wrote the body
    /// ([`CODEC`](crate::message::headers::CODEC)), id and type are told by the headers
    /// [`CE_ID`](crate::message::headers::CE_ID) and [`CE_TYPE`](crate::message::headers::CE_TYPE).
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] unless the engine can tell; otherwise when the store cannot be
    /// read.
    async fn history(&self, event_id: &str, queue: Option<&QueueName>) -> Result<History> {
        let _ = (event_id, queue);
        Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "the engine `{}` tells no event's history",
                self.capabilities().name
            ),
        ))
    }

    /// Stops background work and closes connections.
    async fn close(&self) {}
}

/// What became of one settlement.
#[derive(Debug)]
pub enum SettleOutcome {
    /// It is done, durably.
    Done,
    /// Nothing was changed: the message was handed out again, or is gone.
    LeaseLost,
    /// Nothing was changed; the receipt is still good for another try.
    Failed {
        /// The receipt, given back.
        receipt: Receipt,
        /// Why.
        error: Error,
    },
}

/// What became of one renewal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExtendOutcome {
    /// The lease runs for the whole time again.
    Extended,
    /// The row is locked just now, perhaps by the handler's own transaction: try again.
    Busy,
    /// The message was handed out again, or is gone.
    LeaseLost,
}

/// How many messages a queue holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueStats {
    /// Readable now.
    pub ready: u64,
    /// Leased, or waiting for a retry: delivered before, and not readable now.
    pub in_progress: u64,
    /// Never delivered and not due yet.
    pub scheduled: u64,
    /// Dead letters.
    pub dead: u64,
    /// How long the oldest readable message has been due.
    pub oldest_ready: Option<Duration>,
}
