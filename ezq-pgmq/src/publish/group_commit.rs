//! Group commit: while statements run for a queue, the messages of further callers wait, and then
//! share one statement and one commit.
//!
//! A caller that finds no statement running starts one at once. If one message fails the statement,
//! [`Store`] divides the batch until it fails alone.
//!
//! Fast path. Benchmark case: `publish_concurrent` (docs/performance.md), 63,932 events/s, against
//! 9,108 for single inserts.
//!
//! Invariant: callers wait only while a statement runs for their queue; whoever ends one starts the
//! next for them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ezq_core::engine::PublishOutcome;
use ezq_core::message::QueueName;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::publish::Row;
use crate::publish::store::Store;

/// How many statements run for one queue at once: one is prepared while another commits.
const STATEMENTS: usize = 2;
/// The limits of what one caller may bring to a group, and of a whole group.
const ROWS_EACH: usize = 16;
const ROWS: usize = 256;
const BYTES_EACH: usize = 64 * 1024;
const BYTES: usize = 1024 * 1024;

#[derive(Clone)]
pub(crate) struct GroupCommit {
    store: Store,
    queues: Arc<Mutex<HashMap<QueueName, QueueGroup>>>,
}

/// The publishers of one queue.
#[derive(Default)]
struct QueueGroup {
    running: usize,
    waiting: Vec<PendingPublish>,
}

struct PendingPublish {
    rows: Vec<Row>,
    done: oneshot::Sender<Vec<PublishOutcome>>,
}

impl GroupCommit {
    pub(crate) fn new(store: Store) -> Self {
        Self {
            store,
            queues: Arc::default(),
        }
    }

    /// Stores rows of one queue. Returns an outcome for each, in their order, or none if the
    /// runtime ends.
    ///
    /// If the future is dropped, the rows may be stored or not.
    pub(crate) async fn store(&self, queue: &QueueName, rows: Vec<Row>) -> Vec<PublishOutcome> {
        // Rows with dedupe keys do not come here: they may wait for another transaction, and must
        // not hold up others.
        let bytes: usize = rows.iter().map(Row::bytes).sum();
        if rows.len() > ROWS_EACH || bytes > BYTES_EACH {
            return self.run(queue, &rows).await;
        }

        match self.enter(queue, rows) {
            Admission::Run(permit, rows) => {
                let outcomes = self.run(queue, &rows).await;
                drop(permit);
                outcomes
            }
            Admission::Wait(outcomes) => outcomes.await.unwrap_or_default(),
        }
    }

    /// Stores rows of one queue in statements of their own.
    pub(crate) async fn run(&self, queue: &QueueName, rows: &[Row]) -> Vec<PublishOutcome> {
        self.store.run(queue, rows).await
    }

    fn enter(&self, queue: &QueueName, rows: Vec<Row>) -> Admission {
        let mut queues = self.queues();
        let group = queues.entry(queue.clone()).or_default();
        // Decided under the lock, so that whoever ends a statement sees all who wait.
        if group.running < STATEMENTS {
            group.running += 1;
            let permit = StatementPermit {
                groups: self.clone(),
                queue: queue.clone(),
                held: true,
            };
            return Admission::Run(permit, rows);
        }

        let (done, outcomes) = oneshot::channel();
        group.waiting.push(PendingPublish { rows, done });
        Admission::Wait(outcomes)
    }

    fn queues(&self) -> MutexGuard<'_, HashMap<QueueName, QueueGroup>> {
        // A panic leaves whole groups behind: each step is one push or one removal.
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Admission {
    Run(StatementPermit, Vec<Row>),
    Wait(oneshot::Receiver<Vec<PublishOutcome>>),
}

/// The permit to run a statement. Dropped, it passes to those who wait, also when its caller was
/// dropped.
struct StatementPermit {
    groups: GroupCommit,
    queue: QueueName,
    held: bool,
}

impl StatementPermit {
    /// The callers for the next statement. If there are none, the permit is given up.
    fn next(&mut self) -> Vec<PendingPublish> {
        let mut queues = self.groups.queues();
        let Some(group) = queues.get_mut(&self.queue) else {
            return Vec::new();
        };

        // A caller that was dropped before its statement began is not stored.
        group.waiting.retain(|one| !one.done.is_closed());
        let mut rows = 0;
        let mut bytes = 0;
        let count = group
            .waiting
            .iter()
            .take_while(|one| {
                rows += one.rows.len();
                bytes += one.rows.iter().map(Row::bytes).sum::<usize>();
                rows <= ROWS && bytes <= BYTES
            })
            .count();
        let next: Vec<PendingPublish> = group.waiting.drain(..count).collect();
        if next.is_empty() {
            self.held = false;
            group.running -= 1;
            if group.running == 0 {
                queues.remove(&self.queue);
            }
        }

        next
    }

    /// Runs statements for those who wait, until nobody does.
    async fn go_on(mut self, mut group: Vec<PendingPublish>) {
        while !group.is_empty() {
            let counts: Vec<usize> = group.iter().map(|one| one.rows.len()).collect();
            let rows: Vec<Row> = group
                .iter_mut()
                .flat_map(|one| std::mem::take(&mut one.rows))
                .collect();
            let mut outcomes = self.groups.run(&self.queue, &rows).await.into_iter();

            for (one, count) in group.into_iter().zip(counts) {
                // The caller may have been dropped.
                let _ = one.done.send(outcomes.by_ref().take(count).collect());
            }

            group = self.next();
        }
    }
}

impl Drop for StatementPermit {
    fn drop(&mut self) {
        if !self.held {
            return;
        }

        let mut next = self.next();
        match Handle::try_current() {
            Ok(runtime) if !next.is_empty() => {
                let groups = self.groups.clone();
                let queue = self.queue.clone();
                runtime.spawn(
                    StatementPermit {
                        groups,
                        queue,
                        held: true,
                    }
                    .go_on(next),
                );
            }
            Ok(_) => {}
            // The runtime has ended, and with it those who wait.
            Err(_) => {
                while !next.is_empty() {
                    next = self.next();
                }
            }
        }
    }
}
