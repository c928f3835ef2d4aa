//! All queues of a memory engine, the record of what was published, and the wake-up counters.
//!
//! Only this file touches several queues at once. So a settlement and the events that go out with it
//! are one step here.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicI64, Ordering};

use chrono::{DateTime, Utc};
use tokio::sync::watch;

use super::cancel_board::CancelBoard;
use super::clock::{self, Micros};
use super::operated::Operated;
use super::pause_board::PauseBoard;
use super::position_board::PositionBoard;
use super::queue::{Held, Queue};
use super::subscriptions::Subscriptions;
use crate::engine::history::History;
use crate::engine::{
    ConsumerPresence, Outgoing, PublishOutcome, Receipt, ScheduleRow, Settle, SettleOutcome,
};
use crate::error::{Error, ErrorKind, Result};
use crate::message::message_id::MessageId;
use crate::message::queue_name::QueueName;
use crate::message::retention::Retention;

/// How many memory engines this process has made.
static ENGINES: AtomicI64 = AtomicI64::new(0);

/// One message as it was published, whatever has become of it since.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Published {
    /// The id that it got.
    pub id: MessageId,
    /// The message, with its queue.
    pub message: Outgoing,
    /// When it was published, by the engine's clock.
    pub at: DateTime<Utc>,
}

/// Consumers by their ids, each with the time at which it was noted.
type NotedConsumers = BTreeMap<String, (ConsumerPresence, Micros)>;

#[derive(Debug)]
pub(super) struct Store {
    max_body: Option<usize>,
    queues: HashMap<QueueName, Queue>,
    /// The engine's own number among those of this process.
    engine: i64,
    /// How many queues were created so far. Each has its number in its receipts: a queue that is
    /// dropped and created again begins with the same message ids.
    generations: i64,
    /// Not in the queues, because the setting, and the consumers that wait, outlive a queue.
    retention: HashMap<QueueName, Retention>,
    wakeups: HashMap<QueueName, watch::Sender<u64>>,
    published: Vec<Published>,
    pub(super) schedules: BTreeMap<String, ScheduleRow>,
    /// What a schedule publishes, by its name.
    pub(super) schedule_events: BTreeMap<String, String>,
    pub(super) subscriptions: Subscriptions,
    pub(super) pauses: PauseBoard,
    pub(super) cancellations: CancelBoard,
    pub(super) consumers: NotedConsumers,
    pub(super) operated: Operated,
    pub(super) positions: PositionBoard,
}

impl Store {
    pub(super) fn new(max_body: Option<usize>) -> Self {
        Self {
            max_body,
            queues: HashMap::new(),
            engine: ENGINES.fetch_add(1, Ordering::Relaxed),
            generations: 0,
            retention: HashMap::new(),
            wakeups: HashMap::new(),
            published: Vec::new(),
            schedules: BTreeMap::new(),
            schedule_events: BTreeMap::new(),
            subscriptions: Subscriptions::default(),
            pauses: PauseBoard::default(),
            cancellations: CancelBoard::default(),
            consumers: NotedConsumers::new(),
            operated: Operated::default(),
            positions: PositionBoard::default(),
        }
    }

    pub(super) fn ensure_queue(&mut self, queue: &QueueName) {
        if !self.queues.contains_key(queue) {
            self.generations += 1;
            let made = Queue::new(self.engine, self.generations);
            self.queues.insert(queue.clone(), made);
        }
    }

    pub(super) fn remove_queue(&mut self, queue: &QueueName) -> bool {
        self.queues.remove(queue).is_some()
    }

    /// The names of all queues, sorted.
    pub(super) fn queue_names(&self) -> Vec<QueueName> {
        let mut names: Vec<QueueName> = self.queues.keys().cloned().collect();
        names.sort();
        names
    }

    pub(super) fn set_retention(&mut self, queue: &QueueName, retention: Retention) {
        self.retention.insert(queue.clone(), retention);
    }

    fn retention(&self, queue: &QueueName) -> Retention {
        self.retention.get(queue).copied().unwrap_or_default()
    }

    /// The history of an event, in one queue or in all.
    pub(super) fn history(
        &mut self,
        event_id: &str,
        queue: Option<&QueueName>,
        now: Micros,
    ) -> History {
        let mut copies = Vec::new();
        for (name, held) in &mut self.queues {
            if queue.is_none_or(|queue| queue == name) {
                held.forget_archived(self.retention.get(name).and_then(|kept| kept.keep()), now);
                copies.extend(held.copies(name, event_id, now));
            }
        }
        History::new(event_id, clock::to_time(now), copies)
    }

    pub(super) fn queue(&mut self, name: &QueueName) -> Result<&mut Queue> {
        self.queues.get_mut(name).ok_or_else(|| missing(name))
    }

    pub(super) fn publish(&mut self, message: Outgoing, now: Micros) -> PublishOutcome {
        let admitted = self.admit(&message);
        let stored = admitted.and_then(|()| self.insert(message, now));
        stored.unwrap_or_else(PublishOutcome::Failed)
    }

    pub(super) fn settle(
        &mut self,
        name: &QueueName,
        receipt: Receipt,
        settle: Settle,
        now: Micros,
    ) -> SettleOutcome {
        match self.try_settle(name, &receipt, settle, now) {
            Ok(true) => SettleOutcome::Done,
            Ok(false) => SettleOutcome::LeaseLost,
            Err(error) => SettleOutcome::Failed { receipt, error },
        }
    }

    /// Settles a delivery, and returns whether its receipt was valid. Everything that can fail is checked
    /// before anything changes, so that the step is atomic.
    fn try_settle(
        &mut self,
        name: &QueueName,
        receipt: &Receipt,
        settle: Settle,
        now: Micros,
    ) -> Result<bool> {
        let Some(Held { id, due }) = self.queue(name)?.held(receipt)? else {
            return Ok(false);
        };
        settle
            .outgoing()
            .iter()
            .try_for_each(|message| self.admit(message))?;

        let retention = self.retention(name);
        let queue = self.queue(name)?;
        let outgoing = match settle {
            Settle::Ack { outgoing } => {
                queue.acknowledge(id, name, retention, now);
                outgoing
            }
            Settle::Retry {
                after,
                progress,
                outgoing,
            } => {
                queue.give_back(id, clock::after(now, after), &progress, receipt.covers());
                self.wake(name);
                outgoing
            }
            Settle::DeadLetter {
                reason,
                progress,
                outgoing,
            } => {
                queue.bury(id, &progress, reason, now);
                outgoing
            }
            Settle::Discard => {
                queue.remove(id);
                Vec::new()
            }
            Settle::Release => {
                queue.give_back(id, due, &Default::default(), receipt.covers());
                self.wake(name);
                Vec::new()
            }
        };

        for message in outgoing {
            self.insert(message, now)?;
        }
        Ok(true)
    }

    /// Checks that a message can be stored.
    pub(super) fn admit(&self, message: &Outgoing) -> Result<()> {
        if !self.queues.contains_key(&message.queue) {
            return Err(missing(&message.queue));
        }
        match self.max_body {
            Some(limit) if message.body.len() > limit => Err(Error::new(
                ErrorKind::TooLarge,
                format!(
                    "the message has {} bytes, over the engine's limit of {limit}",
                    message.body.len()
                ),
            )),
            _ => Ok(()),
        }
    }

    pub(super) fn insert(&mut self, message: Outgoing, now: Micros) -> Result<PublishOutcome> {
        let queue = self.queue(&message.queue)?;
        if let Some(dedupe) = &message.dedupe
            && let Some(original) = queue.dedupe.taken(dedupe.key(), now)
        {
            return Ok(PublishOutcome::Duplicate(Some(original)));
        }

        let due = clock::due(now, message.due);
        let id = queue.insert(message.body.clone(), message.headers.clone(), due, now);
        if let Some(dedupe) = &message.dedupe {
            queue.dedupe.take(dedupe, id.clone(), now);
        }

        self.wake(&message.queue);
        self.published.push(Published {
            id: id.clone(),
            message,
            at: clock::to_time(now),
        });
        Ok(PublishOutcome::Stored(id))
    }

    pub(super) fn wakeups(&mut self, queue: &QueueName) -> watch::Receiver<u64> {
        self.wakeups
            .entry(queue.clone())
            .or_insert_with(|| watch::Sender::new(0))
            .subscribe()
    }

    /// Wakes the consumers of a queue. Also for messages that are due later, because a consumer that
    /// waits must then wait for less.
    pub(super) fn wake(&mut self, queue: &QueueName) {
        if let Some(sender) = self.wakeups.get(queue) {
            sender.send_modify(|count| *count = count.wrapping_add(1));
        }
    }

    pub(super) fn queues(&self) -> &HashMap<QueueName, Queue> {
        &self.queues
    }

    pub(super) fn published(&self) -> &[Published] {
        &self.published
    }

    pub(super) fn forget_published(&mut self) {
        self.published.clear();
    }
}

fn missing(queue: &QueueName) -> Error {
    Error::new(
        ErrorKind::QueueMissing,
        format!("the queue `{queue}` does not exist; create it with `ensure_queue`"),
    )
}
