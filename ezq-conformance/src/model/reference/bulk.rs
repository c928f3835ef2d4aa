//! What is done to all messages in a state.

use super::{Reference, count};
use crate::model::operation::When;

impl Reference {
    /// Removes every message that can be handed out. Returns how many there were.
    pub(in crate::model) fn discard_ready(&mut self, queue: usize) -> u64 {
        let now = self.now.moment();
        let held = self.messages.len();
        // A receipt of a removed message settles nothing any more.
        self.messages
            .retain(|message| message.queue != queue || message.due.moment() > now);
        count(held - self.messages.len())
    }

    /// Makes messages due that are not: those that were returned, or those that were never delivered.
    /// Returns how many there were.
    pub(in crate::model) fn retry_now(&mut self, queue: usize, is_returned: bool) -> u64 {
        let due = self.due(When::Now, None);
        let now = self.now.moment();
        let later = self
            .messages
            .iter_mut()
            .filter(|message| message.queue == queue && message.due.moment() > now);
        let mut made_due = 0;
        for message in later {
            let is_meant = match is_returned {
                // What a worker has was delivered once more than it was returned.
                true => message.deliveries > 0 && message.returned >= message.deliveries,
                false => message.deliveries == 0,
            };
            // Those that one call makes due may stand in any order.
            if is_meant {
                message.due = due;
                made_due += 1;
            }
        }
        made_due
    }
}
