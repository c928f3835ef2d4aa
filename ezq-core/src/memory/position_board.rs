//! What the memory engine keeps of sources, beside its queues.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::Semaphore;

use super::clock::Micros;
use crate::broker::SourcePosition;

/// Positions by source and partition, and the seat of the reader of each source.
#[derive(Debug, Default)]
pub(super) struct PositionBoard {
    /// Each with the time at which it moved.
    pub(super) positions: BTreeMap<(String, String), (Option<SourcePosition>, Micros)>,
    /// A seat that is taken has no permit left.
    pub(super) seats: BTreeMap<String, Arc<Semaphore>>,
}
