//! Sharing commits: what several callers publish to one queue while a statement is under way for it
//! goes in one statement after that, with one commit for all.
//!
//! A caller that finds no statement under way begins one at once and waits for nobody. What a row
//! holds fails that row alone, as [`Store`] cuts a batch down to it.
//!
//! Invariant: a queue has waiting callers only while one of its places is taken; whoever gives a
//! place up hands it to them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ezq_core::{PublishOutcome, QueueName};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::publish::Row;
use crate::publish::store::Store;

/// How many statements run for one queue at once: one is prepared while the other commits.
const STATEMENTS: usize = 2;
/// What a caller may bring to be grouped, and what a group holds.
const ROWS_EACH: usize = 16;
const ROWS: usize = 256;
const BYTES_EACH: usize = 64 * 1024;
const BYTES: usize = 1024 * 1024;

#[derive(Clone)]
pub(crate) struct GroupCommit {
    store: Store,
    queues: Arc<Mutex<HashMap<QueueName, QueueGroup>>>,
}

/// Who publishes to one queue.
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

    /// Stores rows of one queue; an outcome each, in their order, or none where the runtime ends.
    ///
    /// Cut off, it leaves open whether they are stored.
    pub(crate) async fn store(&self, queue: &QueueName, rows: Vec<Row>) -> Vec<PublishOutcome> {
        // What has keys is not brought here: it may have to wait for another transaction, and must hold
        // up nobody else.
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
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Admission {
    Run(StatementPermit, Vec<Row>),
    Wait(oneshot::Receiver<Vec<PublishOutcome>>),
}

/// A place; dropped, it goes to those who wait, also when its caller was cut off.
struct StatementPermit {
    groups: GroupCommit,
    queue: QueueName,
    held: bool,
}

impl StatementPermit {
    /// The callers who go next; if there are none, the place is given up.
    fn next(&mut self) -> Vec<PendingPublish> {
        let mut queues = self.groups.queues();
        let Some(group) = queues.get_mut(&self.queue) else {
            return Vec::new();
        };
        // Whoever was cut off before it began is not stored.
        group.waiting.retain(|one| !one.done.is_closed());
        let (mut rows, mut bytes) = (0, 0);
        let fits = |one: &&PendingPublish| {
            rows += one.rows.len();
            bytes += one.rows.iter().map(Row::bytes).sum::<usize>();
            rows <= ROWS && bytes <= BYTES
        };
        let count = group.waiting.iter().take_while(fits).count();
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

    /// Goes on for those who wait, until nobody does.
    async fn go_on(mut self, mut group: Vec<PendingPublish>) {
        while !group.is_empty() {
            let counts: Vec<usize> = group.iter().map(|one| one.rows.len()).collect();
            let rows: Vec<Row> = group
                .iter_mut()
                .flat_map(|one| std::mem::take(&mut one.rows))
                .collect();
            let mut outcomes = self.groups.run(&self.queue, &rows).await.into_iter();
            for (one, count) in group.into_iter().zip(counts) {
                // Its caller may have been cut off.
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
                let (groups, queue) = (self.groups.clone(), self.queue.clone());
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
            // The runtime has ended, and those who wait with it.
            Err(_) => {
                while !next.is_empty() {
                    next = self.next();
                }
            }
        }
    }
}
