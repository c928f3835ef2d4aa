//! What an engine knows of leases: which queues it leases from, and whether any message is leased.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ezq_core::message::QueueName;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};

use super::SHORTEST;
use crate::connection::sign::OwnSign;
use crate::sql::leases::Sign;

/// How long the first claim waits for the engine's sign. Without one, its leases end by time only.
const PATIENCE: Duration = Duration::from_secs(1);

/// The queues that an engine leases from, and until when something is leased.
#[derive(Debug)]
pub(crate) struct HolderBoard {
    pub(super) sign: Arc<OwnSign>,
    state: Mutex<State>,
    /// Something is leased.
    signal: Notify,
    /// Whether the engine has its sign, or has failed to get one.
    is_decided: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct State {
    queues: HashSet<QueueName>,
    longest_lease: Duration,
    /// When the last known lease ends, of this engine or of another.
    leased_until: Option<Instant>,
}

impl HolderBoard {
    pub(crate) fn new(sign: Arc<OwnSign>) -> Self {
        Self {
            sign,
            state: Mutex::default(),
            signal: Notify::new(),
            is_decided: watch::Sender::new(false),
        }
    }

    /// The sign for a lease of this length. The first lease waits for it.
    pub(crate) async fn sign_for(&self, queue: &QueueName, lease: Duration) -> Option<Sign> {
        if lease < SHORTEST {
            return None;
        }

        if self.sign.get().is_none() && !*self.is_decided.borrow() {
            self.note_leased(queue, lease);
            let mut decided = self.is_decided.subscribe();
            // The sender is part of this.
            let _ = timeout(PATIENCE, decided.wait_for(|decided| *decided)).await;
        }

        self.sign.get()
    }

    /// Notes that something of a queue is leased, by whomever, for so long at most.
    pub(crate) fn note_leased(&self, queue: &QueueName, lease: Duration) {
        if lease < SHORTEST {
            return;
        }
        let until = Instant::now() + lease;
        {
            let mut state = self.lock();
            if !state.queues.contains(queue) {
                state.queues.insert(queue.clone());
            }
            state.longest_lease = state.longest_lease.max(lease);
            state.leased_until = state.leased_until.max(Some(until));
        }
        self.signal.notify_one();
    }

    /// Waits until something is leased.
    pub(super) async fn leased(&self) {
        while self.lock().leased_until <= Some(Instant::now()) {
            self.signal.notified().await;
        }
    }

    /// Notes that the engine has its sign, or has failed to get one.
    pub(super) fn decide(&self) {
        self.is_decided.send_replace(true);
    }

    /// The queues that the engine leases from.
    pub(super) fn queues(&self) -> Vec<QueueName> {
        self.lock().queues.iter().cloned().collect()
    }

    /// Forgets a queue that is gone.
    pub(super) fn forget(&self, queue: &QueueName) {
        self.lock().queues.remove(queue);
    }

    pub(super) fn longest_lease(&self) -> Duration {
        self.lock().longest_lease
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each step leaves the state whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
