//! The dedupe keys of one queue, each kept until its window ends.

use std::collections::{BTreeSet, HashMap};

use super::clock::{self, Micros};
use crate::engine::{Dedupe, Original};
use crate::message::message_id::MessageId;

#[derive(Debug, Default)]
pub(super) struct DedupeKeys {
    taken: HashMap<String, Original>,
    /// The end of each key's window, to find those that have ended without a search.
    ends: BTreeSet<(Micros, String)>,
}

impl DedupeKeys {
    /// The message that has taken a key, if its window has not ended. Keys whose windows have ended are
    /// removed.
    pub(super) fn taken(&mut self, key: &str, now: Micros) -> Option<Original> {
        // No task removes keys: those that have ended go when the queue is asked for one.
        while self.ends.first().is_some_and(|(end, _)| *end <= now) {
            if let Some((_, ended)) = self.ends.pop_first() {
                self.taken.remove(&ended);
            }
        }
        self.taken.get(key).cloned()
    }

    /// Takes a key that is free.
    pub(super) fn take(&mut self, dedupe: &Dedupe, message_id: MessageId, now: Micros) {
        let key = dedupe.key().to_owned();
        let end = clock::after(now, dedupe.window());
        let original = Original {
            message_id,
            event_id: dedupe.event_id().to_owned(),
        };
        self.ends.insert((end, key.clone()));
        self.taken.insert(key, original);
    }
}
