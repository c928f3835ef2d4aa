//! Times that cannot overflow, and the engine's clock as a worker can tell it.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::Instant;

/// So long after an instant; what the clock cannot hold is decades away.
pub(crate) fn later(from: Instant, pause: Duration) -> Instant {
    const DECADES: Duration = Duration::from_secs(30 * 365 * 24 * 3600);
    from.checked_add(pause).unwrap_or_else(|| from + DECADES)
}

/// So long after a time; what the calendar cannot hold is its end.
pub(crate) fn after(time: DateTime<Utc>, pause: Duration) -> DateTime<Utc> {
    let pause = TimeDelta::from_std(pause).unwrap_or(TimeDelta::MAX);
    time.checked_add_signed(pause)
        .unwrap_or(DateTime::<Utc>::MAX_UTC)
}

/// The engine's clock as a worker can tell it: what the delivery said, and what passed since then
/// on the worker's own monotonic clock.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EngineClock {
    pub(crate) at: DateTime<Utc>,
    pub(crate) read: Instant,
}

impl EngineClock {
    pub(crate) fn now(self) -> DateTime<Utc> {
        after(self.at, self.read.elapsed())
    }
}
