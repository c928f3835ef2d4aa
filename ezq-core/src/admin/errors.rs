//! Errors of a queue, grouped by what failed: with counts, times and an example each.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use crate::admin::dead_letters::DeadLetterFilter;
use crate::engine::{EventFilter, Failure, FailureKey, Failures};
use crate::message::message_id::MessageId;

/// How many dead letters, and how many events that wait for another attempt, are looked at.
pub(crate) const ERRORS_SCANNED: usize = 10_000;

/// The errors of a queue, grouped. Get them by [`Events::errors`](crate::admin::Events::errors).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ErrorGroups {
    /// The groups, those with most events first.
    pub groups: Vec<ErrorGroup>,
    /// How many more groups there are than were asked for.
    pub left_out: usize,
    /// Whether every event was looked at. Otherwise the counts are those of the newest 10,000 dead letters
    /// and of the 10,000 events that are due next.
    pub is_complete: bool,
}

/// Events that failed alike.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ErrorGroup {
    /// The handler, and the error without what belongs to one event.
    pub key: FailureKey,
    /// How many of them are dead letters.
    pub dead: u64,
    /// How many wait for another attempt.
    pub retrying: u64,
    /// When the first of them failed, of those that were looked at.
    pub first_at: DateTime<Utc>,
    /// When the last of them failed.
    pub last_at: DateTime<Utc>,
    /// The error of the newest of them, whole.
    pub example: String,
    /// The id of the newest dead letter of them.
    pub letter: Option<MessageId>,
    /// The id of the newest of them that waits for another attempt.
    pub message: Option<MessageId>,
}

impl ErrorGroup {
    fn of(failure: &Failure) -> Self {
        Self {
            key: FailureKey::new(failure.handler.clone(), &failure.error),
            dead: 0,
            retrying: 0,
            first_at: failure.first_at,
            last_at: failure.last_at,
            example: failure.error.clone(),
            letter: None,
            message: None,
        }
    }

    /// How many events it has.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.dead.saturating_add(self.retrying)
    }

    /// Selects the events of this group, in the pages of [`Events`](crate::admin::Events).
    #[must_use]
    pub fn filter(&self) -> EventFilter {
        EventFilter::all().failure(self.key.clone())
    }

    /// Selects the dead letters of this group, to redrive or discard them.
    #[must_use]
    pub fn dead_letters(&self) -> DeadLetterFilter {
        DeadLetterFilter::all().failure(self.key.clone())
    }

    /// Adds failures that are no older than those before them.
    fn add(&mut self, failure: Failure) {
        let (count, example) = match failure.is_dead {
            true => (&mut self.dead, &mut self.letter),
            false => (&mut self.retrying, &mut self.message),
        };
        *count = count.saturating_add(failure.count);
        *example = Some(failure.example);
        self.example = failure.error;
        self.first_at = self.first_at.min(failure.first_at);
        self.last_at = failure.last_at;
    }
}

impl ErrorGroups {
    /// Groups failures, and keeps so many groups.
    pub(crate) fn of(mut failures: Failures, limit: usize) -> Self {
        failures.found.sort_by_key(|failure| failure.last_at);
        let mut by_key: BTreeMap<FailureKey, ErrorGroup> = BTreeMap::new();
        for failure in failures.found {
            let group = ErrorGroup::of(&failure);
            by_key
                .entry(group.key.clone())
                .or_insert(group)
                .add(failure);
        }

        let mut groups: Vec<ErrorGroup> = by_key.into_values().collect();
        groups.sort_by_key(|group| Reverse((group.count(), group.last_at)));
        let left_out = groups.len().saturating_sub(limit);
        groups.truncate(limit);
        Self {
            groups,
            left_out,
            is_complete: failures.is_complete,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(n: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + chrono::Duration::seconds(n)
    }

    fn failed(error: &str, is_dead: bool, at: i64) -> Failure {
        let handler = Some("mail".into());
        Failure::new(handler, error, is_dead, second(at), MessageId::Number(at))
    }

    #[test]
    fn alike_failures_are_one_group_and_the_largest_comes_first() {
        let failures = Failures::new(
            vec![
                failed("sold out", true, 9),
                failed("no route to 1", true, 5),
                failed("no route to 2", false, 7).since(4, second(2)),
                failed("no route to 3", true, 3),
                failed("gone", false, 1),
            ],
            false,
        );

        let errors = ErrorGroups::of(failures, 2);
        assert_eq!((errors.left_out, errors.is_complete), (1, false));
        let [routes, sold] = &errors.groups[..] else {
            panic!("{errors:?}")
        };
        assert_eq!(routes.key.error, "no route to #");
        assert_eq!((routes.dead, routes.retrying, routes.count()), (2, 4, 6));
        assert_eq!((routes.first_at, routes.last_at), (second(2), second(7)));
        assert_eq!(routes.example, "no route to 2");
        assert_eq!(routes.letter, Some(MessageId::Number(5)));
        assert_eq!(routes.message, Some(MessageId::Number(7)));
        // Of equal ones, the one that failed last.
        assert_eq!(sold.key.error, "sold out");
    }
}
