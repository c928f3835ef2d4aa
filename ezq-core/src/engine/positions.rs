//! The positions up to which the messages of sources are stored: optional for an engine.

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::Outgoing;
use crate::broker::SourcePosition;
use crate::error::Result;
use crate::message::headers::Headers;
use crate::message::queue_name::QueueName;
use crate::message::settlement::Reason;

/// Stores the messages of brokers, each once. The position of a partition changes in the step that stores
/// its messages, and in no other.
///
/// A partition is known by the name of its source and its own.
#[async_trait]
pub trait Positions: Send + Sync {
    /// The position up to which a partition is stored; `None` if nothing of it is.
    ///
    /// # Errors
    /// When the store could not be asked.
    async fn position(&self, source: &str, partition: &str) -> Result<Option<SourcePosition>>;

    /// Notes where a partition begins, unless it is known already. Answers the position that is stored.
    /// [`store`](Self::store) needs this first.
    ///
    /// # Errors
    /// When the store could not be written.
    async fn begin(
        &self,
        source: &str,
        partition: &str,
        at: Option<SourcePosition>,
    ) -> Result<Option<SourcePosition>>;

    /// In one step: leaves out the messages at or before the stored position of their partition, stores the
    /// others in their order, and moves the positions to the last of them. It waits for others who store
    /// messages of these partitions.
    ///
    /// Answers one outcome for each batch, in their order. If one of them is
    /// [set back](StoredBatch::SetBack), nothing of any batch is stored.
    ///
    /// # Errors
    /// When it is not known whether anything was stored; then all of it was, or nothing.
    /// [`ErrorKind::InvalidEvent`](crate::ErrorKind::InvalidEvent) or
    /// [`ErrorKind::TooLarge`](crate::ErrorKind::TooLarge) if the store cannot keep one of the messages:
    /// then nothing was.
    async fn store(&self, source: &str, batches: &[SourceBatch]) -> Result<Vec<StoredBatch>>;

    /// Makes this process the one that reads a source, for as long as it keeps the answer; `None` while
    /// another one does.
    ///
    /// # Errors
    /// When the store could not be asked.
    async fn elect_reader(&self, source: &str) -> Result<Option<Box<dyn SourceReader>>>;

    /// All positions, by source and partition.
    ///
    /// # Errors
    /// When the store could not be asked.
    async fn list(&self) -> Result<Vec<StoredPosition>>;
}

/// That this process reads a source, and no other does.
#[async_trait]
pub trait SourceReader: Send {
    /// Makes sure that it still does.
    ///
    /// # Errors
    /// When it does not, or that is not known.
    async fn confirm(&mut self) -> Result<()>;
}

/// Messages of one partition that follow each other.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SourceBatch {
    /// The partition.
    pub partition: String,
    /// The position that the first message follows.
    pub after: Option<SourcePosition>,
    /// The messages, in the order of their positions.
    pub messages: Vec<(SourcePosition, Ingested)>,
}

impl SourceBatch {
    /// Messages that follow a position.
    #[must_use]
    pub fn new(
        partition: impl Into<String>,
        after: Option<SourcePosition>,
        messages: Vec<(SourcePosition, Ingested)>,
    ) -> Self {
        Self {
            partition: partition.into(),
            after,
            messages,
        }
    }
}

impl SourceBatch {
    /// The messages behind the position that is stored, which are the new ones.
    #[must_use]
    pub fn after_stored(&self, position: Option<SourcePosition>) -> &[(SourcePosition, Ingested)] {
        let known = self
            .messages
            .partition_point(|(found, _)| Some(*found) <= position);
        self.messages.get(known..).unwrap_or_default()
    }
}

/// What a broker's message becomes.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Ingested {
    /// A message of a queue.
    Message(Outgoing),
    /// A dead letter of a queue.
    DeadLetter {
        /// The queue.
        queue: QueueName,
        /// The body that is kept.
        body: String,
        /// The headers that are kept.
        headers: Headers,
        /// Why it is no message of the queue.
        reason: Reason,
    },
}

/// What became of a [`SourceBatch`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoredBatch {
    /// All of it is stored.
    Stored {
        /// How many of its messages were new.
        new: usize,
        /// The position up to which the partition is stored.
        position: Option<SourcePosition>,
    },
    /// The stored position is before the one that the batch follows: somebody set it back. Nothing was
    /// stored, because messages would be left out.
    SetBack {
        /// The position up to which the partition is stored.
        position: Option<SourcePosition>,
    },
}

impl StoredBatch {
    /// Whether nothing was stored because the position was set back.
    #[must_use]
    pub fn is_set_back(&self) -> bool {
        matches!(self, Self::SetBack { .. })
    }
}

/// How far a partition of a source is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoredPosition {
    /// The name of the source.
    pub source: String,
    /// The partition.
    pub partition: String,
    /// The position of the last message that is stored.
    pub position: Option<SourcePosition>,
    /// When it last moved, by the engine's clock.
    pub moved_at: DateTime<Utc>,
}

impl StoredPosition {
    /// How far a partition is stored.
    #[must_use]
    pub fn new(
        source: impl Into<String>,
        partition: impl Into<String>,
        position: Option<SourcePosition>,
        moved_at: DateTime<Utc>,
    ) -> Self {
        Self {
            source: source.into(),
            partition: partition.into(),
            position,
            moved_at,
        }
    }
}
