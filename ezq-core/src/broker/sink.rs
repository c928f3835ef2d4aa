//! [`Sink`]: where events go that leave ezq.

use std::time::Duration;

use async_trait::async_trait;

use crate::broker::Outbound;
use crate::error::{Error, Result};

/// A broker that takes events. It is shared: every method may be called concurrently.
///
/// ```
/// use std::sync::Mutex;
///
/// use ezq_core::async_trait;
/// use ezq_core::broker::{Outbound, SendOutcome, Sink, SinkCapabilities};
///
/// /// Appends events to a file, a line each.
/// struct FileSink {
///     capabilities: SinkCapabilities,
///     file: Mutex<std::fs::File>,
/// }
///
/// #[async_trait]
/// impl Sink for FileSink {
///     fn capabilities(&self) -> &SinkCapabilities {
///         &self.capabilities
///     }
///
///     async fn send(&self, batch: &[Outbound]) -> ezq_core::Result<Vec<SendOutcome>> {
///         use std::io::Write as _;
///
///         let mut lines = Vec::new();
///         for message in batch {
///             lines.extend(message.structured()?);
///             lines.push(b'\n');
///         }
///         let failed = |error| {
///             let kind = ezq_core::ErrorKind::Transient;
///             ezq_core::Error::new(kind, "the file cannot be written").with_source(error)
///         };
///         let mut file = self.file.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
///         file.write_all(&lines).and_then(|()| file.sync_data()).map_err(failed)?;
///         Ok(batch.iter().map(|_| SendOutcome::Sent).collect())
///     }
/// }
/// ```
#[async_trait]
pub trait Sink: Send + Sync + 'static {
    /// What the broker can do. It must not change.
    fn capabilities(&self) -> &SinkCapabilities;

    /// Sends messages, in their order, and answers one outcome each, in their order. It answers when the
    /// broker has stored them as durably as the sink promises.
    ///
    /// A message that the broker refuses harms no other. With [`SinkCapabilities::ordered`], a message
    /// that fails takes those of its key that stand behind it along: they are not sent.
    ///
    /// # Errors
    /// When nothing is known to be stored, such as when the broker cannot be reached. Some messages may
    /// be stored all the same, so sending them again may duplicate them.
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open which messages the broker has stored.
    async fn send(&self, batch: &[Outbound]) -> Result<Vec<SendOutcome>>;

    /// Checks whether the broker answers. By default it does.
    ///
    /// # Errors
    /// What keeps the broker from answering.
    async fn health_check(&self) -> Result<()> {
        Ok(())
    }

    /// Closes connections. What is stored stays. By default it does nothing.
    async fn close(&self) {}
}

/// What became of a message that was sent.
#[derive(Debug)]
#[non_exhaustive]
pub enum SendOutcome {
    /// The broker has stored it.
    Sent,
    /// The broker will never take it, such as one that is too large. It becomes a dead letter.
    Rejected(Error),
    /// It is not known to be stored. It is sent again, which may duplicate it.
    Failed(Error),
}

/// What a broker can do.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SinkCapabilities {
    /// The sink's name in logs and errors.
    pub name: &'static str,
    /// Messages of one key are stored in the order in which they are sent. A batch may then hold several of
    /// a key.
    pub ordered: bool,
    /// The broker drops a second message with the same id within this time. `None` if it stores both.
    pub dedupe: Option<Duration>,
    /// The largest message that the broker takes, in bytes; `None` if it is not known.
    pub max_message: Option<usize>,
}

impl SinkCapabilities {
    /// The capabilities of a sink that can do nothing optional.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Self {
            name,
            ordered: false,
            dedupe: None,
            max_message: None,
        }
    }

    /// Messages of one key are stored in the order in which they are sent.
    #[must_use]
    pub const fn ordered(mut self) -> Self {
        self.ordered = true;
        self
    }

    /// The broker drops a second message with the same id within this time.
    #[must_use]
    pub const fn dedupe(mut self, window: Duration) -> Self {
        self.dedupe = Some(window);
        self
    }

    /// The largest message that the broker takes, in bytes.
    #[must_use]
    pub const fn max_message(mut self, bytes: usize) -> Self {
        self.max_message = Some(bytes);
        self
    }
}
