//! The id of a stored message.

use std::fmt;
use std::hash::{Hash, Hasher};

use chrono::{DateTime, Utc};

/// The id that an engine gives to a stored message.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum MessageId {
    /// A number, from a store that issues each number once. If you make one by hand, from a number
    /// that you wrote down, it means whichever message has that number now.
    Number(i64),
    /// A number that the store may issue again. PGMQ does so after a fail-over to a replica that
    /// lags, and in an unlogged queue after a crash. Number and time together identify one message.
    Dated {
        /// The number.
        number: i64,
        /// When the message was stored, by the engine's clock.
        stored_at: DateTime<Utc>,
    },
    /// Text, for stores whose ids are not numbers.
    Text(std::sync::Arc<str>),
    /// No id. A message that was published in a handler's transaction gets one when that commits;
    /// an event that is dispatched inline never gets one.
    Pending,
}

/// A dated id hashes its number only, which rarely means two messages. A consumer looks each
/// delivery up several times, so hashing must be cheap.
impl Hash for MessageId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            Self::Number(number) | Self::Dated { number, .. } => number.hash(state),
            Self::Text(text) => text.hash(state),
            Self::Pending => {}
        }
    }
}

impl MessageId {
    /// The number, if the id has one.
    #[must_use]
    pub fn as_number(&self) -> Option<i64> {
        match self {
            Self::Number(number) | Self::Dated { number, .. } => Some(*number),
            Self::Text(_) | Self::Pending => None,
        }
    }

    /// When the message was stored, if the id says so.
    #[must_use]
    pub fn stored_at(&self) -> Option<DateTime<Utc>> {
        match self {
            Self::Dated { stored_at, .. } => Some(*stored_at),
            Self::Number(_) | Self::Text(_) | Self::Pending => None,
        }
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) | Self::Dated { number, .. } => number.fmt(f),
            Self::Text(text) => text.fmt(f),
            Self::Pending => f.write_str("pending"),
        }
    }
}
