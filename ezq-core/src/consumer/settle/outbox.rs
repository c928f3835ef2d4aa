//! The way from the handlers to the settling task. It is woken for the first settlement and for a
//! full batch, not for each: waking a task costs more than handing something on.

use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::time::timeout_at;

use crate::clock::later;
use crate::consumer::settle::settlement::PendingSettlement;

/// Where settlements are handed in. When the last handle is dropped, what is there is settled at once.
#[derive(Debug)]
pub(crate) struct Outbox {
    // Fields are dropped in this order: who is woken at the end finds the sender gone.
    sender: mpsc::UnboundedSender<PendingSettlement>,
    waiting: WakesAtTheEnd,
}

/// Wakes who waits for a full batch when it is dropped.
#[derive(Debug)]
struct WakesAtTheEnd(Arc<Waiting>);

/// Where they are taken out, batch by batch.
pub(crate) struct Batches {
    receiver: mpsc::UnboundedReceiver<PendingSettlement>,
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
pub(crate) fn outbox(size: usize, max_age: Duration) -> (Outbox, Batches) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let waiting = Arc::new(Waiting {
        size,
        count: AtomicIsize::new(0),
        full: Notify::new(),
    });
    let outbox = Outbox {
        sender,
        waiting: WakesAtTheEnd(Arc::clone(&waiting)),
    };
    let batches = Batches {
        receiver,
        waiting,
        max_age,
    };
    (outbox, batches)
}

impl Outbox {
    /// Hands a settlement in; false when the settling task is gone.
    pub(crate) fn send(&self, settlement: PendingSettlement) -> bool {
        let sent = self.sender.send(settlement).is_ok();
        let waiting = &*self.waiting.0;
        let before = waiting.count.fetch_add(1, Ordering::AcqRel);
        if usize::try_from(before + 1).is_ok_and(|count| count >= waiting.size) {
            waiting.full.notify_one();
        }
        sent
    }
}

impl Drop for WakesAtTheEnd {
    fn drop(&mut self) {
        self.0.full.notify_one();
    }
}

impl Batches {
    /// Waits for the next batch; `None` once everything is taken and no handle is left. What came
    /// while the last batch was settled goes along, up to four times the size.
    ///
    /// Not cancel safe: a batch that was begun is lost.
    pub(crate) async fn next(&mut self) -> Option<Vec<PendingSettlement>> {
        let first = self.receiver.recv().await?;
        let due = later(first.since, self.max_age);
        while self.receiver.len() + 1 < self.waiting.size && !self.receiver.is_closed() {
            if timeout_at(due, self.waiting.full.notified()).await.is_err() {
                break;
            }
        }
        let mut batch = vec![first];
        while batch.len() < self.waiting.size.saturating_mul(4) {
            let Ok(next) = self.receiver.try_recv() else {
                break;
            };
            batch.push(next);
        }
        let count = isize::try_from(batch.len()).unwrap_or(isize::MAX);
        self.waiting.count.fetch_sub(count, Ordering::AcqRel);
        Some(batch)
    }

    /// Whether no handle is left.
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

    /// Looks how many senders there are when it is woken.
    struct Looks {
        sender: mpsc::WeakUnboundedSender<PendingSettlement>,
        wakes: AtomicUsize,
        senders: AtomicUsize,
    }

    impl Wake for Looks {
        fn wake(self: Arc<Self>) {
            self.wakes.fetch_add(1, Ordering::SeqCst);
            self.senders
                .fetch_add(self.sender.strong_count(), Ordering::SeqCst);
        }
    }

    #[test]
    fn who_waits_for_a_full_batch_is_woken_once_the_last_handle_is_gone() {
        let (outbox, batches) = outbox(100, Duration::MAX);
        let looks = Arc::new(Looks {
            sender: outbox.sender.downgrade(),
            wakes: AtomicUsize::new(0),
            senders: AtomicUsize::new(0),
        });
        let waker = Waker::from(Arc::clone(&looks));
        let mut full = pin!(batches.waiting.full.notified());
        assert!(
            full.as_mut()
                .poll(&mut Context::from_waker(&waker))
                .is_pending()
        );

        drop(outbox);
        assert_eq!(looks.wakes.load(Ordering::SeqCst), 1);
        assert_eq!(looks.senders.load(Ordering::SeqCst), 0, "it would wait on");
    }
}
