//! A delivery that is ready to be dispatched.

use std::sync::{Arc, Mutex};

use crate::delivery::lane_guard::LaneGuard;
use crate::delivery::received::Received;
use crate::dispatch::admission::{Admission, Suspect};

/// A delivery from when it was read until its handlers have ended, with the rights that it holds in
/// its consumer.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) received: Arc<Received>,
    pub(crate) admission: Arc<Admission>,
    /// Set while it runs, if it may kill its worker.
    pub(crate) suspect: Mutex<Option<Suspect>>,
    /// Set if the delivery has an ordering key and is the first of its lane.
    pub(crate) lane: Option<LaneGuard>,
}

impl Work {
    pub(crate) fn new(received: Received, admission: Arc<Admission>) -> Self {
        Self {
            received: Arc::new(received),
            admission,
            suspect: Mutex::default(),
            lane: None,
        }
    }
}
