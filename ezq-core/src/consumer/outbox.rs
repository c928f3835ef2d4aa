//! The way from the handlers to the settling task. It is woken for the first settlement and for a
//! full batch, not for each: waking a task costs more than handing something on.

use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::time::timeout_at;

use super::settle::Settling;
use crate::clock::later;

/// Where settlements are handed in. When the last handle is dropped, what is there is settled at once.
#[derive(Debug)]
pub(super) struct Outbox {
    sender: mpsc::UnboundedSender<Settling>,
    waiting: Arc<Waiting>,
}

/// Where they are taken out, batch by batch.
pub(super) struct Batches {
    receiver: mpsc::UnboundedReceiver<Settling>,
    waiting: Arc<Waiting>,
    max_age: Duration,
}

#[derive(Debug)]
struct Waiting {
    size: usize,
    /// Counted once it is in the channel: never more than there are.
    count: AtomicIsize,
    full: Notify,
}

/// Both ends; a batch is full at a size, and due when its oldest settlement is of age.
pub(super) fn outbox(size: usize, max_age: Duration) -> (Arc<Outbox>, Batches) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let waiting = Arc::new(Waiting { size, count: AtomicIsize::new(0), full: Notify::new() });
    let outbox = Outbox { sender, waiting: Arc::clone(&waiting) };
    (Arc::new(outbox), Batches { receiver, waiting, max_age })
}

impl Outbox {
    /// Hands a settlement in; false when the settling task is gone.
    pub(super) fn send(&self, settling: Settling) -> bool {
        let sent = self.sender.send(settling).is_ok();
        let before = self.waiting.count.fetch_add(1, Ordering::AcqRel);
        if usize::try_from(before + 1).is_ok_and(|count| count >= self.waiting.size) {
            self.waiting.full.notify_one();
        }
        sent
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.waiting.full.notify_one();
    }
}

impl Batches {
    /// Waits for the next batch; `None` once everything is taken and no handle is left. What came
    /// while the last batch was settled goes along, up to four times the size.
    ///
    /// Not cancel safe: a batch that was begun is lost.
    pub(super) async fn next(&mut self) -> Option<Vec<Settling>> {
        let first = self.receiver.recv().await?;
        let due = later(first.since, self.max_age);
        while self.receiver.len() + 1 < self.waiting.size && !self.receiver.is_closed() {
            if timeout_at(due, self.waiting.full.notified()).await.is_err() {
                break;
            }
        }
        let mut batch = vec![first];
        while batch.len() < self.waiting.size.saturating_mul(4) {
            let Ok(next) = self.receiver.try_recv() else { break };
            batch.push(next);
        }
        let count = isize::try_from(batch.len()).unwrap_or(isize::MAX);
        self.waiting.count.fetch_sub(count, Ordering::AcqRel);
        Some(batch)
    }

    /// Whether no handle is left.
    pub(super) fn is_closed(&self) -> bool {
        self.receiver.is_closed()
    }
}
