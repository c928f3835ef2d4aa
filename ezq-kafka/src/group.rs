//! [`Group`]: what the thread that polls a consumer shares with its source.
//!
//! The thread alone assigns partitions, and gives their messages in between. So a message that was fetched
//! before a partition was sought never comes behind one that was fetched after it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ezq_core::Error;
use ezq_core::broker::Inbound;
use tokio::sync::Notify;

/// A topic and the number of one of its partitions.
pub(crate) type Partition = (String, i32);

/// What is held of messages that the ingest has not taken. The client itself holds more.
const BUFFER: usize = 2_000;
const BUFFER_BYTES: usize = 8 * 1024 * 1024;

#[derive(Default)]
pub(crate) struct Group {
    state: Mutex<State>,
    /// Something came for the source: messages, partitions or a failure.
    pub(crate) arrived: Notify,
    /// The source took messages, or is to be closed.
    taken: Condvar,
}

/// What the newest rebalance gave this member, and how far it is read.
#[derive(Default)]
pub(crate) struct State {
    /// The partitions that are this member's.
    pub(crate) assigned: Vec<Partition>,
    /// The group has answered, be it with no partition.
    pub(crate) has_joined: bool,
    /// The source has told of the partitions.
    pub(crate) is_told: bool,
    /// The offset of the next message of each partition that was sought.
    pub(crate) next: BTreeMap<Partition, i64>,
    /// The partitions are read. False while some have yet to be sought.
    pub(crate) is_reading: bool,
    messages: VecDeque<Inbound>,
    bytes: usize,
    failure: Option<Error>,
    /// The client refuses all further calls, and must be replaced.
    pub(crate) is_spent: bool,
    pub(crate) is_closing: bool,
    pub(crate) has_closed: bool,
}

impl Group {
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread was told to end.
    pub(crate) fn close(&self) {
        self.lock().is_closing = true;
        self.taken.notify_all();
    }

    /// Takes up to so many messages.
    pub(crate) fn take(&self, state: &mut State, max: usize) -> Vec<Inbound> {
        let count = max.min(state.messages.len());
        let taken: Vec<Inbound> = state.messages.drain(..count).collect();
        let bytes: usize = taken.iter().map(size_of).sum();
        state.bytes = state.bytes.saturating_sub(bytes);
        self.taken.notify_all();
        taken
    }

    /// Waits until there is room for a message, for so long at most. Answers whether there is.
    pub(crate) fn wait_for_room(&self, limit: Duration) -> bool {
        let began = Instant::now();
        let mut state = self.lock();
        while state.is_full() && !state.is_closing {
            let Some(rest) = limit.checked_sub(began.elapsed()) else {
                return false;
            };
            let waited = self.taken.wait_timeout(state, rest);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

impl State {
    fn is_full(&self) -> bool {
        self.messages.len() >= BUFFER || self.bytes >= BUFFER_BYTES
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Begins anew with the partitions of a rebalance.
    pub(crate) fn reassign(&mut self, partitions: Vec<Partition>) {
        self.assigned = partitions;
        self.is_told = false;
        self.next.clear();
        self.stop_reading();
    }

    /// Forgets what was fetched. It is read again from where the source has taken messages.
    pub(crate) fn stop_reading(&mut self) {
        self.is_reading = false;
        self.messages.clear();
        self.bytes = 0;
    }

    /// Whether all partitions were sought and wait to be read.
    pub(crate) fn may_read(&self) -> bool {
        !self.is_reading
            && self.failure.is_none()
            && self.is_told
            && !self.assigned.is_empty()
            && self
                .assigned
                .iter()
                .all(|partition| self.next.contains_key(partition))
    }

    // Beside a partition's `next`, which moves when the source takes the message and not before.
    pub(crate) fn push(&mut self, message: Inbound) {
        self.bytes += size_of(&message);
        self.messages.push_back(message);
    }

    /// Keeps a failure, which the source tells behind the messages that came before it. So records that
    /// cannot be read hold up none that stand before them.
    pub(crate) fn fail(&mut self, error: Error) {
        self.is_reading = false;
        self.failure = Some(error);
    }

    /// The failure, once everything before it was taken.
    pub(crate) fn take_failure(&mut self) -> Option<Error> {
        let is_next = self.messages.is_empty();
        is_next.then(|| self.failure.take()).flatten()
    }
}

fn size_of(message: &Inbound) -> usize {
    let headers = message.headers().iter();
    let headers: usize = headers.map(|(name, value)| name.len() + value.len()).sum();
    message.body().len() + headers
}
