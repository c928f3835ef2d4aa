//! The leases that a consumer holds.
//!
//! Invariants:
//!
//! - What is fetched stays in the table until it is settled, given back or lost.
//! - Each delivery is known by its *first* receipt, the one with which it came. A later claim of
//!   this consumer may bring the message once more; then the newer receipt settles it.
//!
//! # Leases that seem lost
//!
//! The store may say that a lease is lost while a claim of this same consumer is on its way, and
//! that claim may be what took the message. So a lease is given up only once every claim that was
//! on its way then has been taken in.
//!
//! A transaction sends its receipt once. A handler that ends on an expired lease therefore waits
//! for the renewal, or for the claim that took the message, before its transaction settles. While a
//! transaction settles whose lease has not been renewed for two thirds of its time, nothing is
//! claimed.

use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use foldhash::HashMap;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::delivery::lease::Lease;
use crate::engine::{Delivery, Receipt};
use crate::message::message_id::MessageId;

/// What a consumer has leased and not settled yet.
#[derive(Debug)]
pub(crate) struct Leases {
    /// Held for one lookup at a time, and never across an await.
    table: Mutex<HashMap<MessageId, Held>>,
    /// How many of them have an ordering key.
    keyed: AtomicUsize,
    /// How many deliveries are going back unhandled or have gone, and how many of them have gone.
    going_back: AtomicU64,
    gone_back: AtomicU64,
    freed: Notify,
    key_freed: Notify,
    ttl: Duration,
    renewals: Renewals,
    claims: Claims,
}

/// How the renewals of a consumer get on.
#[derive(Debug)]
struct Renewals {
    began: Instant,
    /// Milliseconds from `began` to the newest renewal of all that was held.
    newest: AtomicU64,
    are_failing: AtomicBool,
    /// A renewal went through, or began to fail.
    news: Notify,
}

/// Which claims are on their way.
#[derive(Debug, Default)]
struct Claims {
    /// The number of the newest claim that was sent.
    sent: AtomicU64,
    /// The number of the newest claim whose answer was taken in.
    taken_in: AtomicU64,
}

#[derive(Debug)]
struct Held {
    receipt: Receipt,
    lease: Arc<Lease>,
    has_key: bool,
    /// It goes back unhandled, and the store has not confirmed that yet.
    goes_back: bool,
    /// Its settlement is on its way to the store.
    is_in_flight: bool,
    /// With the counts below: which delivery of which message this is.
    enqueued_at: DateTime<Utc>,
    deliveries: u32,
    returned: u32,
}

impl Held {
    /// Goes on under the receipt of the next delivery of its message, which this consumer claimed itself.
    /// False if the delivery is a new one.
    ///
    /// That happens when the store's clock steps, or after this process was stopped. It is safe only for
    /// the very next delivery of the message with no settlement in between: then nobody else ever had the
    /// message.
    fn goes_on(&mut self, delivery: &Delivery) -> bool {
        let is_next = self.enqueued_at == delivery.enqueued_at
            && self.deliveries.checked_add(1) == Some(delivery.deliveries)
            && self.returned == delivery.headers.returned();
        if !is_next || self.lease.is_cancelled() {
            return false;
        }

        self.deliveries = delivery.deliveries;
        self.lease.go_on_as(delivery.receipt.clone(), &self.receipt);
        true
    }
}

impl Leases {
    pub(crate) fn new(ttl: Duration) -> Self {
        Self {
            table: Mutex::default(),
            keyed: AtomicUsize::new(0),
            going_back: AtomicU64::new(0),
            gone_back: AtomicU64::new(0),
            freed: Notify::new(),
            key_freed: Notify::new(),
            ttl,
            renewals: Renewals {
                began: Instant::now(),
                newest: AtomicU64::new(0),
                are_failing: AtomicBool::new(false),
                news: Notify::new(),
            },
            claims: Claims::default(),
        }
    }

    /// For how long each lease is asked for.
    pub(crate) fn ttl(&self) -> Duration {
        self.ttl
    }

    fn table(&self) -> MutexGuard<'_, HashMap<MessageId, Held>> {
        // No code that may panic runs under the lock, so the table is whole even if poisoned.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a delivery into the table; returns its lease, which runs from `sent`. An earlier delivery of
    /// the same message has lost its lease and is cancelled.
    ///
    /// `None` if this consumer itself claimed once more what it holds. Then the handler that runs goes on,
    /// and the newer receipt settles.
    pub(crate) fn hold(&self, delivery: &Delivery, sent: Instant) -> Option<Arc<Lease>> {
        let has_key = delivery.key().is_some();
        let mut table = self.table();
        let mut entry = table.entry(delivery.receipt.message_id().clone());
        if let Entry::Occupied(held) = &mut entry
            && held.get_mut().goes_on(delivery)
        {
            held.get().lease.renewed(sent, self.ttl);
            return None;
        }

        let lease = Arc::new(Lease::new(sent, self.ttl));
        let held = Held {
            receipt: delivery.receipt.clone(),
            lease: Arc::clone(&lease),
            has_key,
            goes_back: false,
            is_in_flight: false,
            enqueued_at: delivery.enqueued_at,
            deliveries: delivery.deliveries,
            returned: delivery.headers.returned(),
        };
        self.keyed.fetch_add(usize::from(has_key), Ordering::SeqCst);
        let stale = match entry {
            Entry::Occupied(mut stale) => Some(stale.insert(held)),
            Entry::Vacant(place) => {
                place.insert(held);
                None
            }
        };

        if let Some(stale) = &stale {
            self.note_left(stale);
        }

        // Whoever is woken asks the table.
        drop(table);
        if let Some(stale) = stale {
            stale.lease.cancel().cancel();
        }
        Some(lease)
    }

    /// The receipt that settles a delivery that is held, by its first receipt.
    pub(crate) fn newest(&self, first: &Receipt) -> Option<Receipt> {
        Some(self.lease_of(first)?.newest(first))
    }

    /// The receipt that settles a delivery, if it is not the first.
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

    /// Notes that a claim is sent; returns its number.
    pub(crate) fn claim(&self) -> u64 {
        self.claims.sent.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// Notes that the answer to a claim was taken in, or will not be.
    pub(crate) fn took_in(&self, claim: u64) {
        self.claims.taken_in.fetch_max(claim, Ordering::SeqCst);
    }

    /// Notes that no answer is on its way.
    pub(crate) fn took_in_all(&self) {
        self.took_in(self.claims.sent.load(Ordering::SeqCst));
    }

    /// Whether a claim of this consumer may have taken a lease that the store says is lost.
    ///
    /// `suspect` is the newest claim at the time of the first call. It is kept, so that later claims
    /// do not prolong the suspicion.
    pub(crate) fn may_be_claimed_here(&self, suspect: &mut Option<u64>) -> bool {
        let suspect = *suspect.get_or_insert_with(|| self.claims.sent.load(Ordering::SeqCst));
        self.claims.taken_in.load(Ordering::SeqCst) < suspect
    }

    /// Whether everything that is held was renewed in time. Otherwise nothing may be claimed: it
    /// could not be renewed either, and a claim might bring what is held here.
    pub(crate) fn are_renewed(&self) -> bool {
        let renewals = &self.renewals;
        if renewals.are_failing.load(Ordering::SeqCst) {
            return false;
        }

        let newest = Duration::from_millis(renewals.newest.load(Ordering::SeqCst));
        let is_overdue = renewals.began.elapsed().saturating_sub(newest) > self.ttl / 3 * 2;
        !is_overdue || self.count() == 0
    }

    /// Whether the newest renewal failed.
    pub(crate) fn are_renewals_failing(&self) -> bool {
        self.renewals.are_failing.load(Ordering::SeqCst)
    }

    /// Waits until a renewal went through, or began to fail, since the last call.
    pub(crate) async fn renewal(&self) {
        self.renewals.news.notified().await;
    }

    /// Notes the result of renewing everything. True if renewals began or ceased to fail.
    pub(crate) fn note_renewal(&self, sent: Instant, is_failing: bool) -> bool {
        let renewals = &self.renewals;
        if !is_failing {
            let renewed = self.settling_since().map_or(sent, |since| since.min(sent));
            let millis = renewed
                .saturating_duration_since(renewals.began)
                .as_millis();
            let millis = u64::try_from(millis).unwrap_or(u64::MAX);
            renewals.newest.store(millis, Ordering::SeqCst);
        }

        let was_failing = renewals.are_failing.swap(is_failing, Ordering::SeqCst);
        // After the flags are set: whoever is woken reads them.
        renewals.news.notify_one();
        was_failing != is_failing
    }

    /// Since when the oldest lease runs that renewals have left out for longer than usual. Its
    /// handler's transaction settles it and makes no progress.
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

    /// Notes that a delivery goes back unhandled. It counts as such until it is let go.
    pub(crate) fn give_back(&self, receipt: &Receipt) {
        let mut table = self.table();
        let held = table.get_mut(receipt.message_id());
        if let Some(held) = held.filter(|held| held.receipt == *receipt && !held.goes_back) {
            held.goes_back = true;
            self.going_back.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Notes that settlements are on their way to the store, until these deliveries are let go.
    pub(crate) fn note_in_flight<'r>(&self, receipts: impl Iterator<Item = &'r Receipt>) {
        let mut table = self.table();
        for receipt in receipts {
            let held = table.get_mut(receipt.message_id());
            if let Some(held) = held.filter(|held| held.receipt == *receipt) {
                held.is_in_flight = true;
            }
        }
    }

    /// How many deliveries have gone back unhandled; `None` while some are on their way. A claim finds all
    /// that was given back if this is the same number when it is sent and when it is answered.
    pub(crate) fn gone_back(&self) -> Option<u64> {
        let gone = self.gone_back.load(Ordering::SeqCst);
        (self.going_back.load(Ordering::SeqCst) == gone).then_some(gone)
    }

    /// Lets a delivery go, once it is settled. True if it was held.
    pub(crate) fn release(&self, receipt: &Receipt) -> bool {
        self.remove(receipt).is_some()
    }

    /// Lets everything go that is left when the consumer ends; returns how many deliveries that were.
    pub(crate) fn abandon(&self) -> usize {
        let left = std::mem::take(&mut *self.table());
        for held in left.values() {
            held.lease.let_go();
            held.lease.cancel().cancel();
        }
        left.len()
    }

    fn remove(&self, receipt: &Receipt) -> Option<Held> {
        let mut table = self.table();
        let held = table.remove(receipt.message_id())?;
        if held.receipt != *receipt {
            // A newer delivery of the message. It is rare, and to look before costs each event a lookup.
            table.insert(receipt.message_id().clone(), held);
            return None;
        }

        self.note_left(&held);

        // Whoever is woken asks the table.
        drop(table);
        self.freed.notify_one();
        if held.has_key {
            self.key_freed.notify_one();
        }
        Some(held)
    }

    /// Notes that a delivery has left the table, which is still locked.
    fn note_left(&self, held: &Held) {
        held.lease.let_go();
        let keyed = usize::from(held.has_key);
        self.keyed.fetch_sub(keyed, Ordering::SeqCst);
        let gone_back = u64::from(held.goes_back);
        self.gone_back.fetch_add(gone_back, Ordering::SeqCst);
    }

    /// Waits until a delivery was let go since the last call.
    pub(crate) async fn freed(&self) {
        self.freed.notified().await;
    }

    /// Waits until a delivery with an ordering key was let go since the last call.
    pub(crate) async fn key_freed(&self) {
        self.key_freed.notified().await;
    }

    /// How many deliveries are held.
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
        let held = table.get(receipt.message_id());
        if let Some(held) = held.filter(|held| held.receipt == *receipt) {
            held.lease.cancel().cancel();
        }
    }

    /// Cancels the handlers of a message, if it is held and is not this control event. False if there is
    /// nothing to cancel.
    pub(crate) fn cancel_message(&self, id: &MessageId, control: Option<&Receipt>) -> bool {
        let table = self.table();
        let held = table.get(id).filter(|held| Some(&held.receipt) != control);
        let Some(held) = held.filter(|held| !held.lease.is_cancelled()) else {
            return false;
        };
        held.lease.cancel_by_order();
        true
    }

    /// Whether a delivery of this message is held.
    pub(crate) fn holds_message(&self, id: &MessageId) -> bool {
        self.table().contains_key(id)
    }

    /// Cancels every handler that runs, except those of a control event.
    pub(crate) fn cancel_all(&self, control: Option<&Receipt>) {
        for held in self.table().values() {
            if Some(&held.receipt) != control {
                held.lease.cancel().cancel();
            }
        }
    }

    /// The newest receipts of all that is to be renewed. A transaction that settles a delivery locks
    /// its row, so that a renewal would wait for it.
    pub(crate) fn renewable(&self) -> Vec<Receipt> {
        self.table()
            .values()
            .filter(|held| !held.lease.is_settling())
            .map(|held| held.lease.newest(&held.receipt))
            .collect()
    }

    /// The first receipt of the delivery that is held under a newest one.
    pub(crate) fn first(&self, newest: &Receipt) -> Option<Receipt> {
        let table = self.table();
        let held = table.get(newest.message_id())?;
        (held.lease.newest(&held.receipt) == *newest).then(|| held.receipt.clone())
    }

    /// Notes that the lease with this newest receipt was renewed by a statement sent at `sent`.
    pub(crate) fn renewed(&self, newest: &Receipt, sent: Instant) {
        if let Some(held) = self.table().get(newest.message_id())
            && held.lease.newest(&held.receipt) == *newest
        {
            held.lease.renewed(sent, self.ttl);
        }
    }

    /// Notes that a lease is lost and cancels its handlers. False if the delivery was settled
    /// meanwhile. False as well while its settlement is on its way, or a handler's transaction settles
    /// it: that takes the row with it, and its answer tells.
    pub(crate) fn lost(&self, first: &Receipt) -> bool {
        let is_lost = self.table().get(first.message_id()).is_some_and(|held| {
            held.receipt == *first && !held.is_in_flight && !held.lease.is_settling()
        });
        if !is_lost {
            return false;
        }

        let Some(held) = self.remove(first) else {
            return false;
        };
        held.lease.cancel().cancel();
        true
    }
}

#[cfg(test)]
#[path = "leases_tests.rs"]
mod tests;
