//! Ordering keys as an operator sees them: which one waits, and for what.

use chrono::{DateTime, Utc};

use super::MessageId;

/// An ordering key whose first message cannot be handed out just now, while others wait behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BlockedKey {
    /// The key.
    pub key: String,
    /// The first message of the key.
    pub head: MessageId,
    /// What keeps it from being handed out.
    pub blocker: Blocker,
    /// When that ends by itself: the lease, the pause before the retry, or the delay.
    pub until: DateTime<Utc>,
    /// How many messages wait behind the first.
    pub waiting: u64,
}

impl BlockedKey {
    /// A blocked key, for engines.
    #[must_use]
    pub fn new(
        key: impl Into<String>,
        head: MessageId,
        blocker: Blocker,
        until: DateTime<Utc>,
        waiting: u64,
    ) -> Self {
        Self {
            key: key.into(),
            head,
            blocker,
            until,
            waiting,
        }
    }
}

/// What keeps an ordering key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Blocker {
    /// A worker has a message of the key.
    Leased,
    /// The first message failed and waits for its next attempt.
    Retry,
    /// The first message is not due yet and was never delivered.
    Delayed,
}

impl std::fmt::Display for Blocker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Leased => "leased",
            Self::Retry => "retry",
            Self::Delayed => "delayed",
        })
    }
}
