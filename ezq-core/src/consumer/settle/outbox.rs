//! The channel from the handlers to the settling task, which takes settlements out in batches.
//!
//! Each settlement wakes the task. Waking it for the first and for a full batch only was tried, with
//! a counter beside the channel: `consume` took as many instructions and context switches.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout_at;

use crate::clock::later;
use crate::consumer::settle::settlement::PendingSettlement;

/// A batch begins with room for this many settlements at most.
const MOST_ROOM: usize = 256;

/// Where settlements are handed in. When it is dropped, what is there is settled at once.
#[derive(Debug)]
pub(crate) struct Outbox {
    sender: mpsc::UnboundedSender<PendingSettlement>,
}

/// Where settlements are taken out, batch by batch.
pub(crate) struct Batches {
    receiver: mpsc::UnboundedReceiver<PendingSettlement>,
    size: usize,
    max_age: Duration,
}

/// Both ends. A batch is full at a size, and due when its oldest settlement reaches an age.
pub(crate) fn outbox(size: usize, max_age: Duration) -> (Outbox, Batches) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let batches = Batches {
        receiver,
        size,
        max_age,
    };
    (Outbox { sender }, batches)
}

impl Outbox {
    /// Hands a settlement in; false when the settling task is gone.
    pub(crate) fn send(&self, settlement: PendingSettlement) -> bool {
        self.sender.send(settlement).is_ok()
    }
}

impl Batches {
    /// Waits for the next batch; `None` once everything is taken and the outbox is gone. What came
    /// while the last batch was settled goes along, up to four times the size.
    ///
    /// # Cancel safety
    /// Not cancel safe: a batch that was begun is lost.
    pub(crate) async fn next(&mut self) -> Option<Vec<PendingSettlement>> {
        let limit = self.size.saturating_mul(4);
        // Growing step by step would move each settlement several times.
        let mut batch = Vec::with_capacity(limit.min(MOST_ROOM));
        self.receiver.recv_many(&mut batch, limit).await;
        let due = later(batch.first()?.since, self.max_age);

        while batch.len() < self.size {
            let room = limit - batch.len();
            let more = self.receiver.recv_many(&mut batch, room);
            // None are received once the outbox is gone.
            if !matches!(timeout_at(due, more).await, Ok(1..)) {
                break;
            }
        }
        Some(batch)
    }

    /// Whether the outbox is gone.
    pub(crate) fn is_closed(&self) -> bool {
        self.receiver.is_closed()
    }
}
