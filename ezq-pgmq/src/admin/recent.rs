//! Answers about large queues, which are given again for a while: counting one reads all of it, and some
//! ask several times a second.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ezq_core::message::QueueName;

/// An answer that took t is given again for so many times t.
const SHARE: u32 = 10;
/// Smaller tables are asked each time, so that an answer is never older than what its asker did.
const LARGE: i64 = 8 << 20;

/// The latest answers, by queue.
#[derive(Debug)]
pub(crate) struct Recent<T>(Mutex<HashMap<QueueName, (T, Instant)>>);

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

/// An answer, and the size of the table that it is about, in bytes.
pub(crate) struct Answer<T> {
    pub(crate) value: T,
    pub(crate) bytes: i64,
}

impl<T: Clone> Recent<T> {
    /// The answer that is still given for a queue.
    pub(crate) fn of(&self, queue: &QueueName) -> Option<T> {
        let mut answers = self.answers();
        let (answer, until) = answers.get(queue)?;
        if Instant::now() < *until {
            return Some(answer.clone());
        }
        answers.remove(queue);
        None
    }

    /// Keeps an answer for as long as it is to be given, and returns it.
    pub(crate) fn keep(&self, queue: &QueueName, answer: Answer<T>, took: Duration) -> T {
        if answer.bytes > LARGE {
            let until = Instant::now() + took.saturating_mul(SHARE);
            let kept = (answer.value.clone(), until);
            self.answers().insert(queue.clone(), kept);
        }
        answer.value
    }

    /// Has the queue asked again: it was changed here.
    pub(crate) fn forget(&self, queue: &QueueName) {
        self.answers().remove(queue);
    }

    fn answers(&self) -> MutexGuard<'_, HashMap<QueueName, (T, Instant)>> {
        // Each step leaves the map whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_answers_about_large_tables_are_given_again_and_only_for_a_while() {
        let queue = QueueName::new("orders").unwrap();
        let recent = Recent::default();
        let answer = |value, bytes| Answer { value, bytes };
        let minute = Duration::from_secs(60);

        assert_eq!(recent.keep(&queue, answer(1, LARGE), minute), 1);
        assert_eq!(recent.of(&queue), None);
        assert_eq!(recent.keep(&queue, answer(2, LARGE + 1), Duration::ZERO), 2);
        assert_eq!(recent.of(&queue), None);
        assert_eq!(recent.keep(&queue, answer(3, LARGE + 1), minute), 3);
        assert_eq!(recent.of(&queue), Some(3));

        recent.forget(&queue);
        assert_eq!(recent.of(&queue), None);
    }
}
