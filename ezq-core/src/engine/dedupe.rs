//! Idempotent publishing: of the messages that have one dedupe key, a queue stores the first.

use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::message::message_id::MessageId;

/// The longest [`Dedupe`] key, in bytes.
pub const DEDUPE_KEY_LIMIT: usize = 255;

/// A key under which a queue stores only one message in a window of time.
///
/// - A key belongs to its queue: other queues do not see it.
/// - It is taken in the step that stores the message. It stays taken until the window ends, whatever
///   becomes of the message.
/// - A message that is refused, or whose transaction rolls back, takes no key.
/// - Of several messages in one batch that have the same key, the first is stored.
///
/// ```
/// use ezq_core::engine::Dedupe;
/// use std::time::Duration;
///
/// let dedupe = Dedupe::new("order-7", Duration::from_secs(3600), "event-1")?;
/// assert_eq!(dedupe.key(), "order-7");
/// assert!(Dedupe::new("", Duration::from_secs(3600), "event-1").is_err());
/// # Ok::<(), ezq_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dedupe {
    key: String,
    window: Duration,
    event_id: String,
}

impl Dedupe {
    /// A dedupe key with the window for which it is taken, and the id of the event that takes it.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidEvent`] for a key that is empty, longer than [`DEDUPE_KEY_LIMIT`] or
    /// contains a NUL character, and for a window of zero.
    pub fn new(
        key: impl Into<String>,
        window: Duration,
        event_id: impl Into<String>,
    ) -> Result<Self> {
        let key = key.into();
        let wrong = |why: &str| Err(Error::new(ErrorKind::InvalidEvent, why));
        if key.is_empty() {
            return wrong("the dedupe key is empty");
        }
        if key.len() > DEDUPE_KEY_LIMIT {
            let length = key.len();
            return wrong(&format!(
                "the dedupe key takes {length} bytes, more than {DEDUPE_KEY_LIMIT}: use a hash of \
                 it"
            ));
        }
        // Postgres keeps no NUL in text.
        if key.contains('\0') {
            return wrong("the dedupe key holds a NUL character");
        }
        if window.is_zero() {
            return wrong("the dedupe window must be longer than zero");
        }

        Ok(Self {
            key,
            window,
            event_id: event_id.into(),
        })
    }

    /// The key.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// How long the key is taken, by the engine's clock.
    #[must_use]
    pub fn window(&self) -> Duration {
        self.window
    }

    /// The id of the event that takes the key. A later duplicate gets it as [`Original::event_id`].
    #[must_use]
    pub fn event_id(&self) -> &str {
        &self.event_id
    }
}

/// The message that took a dedupe key first.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Original {
    /// The id of the message, which may have been handled and removed since.
    pub message_id: MessageId,
    /// The id of its event.
    pub event_id: String,
}

impl Original {
    /// A message with the id of its event.
    #[must_use]
    pub fn new(message_id: MessageId, event_id: impl Into<String>) -> Self {
        Self {
            message_id,
            event_id: event_id.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_no_engine_should_have_to_keep() {
        let hour = Duration::from_secs(3600);
        let long = "ä".repeat(128);
        let wrong = [
            ("", hour),
            (&*long, hour),
            ("a\0b", hour),
            ("a", Duration::ZERO),
        ];
        for (key, window) in wrong {
            let error = Dedupe::new(key, window, "1").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidEvent, "{key:?}");
        }
        Dedupe::new("x".repeat(DEDUPE_KEY_LIMIT), hour, "1").unwrap();
    }
}
