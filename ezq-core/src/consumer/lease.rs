//! The leases a consumer holds, and the task that renews them all in one statement.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use tracing::debug;

use crate::context::Lease;
use crate::engine::{Engine, ExtendOutcome, MessageId, Receipt};
use crate::logging::warn;
use crate::{Error, ErrorKind, QueueName, error_chain};

/// How many leases one statement renews at most.
const CHUNK: usize = 1000;

/// What a consumer has leased and not yet settled.
#[derive(Debug, Default)]
pub(super) struct Leases {
    table: Mutex<HashMap<MessageId, Held>>,
    keyed: AtomicUsize,
    freed: Notify,
    key_freed: Notify,
}

#[derive(Debug)]
struct Held {
    receipt: Receipt,
    lease: Arc<Lease>,
    /// It has an ordering key.
    keyed: bool,
}

impl Leases {
    fn table(&self) -> std::sync::MutexGuard<'_, HashMap<MessageId, Held>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a delivery into the table. An earlier delivery of the same message has lost its lease:
    /// it is cancelled.
    pub(super) fn hold(&self, receipt: &Receipt, lease: &Arc<Lease>, keyed: bool) {
        let held = Held { receipt: receipt.clone(), lease: Arc::clone(lease), keyed };
        self.keyed.fetch_add(usize::from(keyed), Ordering::SeqCst);
        let stale = self.table().insert(receipt.message_id().clone(), held);
        if let Some(stale) = stale {
            self.keyed.fetch_sub(usize::from(stale.keyed), Ordering::SeqCst);
            stale.lease.cancel().cancel();
        }
    }

    /// Whether this delivery is still held.
    pub(super) fn holds(&self, receipt: &Receipt) -> bool {
        self.table().get(receipt.message_id()).is_some_and(|held| held.receipt == *receipt)
    }

    /// Lets a delivery go, once it is settled; whether it was held.
    pub(super) fn release(&self, receipt: &Receipt) -> bool {
        self.remove(receipt).is_some()
    }

    /// Lets everything go that is left when the consumer ends; how many deliveries that were.
    pub(super) fn abandon(&self) -> usize {
        let left = std::mem::take(&mut *self.table());
        left.values().for_each(|held| held.lease.cancel().cancel());
        left.len()
    }

    fn remove(&self, receipt: &Receipt) -> Option<Held> {
        let mut table = self.table();
        table.get(receipt.message_id()).filter(|held| held.receipt == *receipt)?;
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
    pub(super) async fn freed(&self) {
        self.freed.notified().await;
    }

    /// Waits until a delivery with an ordering key was let go since the last call.
    pub(super) async fn key_freed(&self) {
        self.key_freed.notified().await;
    }

    pub(super) fn count(&self) -> usize {
        self.table().len()
    }

    /// How many deliveries with an ordering key are held.
    pub(super) fn keyed(&self) -> usize {
        self.keyed.load(Ordering::SeqCst)
    }

    /// Cancels the handlers of one delivery, if they still run.
    pub(super) fn cancel(&self, receipt: &Receipt) {
        let table = self.table();
        if let Some(held) = table.get(receipt.message_id()).filter(|h| h.receipt == *receipt) {
            held.lease.cancel().cancel();
        }
    }

    /// Cancels every handler that runs, but for the delivery of a control event.
    pub(super) fn cancel_all(&self, but: Option<&Receipt>) {
        for held in self.table().values().filter(|held| Some(&held.receipt) != but) {
            held.lease.cancel().cancel();
        }
    }

    fn receipts(&self) -> Vec<Receipt> {
        let table = self.table();
        let held = table.values().filter(|held| !held.lease.is_settling());
        held.map(|held| held.receipt.clone()).collect()
    }

    fn renewed(&self, receipt: &Receipt, sent: Instant, ttl: Duration) {
        if let Some(held) = self.table().get(receipt.message_id())
            && held.receipt == *receipt
        {
            held.lease.renewed(sent, ttl);
        }
    }

    /// Notes that a lease is lost; its handlers are cancelled. False if it was settled meanwhile, or
    /// is just being settled by a handler's transaction.
    fn lost(&self, receipt: &Receipt) -> bool {
        let ours = |held: &Held| held.receipt == *receipt && !held.lease.is_settling();
        if !self.table().get(receipt.message_id()).is_some_and(ours) {
            return false;
        }
        let Some(held) = self.remove(receipt) else { return false };
        held.lease.cancel().cancel();
        true
    }
}

/// Renews every held lease, a third of its time after the last renewal, until dropped.
pub(super) async fn renew(
    leases: Arc<Leases>,
    engine: Arc<dyn Engine>,
    queue: QueueName,
    ttl: Duration,
    settling: impl Fn(&Receipt) -> bool + Send,
) {
    let mut pause = ttl / 3;
    loop {
        sleep(pause).await;
        pause = ttl / 3;
        for chunk in leases.receipts().chunks(CHUNK) {
            let sent = Instant::now();
            // No answer in this time leaves as much to ask again, before the lease is over.
            let asked = timeout(ttl / 3, engine.extend(&queue, chunk, ttl)).await;
            let no_answer = |_| Err(Error::new(ErrorKind::Transient, "no answer in time"));
            match asked.unwrap_or_else(no_answer) {
                Ok(outcomes) => {
                    for (receipt, outcome) in chunk.iter().zip(outcomes) {
                        match outcome {
                            ExtendOutcome::Extended => leases.renewed(receipt, sent, ttl),
                            ExtendOutcome::Busy => pause = pause.min(ttl / 10),
                            ExtendOutcome::LeaseLost if settling(receipt) => {}
                            ExtendOutcome::LeaseLost => {
                                if leases.lost(receipt) {
                                    let message_id = receipt.message_id();
                                    warn!(%queue, %message_id, "lease lost: its handlers are cancelled");
                                }
                            }
                        }
                    }
                }
                Err(error) => {
                    debug!(%queue, error = %error_chain(&error), "leases could not be renewed");
                    pause = pause.min(Duration::from_millis(500)).min(ttl / 10);
                }
            }
        }
    }
}
