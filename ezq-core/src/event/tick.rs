//! The event that a schedule publishes.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// One firing of a schedule, as the function of `#[on_schedule]` gets it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Tick {
    /// The schedule's name.
    pub schedule: String,
    /// When it was due, on the engine's clock; of one that was run by hand, when that was.
    pub due: DateTime<Utc>,
    /// When the tick before it was due that fired. What lies between is what this one is for, also
    /// where ticks were missed.
    pub previous: Option<DateTime<Utc>>,
}
