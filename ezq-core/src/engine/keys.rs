//! Ordering keys as an operator sees them: which of them wait, and for what.

use chrono::{DateTime, Utc};

use crate::message::message_id::MessageId;

/// An ordering key whose first message cannot be handed out at present, while others wait behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BlockedKey {
    /// The key.
    pub key: String,
    /// The id of the first message of the key.
    pub head: MessageId,
    /// Why the first message cannot be handed out.
    pub blocker: Blocker,
    /// When this ends by itself: the end of the lease, of the pause before the retry, or of the delay.
    pub until: DateTime<Utc>,
    /// How many messages of the key wait behind the first.
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

/// Why the first message of an ordering key cannot be handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Blocker {
    /// A worker holds a message of the key.
    Leased,
    /// The first message was given back, and waits for its next attempt.
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
