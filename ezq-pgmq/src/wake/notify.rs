//! Announcing: to this process at once, and to others by a notification.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ezq_core::message::QueueName;
use sqlx::postgres::PgConnection;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::connection::dedicated::{Dedicated, call};
use crate::wake::commits::{self, Commits, Writer};
use crate::wake::orders::OrderBoard;

/// The channel. The payload is the queue's name.
pub(crate) const CHANNEL: &str = "ezq_wake";
/// The shortest time between two notifications. A single event waits for none.
const WINDOW: Duration = Duration::from_millis(5);

#[derive(Default)]
pub(crate) struct Wake {
    state: Mutex<State>,
    /// Something is to be notified, or to be watched.
    signal: Notify,
    /// Someone subscribed to a queue.
    asked: Notify,
    pub(crate) orders: OrderBoard,
}

#[derive(Default)]
struct State {
    counters: HashMap<QueueName, watch::Sender<u64>>,
    unsent: HashSet<QueueName>,
    commits: Commits,
}

impl Wake {
    /// A counter that changes when the queue may have something.
    pub(crate) fn subscribe(&self, queue: &QueueName) -> watch::Receiver<u64> {
        let mut state = self.lock();
        let counter = state.counters.entry(queue.clone()).or_default().subscribe();
        // The listener takes the same lock once it is woken.
        drop(state);
        self.asked.notify_one();
        counter
    }

    /// The queues that someone here has subscribed to.
    pub(crate) fn queues(&self) -> Vec<String> {
        self.lock()
            .counters
            .keys()
            .map(ToString::to_string)
            .collect()
    }

    /// Waits until there may be another one.
    pub(crate) async fn asked(&self) {
        self.asked.notified().await;
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

    /// A notification came in, from another ezq or from anyone, in upper or lower case.
    pub(crate) fn heard(&self, queue: &str) {
        self.lock().bump(queue);
    }

    /// Wakes everyone: notifications may have been missed.
    pub(crate) fn everyone(&self) {
        for counter in self.lock().counters.values() {
            bump(counter);
        }
        self.orders.changed();
    }

    /// A caller's transaction stored something: announces it once the transaction has committed.
    pub(crate) fn announce_after(&self, writer: Writer, queue: &QueueName) {
        self.lock().commits.watch(writer, queue, Instant::now());
        self.signal.notify_one();
    }

    /// Watches callers' transactions and sends notifications, at most once per window, until the
    /// task is stopped.
    pub(crate) async fn notify_forever(self: Arc<Self>, control: Arc<Dedicated>) {
        loop {
            let next_look = self.lock().commits.next_look();
            tokio::select! {
                // Something is to be sent, or another transaction to be watched.
                () = self.signal.notified() => {}
                // A watched transaction may have ended.
                () = at(next_look) => {}
            }

            let due = self.lock().commits.take_due(Instant::now());
            self.look_at(due, &control).await;
            self.flush(&control).await;
            // What comes within the window goes into the next notification.
            tokio::time::sleep(WINDOW).await;
        }
    }

    /// Sends what can still be sent before the engine closes.
    pub(crate) async fn finish(&self, control: &Dedicated) {
        let open = self.lock().commits.all();
        self.look_at(open, control).await;
        self.flush(control).await;
    }

    /// Announces what those of these transactions stored that have committed.
    async fn look_at(&self, writers: Vec<Writer>, control: &Dedicated) {
        if writers.is_empty() {
            return;
        }

        let ended = call!(control, |connection| commits::ended(connection, &writers));
        let Ok(ended) = ended else {
            return;
        };

        match ended {
            Ok(ended) => {
                for (writer, is_committed) in ended {
                    let queues = self.lock().commits.ended(writer);
                    if is_committed {
                        queues.iter().for_each(|queue| self.announce(queue));
                    }
                }
            }
            Err(failure) => {
                tracing::debug!(%failure, "cannot tell which transactions ended; consumers poll");
            }
        }
    }

    /// Sends the notifications that are due.
    pub(crate) async fn flush(&self, control: &Dedicated) {
        let unsent: Vec<QueueName> = self.lock().unsent.drain().collect();
        if unsent.is_empty() {
            return;
        }
        let names: Vec<String> = unsent.iter().map(ToString::to_string).collect();
        let sent = call!(control, |connection| notify(connection, &names));
        if let Ok(Err(failure)) = sent {
            tracing::debug!(%failure, "a notification was lost; consumers poll");
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Consumers poll as well, so that what a panic may lose is found a little later.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn bump(&self, queue: &str) {
        // A notification may name the queue in upper or lower case.
        let counter = self
            .counters
            .iter()
            .find(|(name, _)| name.as_str().eq_ignore_ascii_case(queue));
        if let Some((_, counter)) = counter {
            bump(counter);
        }
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

fn bump(counter: &watch::Sender<u64>) {
    counter.send_modify(|count| *count = count.wrapping_add(1));
}

/// Sends notifications, and waits neither for the disk nor for a standby: what they are about has been
/// committed, and after a crash of the server consumers look by themselves.
async fn notify(connection: &mut PgConnection, queues: &[String]) -> Result<(), sqlx::Error> {
    let statement = "SELECT pg_catalog.set_config('synchronous_commit', 'off', true),
                            pg_catalog.pg_notify($1, queue)
                     FROM pg_catalog.unnest($2::text[]) AS queue";
    sqlx::query(statement)
        .bind(CHANNEL)
        .bind(queues)
        .execute(connection)
        .await
        .map(|_| ())
}
