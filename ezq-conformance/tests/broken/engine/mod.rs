//! A memory engine with one fault.

mod dead_letters;
mod fault;

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use ezq_core::engine::{
    BlockedKey, Broadcasts, Browse, Cancellations, Capabilities, CopyState, DeadLetters, Dedupe,
    Delivery, Due, Engine, EventCopy, ExtendOutcome, History, LeaseRequest, Leased, Operations,
    Original, Outgoing, Pauses, Presence, PublishOutcome, QueueOverview, QueueStats, Receipt,
    ScheduleStore, Settle, SettleOutcome,
};
use ezq_core::memory::MemoryEngine;
use ezq_core::message::headers::{Headers, KEY};
use ezq_core::message::{MessageId, Progress, QueueName, Retention};
use ezq_core::{Error, ErrorKind, Result};
use serde_json::Value;
use tokio::sync::watch;

pub(crate) use self::fault::Fault;

pub(crate) struct Broken {
    pub(crate) inner: MemoryEngine,
    pub(crate) fault: Fault,
    capabilities: Capabilities,
    newest: Mutex<HashMap<(QueueName, MessageId), Receipt>>,
    ends: Mutex<HashMap<Receipt, chrono::DateTime<chrono::Utc>>>,
    last: Mutex<Vec<Delivery>>,
    // Keys that the fault takes or frees.
    keys: Mutex<HashSet<String>>,
    settled: AtomicBool,
}

pub(crate) const LIMIT: usize = 1 << 21;

impl Broken {
    pub(crate) fn new(fault: Fault) -> Self {
        let inner = if fault == Fault::StoresTooMuch {
            MemoryEngine::new()
        } else {
            MemoryEngine::with_body_limit(LIMIT)
        };

        let mut capabilities = inner.capabilities().clone();
        capabilities.max_body = Some(LIMIT);
        capabilities.archive = fault != Fault::ClaimsNoArchive;
        capabilities.fenced_by_clock = fault == Fault::ClaimsAClock;
        capabilities.movable = fault != Fault::ClaimsToMoveNothing;

        Self {
            inner,
            fault,
            capabilities,
            newest: Mutex::default(),
            ends: Mutex::default(),
            last: Mutex::default(),
            keys: Mutex::default(),
            settled: AtomicBool::new(false),
        }
    }

    pub(crate) fn is(&self, fault: Fault) -> bool {
        self.fault == fault
    }

    /// The receipts of what was handed out of a queue last.
    pub(crate) fn newest_of(&self, queue: &QueueName) -> Vec<Receipt> {
        let newest = self.newest.lock().unwrap();
        let of_queue = newest.iter().filter(|((of, _), _)| of == queue);
        of_queue.map(|(_, receipt)| receipt.clone()).collect()
    }

    fn spoil(&self, message: &mut Outgoing) {
        match self.fault {
            Fault::ReadsNumbersAsFloats => {
                if let Ok(value) = serde_json::from_str::<serde_json::Value>(&message.body) {
                    message.body = value.to_string();
                }
            }
            Fault::DropsWhiteSpace => message.body.retain(|c| !c.is_whitespace()),
            Fault::CutsLongBodies => message.body.truncate(1 << 16),
            Fault::ArchivesControlEvents => {
                message.body = message.body.replace("ezq.end", "shop.end");
            }
            Fault::DropsHeaders => message.headers = Headers::new(),
            Fault::IgnoresDedupeKeys => message.dedupe = None,
            Fault::FreesKeysOnSettling if self.settled.load(Ordering::Relaxed) => {
                message.dedupe = None;
            }
            Fault::KeepsKeysForEver => {
                if let Some(dedupe) = &message.dedupe {
                    let year = Duration::from_secs(365 * 24 * 3600);
                    message.dedupe = Dedupe::new(dedupe.key(), year, dedupe.event_id()).ok();
                }
            }
            Fault::IgnoresKeys => message.headers.insert(KEY, Value::Null),
            Fault::HasOneKey if message.headers.key().is_some() => {
                message.headers.insert(KEY, "all");
            }
            Fault::DelaysAreEarly => message.due = Due::Now,
            Fault::DelaysInWholeSeconds => {
                let now = self.inner.now();
                let pause = match message.due {
                    Due::Now => return,
                    Due::At(time) => (time - now).to_std().unwrap_or_default(),
                    due => due.pause(),
                };
                let secs = pause.as_secs().saturating_add(1);
                message.due = Due::After(Duration::from_secs(secs));
            }
            _ => {}
        }
    }

    fn twist(&self, queue: &QueueName, settlement: (Receipt, Settle)) -> (Receipt, Settle) {
        let (mut receipt, mut settle) = settlement;
        if self.is(Fault::AcceptsStaleReceipts) {
            let place = (queue.clone(), receipt.message_id().clone());
            if let Some(newest) = self.newest.lock().unwrap().get(&place) {
                receipt = newest.clone();
            }
        }

        match (&mut settle, self.fault) {
            (Settle::Ack { .. }, Fault::AcksNothing) => settle = Settle::Release,
            (Settle::DeadLetter { .. }, Fault::LosesDeadLetters) => {
                settle = Settle::Ack { outgoing: vec![] };
            }
            (Settle::DeadLetter { .. }, Fault::KeepsDeadLetters) => settle = Settle::Release,
            (Settle::Discard, Fault::ArchivesWhatIsDiscarded) => {
                settle = Settle::Ack { outgoing: vec![] };
            }
            (Settle::Release, Fault::ReleasesToTheEnd) => settle = retry_now(),
            (Settle::Retry { after, .. }, Fault::RetriesAtOnce) => *after = Duration::ZERO,
            (
                Settle::Retry { progress, .. } | Settle::DeadLetter { progress, .. },
                Fault::ForgetsProgress,
            ) => *progress = Progress::default(),
            (
                Settle::Ack { outgoing }
                | Settle::Retry { outgoing, .. }
                | Settle::DeadLetter { outgoing, .. },
                Fault::LosesOutgoing,
            ) => outgoing.clear(),
            _ => {}
        }

        (receipt, settle)
    }

    fn has_ended(&self, receipt: &Receipt) -> bool {
        let ends = self.ends.lock().unwrap();
        ends.get(receipt)
            .is_some_and(|end| *end <= self.inner.now())
    }
}

fn retry_now() -> Settle {
    Settle::Retry {
        after: Duration::ZERO,
        progress: Progress::default(),
        outgoing: vec![],
    }
}

pub(crate) fn refused() -> Error {
    Error::new(ErrorKind::Engine, "broken on purpose")
}

#[async_trait]
impl Engine for Broken {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    async fn ensure_queue(&self, queue: &QueueName) -> Result<()> {
        if self.is(Fault::EmptiesOnEnsure) {
            let _ = self.inner.remove_queue(queue);
        }
        self.inner.ensure_queue(queue).await
    }

    fn set_retention(&self, queue: &QueueName, retention: Retention) -> Result<()> {
        let retention = match self.fault {
            Fault::ArchivesNothing => Retention::Delete,
            Fault::ArchivesEverything => Retention::ARCHIVE,
            _ => retention,
        };
        self.inner.set_retention(queue, retention)
    }

    async fn history(&self, event_id: &str, queue: Option<&QueueName>) -> Result<History> {
        let mut history = self.inner.history(event_id, queue).await?;
        let asked_at = history.asked_at;
        let copies = &mut history.copies;

        match self.fault {
            Fault::TellsNothing => copies.clear(),
            Fault::TellsOneCopy => copies.truncate(1),
            Fault::TellsOfOthers => {
                let queue = queue.cloned().unwrap_or_default();
                let state = CopyState::Waiting { due: asked_at };
                let id = MessageId::Number(1);
                copies.push(EventCopy::new(&queue, id, asked_at, &Headers::new(), state));
            }
            Fault::TellsWrongStates => copies.iter_mut().for_each(|copy| {
                copy.state = match copy.state {
                    CopyState::Waiting { due } => CopyState::Leased { until: due },
                    _ => CopyState::Waiting { due: asked_at },
                };
            }),
            Fault::ForgetsDeaths => copies.iter_mut().for_each(|copy| copy.died_before = None),
            _ => {}
        }

        Ok(history)
    }

    async fn publish(&self, mut messages: Vec<Outgoing>) -> Result<Vec<PublishOutcome>> {
        if messages.is_empty() && self.is(Fault::RefusesEmptyBatches) {
            return Err(refused());
        }

        if self.is(Fault::ReversesBatches) {
            messages.reverse();
        }
        let first = messages.first().map(|message| message.queue.clone());

        for message in &mut messages {
            self.spoil(message);
            if self.is(Fault::CreatesQueues) {
                self.inner.ensure_queue(&message.queue).await?;
            }

            if let (Some(first), Fault::PublishesToOneQueue) = (&first, self.fault) {
                message.queue = first.clone();
            }

            if self.is(Fault::FailsBatchesWhole) {
                let json = serde_json::from_str::<serde_json::Value>(&message.body).is_ok();
                let sane = message.due != Due::After(Duration::MAX);
                let known = self.inner.stats(&message.queue).await.is_ok();
                if !(json && sane && known) {
                    return Err(refused());
                }
            }
        }

        let keyed: Vec<_> = messages.iter().map(|m| m.dedupe.clone()).collect();
        let mut outcomes = self.inner.publish(messages).await?;

        for (outcome, dedupe) in outcomes.iter_mut().zip(keyed) {
            let Some(dedupe) = dedupe else { continue };
            let mut keys = self.keys.lock().unwrap();

            match (&outcome, self.fault) {
                (PublishOutcome::Duplicate(_), Fault::NamesTheDuplicateItself) => {
                    let event_id = dedupe.event_id().to_owned();
                    let message_id = MessageId::Number(0);
                    *outcome = PublishOutcome::Duplicate(Some(Original::new(message_id, event_id)));
                }
                (PublishOutcome::Failed(_), Fault::TakesKeysOfRefused)
                | (PublishOutcome::Stored(_), Fault::SharesKeysBetweenQueues)
                    if keys.insert(dedupe.key().to_owned()) => {}
                _ if keys.contains(dedupe.key()) => *outcome = PublishOutcome::Duplicate(None),
                _ => {}
            }
        }

        Ok(outcomes)
    }

    async fn lease(&self, mut request: LeaseRequest) -> Result<Leased> {
        match self.fault {
            Fault::LeasesNothing => request.ttl = Duration::ZERO,
            Fault::LeasesForEver => request.ttl = Duration::from_secs(3600),
            Fault::IgnoresMax => request.max *= 2,
            Fault::IgnoresBefore => request.before = None,
            Fault::IgnoresAfter => request.after = None,
            Fault::CreatesQueues => self.inner.ensure_queue(&request.queue).await?,
            _ => {}
        }

        let end = self.inner.now() + request.ttl;
        let mut leased = self.inner.lease(request.clone()).await?;

        if self.is(Fault::AnyOfAKeyLetsGo) {
            // What was handed out behind the first of its key is there for everyone.
            let mut keys = HashSet::new();
            let behind = |d: &&Delivery| d.key().is_some_and(|key| !keys.insert(key.into_owned()));
            let behind: Vec<_> = leased.deliveries.iter().filter(behind).cloned().collect();

            for Delivery { receipt, .. } in behind {
                self.inner
                    .settle(&request.queue, vec![(receipt, Settle::Release)])
                    .await?;
            }
        }

        for Delivery { receipt, .. } in &leased.deliveries {
            let place = (request.queue.clone(), receipt.message_id().clone());
            self.newest.lock().unwrap().insert(place, receipt.clone());
            self.ends.lock().unwrap().insert(receipt.clone(), end);
        }

        match self.fault {
            Fault::SharesMessages => {
                let mut last = self.last.lock().unwrap();
                let fresh = leased.deliveries.clone();
                leased
                    .deliveries
                    .extend(std::mem::replace(&mut *last, fresh));
                leased.deliveries.truncate(request.max);
            }
            Fault::MistakesHeldUp => leased.is_held_up = !leased.is_held_up,
            Fault::SaysDueNow => leased.next_due = Some(Duration::ZERO),
            Fault::LeasesInAnyOrder => leased.deliveries.reverse(),
            Fault::LosesCounts => leased.deliveries.iter_mut().for_each(|d| {
                d.deliveries = 1;
                d.headers = Headers::new();
            }),
            Fault::SkipsPoison => leased.deliveries.retain(|delivery| {
                delivery.body.starts_with("{\"") && delivery.headers.original().is_none()
            }),
            _ => {}
        }

        Ok(leased)
    }

    async fn wakeups(&self, queue: &QueueName) -> Result<Option<watch::Receiver<u64>>> {
        if self.is(Fault::NeverWakes) {
            return Ok(Some(watch::channel(0).1));
        }
        self.inner.wakeups(queue).await
    }

    async fn settle(
        &self,
        queue: &QueueName,
        settlements: Vec<(Receipt, Settle)>,
    ) -> Result<Vec<SettleOutcome>> {
        let in_order = settlements.is_sorted_by_key(|(receipt, _)| receipt.message_id().clone());
        if self.is(Fault::DeadlocksOnDisorder) && !in_order {
            return Err(refused());
        }
        let mut outcomes = Vec::new();
        self.settled.store(true, Ordering::Relaxed);

        for (receipt, mut settle) in settlements {
            if let (Settle::Ack { outgoing }, Fault::IgnoresKeys) = (&mut settle, self.fault) {
                outgoing
                    .iter_mut()
                    .for_each(|message| message.dedupe = None);
            }

            let (receipt, settle) = self.twist(queue, (receipt, settle));
            if self.is(Fault::VoidsExpiredLeases) && self.has_ended(&receipt) {
                outcomes.push(SettleOutcome::LeaseLost);
                continue;
            }

            if self.is(Fault::KeepsNoNul) && format!("{settle:?}").contains("\\0") {
                let error = refused();
                outcomes.push(SettleOutcome::Failed { receipt, error });
                continue;
            }

            let settled = self.inner.settle(queue, vec![(receipt, settle)]).await?;
            outcomes.extend(settled);
        }

        let whole = outcomes.iter().all(|o| matches!(o, SettleOutcome::Done));
        if self.is(Fault::SettlesAllOrNothing) && !whole {
            return Err(refused());
        }

        if self.is(Fault::AcceptsUsedReceipts) {
            outcomes.fill_with(|| SettleOutcome::Done);
        }
        Ok(outcomes)
    }

    async fn extend(
        &self,
        queue: &QueueName,
        receipts: &[Receipt],
        ttl: Duration,
    ) -> Result<Vec<ExtendOutcome>> {
        if self.is(Fault::SaysExtended) {
            return Ok(vec![ExtendOutcome::Extended; receipts.len()]);
        }
        let twist = |receipt: &Receipt| self.twist(queue, (receipt.clone(), retry_now())).0;
        let receipts: Vec<_> = receipts.iter().map(twist).collect();
        self.inner.extend(queue, &receipts, ttl).await
    }

    async fn begin(
        &self,
        queue: &QueueName,
        limit: Option<Duration>,
    ) -> Result<Box<dyn ezq_core::engine::UnitOfWork>> {
        if self.is(Fault::BeginsNothing) {
            return Err(refused());
        }
        self.inner.begin(queue, limit).await
    }

    async fn cancel(&self, queue: &QueueName, id: &MessageId) -> Result<bool> {
        Ok(self.inner.cancel(queue, id).await? || self.is(Fault::CancelsAnything))
    }

    async fn reschedule(&self, queue: &QueueName, id: &MessageId, due: Due) -> Result<bool> {
        Ok(self.inner.reschedule(queue, id, due).await? || self.is(Fault::CancelsAnything))
    }

    async fn lease_by_id(
        &self,
        queue: &QueueName,
        id: &MessageId,
        ttl: Duration,
    ) -> Result<Option<Delivery>> {
        let leased = self.inner.lease_by_id(queue, id, ttl).await;
        match self.fault {
            Fault::FindsNothingById => Ok(None),
            Fault::SharesById => Ok(leased.unwrap_or_default()),
            _ => leased,
        }
    }

    async fn purge(&self, queue: &QueueName) -> Result<u64> {
        if self.is(Fault::PurgesNothing) {
            let stats = self.inner.stats(queue).await?;
            return Ok(stats.ready + stats.in_progress + stats.scheduled);
        }
        self.inner.purge(queue).await
    }

    async fn stats(&self, queue: &QueueName) -> Result<QueueStats> {
        let stats = self.inner.stats(queue).await?;
        if self.is(Fault::CountsNothing) {
            return Ok(QueueStats::default());
        }
        Ok(stats)
    }

    async fn blocked_keys(&self, queue: &QueueName, limit: usize) -> Result<Vec<BlockedKey>> {
        if self.is(Fault::BlocksNothing) {
            return Ok(Vec::new());
        }
        self.inner.blocked_keys(queue, limit).await
    }

    async fn health_check(&self) -> Result<()> {
        if self.is(Fault::IsNeverHealthy) {
            return Err(refused());
        }
        self.inner.health_check().await
    }

    fn dead_letters(&self) -> Option<&dyn DeadLetters> {
        Some(self)
    }

    fn schedules(&self) -> Option<&dyn ScheduleStore> {
        Some(self)
    }

    fn broadcasts(&self) -> Option<&dyn Broadcasts> {
        Some(self)
    }

    fn cancellations(&self) -> Option<&dyn Cancellations> {
        Some(self)
    }

    fn pauses(&self) -> Option<&dyn Pauses> {
        Some(self)
    }

    fn overview(&self) -> Option<&dyn QueueOverview> {
        Some(self)
    }

    fn operations(&self) -> Option<&dyn Operations> {
        Some(self)
    }

    fn presence(&self) -> Option<&dyn Presence> {
        Some(self)
    }

    fn browse(&self) -> Option<&dyn Browse> {
        Some(self)
    }
}
