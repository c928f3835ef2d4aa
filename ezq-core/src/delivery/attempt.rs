//! One handler's attempt at a delivery.

use std::sync::Arc;

use crate::delivery::received::Received;

/// One handler's attempt at a delivery.
#[derive(Debug, Clone)]
pub(crate) struct Attempt {
    pub(crate) received: Arc<Received>,
    /// From 1. An attempt that a crash cut short is not counted.
    pub(crate) number: u32,
}
