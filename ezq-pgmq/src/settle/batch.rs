//! Settles one batch: as few statements as possible, and one outcome for each message.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use ezq_core::engine::{Receipt, Settle, SettleOutcome};
use ezq_core::message::QueueName;
use ezq_core::{Error, ErrorKind, Result};
use sqlx::Connection;
use sqlx::postgres::PgConnection;

use super::locked::{LockedRows, Wait};
use super::settlement::{Kind, Settlement};
use super::statements::{self, Locking};
use crate::claim::partitions::Partitions;
use crate::connection::dedicated::{Dedicated, call};
use crate::error::{self, missing};
use crate::message::encoding::Encoding;
use crate::message::receipts::Key;
use crate::message::storable;
use crate::publish::{self, ByQueue, CONFLICT_TRIES};
use crate::retention::Retentions;
use crate::retention::removal::Removal;
use crate::schema::Schema;
use crate::schema::queues::Queues;
use crate::sql::BEGIN;

/// What became of a batch.
pub(crate) struct Settled {
    pub(crate) outcomes: Vec<SettleOutcome>,
    /// Queues that have something new to read.
    pub(crate) woken: HashSet<QueueName>,
    /// Whether nothing was settled, for another reason than what messages carry.
    pub(crate) is_broken: bool,
}

/// What a batch is settled with.
#[derive(Clone, Copy)]
pub(crate) struct Resources<'a> {
    /// The connections for settling.
    pub(crate) connections: &'a Dedicated,
    /// The connections that look up and create queues.
    pub(crate) control: &'a Dedicated,
    pub(crate) queues: &'a Queues,
    pub(crate) retentions: &'a Retentions,
    pub(crate) manage_schema: bool,
    pub(crate) locked: &'a LockedRows,
    pub(crate) partitions: &'a Partitions,
    pub(crate) encoding: Encoding,
    /// The table of dedupe keys.
    pub(crate) keys: &'a Schema,
    /// Why events with dedupe keys cannot be published, if they cannot.
    pub(crate) no_keys: Option<&'a Error>,
}

pub(crate) struct SettleBatch<'a> {
    resources: Resources<'a>,
    queue: &'a QueueName,
    outcomes: Vec<Option<SettleOutcome>>,
    woken: HashSet<QueueName>,
    broken: usize,
}

impl<'a> SettleBatch<'a> {
    pub(crate) fn new(resources: Resources<'a>, queue: &'a QueueName) -> Self {
        Self {
            resources,
            queue,
            outcomes: Vec::new(),
            woken: HashSet::new(),
            broken: 0,
        }
    }

    pub(crate) async fn run(mut self, settlements: Vec<(Receipt, Settle)>) -> Settled {
        self.outcomes.resize_with(settlements.len(), || None);
        let mut seen = HashSet::new();
        let mut groups: [Vec<Settlement>; 3] = Default::default();
        let mut repeated = Vec::new();

        for (index, (receipt, settle)) in settlements.into_iter().enumerate() {
            match Settlement::new(index, receipt, settle, self.resources.encoding) {
                Ok(item) if !seen.insert(item.key()) => repeated.push(item),
                Ok(item) => match self.resources.no_keys.filter(|_| item.has_keys()) {
                    Some(why) => {
                        let receipt = item.receipt;
                        let error = why.without_source();
                        self.put(index, SettleOutcome::Failed { receipt, error });
                    }
                    None => groups[item.group()].push(item),
                },
                Err((receipt, error)) => self.put(index, SettleOutcome::Failed { receipt, error }),
            }
        }

        // One statement each for plain groups, whatever becomes of the others.
        for group in groups {
            self.settle_group(group).await;
        }

        // A second settlement of one delivery has lost its lease, unless the first one failed.
        for item in repeated {
            self.settle_group(vec![item]).await;
        }

        let count = self.outcomes.len();
        let outcomes = self.outcomes.into_iter();
        Settled {
            outcomes: outcomes
                .map(|o| o.unwrap_or(SettleOutcome::LeaseLost))
                .collect(),
            woken: self.woken,
            is_broken: self.broken == count,
        }
    }

    async fn settle_group(&mut self, items: Vec<Settlement>) {
        let locked = self.resources.locked;
        // Parts still to be settled, the next one last.
        let mut parts = vec![items];
        while let Some(items) = parts.pop() {
            if items.is_empty() {
                continue;
            }

            let wait = locked.wait(self.queue);
            match self.attempt(&items, wait).await {
                Ok(applied) => self.record(items, &applied),
                Err(Failure::Data(_)) if items.len() > 1 => {
                    parts.extend(items.into_iter().rev().map(|item| vec![item]));
                }
                Err(Failure::Locked(error)) if wait == Wait::ForLocks => {
                    locked.record(self.queue, &error);
                    parts.push(items);
                }
                // The table of this queue is locked, or that of another to which some settlements
                // publish.
                Err(Failure::Locked(error)) => match split(items) {
                    Ok(by_targets) => parts.extend(by_targets),
                    Err(items) => self.fail(items, Failure::Locked(error)),
                },
                Err(failure) => self.fail(items, failure),
            }
        }
    }

    /// Settles a part: what was settled, and what is locked.
    async fn attempt(&self, items: &[Settlement], wait: Wait) -> Result<Applied, Failure> {
        let mut tries = 0;
        let mut repaired = false;
        loop {
            // Looked up for each try: a repair may have changed it.
            let removal = self.removal().await.map_err(Failure::Other)?;
            let connections = self.resources.connections;
            let place = connections.place();
            // Two statements that lock the same rows must do so in one order.
            let locking = match wait == Wait::ForLocks && !self.is_partitioned() {
                true => Locking::OnTheWay,
                false => Locking::InOrder(wait),
            };

            // After a lost connection this is repeated. What was settled all the same then answers
            // as a lost lease.
            let applied = call!(connections, |connection| apply(
                connection, self.queue, removal, items, locking
            ))
            .map_err(Failure::Other)?;
            let failure = match applied {
                Ok(applied) => return Ok(applied),
                Err(failure) => failure,
            };

            if error::is_locked(&failure) {
                return Err(Failure::Locked(error::on_queue(failure, self.queue, place)));
            }

            tries += 1;
            // Jitter: the other transaction may be tried again at the same time.
            if error::is_conflict(&failure) && tries < CONFLICT_TRIES {
                let pause = Duration::from_millis(5 << tries).mul_f64(rand::random_range(0.5..1.0));
                tokio::time::sleep(pause).await;
                continue;
            }

            if error::is_data(&failure) {
                let refused = storable::refused_with(failure, "its headers or an event");
                return Err(Failure::Data(refused));
            }

            if error::is_reshaped(&failure) && !repaired {
                // A column that both tables had when they were looked up is gone.
                repaired = true;
                self.resources.retentions.forget(self.queue);
                continue;
            }

            if missing::is_table(&failure) {
                if !repaired {
                    repaired = true;
                    self.repair(items).await?;
                    continue;
                }

                if let Some(error) = self.missing_target(items).await {
                    return Err(Failure::Data(error));
                }
            }

            let error = error::on_queue(failure, self.queue, place);
            let publishes = items.iter().any(|item| !item.outgoing.is_empty());
            if publishes && !error.is_transient() && error.kind() != ErrorKind::QueueMissing {
                // One message's event breaks a rule of its queue, or the role lacks a right on it.
                return Err(Failure::Data(error));
            }

            return Err(Failure::Other(error));
        }
    }

    fn is_partitioned(&self) -> bool {
        let partitions = self.resources.partitions;
        partitions.are_several(self.queue)
    }

    async fn removal(&self) -> Result<Removal> {
        let Resources {
            control,
            retentions,
            manage_schema,
            ..
        } = self.resources;
        retentions.removal(self.queue, control, manage_schema).await
    }

    // Creates dead letters, archive and ezq's own tables where they are gone. The queue itself is
    // its consumer's concern: deliveries of a dropped queue cannot be settled. Queues of events are
    // their publishers' concern.
    async fn repair(&self, items: &[Settlement]) -> Result<(), Failure> {
        let Resources {
            control,
            queues,
            retentions,
            manage_schema,
            keys,
            ..
        } = self.resources;
        queues.forget(self.queue);
        retentions.forget(self.queue);
        keys.forget();
        queues
            .shape(self.queue, control)
            .await
            .map_err(Failure::Other)?;

        queues
            .ensure(self.queue, control, manage_schema)
            .await
            .map_err(Failure::Other)?;
        if items.iter().any(Settlement::has_keys) {
            let ensured = keys
                .ensure(control, control.connector(), manage_schema)
                .await;
            // Settlements without dedupe keys are settled without the table.
            ensured.map_err(Failure::Data)?;
        }

        Ok(())
    }

    // The error of the first of the events' queues that does not exist.
    async fn missing_target(&self, items: &[Settlement]) -> Option<Error> {
        let Resources {
            control, queues, ..
        } = self.resources;
        let targets = items
            .iter()
            .flat_map(|item| item.outgoing.iter().map(|(queue, _)| queue));
        let targets: HashSet<&QueueName> = targets.collect();

        for target in targets {
            queues.forget(target);
            if let Err(error) = queues.shape(target, control).await {
                return Some(error);
            }
        }

        None
    }

    fn record(&mut self, items: Vec<Settlement>, applied: &Applied) {
        for item in items {
            if applied.locked.contains(&item.key()) {
                let receipt = item.receipt;
                let error = self.resources.locked.still_locked(self.queue);
                self.put(item.index, SettleOutcome::Failed { receipt, error });
                continue;
            }

            if !applied.done.contains(&item.key()) {
                self.put(item.index, SettleOutcome::LeaseLost);
                continue;
            }

            if matches!(item.kind, Kind::Return { .. }) {
                self.woken.insert(self.queue.clone());
            }

            self.woken
                .extend(item.outgoing.into_iter().map(|(queue, _)| queue));
            self.put(item.index, SettleOutcome::Done);
        }
    }

    fn fail(&mut self, items: Vec<Settlement>, failure: Failure) {
        let error = match failure {
            Failure::Data(error) => error,
            // The table of another queue is locked: this queue is not broken.
            Failure::Locked(error) if !items.iter().all(Settlement::is_plain) => error,
            Failure::Locked(error) | Failure::Other(error) => {
                self.broken += items.len();
                error
            }
        };

        // An error cannot be cloned: the first message gets it with its source.
        let again = error.without_source();
        let mut first = Some(error);
        for item in items {
            let error = first.take().unwrap_or_else(|| again.without_source());
            let receipt = item.receipt;
            self.put(item.index, SettleOutcome::Failed { receipt, error });
        }
    }

    fn put(&mut self, index: usize, outcome: SettleOutcome) {
        if let Some(slot) = self.outcomes.get_mut(index) {
            *slot = Some(outcome);
        }
    }
}

enum Failure {
    /// What one of the messages carries or publishes is to blame.
    Data(Error),
    /// Another session's lock was waited for in vain.
    Locked(Error),
    Other(Error),
}

/// What became of a part's messages. The others have lost their lease.
#[derive(Default)]
struct Applied {
    done: HashSet<Key>,
    locked: HashSet<Key>,
}

/// Divides settlements by the tables that they write to; returns them unchanged if there is only
/// one part.
fn split(items: Vec<Settlement>) -> Result<Vec<Vec<Settlement>>, Vec<Settlement>> {
    let mut parts: HashMap<(bool, BTreeSet<QueueName>), Vec<Settlement>> = HashMap::new();
    for item in items {
        let targets = item
            .outgoing
            .iter()
            .map(|(queue, _)| queue.clone())
            .collect();
        // Dead letters write to a table of their own.
        let is_dead = matches!(item.kind, Kind::Dead { .. });
        parts.entry((is_dead, targets)).or_default().push(item);
    }

    let mut parts: Vec<Vec<Settlement>> = parts.into_values().collect();
    match parts.len() {
        1 => Err(parts.remove(0)),
        _ => Ok(parts),
    }
}

async fn apply(
    connection: &mut PgConnection,
    queue: &QueueName,
    removal: Removal,
    items: &[Settlement],
    locking: Locking,
) -> Result<Applied, sqlx::Error> {
    let wait = locking.wait();
    let all: Vec<&Settlement> = items.iter().collect();
    let done = match items {
        [first, ..] if !first.is_plain() => {
            transact(&mut *connection, queue, removal, all, wait).await?
        }
        [
            Settlement {
                kind: Kind::Ack, ..
            },
            ..,
        ] => {
            let keys: Vec<Key> = items.iter().map(Settlement::key).collect();
            statements::acknowledge(&mut *connection, queue, removal, &keys, locking).await?
        }
        _ => statements::put_back(&mut *connection, queue, &all, wait).await?,
    };

    let mut applied = Applied {
        done,
        locked: HashSet::new(),
    };

    if wait == Wait::Not && applied.done.len() < items.len() {
        // Skipped because it is locked, or gone.
        let open = items
            .iter()
            .map(Settlement::key)
            .filter(|key| !applied.done.contains(key));
        applied.locked = statements::standing(connection, queue, open).await?;
    }

    Ok(applied)
}

// One transaction for all: it locks first, in order, and then writes for what it locked.
async fn transact(
    connection: &mut PgConnection,
    queue: &QueueName,
    removal: Removal,
    items: Vec<&Settlement>,
    wait: Wait,
) -> Result<HashSet<Key>, sqlx::Error> {
    let mut tx = connection.begin_with(BEGIN).await?;
    // Every statement locks rows in the order of their ids, so two batches cannot deadlock.
    let held = statements::lock(&mut tx, queue, &items, wait).await?;
    let held_items = items.into_iter().filter(|item| held.contains(&item.key()));
    let mut acked = Vec::new();
    let mut discarded = Vec::new();
    let mut returned = Vec::new();
    let mut dead = Vec::new();
    let mut outgoing = ByQueue::default();

    for item in held_items {
        match item.kind {
            Kind::Ack => acked.push(item.key()),
            Kind::Discard => discarded.push(item.key()),
            Kind::Return { .. } => returned.push(item),
            Kind::Dead { .. } => dead.push(item),
        }

        for (target, row) in &item.outgoing {
            outgoing.push(target.clone(), 0, row.clone());
        }
    }

    if !acked.is_empty() {
        statements::acknowledge(&mut tx, queue, removal, &acked, Locking::OnTheWay).await?;
    }

    if !discarded.is_empty() {
        let removal = Removal::Delete;
        statements::acknowledge(&mut tx, queue, removal, &discarded, Locking::OnTheWay).await?;
    }

    if !returned.is_empty() {
        statements::put_back(&mut tx, queue, &returned, Wait::ForLocks).await?;
    }

    if !dead.is_empty() {
        statements::bury(&mut tx, queue, &dead).await?;
    }

    // In the order of queue names, so that all transactions take dedupe keys in one order.
    for (target, rows) in outgoing.into_inner() {
        let rows: Vec<_> = rows.into_iter().map(|(_, row)| row).collect();
        publish::insert(&mut tx, &target, &rows).await?;
    }

    tx.commit().await?;
    Ok(held)
}
