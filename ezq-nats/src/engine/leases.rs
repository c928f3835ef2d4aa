//! What this process has leased, and until when by its own monotonic clock.
//!
//! The server obeys a late word of a worker that lost its message, so the fence is here: a receipt settles
//! only while its lease runs, and only in the process that leased it.
//!
//! A lease has two ends, and the earlier counts:
//!
//! - that which the worker asked for, and renews;
//! - that after which the server hands the message out again. It was promised from the moment at which the
//!   request was sent, and is put off by each confirmed "in progress".

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::Subject;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use ezq_core::engine::{Receipt, Token};
use ezq_core::message::headers::Headers;
use ezq_core::message::{MessageId, QueueName};
use foldhash::HashMap;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::ack_subject::AckSubject;

/// A message as it was leased.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) id: MessageId,
    /// Where the server waits for a word on it.
    pub(crate) ack: Subject,
    pub(crate) payload: Bytes,
    pub(crate) headers: Headers,
    pub(crate) stored_at: DateTime<Utc>,
    /// How often it was delivered, this time included.
    pub(crate) deliveries: u32,
}

/// One message in the hands of this process.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) message: Arc<Taken>,
    /// How long the server waits.
    pub(crate) ack_wait: Duration,
    /// The end that the worker asked for.
    pub(crate) ends: Instant,
    /// The end that the server keeps to.
    pub(crate) server_ends: Instant,
    /// The server was asked to keep it, and is not asked again before this.
    pub(crate) renew_again_at: Instant,
    /// A settlement is under way.
    pub(crate) is_settling: bool,
}

impl Held {
    pub(crate) fn is_live(&self, now: Instant) -> bool {
        now < self.ends && now < self.server_ends
    }

    /// When the server must hear of it: after a third of its time.
    pub(crate) fn renew_at(&self) -> Instant {
        let rest = self.ack_wait * 2 / 3;
        let due = self.server_ends.checked_sub(rest);
        due.unwrap_or(self.server_ends).max(self.renew_again_at)
    }
}

/// One delivery in a queue: the message's number, how often it was delivered, and when it was stored. A
/// stream that was made anew may have the first two again.
pub(crate) type Key = (QueueName, [i64; 3]);

#[derive(Debug, Default)]
pub(crate) struct Leases {
    held: Mutex<HashMap<Key, Held>>,
    /// Tells the keeper that a lease ends earlier than it knows.
    pub(crate) changed: Notify,
}

impl Leases {
    pub(crate) fn held(&self) -> MutexGuard<'_, HashMap<Key, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add(&self, leased: Vec<(Key, Held)>) {
        if leased.is_empty() {
            return;
        }
        self.held().extend(leased);
        self.changed.notify_one();
    }

    /// Takes a delivery for a settlement; `None` if its lease is over, or another settlement has it.
    pub(crate) fn begin(&self, key: &Key) -> Option<Arc<Taken>> {
        let mut all = self.held();
        let held = all.get_mut(key)?;
        if held.is_settling || !held.is_live(Instant::now()) {
            return None;
        }
        held.is_settling = true;
        Some(Arc::clone(&held.message))
    }

    /// Whether each delivery may still be settled.
    pub(crate) fn are_live<'k>(&self, keys: impl Iterator<Item = &'k Key>) -> Vec<bool> {
        let now = Instant::now();
        let all = self.held();
        keys.map(|key| all.get(key).is_some_and(|held| held.is_live(now)))
            .collect()
    }

    /// Ends a settlement that failed: its receipt is as valid as it was.
    pub(crate) fn give_up(&self, key: &Key) {
        if let Some(held) = self.held().get_mut(key) {
            held.is_settling = false;
        }
        self.changed.notify_one();
    }

    /// Removes what is settled.
    pub(crate) fn remove<'k>(&self, keys: impl Iterator<Item = &'k Key>) {
        let mut all = self.held();
        for key in keys {
            all.remove(key);
        }
    }

    /// Voids every receipt of a queue.
    pub(crate) fn void(&self, queue: &QueueName) {
        self.held().retain(|(of, _), _| of != queue);
    }
}

/// The receipt of a delivery.
pub(crate) fn receipt(id: MessageId, ack: AckSubject) -> Receipt {
    let words = [ack.sequence, i64::from(ack.delivered), ack.stored_at];
    Receipt::new(id, Token::from_words(words))
}

/// The delivery that a receipt is of; `None` if no engine on JetStream made it.
pub(crate) fn key_of(queue: &QueueName, receipt: &Receipt) -> Option<Key> {
    let is_number = matches!(receipt.message_id(), MessageId::Number(_));
    let words = receipt.token().words::<3>().filter(|_| is_number)?;
    Some((queue.clone(), words))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(ends: Duration, server_ends: Duration) -> Held {
        let now = Instant::now();
        let message = Taken {
            id: MessageId::Number(1),
            ack: "ack".into(),
            payload: Bytes::new(),
            headers: Headers::new(),
            stored_at: Utc::now(),
            deliveries: 1,
        };
        Held {
            message: Arc::new(message),
            ack_wait: Duration::from_secs(30),
            ends: now + ends,
            server_ends: now + server_ends,
            renew_again_at: now,
            is_settling: false,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_settled_after_either_end() {
        let leases = Leases::default();
        let queue = QueueName::default();
        let [short, kept] = [(queue.clone(), [1, 1, 1]), (queue, [2, 1, 1])];
        let second = Duration::from_secs(1);
        leases.add(vec![
            (short.clone(), held(second, second * 30)),
            (kept.clone(), held(second * 60, second * 30)),
        ]);

        assert!(leases.begin(&short).is_some());
        assert!(leases.begin(&short).is_none(), "another settlement has it");
        leases.give_up(&short);
        tokio::time::advance(second).await;
        assert!(leases.begin(&short).is_none(), "the worker's time is over");
        assert_eq!(leases.are_live([&short, &kept].into_iter()), [false, true]);
        tokio::time::advance(second * 29).await;
        assert!(leases.begin(&kept).is_none(), "the server's time is over");
    }
}
