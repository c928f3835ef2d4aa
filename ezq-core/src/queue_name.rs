//! Queue names: parsed once at the edge, so that no later layer sees one it would have to quote.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::{Error, ErrorKind, Result};

/// The suffix of the queue that keeps a queue's dead letters.
pub const DEAD_LETTER_SUFFIX: &str = "_dlq";

/// The name of a queue: 1 to 40 of `a` to `z`, `0` to `9` and `_`.
///
/// The limit leaves room for `_dlq` within PGMQ's 47 characters.
///
/// ```
/// use ezq_core::QueueName;
///
/// let orders = QueueName::new("orders")?;
/// assert_eq!(orders.dead_letters(), "orders_dlq");
/// # Ok::<(), ezq_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueueName(Arc<str>);

impl QueueName {
    /// Parses a queue name.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidQueueName`] unless the name is `[a-z0-9_]{1,40}`.
    pub fn new(name: &str) -> Result<Self> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        if (1..=40).contains(&name.len()) && name.bytes().all(allowed) {
            return Ok(Self(name.into()));
        }
        Err(Error::new(
            ErrorKind::InvalidQueueName,
            format!("`{}` is not a queue name: use 1 to 40 of a-z, 0-9 and _", name.escape_debug()),
        ))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of the queue that keeps this queue's dead letters.
    #[must_use]
    pub fn dead_letters(&self) -> String {
        format!("{}{DEAD_LETTER_SUFFIX}", self.0)
    }
}

/// The queue `ezq`.
impl Default for QueueName {
    fn default() -> Self {
        Self("ezq".into())
    }
}

impl fmt::Display for QueueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for QueueName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl FromStr for QueueName {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::new(name)
    }
}

impl TryFrom<&str> for QueueName {
    type Error = Error;

    fn try_from(name: &str) -> Result<Self> {
        Self::new(name)
    }
}

impl TryFrom<String> for QueueName {
    type Error = Error;

    fn try_from(name: String) -> Result<Self> {
        Self::new(&name)
    }
}

impl TryFrom<&QueueName> for QueueName {
    type Error = Error;

    fn try_from(name: &QueueName) -> Result<Self> {
        Ok(name.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_the_longest_name() {
        let longest = "a".repeat(40);
        assert_eq!(QueueName::new(&longest).unwrap().as_str(), longest);
    }

    #[test]
    fn refuses_what_sql_or_pgmq_would_misread() {
        for name in ["", "a;b", "a\"b", "a'b", "a b", "Orders", &"a".repeat(41), "ä", "a-b"] {
            let error = QueueName::new(name).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidQueueName, "{name:?}");
        }
    }
}
