//! Sums of times that cannot overflow, and a worker's estimate of the engine's clock.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::Instant;

/// The instant `pause` after another. A sum that the clock cannot hold is replaced by one decades
/// away, as tokio does for its own timers.
pub(crate) fn later(from: Instant, pause: Duration) -> Instant {
    const DECADES: Duration = Duration::from_secs(30 * 365 * 24 * 3600);
    from.checked_add(pause).unwrap_or_else(|| from + DECADES)
}

/// The time `pause` after another, or the end of the calendar if it cannot hold the sum.
pub(crate) fn after(time: DateTime<Utc>, pause: Duration) -> DateTime<Utc> {
    let pause = TimeDelta::from_std(pause).unwrap_or(TimeDelta::MAX);
    time.checked_add_signed(pause)
        .unwrap_or(DateTime::<Utc>::MAX_UTC)
}

/// A worker's estimate of the engine's clock: the time that a delivery stated, plus what has passed on
/// the worker's monotonic clock since then. Comparing the two wall clocks would trust both.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EngineClock {
    /// The engine's time, as the delivery stated it.
    pub(crate) at: DateTime<Utc>,
    /// When the worker read that.
    pub(crate) read: Instant,
}

impl EngineClock {
    pub(crate) fn now(self) -> DateTime<Utc> {
        after(self.at, self.read.elapsed())
    }
}
