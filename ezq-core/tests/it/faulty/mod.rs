//! A memory engine with faults to be switched on.

mod looks;
mod parts;

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicIsize, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use ezq_core::engine::{
    BlockedKey, Browse, Cancellations, Capabilities, Delivery, Due, Engine, ExtendOutcome,
    Outgoing, PublishOutcome, QueueStats, Receipt, Settle, SettleOutcome,
};
use ezq_core::engine::{
    Broadcasts, LeaseRequest, Leased, Pauses, Presence, QueueOverview, ScheduleStore, SharedLooks,
    UnitOfWork,
};
use ezq_core::memory::MemoryEngine;
use ezq_core::message::{MessageId, QueueName};
use ezq_core::{Error, ErrorKind, Result};
use tokio::sync::watch;
use tokio::time::Instant;

use self::looks::Looks;
use self::parts::Transaction;

#[derive(Clone, Default)]
pub(crate) struct Faulty {
    pub memory: MemoryEngine,
    pub faults: Arc<Faults>,
    /// Less than the memory engine can do.
    pub capabilities: Option<Capabilities>,
}

/// A call to the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Call {
    EnsureQueue,
    Subscribe,
    LookAtSchedules,
    Wakeups,
    Lease,
    Extend,
    Settle,
    Publish,
    Begin,
    Claim,
    Commit,
}

/// What one settlement fails with, if it does.
pub(crate) type Judge = Box<dyn FnMut(&Receipt, &Settle) -> Option<ErrorKind> + Send>;

#[derive(Default)]
pub(crate) struct Faults {
    /// Decides about each settlement by itself. One that fails with a lost connection is done.
    pub judge: Mutex<Option<Judge>>,
    /// Calls that are never answered.
    pub hangs: Mutex<HashSet<Call>>,
    /// Those of them that were made.
    pub hung: Mutex<HashSet<Call>>,
    /// What the next settlements fail with, as a whole.
    pub settle: Mutex<VecDeque<ErrorKind>>,
    /// What every transaction fails with that is to begin.
    pub begin: Mutex<Option<ErrorKind>>,
    /// What every publish fails with.
    pub publish: Mutex<Option<ErrorKind>>,
    /// What the next fetches fail with.
    pub lease: Mutex<VecDeque<ErrorKind>>,
    /// Refuses every settlement but a dead letter, each for itself and for good.
    pub refuse: AtomicBool,
    /// Messages that another session has locked: their settlements fail for now.
    pub locked: Mutex<BTreeSet<i64>>,
    /// The next settlements are done, but fail with a lost connection.
    pub unheard: AtomicUsize,
    /// Answers every renewal with a lost lease.
    pub lose: AtomicBool,
    /// How many milliseconds one call to settle takes.
    pub slow: AtomicU64,
    /// How many milliseconds each of a commit's two round trips takes.
    pub trip: AtomicU64,
    /// How many milliseconds a claim is on its way to the store.
    pub way: AtomicU64,
    /// Every renewal fails.
    pub unrenewable: AtomicBool,
    /// How many times faster than this process' the store's clock goes, if it does.
    pub fast: AtomicU32,
    /// So many renewals are never answered.
    pub silent: AtomicUsize,
    /// Nothing can be reached at a start.
    pub away: AtomicBool,
    /// A queue that cannot be created.
    pub forbidden: Mutex<Option<QueueName>>,
    /// Health probes are never answered.
    pub mute: AtomicBool,
    /// Notes of consumers so far.
    pub notes: AtomicUsize,
    /// Consumers cannot be noted.
    pub unnotable: AtomicBool,
    /// It has no pauses.
    pub unpausable: AtomicBool,
    /// Its events cannot be browsed.
    pub unbrowsable: AtomicBool,
    /// Panics when it is to settle.
    pub panics: AtomicBool,
    /// So many times asking for wake-ups fails.
    pub deaf: AtomicUsize,
    /// What the next calls about schedules fail with.
    pub schedules: Mutex<VecDeque<ErrorKind>>,
    /// Calls about schedules so far.
    pub looks: AtomicUsize,
    /// A settlement that comes before the next lease by id.
    pub first: Mutex<Option<(Receipt, Settle)>>,
    /// Looks into idle queues.
    pub shared: Looks,
    /// Fetches so far.
    pub fetches: AtomicUsize,
    /// Batches settled: when, and how many.
    pub batches: Mutex<Vec<(Instant, usize)>>,
    /// Deliveries that are leased and not settled yet; a settlement that is tried again counts again.
    pub held: AtomicIsize,
    pub most_held: AtomicIsize,
}

fn next(faults: &Mutex<VecDeque<ErrorKind>>) -> Result<()> {
    match faults.lock().unwrap().pop_front() {
        Some(kind) => Err(Error::new(kind, "a fault of the test")),
        None => Ok(()),
    }
}

fn always(fault: &Mutex<Option<ErrorKind>>) -> Result<()> {
    match *fault.lock().unwrap() {
        Some(kind) => Err(Error::new(kind, "a fault of the test")),
        None => Ok(()),
    }
}

impl Faulty {
    pub(crate) fn hanging(call: Call) -> Self {
        let engine = Self::default();
        engine.faults.hangs.lock().unwrap().insert(call);
        engine
    }

    /// A lease's time, by this process' clock.
    fn ttl(&self, ttl: Duration) -> Duration {
        ttl / self.faults.fast.load(Ordering::SeqCst).max(1)
    }

    async fn answer(&self, call: Call) {
        if self.faults.hangs.lock().unwrap().contains(&call) {
            self.faults.hung.lock().unwrap().insert(call);
            std::future::pending::<()>().await;
        }
    }

    /// Answers for each settlement by itself, as the judge says.
    async fn judged(
        &self,
        queue: &QueueName,
        settlements: Vec<(Receipt, Settle)>,
    ) -> Result<Vec<SettleOutcome>> {
        let mut outcomes = Vec::new();

        for (receipt, settle) in settlements {
            let fault = match &mut *self.faults.judge.lock().unwrap() {
                Some(judge) => judge(&receipt, &settle),
                None => None,
            };
            let mut outcome = None;
            if matches!(fault, None | Some(ErrorKind::Connection)) {
                let settlement = vec![(receipt.clone(), settle)];
                outcome = self.memory.settle(queue, settlement).await?.pop();
            }

            if let Some(kind) = fault {
                let error = Error::new(kind, "a fault of the test");
                outcome = Some(SettleOutcome::Failed { receipt, error });
            }
            outcomes.extend(outcome);
        }

        Ok(outcomes)
    }

    async fn speak(&self) {
        if self.faults.mute.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
    }
}

#[async_trait]
impl Engine for Faulty {
    fn capabilities(&self) -> &Capabilities {
        self.capabilities
            .as_ref()
            .unwrap_or(self.memory.capabilities())
    }

    async fn ensure_queue(&self, queue: &QueueName) -> Result<()> {
        self.answer(Call::EnsureQueue).await;
        if self.faults.away.load(Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::Connection, "away by the test"));
        }
        if self.faults.forbidden.lock().unwrap().as_ref() == Some(queue) {
            return Err(Error::new(ErrorKind::Permission, "forbidden by the test"));
        }
        self.memory.ensure_queue(queue).await
    }

    async fn publish(&self, messages: Vec<Outgoing>) -> Result<Vec<PublishOutcome>> {
        always(&self.faults.publish)?;
        self.answer(Call::Publish).await;
        self.memory.publish(messages).await
    }

    async fn lease(&self, request: LeaseRequest) -> Result<Leased> {
        self.faults.fetches.fetch_add(1, Ordering::SeqCst);
        self.answer(Call::Lease).await;
        next(&self.faults.lease)?;
        tokio::time::sleep(Duration::from_millis(
            self.faults.way.load(Ordering::SeqCst),
        ))
        .await;

        let mut request = request;
        request.ttl = self.ttl(request.ttl);

        let leased = self.memory.lease(request).await?;
        let count = leased.deliveries.len().cast_signed();
        let held = self.faults.held.fetch_add(count, Ordering::SeqCst) + count;
        self.faults.most_held.fetch_max(held, Ordering::SeqCst);
        Ok(leased)
    }

    async fn wakeups(&self, queue: &QueueName) -> Result<Option<watch::Receiver<u64>>> {
        self.answer(Call::Wakeups).await;
        let deaf = |left: usize| left.checked_sub(1);
        if self
            .faults
            .deaf
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, deaf)
            .is_ok()
        {
            return Err(Error::new(ErrorKind::Connection, "a fault of the test"));
        }

        self.memory.wakeups(queue).await
    }

    async fn settle(
        &self,
        queue: &QueueName,
        settlements: Vec<(Receipt, Settle)>,
    ) -> Result<Vec<SettleOutcome>> {
        self.answer(Call::Settle).await;
        next(&self.faults.settle)?;
        assert!(
            !self.faults.panics.load(Ordering::SeqCst),
            "a panic of the test"
        );

        let slow = self.faults.slow.load(Ordering::SeqCst);
        if slow > 0 {
            tokio::time::sleep(Duration::from_millis(slow)).await;
        }

        self.faults
            .batches
            .lock()
            .unwrap()
            .push((Instant::now(), settlements.len()));

        self.faults
            .held
            .fetch_sub(settlements.len().cast_signed(), Ordering::SeqCst);
        let unheard = |left: usize| left.checked_sub(1);

        if self
            .faults
            .unheard
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, unheard)
            .is_ok()
        {
            self.memory.settle(queue, settlements).await?;
            return Err(Error::new(ErrorKind::Connection, "a fault of the test"));
        }

        if self.faults.judge.lock().unwrap().is_some() {
            return self.judged(queue, settlements).await;
        }

        let locked = self.faults.locked.lock().unwrap().clone();
        let refuses = self.faults.refuse.load(Ordering::SeqCst);
        if !refuses && locked.is_empty() {
            return self.memory.settle(queue, settlements).await;
        }
        let mut outcomes = Vec::new();

        for (receipt, settle) in settlements {
            let is_locked = receipt
                .message_id()
                .as_number()
                .is_some_and(|id| locked.contains(&id));
            outcomes.push(match settle {
                _ if is_locked => SettleOutcome::Failed {
                    receipt,
                    error: Error::new(ErrorKind::Transient, "locked by the test"),
                },
                _ if !refuses => self
                    .memory
                    .settle(queue, vec![(receipt, settle)])
                    .await?
                    .pop()
                    .unwrap(),
                Settle::DeadLetter { .. } => self
                    .memory
                    .settle(queue, vec![(receipt, settle)])
                    .await?
                    .pop()
                    .unwrap(),
                _ => SettleOutcome::Failed {
                    receipt,
                    error: Error::new(ErrorKind::InvalidEvent, "refused by the test"),
                },
            });
        }

        Ok(outcomes)
    }

    async fn extend(
        &self,
        queue: &QueueName,
        receipts: &[Receipt],
        ttl: Duration,
    ) -> Result<Vec<ExtendOutcome>> {
        self.answer(Call::Extend).await;
        if self.faults.unrenewable.load(Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::Connection, "a fault of the test"));
        }

        let silent = self.faults.silent.load(Ordering::SeqCst);
        if silent > 0 {
            self.faults.silent.store(silent - 1, Ordering::SeqCst);
            std::future::pending::<()>().await;
        }

        if self.faults.lose.load(Ordering::SeqCst) {
            return Ok(vec![ExtendOutcome::LeaseLost; receipts.len()]);
        }
        self.memory.extend(queue, receipts, self.ttl(ttl)).await
    }

    async fn begin(
        &self,
        queue: &QueueName,
        limit: Option<Duration>,
    ) -> Result<Box<dyn UnitOfWork>> {
        always(&self.faults.begin)?;
        self.answer(Call::Begin).await;
        if self.capabilities().transactions {
            return Ok(Box::new(Transaction(self.clone())));
        }
        self.memory.begin(queue, limit).await
    }

    async fn cancel(&self, queue: &QueueName, id: &MessageId) -> Result<bool> {
        self.memory.cancel(queue, id).await
    }

    async fn reschedule(&self, queue: &QueueName, id: &MessageId, due: Due) -> Result<bool> {
        self.memory.reschedule(queue, id, due).await
    }

    async fn lease_by_id(
        &self,
        queue: &QueueName,
        id: &MessageId,
        ttl: Duration,
    ) -> Result<Option<Delivery>> {
        let first = self.faults.first.lock().unwrap().take();
        if let Some(settlement) = first {
            self.memory.settle(queue, vec![settlement]).await?;
        }
        self.memory.lease_by_id(queue, id, self.ttl(ttl)).await
    }

    async fn purge(&self, queue: &QueueName) -> Result<u64> {
        self.memory.purge(queue).await
    }

    async fn stats(&self, queue: &QueueName) -> Result<QueueStats> {
        self.speak().await;
        self.memory.stats(queue).await
    }

    async fn blocked_keys(&self, queue: &QueueName, limit: usize) -> Result<Vec<BlockedKey>> {
        self.memory.blocked_keys(queue, limit).await
    }

    async fn health_check(&self) -> Result<()> {
        self.speak().await;
        self.memory.health_check().await
    }

    fn dead_letters(&self) -> Option<&dyn ezq_core::engine::DeadLetters> {
        self.memory.dead_letters()
    }

    fn schedules(&self) -> Option<&dyn ScheduleStore> {
        self.capabilities().schedules.then_some(self)
    }

    fn broadcasts(&self) -> Option<&dyn Broadcasts> {
        Some(self)
    }

    fn presence(&self) -> Option<&dyn Presence> {
        Some(self)
    }

    fn browse(&self) -> Option<&dyn Browse> {
        let can_browse = !self.faults.unbrowsable.load(Ordering::SeqCst);
        can_browse.then_some(&self.memory as &dyn Browse)
    }

    fn cancellations(&self) -> Option<&dyn Cancellations> {
        self.memory.cancellations()
    }

    fn overview(&self) -> Option<&dyn QueueOverview> {
        self.memory.overview()
    }

    fn shared_looks(&self) -> Option<&dyn SharedLooks> {
        let shared = &self.faults.shared;
        let are_offered = shared.are_offered.load(Ordering::SeqCst);
        are_offered.then_some(shared as &dyn SharedLooks)
    }

    fn pauses(&self) -> Option<&dyn Pauses> {
        let can_pause = !self.faults.unpausable.load(Ordering::SeqCst);
        can_pause.then_some(&self.memory as &dyn Pauses)
    }
}
