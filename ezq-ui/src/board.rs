//! What all handlers of a dashboard share.

use std::future::Future;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use ezq::admin::{
    AuditPage, BlockedKey, ErrorGroups, Finding, Health, Operation, QueueSubscription,
    ScheduleStatus,
};
use ezq::pgmq::{CapturedTable, ReplayProgress};
use ezq::{Ezq, QueueName, Result};
use futures_util::FutureExt as _;
use tokio::time::timeout;

use crate::access::Access;
use crate::driver::Driver;
use crate::failure::{Failure, LIMIT};
use crate::payload::Payloads;
use crate::sample::{ROUND, Sample, Trails};
use crate::watched::{Shelf, Watched};

/// How often the progress of operations is read while somebody looks, at least.
const PROGRESS: Duration = Duration::from_secs(2);
/// How often the database is examined while somebody looks, and how long that may take: it looks into
/// every queue.
const EXAMINED: Duration = Duration::from_secs(600);
const EXAMINATION: Duration = Duration::from_secs(60);
/// How often the rights of the role are read while somebody looks, at most.
const RIGHTS: Duration = Duration::from_secs(30);
/// How many groups of errors of a queue, and how many keys that wait, are shown.
const ERRORS: usize = 50;
const KEYS: usize = 10;
/// How many operations are listed.
const OPERATIONS: usize = 100;

/// What all handlers share. Clones are the same one.
#[derive(Clone)]
pub(crate) struct Board(Arc<Shared>);

pub(crate) struct Shared {
    pub(crate) ezq: Ezq,
    pub(crate) access: Access,
    pub(crate) payloads: Payloads,
    pub(crate) driver: Arc<Driver>,
    pub(crate) sample: Watched<Sample>,
    /// Whether the role of the database may do nothing that is recorded.
    is_read_only: Watched<bool>,
    pub(crate) errors: Shelf<QueueName, ErrorGroups>,
    pub(crate) keys: Shelf<QueueName, Vec<BlockedKey>>,
    pub(crate) schedules: Watched<Vec<ScheduleStatus>>,
    pub(crate) subscriptions: Watched<Vec<QueueSubscription>>,
    pub(crate) captures: Watched<Vec<CapturedTable>>,
    pub(crate) replays: Watched<Vec<ReplayProgress>>,
    pub(crate) health: Watched<Health>,
    pub(crate) examination: Watched<Vec<Finding>>,
    /// The newest entries of the audit trail.
    pub(crate) audit: Watched<AuditPage>,
    pub(crate) operations: Watched<Vec<Operation>>,
}

impl Deref for Board {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl Board {
    pub(crate) fn new(ezq: Ezq, access: Access, payloads: Payloads, every: Duration) -> Self {
        let trails = Arc::new(Trails::default());
        let shared = Shared {
            sample: {
                let ezq = ezq.clone();
                Watched::within(every, ROUND, move || {
                    let trails = Arc::clone(&trails);
                    let ezq = ezq.clone();
                    async move { trails.sample(&ezq).await }.boxed()
                })
            },
            is_read_only: watched(&ezq, every.max(RIGHTS), |ezq| async move {
                ezq.audit().is_read_only().await
            }),
            errors: of_queues(&ezq, every, |ezq, queue| async move {
                ezq.events(&queue)?.errors(ERRORS).await
            }),
            keys: of_queues(&ezq, every, |ezq, queue| async move {
                ezq.blocked_keys(&queue, KEYS).await
            }),
            schedules: watched(
                &ezq,
                every,
                |ezq| async move { ezq.schedules()?.list().await },
            ),
            subscriptions: watched(&ezq, every, |ezq| async move {
                ezq.subscriptions()?.list().await
            }),
            captures: watched(
                &ezq,
                every,
                |ezq| async move { ezq.captures().list().await },
            ),
            replays: watched(&ezq, every, |ezq| async move { ezq.replays().list().await }),
            health: watched(&ezq, every, |ezq| async move { Ok(ezq.health().await) }),
            examination: {
                let ezq = ezq.clone();
                Watched::within(EXAMINED, EXAMINATION, move || {
                    let ezq = ezq.clone();
                    async move { Ok(ezq.doctor().await) }.boxed()
                })
            },
            audit: watched(&ezq, every, |ezq| async move { ezq.audit().list().await }),
            operations: watched(&ezq, every.min(PROGRESS), |ezq| async move {
                ezq.operations().list(OPERATIONS).await
            }),
            ezq,
            access,
            payloads,
            driver: Arc::default(),
        };
        Self(Arc::new(shared))
    }

    /// Whether the database lets nobody act. The first page waits for the answer; where there is none, buttons
    /// stay, and the database refuses what it does not want.
    pub(crate) async fn is_read_only(&self) -> bool {
        let mut reading = self.is_read_only.glance();
        if reading.value.is_none() && reading.failure.is_none() {
            reading = self.is_read_only.look().await;
        }
        reading.value.as_deref().copied().unwrap_or(false)
    }

    /// Says that an action has changed queues or their events: who looks next sees it.
    pub(crate) fn change(&self) {
        self.sample.change();
        self.audit.change();
        self.errors.change();
        self.keys.change();
    }

    /// Takes the steps of an operation in this process. `by` is who wants one to go on that was stopped.
    pub(crate) fn drive(&self, id: String, by: String) {
        let board = self.clone();
        self.driver.drive(self.ezq.clone(), id, by, move || {
            board.operations.change();
            board.change();
        });
        self.operations.change();
        self.audit.change();
    }

    /// The answer to one question of a page, or the failure that says there is none in time.
    pub(crate) async fn ask<T>(
        &self,
        question: impl IntoFuture<Output = Result<T>>,
    ) -> std::result::Result<T, Failure> {
        match timeout(LIMIT, question).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(Failure::slow()),
        }
    }
}

/// Figures of an application.
fn watched<T, F>(
    ezq: &Ezq,
    every: Duration,
    ask: impl Fn(Ezq) -> F + Send + Sync + 'static,
) -> Watched<T>
where
    T: Send + Sync + 'static,
    F: Future<Output = Result<T>> + Send + 'static,
{
    let ezq = ezq.clone();
    Watched::new(every, move || ask(ezq.clone()).boxed())
}

/// Figures of each queue that somebody looks at.
fn of_queues<T, F>(
    ezq: &Ezq,
    every: Duration,
    ask: impl Fn(Ezq, QueueName) -> F + Send + Sync + Clone + 'static,
) -> Shelf<QueueName, T>
where
    T: Send + Sync + 'static,
    F: Future<Output = Result<T>> + Send + 'static,
{
    let ezq = ezq.clone();
    Shelf::new(move |queue: &QueueName| {
        let queue = queue.clone();
        let ask = ask.clone();
        watched(&ezq, every, move |ezq| ask(ezq, queue.clone()))
    })
}
