//! A delivery that was read and not started yet.

use crate::consumer::workload::lane_guard::LaneGuard;
use crate::dispatch::work::Work;
use crate::engine::{Position, Receipt};

/// A delivery that was read and waits to be started.
pub(crate) struct PendingDelivery {
    pub(crate) receipt: Receipt,
    pub(crate) position: Position,
    pub(crate) work: Work,
    /// Set if the delivery has an ordering key and is the first of its lane.
    pub(crate) lane: Option<LaneGuard>,
}
