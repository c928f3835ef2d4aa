//! The channel from the handlers to the settling task.
//!
//! Waking a task costs more than sending to it. So the settling task is woken for the first
//! settlement of a batch and for a full batch, not for each settlement.
//!
//! Benchmark case: `consume`.

use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::time::timeout_at;

use crate::clock::later;
use crate::consumer::settle::settlement::PendingSettlement;

/// Where settlements are handed in. When it is dropped, what is there is settled at once.
#[derive(Debug)]
pub(crate) struct Outbox {
    // Fields are dropped in this order: whoever is woken at the end finds the sender gone.
    sender: mpsc::UnboundedSender<PendingSettlement>,
    filling: NotifyOnDrop,
}

/// Wakes whoever waits for a full batch when it is dropped.
#[derive(Debug)]
struct NotifyOnDrop(Arc<Filling>);

/// Where settlements are taken out, batch by batch.
pub(crate) struct Batches {
    receiver: mpsc::UnboundedReceiver<PendingSettlement>,
    filling: Arc<Filling>,
    max_age: Duration,
}

/// The batch that is being filled.
#[derive(Debug)]
struct Filling {
    size: usize,
    /// How many settlements were sent and not taken. Raised after each send and lowered after each
    /// batch, so it may be below zero for a moment and never exceeds what is in the channel.
    count: AtomicIsize,
    full: Notify,
}

/// Both ends. A batch is full at a size, and due when its oldest settlement reaches an age.
pub(crate) fn outbox(size: usize, max_age: Duration) -> (Outbox, Batches) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let filling = Arc::new(Filling {
        size,
        count: AtomicIsize::new(0),
        full: Notify::new(),
    });

    let outbox = Outbox {
        sender,
        filling: NotifyOnDrop(Arc::clone(&filling)),
    };
    let batches = Batches {
        receiver,
        filling,
        max_age,
    };
    (outbox, batches)
}

impl Outbox {
    /// Hands a settlement in; false when the settling task is gone.
    pub(crate) fn send(&self, settlement: PendingSettlement) -> bool {
        let sent = self.sender.send(settlement).is_ok();

        let filling = &*self.filling.0;
        let before = filling.count.fetch_add(1, Ordering::AcqRel);
        let is_full = usize::try_from(before + 1).is_ok_and(|count| count >= filling.size);
        if is_full {
            filling.full.notify_one();
        }
        sent
    }
}

impl Drop for NotifyOnDrop {
    fn drop(&mut self) {
        self.0.full.notify_one();
    }
}

impl Batches {
    /// Waits for the next batch; `None` once everything is taken and the outbox is gone. What came
    /// while the last batch was settled goes along, up to four times the size.
    ///
    /// # Cancel safety
    /// Not cancel safe: a batch that was begun is lost.
    pub(crate) async fn next(&mut self) -> Option<Vec<PendingSettlement>> {
        let first = self.receiver.recv().await?;

        // Again after each wake-up: it may be for a batch that was taken already.
        let due = later(first.since, self.max_age);
        while self.receiver.len() + 1 < self.filling.size && !self.receiver.is_closed() {
            let full = self.filling.full.notified();
            if timeout_at(due, full).await.is_err() {
                break;
            }
        }

        let mut batch = vec![first];
        while batch.len() < self.filling.size.saturating_mul(4) {
            let Ok(next) = self.receiver.try_recv() else {
                break;
            };
            batch.push(next);
        }

        let count = isize::try_from(batch.len()).unwrap_or(isize::MAX);
        self.filling.count.fetch_sub(count, Ordering::AcqRel);
        Some(batch)
    }

    /// Whether the outbox is gone.
    pub(crate) fn is_closed(&self) -> bool {
        self.receiver.is_closed()
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::atomic::AtomicUsize;
    use std::task::{Context, Wake, Waker};

    use super::*;

    /// Counts the senders that are left when it is woken.
    struct CountsSenders {
        sender: mpsc::WeakUnboundedSender<PendingSettlement>,
        wakes: AtomicUsize,
        senders: AtomicUsize,
    }

    impl Wake for CountsSenders {
        fn wake(self: Arc<Self>) {
            self.wakes.fetch_add(1, Ordering::SeqCst);
            self.senders
                .fetch_add(self.sender.strong_count(), Ordering::SeqCst);
        }
    }

    #[test]
    fn a_wait_for_a_full_batch_ends_once_the_outbox_is_gone() {
        let (outbox, batches) = outbox(100, Duration::MAX);
        let counts = Arc::new(CountsSenders {
            sender: outbox.sender.downgrade(),
            wakes: AtomicUsize::new(0),
            senders: AtomicUsize::new(0),
        });
        let waker = Waker::from(Arc::clone(&counts));
        let mut full = pin!(batches.filling.full.notified());
        assert!(
            full.as_mut()
                .poll(&mut Context::from_waker(&waker))
                .is_pending()
        );

        drop(outbox);
        assert_eq!(counts.wakes.load(Ordering::SeqCst), 1);
        assert_eq!(counts.senders.load(Ordering::SeqCst), 0, "it would wait on");
    }
}
