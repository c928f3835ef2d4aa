//! The dedupe keys of one queue, each until its window ends.

use std::collections::{BTreeSet, HashMap};

use super::clock::{self, Micros};
use crate::engine::{Dedupe, MessageId, Original};

#[derive(Debug, Default)]
pub(super) struct DedupeKeys {
    taken: HashMap<String, Original>,
    // (end, key) of every key taken.
    ends: BTreeSet<(Micros, String)>,
}

impl DedupeKeys {
    /// The message that holds a key. What ended by now is forgotten.
    pub(super) fn taken(&mut self, key: &str, now: Micros) -> Option<Original> {
        while self.ends.first().is_some_and(|(end, _)| *end <= now) {
            if let Some((_, ended)) = self.ends.pop_first() {
                self.taken.remove(&ended);
            }
        }
        self.taken.get(key).cloned()
    }

    /// Takes a key that nobody holds.
    pub(super) fn take(&mut self, dedupe: &Dedupe, message_id: MessageId, now: Micros) {
        let (key, event_id) = (dedupe.key().to_owned(), dedupe.event_id().to_owned());
        self.ends
            .insert((clock::after(now, dedupe.window()), key.clone()));
        self.taken.insert(
            key,
            Original {
                message_id,
                event_id,
            },
        );
    }
}
