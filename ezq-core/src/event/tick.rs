//! The event that a schedule publishes.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// One firing of a schedule, which the function of `#[on_schedule]` gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Tick {
    /// The name of the schedule.
    pub schedule: String,
    /// When the tick was due, by the engine's clock; for a firing by hand, when that was.
    pub due: DateTime<Utc>,
    /// When the tick that fired before this one was due. This tick is for the time in between, also if
    /// ticks were missed.
    pub previous: Option<DateTime<Utc>>,
}
