//! What an engine's calls tell the task that watches holders: from which queues it leases, and for how long.

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
const PATIENCE: Duration = Duration::from_secs(5);
/// A lease of any length is longer than this once it counts here: what is added to now must not overflow.
const LONGEST: Duration = Duration::from_hours(24);
/// For how long after its last lease an engine goes on looking, beside the lease itself.
const LINGERS: Duration = Duration::from_secs(60);

/// The queues that an engine leases from.
#[derive(Debug)]
pub(crate) struct HolderBoard {
    pub(super) sign: Arc<OwnSign>,
    state: Mutex<State>,
    /// The engine leases again.
    signal: Notify,
    /// Others seem to lease again.
    others: Notify,
    /// Whether the engine has its sign, or goes on without one for now.
    is_decided: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct State {
    queues: HashSet<QueueName>,
    longest_lease: Duration,
    /// Until when the engine counts as one that leases.
    used_until: Option<Instant>,
    /// Until when others are assumed to have leased something.
    leased_until: Option<Instant>,
}

impl HolderBoard {
    pub(crate) fn new(sign: Arc<OwnSign>) -> Self {
        Self {
            sign,
            state: Mutex::default(),
            signal: Notify::new(),
            others: Notify::new(),
            is_decided: watch::Sender::new(false),
        }
    }

    /// The sign for a new lease of this length. The first one waits for it.
    pub(crate) async fn sign_for(&self, queue: &QueueName, lease: Duration) -> Option<Sign> {
        let sign = self.sign_at_once(queue, lease);
        if sign.is_some() || lease < SHORTEST || *self.is_decided.borrow() {
            return sign;
        }

        let mut decided = self.is_decided.subscribe();
        let decided = timeout(PATIENCE, decided.wait_for(|decided| *decided)).await;
        if decided.is_err() {
            self.decide();
        }
        self.sign.get()
    }

    /// The sign for a lease that is renewed.
    pub(crate) fn sign_at_once(&self, queue: &QueueName, lease: Duration) -> Option<Sign> {
        if lease < SHORTEST {
            return None;
        }
        self.note(queue, lease);
        self.sign.get()
    }

    /// Notes that the engine leases from a queue, or looks whether it can.
    pub(crate) fn note(&self, queue: &QueueName, lease: Duration) {
        let until = Instant::now() + lease.min(LONGEST) + LINGERS;
        {
            let mut state = self.lock();
            if !state.queues.contains(queue) {
                state.queues.insert(queue.clone());
            }
            state.longest_lease = state.longest_lease.max(lease);
            state.used_until = state.used_until.max(Some(until));
        }
        self.signal.notify_one();
    }

    /// Notes that others may have leased something, for so long at most.
    pub(crate) fn note_leased(&self, time: Duration) {
        let now = Instant::now();
        let until = Some(now + time.min(LINGERS));
        let mut state = self.lock();
        let is_news = state.leased_until <= Some(now);
        state.leased_until = state.leased_until.max(until);
        drop(state);
        if is_news {
            self.others.notify_one();
        }
    }

    /// Waits until others seem to have leased something, after a while without.
    pub(super) async fn others_lease(&self) {
        self.others.notified().await;
    }

    /// Whether others may have leased something.
    pub(super) fn is_leased(&self) -> bool {
        self.lock().leased_until > Some(Instant::now())
    }

    /// Waits until the engine leases.
    pub(super) async fn used(&self) {
        while self.lock().used_until <= Some(Instant::now()) {
            self.signal.notified().await;
        }
    }

    /// Lets claims go on, with a sign or without.
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
