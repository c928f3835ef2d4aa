//! A worker's own view of the lease of a delivery that it handles. Only the store knows the lease
//! itself; this view decides when to renew it, when to wait and when to stop.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::engine::Receipt;

/// A worker's own view of its lease, on its own monotonic clock.
#[derive(Debug)]
pub(crate) struct Lease {
    start: Instant,
    ttl: Duration,
    /// When it runs out, in milliseconds from `start`.
    expires: AtomicU64,
    renewal: Notify,
    /// Made when it is first asked for: most handlers end before anybody waits for it.
    cancel: OnceLock<CancellationToken>,
    /// It was cancelled because an operator cancels the event.
    ordered: AtomicBool,
    /// A handler's transaction is about to settle the delivery, so the renewals leave it out.
    settling: AtomicBool,
    /// The table of leases has let it go: it was settled, given back or lost.
    let_go: AtomicBool,
    /// The receipt of a newer delivery of the message, if one came to this worker itself.
    newer: Mutex<Option<Receipt>>,
}

impl Lease {
    /// A lease that runs for `ttl` from `start`: the time before the claim was sent, so that the store's
    /// lease ends no earlier.
    pub(crate) fn new(start: Instant, ttl: Duration) -> Self {
        Self {
            start,
            ttl,
            expires: AtomicU64::new(millis(ttl)),
            renewal: Notify::new(),
            cancel: OnceLock::new(),
            ordered: AtomicBool::new(false),
            settling: AtomicBool::new(false),
            let_go: AtomicBool::new(false),
            newer: Mutex::default(),
        }
    }

    /// Notes that it was renewed for `ttl` from `now`: the time before the renewal was sent.
    pub(crate) fn renewed(&self, now: Instant, ttl: Duration) {
        self.expires.store(
            millis(now.duration_since(self.start).saturating_add(ttl)),
            // A time that only grows. The notification below orders it for those who wait.
            Ordering::Relaxed,
        );
        self.renewal.notify_waiters();
    }

    /// When the claim, or else the newest renewal, was sent.
    pub(crate) fn since(&self) -> Instant {
        let expires = Duration::from_millis(self.expires.load(Ordering::Relaxed));
        self.start + expires.saturating_sub(self.ttl)
    }

    /// Whether it has run out, by this worker's own clock.
    pub(crate) fn is_expired(&self) -> bool {
        Instant::now() >= self.start + Duration::from_millis(self.expires.load(Ordering::Relaxed))
    }

    /// Waits while it has run out, until it is renewed or lost. A claim of this worker itself may be
    /// about to take the delivery, and a transaction that was already sent could not go on under the
    /// newer receipt. It waits no longer than a renewal takes to come.
    pub(crate) async fn revived(&self) {
        if !self.is_expired() {
            return;
        }

        let revived = async {
            loop {
                // Before the look at the clock: a renewal between the two would be missed.
                let renewed = self.renewal.notified();
                if !self.is_expired() {
                    return;
                }
                renewed.await;
            }
        };
        tokio::select! {
            // Leases are renewed every third of their time.
            _ = timeout(self.ttl / 3, revived) => {}
            // Lost: nothing renews it any more.
            () = self.cancel().cancelled() => {}
        }
    }

    /// Notes whether a handler's transaction is settling the delivery.
    pub(crate) fn set_settling(&self, settling: bool) {
        // Paired with the load below. A renewer that sees it leaves the row to the transaction.
        self.settling.store(settling, Ordering::Release);
    }

    pub(crate) fn is_settling(&self) -> bool {
        self.settling.load(Ordering::Acquire)
    }

    /// Notes that the table of leases has let it go.
    pub(crate) fn let_go(&self) {
        // Paired with the load below. Whoever sees it also sees why: a newer delivery in the table, say.
        self.let_go.store(true, Ordering::Release);
    }

    /// Whether this delivery is still held.
    ///
    /// Fast path. To ask the table takes 150 instructions, twice for each event (benchmark case `dispatch`).
    pub(crate) fn is_held(&self) -> bool {
        !self.let_go.load(Ordering::Acquire)
    }

    /// Goes on under a newer receipt, which covers the earlier ones.
    pub(crate) fn go_on_as(&self, receipt: Receipt, first: &Receipt) {
        let mut newer = self.newer.lock().unwrap_or_else(PoisonError::into_inner);
        let receipt = receipt.covering(newer.as_ref().unwrap_or(first));
        *newer = Some(receipt);
    }

    /// The receipt that settles the delivery; `first` is the one with which it came.
    pub(crate) fn newest(&self, first: &Receipt) -> Receipt {
        self.newer().unwrap_or_else(|| first.clone())
    }

    /// The receipt that settles the delivery, if it is not the one with which it came.
    pub(crate) fn newer(&self) -> Option<Receipt> {
        self.newer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn cancel(&self) -> &CancellationToken {
        self.cancel.get_or_init(CancellationToken::new)
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancel
            .get()
            .is_some_and(CancellationToken::is_cancelled)
    }

    /// Cancels the handlers because an operator cancels the event.
    pub(crate) fn cancel_by_order(&self) {
        // The token orders it for those who wait for that.
        self.ordered.store(true, Ordering::Relaxed);
        self.cancel().cancel();
    }

    /// Waits until it is cancelled. Returns whether an operator cancels the event.
    pub(crate) async fn cancelled(&self) -> bool {
        self.cancel().cancelled().await;
        self.ordered.load(Ordering::Relaxed)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 4)
}
