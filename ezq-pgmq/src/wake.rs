//! Telling consumers that something may have become readable, here and in other processes.
//!
//! NOTIFY takes a lock of the whole database at commit, so it is never part of publishing: a task
//! sends it afterwards on the engine's own connection, for all queues at once, at most once per
//! window. Inside a caller's transaction at most one goes out per window. All of this is a hint:
//! consumers poll, and a lost notification costs latency only.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ezq_core::QueueName;
use sqlx::postgres::PgConnection;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::link::Link;

/// The channel; the payload is the queue's name.
pub(crate) const CHANNEL: &str = "ezq_wake";
/// The shortest time between two notifications: an event that comes alone waits for none.
pub(crate) const WINDOW: Duration = Duration::from_millis(5);

#[derive(Default)]
pub(crate) struct Wake {
    state: Mutex<State>,
    /// Something waits to be notified.
    signal: Notify,
}

#[derive(Default)]
struct State {
    counters: HashMap<QueueName, watch::Sender<u64>>,
    unsent: HashSet<QueueName>,
    in_transactions: HashMap<QueueName, Instant>,
}

impl Wake {
    /// A counter that moves when the queue may have something.
    pub(crate) fn subscribe(&self, queue: &QueueName) -> watch::Receiver<u64> {
        let mut state = self.lock();
        let counter = state.counters.entry(queue.clone()).or_default();
        counter.subscribe()
    }

    /// Wakes this process at once, and others by the next notification.
    pub(crate) fn announce(&self, queue: &QueueName) {
        {
            let mut state = self.lock();
            state.bump(queue.as_str());
            state.unsent.insert(queue.clone());
        }
        self.signal.notify_one();
    }

    /// A notification came in.
    pub(crate) fn heard(&self, queue: &str) {
        self.lock().bump(queue);
    }

    /// Notifications may have been missed.
    pub(crate) fn everyone(&self) {
        for counter in self.lock().counters.values() {
            bump(counter);
        }
    }

    /// Notifies inside a caller's transaction, once per window; what comes within the window is
    /// announced after it.
    pub(crate) async fn announce_in(
        &self,
        connection: &mut PgConnection,
        queue: &QueueName,
    ) -> Result<(), sqlx::Error> {
        let is_first = {
            let mut state = self.lock();
            let now = Instant::now();
            let last = state.in_transactions.get(queue).copied();
            let is_first = last.is_none_or(|last| now - last >= WINDOW);
            if is_first {
                state.in_transactions.insert(queue.clone(), now);
            } else {
                state.unsent.insert(queue.clone());
            }
            is_first
        };
        if is_first {
            return notify(connection, vec![queue.to_string()]).await;
        }
        self.signal.notify_one();
        Ok(())
    }

    /// Sends what is unsent, at most once per window, until the task is stopped.
    pub(crate) async fn notify_forever(self: Arc<Self>, link: Arc<Link>) {
        loop {
            self.signal.notified().await;
            self.flush(&link).await;
            tokio::time::sleep(WINDOW).await;
        }
    }

    /// Sends what is unsent.
    pub(crate) async fn flush(&self, link: &Link) {
        let unsent: Vec<QueueName> = self.lock().unsent.drain().collect();
        if unsent.is_empty() {
            return;
        }
        let Ok(mut link) = link.checkout().await else {
            return;
        };
        let watch = link.watch();
        let names = unsent.iter().map(ToString::to_string).collect();
        let result = watch.limit(notify(link.connection(), names)).await;
        if let Err(failure) = link.end(result) {
            tracing::debug!(%failure, "a notification was lost; consumers poll");
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn bump(&self, queue: &str) {
        let counter = self.counters.iter().find(|(name, _)| name.as_str() == queue);
        if let Some((_, counter)) = counter {
            bump(counter);
        }
    }
}

fn bump(counter: &watch::Sender<u64>) {
    counter.send_modify(|count| *count = count.wrapping_add(1));
}

async fn notify(connection: &mut PgConnection, queues: Vec<String>) -> Result<(), sqlx::Error> {
    sqlx::query("SELECT pg_notify($1, queue) FROM unnest($2::text[]) AS queue")
        .bind(CHANNEL)
        .bind(queues)
        .execute(connection)
        .await
        .map(|_| ())
}
