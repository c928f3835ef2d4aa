//! Queue names. They are parsed once, at the edge, into the form that the store uses, so that two
//! spellings of a queue's name are one value.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};

/// The suffix of the queue that keeps a queue's dead letters.
pub const DEAD_LETTER_SUFFIX: &str = "_dlq";

/// The longest queue name, in characters. PGMQ's limit.
const LONGEST: usize = 47;

/// The characters that a name may have beside ASCII letters and digits.
const MARKS: [u8; 6] = [b'_', b'-', b'.', b':', b'/', b'@'];

/// The name of a queue: 1 to 47 ASCII letters, digits and `_ - . : / @`, without `--`.
///
/// Case does not matter: names are kept in lower case. In PGMQ `MyQueue` and `myqueue` have the
/// same table too.
///
/// The dead letters of `orders` are in the queue `orders_dlq`. A name of more than 43 characters
/// leaves no room for that suffix; see [`dead_letters`](Self::dead_letters).
///
/// ```
/// use ezq_core::message::QueueName;
///
/// let orders = QueueName::new("Shop.Orders")?;
/// assert_eq!(orders.as_str(), "shop.orders");
/// assert_eq!(orders.dead_letters(), "shop.orders_dlq");
/// # Ok::<(), ezq_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueueName(Arc<str>);

impl QueueName {
    /// Parses a queue name.
    ///
    /// PGMQ accepts more: spaces, quotes, backslashes, letters beyond ASCII. Such names are misread
    /// in logs and statements, or depend on the database's locale.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidQueueName`] for a text that is not such a name.
    pub fn new(name: &str) -> Result<Self> {
        let why = if name.is_empty() {
            "it is empty"
        } else if name.chars().count() > LONGEST {
            "it has more than 47 characters, which PGMQ refuses"
        } else if !name.bytes().all(is_allowed) {
            "use the letters a to z, digits and _ - . : / @"
        } else if name.contains("--") {
            "PGMQ refuses `--`"
        } else {
            return Ok(Self(name.to_ascii_lowercase().into()));
        };

        Err(Error::new(
            ErrorKind::InvalidQueueName,
            format!("`{}` is not a queue name: {why}", name.escape_debug()),
        ))
    }

    /// The name as text, in lower case.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of the queue that keeps this queue's dead letters: the name and `_dlq`.
    ///
    /// If that has more than 47 characters, it is: the first 34 characters of the name, `_`, a hash
    /// of the whole name in eight hexadecimal digits, and `_dlq`.
    #[must_use]
    pub fn dead_letters(&self) -> String {
        let room = LONGEST.saturating_sub(DEAD_LETTER_SUFFIX.len());
        if self.0.len() <= room {
            return format!("{}{DEAD_LETTER_SUFFIX}", self.0);
        }

        // Room for `_` and the eight digits of the hash.
        let begin: String = self.0.chars().take(room.saturating_sub(9)).collect();
        format!("{begin}_{:08x}{DEAD_LETTER_SUFFIX}", hash(&self.0))
    }
}

fn is_allowed(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || MARKS.contains(&byte)
}

/// FNV-1a of 32 bits. Names of stored queues depend on it, so it must never change; it is short,
/// and the same in every language.
fn hash(name: &str) -> u32 {
    name.bytes().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
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

/// For options that keep a queue's name as text until the application is built.
impl From<QueueName> for String {
    fn from(name: QueueName) -> Self {
        name.as_str().to_owned()
    }
}

/// For options that keep a queue's name as text until the application is built.
impl From<&QueueName> for String {
    fn from(name: &QueueName) -> Self {
        name.as_str().to_owned()
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

/// What names a queue: a [`QueueName`], or a text that is one.
///
/// Every method that asks for a queue takes `&str`, `String`, `QueueName` and references to them. A text
/// that is no queue name is an error of kind [`ErrorKind::InvalidQueueName`] where the call is awaited or
/// the application is built. Implement the trait for a type of your own, such as an enum of all queues.
///
/// ```
/// use ezq_core::message::{IntoQueueName, QueueName};
/// use ezq_core::Result;
///
/// enum Queue {
///     Orders,
///     Mail,
/// }
///
/// impl IntoQueueName for Queue {
///     fn into_queue_name(self) -> Result<QueueName> {
///         match self {
///             Self::Orders => "shop.orders".into_queue_name(),
///             Self::Mail => "shop.mail".into_queue_name(),
///         }
///     }
/// }
/// assert_eq!(Queue::Mail.into_queue_name()?.as_str(), "shop.mail");
/// # Ok::<(), ezq_core::Error>(())
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` names no queue",
    label = "not the name of a queue",
    note = "pass `\"orders\"`, a `String`, a `QueueName`, or a reference to one of these"
)]
pub trait IntoQueueName {
    /// The queue's name.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidQueueName`] for a text that is no queue name.
    fn into_queue_name(self) -> Result<QueueName>;
}

impl IntoQueueName for QueueName {
    fn into_queue_name(self) -> Result<QueueName> {
        Ok(self)
    }
}

impl IntoQueueName for &QueueName {
    fn into_queue_name(self) -> Result<QueueName> {
        Ok(self.clone())
    }
}

impl IntoQueueName for &str {
    fn into_queue_name(self) -> Result<QueueName> {
        QueueName::new(self)
    }
}

impl IntoQueueName for String {
    fn into_queue_name(self) -> Result<QueueName> {
        QueueName::new(&self)
    }
}

impl IntoQueueName for &String {
    fn into_queue_name(self) -> Result<QueueName> {
        QueueName::new(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> QueueName {
        QueueName::new(text).unwrap()
    }

    #[test]
    fn takes_the_names_that_are_in_use_with_pgmq() {
        for text in [
            "my-queue",
            "user.events",
            "a:b/c@d",
            "9",
            "_",
            &"a".repeat(47),
        ] {
            assert_eq!(name(text).as_str(), text);
        }
        assert_eq!(name("MyQueue"), name("myqueue"), "they share a table");
    }

    #[test]
    fn refuses_what_is_read_wrongly_somewhere() {
        let refused = [
            "",
            "a;b",
            "a\"b",
            "a'b",
            "a b",
            "a$b",
            "a--b",
            "a\\b",
            "a*/b",
            "a,b",
            "a=b",
            "ä",
            &"a".repeat(48),
        ];
        for text in refused {
            let error = QueueName::new(text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidQueueName, "{text:?}");
        }
    }

    #[test]
    fn the_dead_letters_of_long_names_are_queues_of_their_own() {
        assert_eq!(
            name(&"a".repeat(43)).dead_letters(),
            format!("{}_dlq", "a".repeat(43))
        );
        let long = name(&"a".repeat(44)).dead_letters();
        assert_eq!(long, format!("{}_c3fada01_dlq", "a".repeat(34)));
        assert_ne!(long, name(&"a".repeat(45)).dead_letters());
        assert_eq!(name(&long).as_str(), long, "it is a name itself");
    }
}
