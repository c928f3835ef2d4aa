//! The status of an event in one word, as an outbox table would show it, and its last error.

use std::fmt;

use super::copies::{CopyState, EventCopy, History};

/// The status of an event. A greater status means that more is wrong or left to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum EventStatus {
    /// It was handled, and an archive or a trail shows it.
    Handled,
    /// It was published and not delivered yet: it is not due, or no worker has taken it.
    Pending,
    /// A worker holds it.
    Processing,
    /// It was given back, and will be tried again.
    Retrying,
    /// It is a dead letter, and is not tried again unless it is redriven.
    Failed,
}

impl fmt::Display for EventStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Handled => "handled",
            Self::Pending => "pending",
            Self::Processing => "processing",
            Self::Retrying => "retrying",
            Self::Failed => "failed",
        })
    }
}

impl History {
    /// The status of the event: the greatest status of its copies, so it is handled when every copy is.
    ///
    /// `None` if nothing is kept of it: it was never published, or it was handled and its queue keeps
    /// neither an archive nor a trail.
    ///
    /// ```
    /// # use ezq_core::app::App;
    /// # use ezq_core::engine::EventStatus;
    /// # use ezq_core::event::Event;
    /// # use ezq_core::memory::MemoryEngine;
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Serialize, Deserialize)] struct Paid { order: i64 }
    /// # impl Event for Paid { const TYPE: &'static str = "order.paid"; }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> ezq_core::Result<()> {
    /// # let app = App::builder().without_discovered_handlers().build(MemoryEngine::new())?;
    /// let paid = app.publish(&Paid { order: 7 }).await?;
    /// let history = app.history(paid.event_id).await?;
    /// assert_eq!(history.status(), Some(EventStatus::Pending));
    /// assert_eq!(history.last_error(), None);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn status(&self) -> Option<EventStatus> {
        self.copies.iter().map(EventCopy::status).max()
    }

    /// The newest error of the copy that decides the [`status`](Self::status); if that copy has none,
    /// an error of another copy.
    #[must_use]
    pub fn last_error(&self) -> Option<&str> {
        let worst = self.copies.iter().max_by_key(|copy| copy.status());
        worst
            .and_then(EventCopy::last_error)
            .or_else(|| self.copies.iter().find_map(EventCopy::last_error))
    }
}

impl EventCopy {
    /// The status of this copy.
    #[must_use]
    pub fn status(&self) -> EventStatus {
        match self.state {
            CopyState::Waiting { .. } => EventStatus::Pending,
            CopyState::Leased { .. } => EventStatus::Processing,
            CopyState::Retrying { .. } => EventStatus::Retrying,
            CopyState::Archived { .. } | CopyState::Handled { .. } => EventStatus::Handled,
            CopyState::Dead { .. } => EventStatus::Failed,
        }
    }

    /// The cause of death of a dead letter. For any other copy, the newest error of its handlers, or
    /// else the cause of the death from which it was redriven.
    #[must_use]
    pub fn last_error(&self) -> Option<&str> {
        if let CopyState::Dead {
            reason: Some(reason),
            ..
        } = &self.state
        {
            return Some(&reason.error);
        }

        let errors = self.handlers.0.values().flat_map(|mark| &mark.errors);
        let newest = errors.max_by_key(|record| record.at);
        newest
            .map(|record| record.error.as_str())
            .or_else(|| Some(self.died_before.as_ref()?.reason.as_ref()?.error.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, Utc};

    use super::*;
    use crate::message::headers::Headers;
    use crate::message::message_id::MessageId;
    use crate::message::queue_name::QueueName;
    use crate::message::settlement::{ErrorRecord, HandlerMark, HandlerName, HandlerState};

    fn second(n: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + chrono::Duration::seconds(n)
    }

    /// A copy whose handlers failed with these errors at these seconds.
    fn copy(state: CopyState, errors: &[(&'static str, i64)]) -> EventCopy {
        let queue = QueueName::default();
        let mut copy = EventCopy::new(
            &queue,
            MessageId::Number(1),
            second(0),
            &Headers::new(),
            state,
        );
        for (index, (error, at)) in errors.iter().enumerate() {
            let errors = vec![ErrorRecord {
                attempt: 1,
                at: second(*at),
                error: (*error).into(),
            }];
            let state = HandlerState::Retry;
            let mark = HandlerMark {
                state,
                reason: None,
                attempts: 1,
                due: None,
                errors,
                held: None,
            };
            copy.handlers
                .0
                .insert(HandlerName::from(format!("h{index}").as_str()), mark);
        }
        copy
    }

    #[test]
    fn the_last_error_is_the_newest_of_all_handlers() {
        let state = CopyState::Retrying { due: second(99) };
        let history = History::new("e", second(9), vec![copy(state, &[("old", 3), ("new", 7)])]);
        assert_eq!(history.last_error(), Some("new"));
    }

    #[test]
    fn the_last_error_is_that_of_the_copy_with_most_amiss() {
        let archived = copy(CopyState::Archived { at: second(8) }, &[("long gone", 9)]);
        let retrying = copy(CopyState::Retrying { due: second(99) }, &[("of now", 5)]);
        let history = History::new("e", second(9), vec![archived, retrying]);
        assert_eq!(history.status(), Some(EventStatus::Retrying));
        assert_eq!(history.last_error(), Some("of now"));
    }
}
