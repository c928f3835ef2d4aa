//! The leases a consumer holds, and the task that renews them all in one statement.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info};

use crate::delivery::lease::Lease;
use crate::engine::{Delivery, Engine, ExtendOutcome, MessageId, Receipt};
use crate::error::{Error, ErrorKind, Result, error_chain};
use crate::logging::warn;
use crate::message::queue_name::QueueName;
use crate::observe::status::Observed;

/// How many leases one statement renews at most.
const CHUNK: usize = 1000;

/// What a consumer has leased and not yet settled, each under the receipt with which it came first.
#[derive(Debug)]
pub(crate) struct Leases {
    table: Mutex<HashMap<MessageId, Held>>,
    keyed: AtomicUsize,
    freed: Notify,
    key_freed: Notify,
    ttl: Duration,
    began: Instant,
    /// Milliseconds from `began` to the newest renewal of all that was held.
    renewed: AtomicU64,
    /// Renewals fail.
    failing: AtomicBool,
    renewal: Notify,
    /// Claims that were sent, and the newest whose answer was taken in.
    claims: AtomicU64,
    taken_in: AtomicU64,
}

#[derive(Debug)]
struct Held {
    receipt: Receipt,
    lease: Arc<Lease>,
    /// It has an ordering key.
    keyed: bool,
    /// Which delivery of which message it is.
    enqueued_at: DateTime<Utc>,
    deliveries: u32,
    returned: u32,
}

impl Leases {
    pub(crate) fn new(ttl: Duration) -> Self {
        Self {
            table: Mutex::default(),
            keyed: AtomicUsize::new(0),
            freed: Notify::new(),
            key_freed: Notify::new(),
            ttl,
            began: Instant::now(),
            renewed: AtomicU64::new(0),
            failing: AtomicBool::new(false),
            renewal: Notify::new(),
            claims: AtomicU64::new(0),
            taken_in: AtomicU64::new(0),
        }
    }

    fn table(&self) -> std::sync::MutexGuard<'_, HashMap<MessageId, Held>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a delivery into the table. An earlier delivery of the same message has lost its lease:
    /// it is cancelled.
    pub(crate) fn hold(&self, delivery: &Delivery, lease: &Arc<Lease>) {
        let keyed = delivery.key().is_some();
        let held = Held {
            receipt: delivery.receipt.clone(),
            lease: Arc::clone(lease),
            keyed,
            enqueued_at: delivery.enqueued_at,
            deliveries: delivery.deliveries,
            returned: delivery.headers.returned(),
        };
        self.keyed.fetch_add(usize::from(keyed), Ordering::SeqCst);
        let stale = self
            .table()
            .insert(delivery.receipt.message_id().clone(), held);
        if let Some(stale) = stale {
            self.keyed
                .fetch_sub(usize::from(stale.keyed), Ordering::SeqCst);
            stale.lease.cancel().cancel();
        }
    }

    /// Goes on with what is held here although its lease had ended for the store, whose clock may
    /// have stepped, or while this process was stopped: the newer receipt settles it. That is safe
    /// where this is the very next delivery and no settlement came between, since then nobody else
    /// ever had the message.
    pub(crate) fn go_on(&self, delivery: &Delivery, sent: Instant) -> bool {
        let mut table = self.table();
        let Some(held) = table.get_mut(delivery.receipt.message_id()) else {
            return false;
        };
        let is_next = held.enqueued_at == delivery.enqueued_at
            && held.deliveries.checked_add(1) == Some(delivery.deliveries)
            && held.returned == delivery.headers.returned();
        if !is_next || held.lease.cancel().is_cancelled() {
            return false;
        }
        held.deliveries = delivery.deliveries;
        held.lease.go_on_as(delivery.receipt.clone(), &held.receipt);
        held.lease.renewed(sent, self.ttl);
        true
    }

    /// What settles a delivery that is held, known by its first receipt.
    pub(crate) fn newest(&self, first: &Receipt) -> Option<Receipt> {
        Some(self.lease_of(first)?.newest(first))
    }

    /// The same, where it is not the first receipt.
    pub(crate) fn newer(&self, first: &Receipt) -> Option<Receipt> {
        self.lease_of(first)?.newer()
    }

    fn lease_of(&self, first: &Receipt) -> Option<Arc<Lease>> {
        let table = self.table();
        let held = table
            .get(first.message_id())
            .filter(|held| held.receipt == *first)?;
        Some(Arc::clone(&held.lease))
    }

    /// Notes that a claim is sent; its number.
    pub(crate) fn claim(&self) -> u64 {
        self.claims.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// Notes that the answer to a claim was taken in, or will not be.
    pub(crate) fn took_in(&self, claim: u64) {
        self.taken_in.fetch_max(claim, Ordering::SeqCst);
    }

    /// Notes that no answer is on its way.
    pub(crate) fn took_in_all(&self) {
        self.took_in(self.claims.load(Ordering::SeqCst));
    }

    /// Whether a lease that is lost may have been taken by this consumer itself, by a claim whose
    /// answer is on its way. The first doubt is kept, so that it ends with that claim.
    pub(crate) fn is_in_doubt(&self, doubt: &mut Option<u64>) -> bool {
        let sent = *doubt.get_or_insert_with(|| self.claims.load(Ordering::SeqCst));
        self.taken_in.load(Ordering::SeqCst) < sent
    }

    /// Whether what is held was renewed in time. Until it is, nothing more is to be claimed: what
    /// cannot be renewed would be lost, and a claim might bring what is held here.
    pub(crate) fn are_renewed(&self) -> bool {
        let renewed = Duration::from_millis(self.renewed.load(Ordering::SeqCst));
        let overdue = || self.began.elapsed().saturating_sub(renewed) > self.ttl / 3 * 2;
        !self.failing.load(Ordering::SeqCst) && (!overdue() || self.count() == 0)
    }

    /// Waits until renewals went through, or began to fail, since the last call.
    pub(crate) async fn renewal(&self) {
        self.renewal.notified().await;
    }

    /// Notes what came of renewing everything; whether that is news.
    fn note_renewal(&self, sent: Instant, failing: bool) -> bool {
        if !failing {
            let since = self.settling_since().map_or(sent, |since| since.min(sent));
            let since = since.saturating_duration_since(self.began).as_millis();
            self.renewed
                .store(u64::try_from(since).unwrap_or(u64::MAX), Ordering::SeqCst);
        }
        let before = self.failing.swap(failing, Ordering::SeqCst);
        self.renewal.notify_one();
        before != failing
    }

    /// Since when the oldest lease runs that was left out of the renewals for longer than usual: its
    /// handler's transaction settles it, and does not get on.
    fn settling_since(&self) -> Option<Instant> {
        let table = self.table();
        let settling = table.values().filter(|held| held.lease.is_settling());
        let oldest = settling.map(|held| held.lease.since()).min()?;
        (oldest.elapsed() > self.ttl / 2).then_some(oldest)
    }

    /// Whether this delivery is still held.
    pub(crate) fn holds(&self, receipt: &Receipt) -> bool {
        self.table()
            .get(receipt.message_id())
            .is_some_and(|held| held.receipt == *receipt)
    }

    /// Lets a delivery go, once it is settled; whether it was held.
    pub(crate) fn release(&self, receipt: &Receipt) -> bool {
        self.remove(receipt).is_some()
    }

    /// Lets everything go that is left when the consumer ends; how many deliveries that were.
    pub(crate) fn abandon(&self) -> usize {
        let left = std::mem::take(&mut *self.table());
        left.values().for_each(|held| held.lease.cancel().cancel());
        left.len()
    }

    fn remove(&self, receipt: &Receipt) -> Option<Held> {
        let mut table = self.table();
        table
            .get(receipt.message_id())
            .filter(|held| held.receipt == *receipt)?;
        let held = table.remove(receipt.message_id());
        drop(table);
        self.freed.notify_one();
        if held.as_ref().is_some_and(|held| held.keyed) {
            self.keyed.fetch_sub(1, Ordering::SeqCst);
            self.key_freed.notify_one();
        }
        held
    }

    /// Waits until a delivery was let go since the last call.
    pub(crate) async fn freed(&self) {
        self.freed.notified().await;
    }

    /// Waits until a delivery with an ordering key was let go since the last call.
    pub(crate) async fn key_freed(&self) {
        self.key_freed.notified().await;
    }

    pub(crate) fn count(&self) -> usize {
        self.table().len()
    }

    /// How many deliveries with an ordering key are held.
    pub(crate) fn keyed(&self) -> usize {
        self.keyed.load(Ordering::SeqCst)
    }

    /// Cancels the handlers of one delivery, if they still run.
    pub(crate) fn cancel(&self, receipt: &Receipt) {
        let table = self.table();
        if let Some(held) = table
            .get(receipt.message_id())
            .filter(|h| h.receipt == *receipt)
        {
            held.lease.cancel().cancel();
        }
    }

    /// Cancels every handler that runs, but for the delivery of a control event.
    pub(crate) fn cancel_all(&self, but: Option<&Receipt>) {
        for held in self
            .table()
            .values()
            .filter(|held| Some(&held.receipt) != but)
        {
            held.lease.cancel().cancel();
        }
    }

    /// The newest receipt of all that is to be renewed.
    fn receipts(&self) -> Vec<Receipt> {
        let table = self.table();
        let held = table.values().filter(|held| !held.lease.is_settling());
        held.map(|held| held.lease.newest(&held.receipt)).collect()
    }

    /// The first receipt of what is held under a newest one.
    fn first(&self, newest: &Receipt) -> Option<Receipt> {
        let table = self.table();
        let held = table.get(newest.message_id())?;
        (held.lease.newest(&held.receipt) == *newest).then(|| held.receipt.clone())
    }

    fn renewed(&self, newest: &Receipt, sent: Instant, ttl: Duration) {
        if let Some(held) = self.table().get(newest.message_id())
            && held.lease.newest(&held.receipt) == *newest
        {
            held.lease.renewed(sent, ttl);
        }
    }

    /// Notes that a lease is lost; its handlers are cancelled. False if it was settled meanwhile, or
    /// is just being settled by a handler's transaction.
    fn lost(&self, first: &Receipt) -> bool {
        let ours = |held: &Held| held.receipt == *first && !held.lease.is_settling();
        if !self.table().get(first.message_id()).is_some_and(ours) {
            return false;
        }
        let Some(held) = self.remove(first) else {
            return false;
        };
        held.lease.cancel().cancel();
        true
    }
}

/// What renews a consumer's leases.
pub(crate) struct Renewer<F> {
    pub(crate) leases: Arc<Leases>,
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) queue: QueueName,
    /// Gone once nobody has the consumer any more.
    pub(crate) observed: Weak<Observed>,
    /// Whether a delivery, known by its first receipt, is being settled.
    pub(crate) settling: F,
}

impl<F: Fn(&Receipt) -> bool + Send> Renewer<F> {
    /// Renews every held lease, a third of its time after the last renewal, until dropped.
    pub(crate) async fn run(self) {
        let ttl = self.leases.ttl;
        let mut doubts = HashMap::new();
        let mut pause = ttl / 3;
        loop {
            sleep(pause).await;
            pause = ttl / 3;
            let sent = Instant::now();
            match self.renew_all(&mut doubts).await {
                Ok(busy) => {
                    if self.leases.note_renewal(sent, false) {
                        info!(queue = %self.queue, "renewing leases works again");
                        self.note(Ok(()));
                    }
                    if busy || !self.leases.are_renewed() {
                        pause = ttl / 10;
                    }
                }
                Err(error) => {
                    let why = error_chain(&error);
                    if self.leases.note_renewal(sent, true) {
                        warn!(queue = %self.queue, error = %why, "leases cannot be renewed: nothing is claimed until they can");
                    } else {
                        debug!(queue = %self.queue, error = %why, "leases cannot be renewed yet");
                    }
                    self.note(Err(&error));
                    pause = Duration::from_millis(500).min(ttl / 10);
                }
            }
        }
    }

    /// Renews once; whether some are to be asked for again soon.
    async fn renew_all(&self, doubts: &mut HashMap<Receipt, u64>) -> Result<bool> {
        let ttl = self.leases.ttl;
        let receipts = self.leases.receipts();
        let mut chunks: Vec<&[Receipt]> = receipts.chunks(CHUNK).collect();
        if chunks.is_empty() && self.leases.failing.load(Ordering::SeqCst) {
            // Nothing is held any more, and nothing is claimed before this works.
            chunks.push(&[]);
        }
        let (mut busy, mut doubted, mut failure) = (false, HashMap::new(), None);
        for chunk in chunks {
            let sent = Instant::now();
            // No answer in this time leaves as much to ask again, before the lease is over.
            let asked = timeout(ttl / 3, self.engine.extend(&self.queue, chunk, ttl)).await;
            let no_answer = |_| Err(Error::new(ErrorKind::Transient, "no answer in time"));
            let outcomes = match asked.unwrap_or_else(no_answer) {
                Ok(outcomes) => outcomes,
                Err(error) => {
                    failure = Some(error);
                    continue;
                }
            };
            for (receipt, outcome) in chunk.iter().zip(outcomes) {
                match outcome {
                    ExtendOutcome::Extended => self.leases.renewed(receipt, sent, ttl),
                    ExtendOutcome::Busy => busy = true,
                    ExtendOutcome::LeaseLost => {
                        let mut doubt = doubts.get(receipt).copied();
                        if self.leases.is_in_doubt(&mut doubt) {
                            busy = true;
                            doubted.extend(doubt.map(|doubt| (receipt.clone(), doubt)));
                        } else {
                            self.lose(receipt);
                        }
                    }
                }
            }
        }
        *doubts = doubted;
        failure.map_or(Ok(busy), Err)
    }

    fn lose(&self, receipt: &Receipt) {
        let Some(first) = self.leases.first(receipt) else {
            return;
        };
        if !(self.settling)(&first) && self.leases.lost(&first) {
            let message_id = receipt.message_id();
            warn!(queue = %self.queue, %message_id, "lease lost: its handlers are cancelled");
        }
    }

    fn note(&self, answer: Result<(), &Error>) {
        if let Some(observed) = self.observed.upgrade() {
            observed.renewed(answer);
        }
    }
}
