//! What of a consumer's running deliveries takes no place among those that it handles at once, what
//! of them has not begun yet, and how the newest batch went.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::{Mutex, MutexGuard, Notify, oneshot};
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

use crate::dispatch::gathering::{Gathering, Gatherings, Waiting};
use crate::dispatch::in_place::is_in_place;
use crate::dispatch::limits::{Limited, Wanting};
use crate::message::settlement::HandlerName;

/// The places of one consumer.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    /// How many deliveries the consumer handles at once; 0 outside a consumer.
    concurrency: usize,
    parked: AtomicUsize,
    /// Of these, what belongs to a handler with a limit: it has a bound of its own.
    aside: AtomicUsize,
    pub(crate) limited: Limited,
    changed: Notify,
    proven: AtomicBool,
    claiming: Mutex<()>,
    suspects: AtomicUsize,
    /// Deliveries that were started and not polled yet, and handlers that are not called yet.
    unpolled: AtomicUsize,
    uncalled: AtomicUsize,
    /// The coordinator waits until all that was started has begun.
    watched: AtomicBool,
    stopped: CancellationToken,
    /// The batches that are being gathered.
    pub(crate) gatherings: Gatherings,
}

impl Slots {
    pub(crate) fn of(concurrency: usize, limited: Limited) -> Self {
        Self {
            concurrency,
            limited,
            ..Self::default()
        }
    }

    /// How many events of a failed batch may run beside each other.
    pub(crate) fn concurrency(&self) -> usize {
        self.concurrency.max(1)
    }

    pub(crate) fn parked(&self) -> usize {
        self.parked.load(Ordering::Acquire)
    }

    /// How many of the parked belong to handlers with a limit.
    pub(crate) fn aside(&self) -> usize {
        self.aside.load(Ordering::Acquire)
    }

    /// Whether a delivery runs that may kill its worker.
    pub(crate) fn has_suspect(&self) -> bool {
        self.suspects.load(Ordering::Acquire) > 0
    }

    /// Notes that such a delivery runs until the guard is dropped.
    pub(crate) fn suspect(self: &Arc<Self>) -> Suspect {
        self.suspects.fetch_add(1, Ordering::AcqRel);
        Suspect(Arc::clone(self))
    }

    /// Notes whether the newest batch succeeded in its transaction.
    pub(crate) fn prove(&self, succeeded: bool) {
        self.proven.store(succeeded, Ordering::Release);
    }

    /// Whether it did: then the next batch may be claimed without a lease.
    pub(crate) fn is_proven(&self) -> bool {
        self.proven.load(Ordering::Acquire)
    }

    /// Waits for the right to claim without a lease. Claims that are looked at one after another do
    /// not pass what is out of the ordinary.
    pub(crate) async fn claiming(&self) -> MutexGuard<'_, ()> {
        self.claiming.lock().await
    }

    /// Waits until a delivery was parked since the last call, or, while that is
    /// [watched](Self::watch), a batch was opened or all that was started has begun.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Parks a delivery until the guard is dropped; aside, if it is for a handler with a limit.
    pub(crate) fn park(self: &Arc<Self>, is_aside: bool) -> Parked {
        self.count_parked(is_aside);
        self.changed.notify_one();
        Parked {
            slots: Arc::clone(self),
            is_aside,
            is_counted: true,
        }
    }

    fn count_parked(&self, is_aside: bool) {
        self.parked.fetch_add(1, Ordering::AcqRel);
        self.aside
            .fetch_add(usize::from(is_aside), Ordering::AcqRel);
    }

    fn uncount_parked(&self, is_aside: bool) {
        self.parked.fetch_sub(1, Ordering::AcqRel);
        self.aside
            .fetch_sub(usize::from(is_aside), Ordering::AcqRel);
    }

    /// Waits until the coordinator gives a parked delivery a place. Outside a consumer there are
    /// places for all.
    pub(crate) async fn place(&self, mut parked: Parked, is_suspect: bool) -> Option<Suspect> {
        if self.concurrency == 0 {
            return None;
        }
        let (give, given) = oneshot::channel();
        self.limited.want(Wanting { give, is_suspect });
        self.changed.notify_one();
        // It is dropped when the consumer is.
        let mut granted = given.await.ok()?;
        granted.slots = None;
        parked.is_counted = false;
        granted.suspect.take()
    }

    /// Gives a place to the first that wants one; whether there was any.
    pub(crate) fn grant(self: &Arc<Self>) -> bool {
        while let Some(Wanting { give, is_suspect }) = self.limited.next(self.has_suspect()) {
            // It counts from now on, and not only once it goes on.
            self.uncount_parked(true);
            let suspect = is_suspect.then(|| self.suspect());
            let granted = Granted {
                slots: Some(Arc::clone(self)),
                suspect,
            };
            if give.send(granted).is_ok() {
                return true;
            }
        }
        false
    }

    /// Joins the batch of a handler; whether as its first.
    pub(crate) fn gather(
        &self,
        handler: &HandlerName,
        size: usize,
        waiting: Waiting,
    ) -> (Arc<Gathering>, bool) {
        let (gathering, leads) = self.gatherings.join(handler, size, waiting);
        // The coordinator may have closed all batches just before this one was opened.
        if leads && self.watched.load(Ordering::SeqCst) {
            self.changed.notify_one();
        }
        (gathering, leads)
    }

    /// Notes that a delivery is started, until its task was polled.
    pub(crate) fn started(self: &Arc<Self>) -> Begins {
        self.unpolled.fetch_add(1, Ordering::SeqCst);
        Begins {
            slots: Arc::clone(self),
            is_call: false,
            limited: None,
        }
    }

    /// Notes that a handler is to run, until it was called; where it has a limit, as what of that
    /// handler waits.
    pub(crate) fn to_call(self: &Arc<Self>, limited: Option<usize>) -> Begins {
        self.uncalled.fetch_add(1, Ordering::SeqCst);
        if let Some(index) = limited {
            self.limited.waits(index);
        }
        Begins {
            slots: Arc::clone(self),
            is_call: true,
            limited,
        }
    }

    /// Whether every delivery that was started was polled: it runs, or waits for what it needs.
    pub(crate) fn are_polled(&self) -> bool {
        self.unpolled.load(Ordering::SeqCst) == 0
    }

    /// Whether the handlers of all that was started were called.
    pub(crate) fn have_begun(&self) -> bool {
        self.are_polled() && self.uncalled.load(Ordering::SeqCst) == 0
    }

    /// Wakes who waits for [`changed`](Self::changed) also when a batch was opened, and when all that
    /// was started has begun.
    pub(crate) fn watch(&self) {
        self.watched.store(true, Ordering::SeqCst);
        self.changed.notify_one();
    }

    /// Lets nothing begin any more that still waits for a batch or a handler's turn.
    pub(crate) fn stop(&self) {
        self.stopped.cancel();
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.is_cancelled()
    }

    pub(crate) fn stopped(&self) -> WaitForCancellationFuture<'_> {
        self.stopped.cancelled()
    }
}

/// A delivery that may kill its worker.
#[derive(Debug)]
pub(crate) struct Suspect(Arc<Slots>);

impl Drop for Suspect {
    fn drop(&mut self) {
        self.0.suspects.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A parked delivery.
#[derive(Debug)]
pub(crate) struct Parked {
    slots: Arc<Slots>,
    is_aside: bool,
    is_counted: bool,
}

impl Drop for Parked {
    fn drop(&mut self) {
        if self.is_counted {
            self.slots.uncount_parked(self.is_aside);
        }
    }
}

/// A place on its way to a parked delivery. If nobody takes it, the delivery is parked as before, and
/// its own guard counts.
#[derive(Debug)]
pub(crate) struct Granted {
    slots: Option<Arc<Slots>>,
    suspect: Option<Suspect>,
}

impl Drop for Granted {
    fn drop(&mut self) {
        if let Some(slots) = &self.slots {
            slots.count_parked(true);
        }
    }
}

/// What was started and has not begun.
#[derive(Debug)]
pub(crate) struct Begins {
    slots: Arc<Slots>,
    is_call: bool,
    /// The handler that is to be called, if it has a limit.
    limited: Option<usize>,
}

impl Begins {
    /// Runs what begins with its first poll, or, if that is the coordinator's and does not end it,
    /// with the first poll in its task. It is borrowed, since a future that is passed by value takes
    /// its space twice.
    pub(crate) async fn with<T>(
        guard: impl Sized,
        mut begun: Pin<&mut impl Future<Output = T>>,
    ) -> T {
        let mut guard = Some(guard);
        poll_fn(|context| {
            let polled = begun.as_mut().poll(context);
            if polled.is_ready() || !is_in_place(context) {
                guard.take();
            }
            polled
        })
        .await
    }
}

impl Drop for Begins {
    fn drop(&mut self) {
        let Slots {
            unpolled,
            uncalled,
            watched,
            changed,
            limited,
            ..
        } = &*self.slots;
        if let Some(index) = self.limited {
            limited.waits_no_more(index);
        }
        let count = if self.is_call { uncalled } else { unpolled };
        // Whoever sets `watched` reads the counts after it: one of the two sees the other.
        if count.fetch_sub(1, Ordering::SeqCst) == 1 && watched.load(Ordering::SeqCst) {
            changed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use chrono::Utc;
    use futures_util::FutureExt;
    use tokio::sync::oneshot;
    use tokio::time::Instant;
    use tracing::Span;

    use super::*;
    use crate::delivery::lease::Lease;
    use crate::delivery::received::Received;
    use crate::dispatch::batch_attempt::{Member, first_time};
    use crate::engine::{MessageId, Receipt};
    use crate::event::envelope::Envelope;
    use crate::message::headers::Headers;
    use crate::message::queue_name::QueueName;

    fn waiting(slots: &Arc<Slots>) -> Waiting {
        let received = Received {
            envelope: Envelope::builder("step", "/test").build().unwrap(),
            queue: QueueName::default(),
            receipt: Receipt::new(MessageId::Number(1), [0; 3]),
            headers: Headers::new(),
            deliveries: 1,
            enqueued_at: Utc::now(),
            lease: Arc::new(Lease::new(Instant::now(), Duration::MAX)),
            parent: Span::none(),
        };
        let received = Arc::new(received);
        let member = Member {
            received,
            attempt: 1,
            done: first_time(),
            is_sole: true,
        };
        let (answer, _) = oneshot::channel();
        Waiting {
            member,
            answer,
            begins: slots.started(),
        }
    }

    #[test]
    fn a_batch_that_is_opened_before_a_control_event_is_told_of() {
        let slots = Arc::new(Slots::of(4, Limited::default()));
        slots.watch();
        assert!(slots.changed().now_or_never().is_some());

        // A delivery is parked, and what then closes all batches comes between.
        let _parked = slots.park(false);
        assert!(slots.changed().now_or_never().is_some());
        slots.gatherings.close();
        let (gathering, leads) = slots.gather(&"batches".into(), 10, waiting(&slots));
        assert!(leads && slots.changed().now_or_never().is_some());
        slots.gatherings.close();
        assert!(gathering.closed().now_or_never().is_some());
    }
}
