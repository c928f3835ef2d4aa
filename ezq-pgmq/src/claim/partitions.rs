//! Which partitions of a queue the next claim looks into.
//!
//! Workers that claim at once from one table read the same first rows: each skips those that the others
//! have locked. So while a partitioned queue has a backlog, a claim looks into one partition after
//! another until it has enough, and the next claim begins behind where this one ended. Each process
//! begins at a partition of its own, so that two seldom meet.
//!
//! Without a backlog that would be many statements for few messages. Then one statement claims from all
//! partitions. Only such a claim says that nothing is due. So it is with a backlog that is in few of the
//! partitions, such as that of one key: after two empty ones the rest is claimed from at once.
//!
//! How many partitions a queue has is known for a minute. A number that is outdated does no harm:
//! partitions that are gone have no table, and a queue of which they are not known yet is claimed from
//! as a whole.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ezq_core::message::QueueName;

use crate::sql;

/// How long a number of partitions is taken for true.
const KNOWN_FOR: Duration = Duration::from_secs(60);

/// What is known of one queue.
#[derive(Debug)]
struct Known {
    count: u32,
    until: Instant,
    /// The partition at which the next claim begins.
    next: u32,
    /// The last claim found as many messages as it asked for.
    has_backlog: bool,
    /// The role may use the queue as a whole, and not its partitions.
    is_denied: bool,
}

/// What is known of the partitions of all queues.
#[derive(Debug, Default)]
pub(crate) struct Partitions(Mutex<HashMap<QueueName, Known>>);

impl Partitions {
    /// How many partitions a queue has, or 1; `None` if that is to be looked up.
    pub(crate) fn count(&self, queue: &QueueName) -> Option<u32> {
        let known = self.known();
        let known = known.get(queue)?;
        (Instant::now() < known.until).then_some(known.count)
    }

    /// Whether a queue had several partitions when that was last looked up.
    pub(crate) fn are_several(&self, queue: &QueueName) -> bool {
        let known = self.known();
        known.get(queue).is_some_and(|known| known.count > 1)
    }

    /// Learns how many partitions a queue has.
    pub(crate) fn learn(&self, queue: &QueueName, count: u32) {
        let until = Instant::now() + KNOWN_FOR;
        let mut known = self.known();
        match known.get_mut(queue) {
            Some(known) if known.count == count => {
                known.until = until;
                // Rights may have been granted since.
                known.is_denied = false;
            }
            _ => {
                let found = Known {
                    count,
                    until,
                    // A random start: a fleet must not begin at the same partition.
                    next: rand::random_range(0..count.max(1)),
                    has_backlog: false,
                    is_denied: false,
                };
                known.insert(queue.clone(), found);
            }
        }
    }

    /// Has the number looked up again.
    pub(crate) fn forget(&self, queue: &QueueName) {
        self.known().remove(queue);
    }

    /// Has the queue claimed from as a whole until its number is looked up again.
    pub(crate) fn deny(&self, queue: &QueueName) {
        if let Some(known) = self.known().get_mut(queue) {
            known.is_denied = true;
        }
    }

    /// The tables to claim from one by one, each with its index; none without a backlog.
    pub(crate) fn round(&self, queue: &QueueName) -> Vec<(u32, String)> {
        let known = self.known();
        let known = known.get(queue);
        let Some(known) = known.filter(|known| known.has_backlog && !known.is_denied) else {
            return Vec::new();
        };
        let indexes = (0..known.count).map(|step| (known.next + step) % known.count);
        indexes
            .map(|index| (index, sql::partition(queue, known.count, index)))
            .collect()
    }

    /// Notes whether a claim found all that it asked for, and the last partition that it looked into.
    pub(crate) fn claimed(&self, queue: &QueueName, is_full: bool, last: Option<u32>) {
        if let Some(known) = self.known().get_mut(queue) {
            known.has_backlog = is_full;
            if let Some(last) = last {
                known.next = (last + 1) % known.count.max(1);
            }
        }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<QueueName, Known>> {
        // Hints: each step leaves them whole, and the next look corrects them.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn indexes(partitions: &Partitions, queue: &QueueName) -> Vec<u32> {
        let round = partitions.round(queue);
        round.into_iter().map(|(index, _)| index).collect()
    }

    #[test]
    fn a_backlog_is_claimed_partition_by_partition_behind_the_last_one() {
        let queue = QueueName::new("orders").unwrap();
        let partitions = Partitions::default();
        partitions.learn(&queue, 4);
        assert!(partitions.round(&queue).is_empty(), "no backlog is known");

        partitions.claimed(&queue, true, Some(2));
        assert_eq!(indexes(&partitions, &queue), [3, 0, 1, 2]);
        let (_, table) = partitions.round(&queue).remove(0);
        assert_eq!(table, "pgmq.\"q_orders--4-3\"");

        partitions.claimed(&queue, false, Some(1));
        assert!(partitions.round(&queue).is_empty(), "the backlog is gone");
    }

    #[test]
    fn another_number_replaces_what_was_known() {
        let queue = QueueName::new("orders").unwrap();
        let partitions = Partitions::default();
        assert_eq!(partitions.count(&queue), None);

        partitions.learn(&queue, 4);
        partitions.claimed(&queue, true, Some(2));
        partitions.learn(&queue, 8);
        assert_eq!(partitions.count(&queue), Some(8));
        assert!(partitions.are_several(&queue));
        assert!(partitions.round(&queue).is_empty());

        partitions.forget(&queue);
        assert_eq!(partitions.count(&queue), None);
    }
}
