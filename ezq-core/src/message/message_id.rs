//! The id of a stored message.

use std::fmt;
use std::hash::{Hash, Hasher};

use chrono::{DateTime, Utc};

/// The id that an engine gave a stored message.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum MessageId {
    /// A number, of a store that issues each number once. Made by hand, from a number that was
    /// written down, it means whichever message has the number now.
    Number(i64),
    /// A number that the store may issue again, as PGMQ does after a fail-over to a replica that
    /// lags, and after a crash to an unlogged queue. Only number and time together mean one message.
    Dated {
        /// The number.
        number: i64,
        /// When the message was stored, on the engine's clock.
        stored_at: DateTime<Utc>,
    },
    /// Text, as log-shaped stores give.
    Text(std::sync::Arc<str>),
    /// None yet: the message was published inside a handler's transaction, and is stored when that
    /// commits. Or none at all, for an event that is dispatched inline.
    Pending,
}

/// Of a dated id by its number alone, which hardly ever means two messages: a consumer looks each of
/// its deliveries up several times.
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
    /// The number, if it is one.
    #[must_use]
    pub fn as_number(&self) -> Option<i64> {
        match self {
            Self::Number(number) | Self::Dated { number, .. } => Some(*number),
            Self::Text(_) | Self::Pending => None,
        }
    }

    /// When the message was stored, if the id tells.
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
