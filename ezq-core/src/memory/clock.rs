//! The clock of the memory engine: the wall clock at its creation, moved by tokio's monotonic clock.
//!
//! Times are whole microseconds since the epoch, as Postgres keeps them. Finer times are rounded up, so
//! that nothing falls due early.

use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::Instant;

use crate::engine::Due;

/// A time in microseconds since the epoch.
pub(super) type Micros = i64;

#[derive(Debug)]
pub(super) struct Clock {
    wall: Micros,
    since: Instant,
}

impl Clock {
    pub(super) fn new() -> Self {
        Self {
            wall: Utc::now().timestamp_micros(),
            since: Instant::now(),
        }
    }

    pub(super) fn now(&self) -> Micros {
        let elapsed = i64::try_from(self.since.elapsed().as_micros()).unwrap_or(i64::MAX);
        self.wall.saturating_add(elapsed)
    }
}

/// The time `pause` after another.
pub(super) fn after(now: Micros, pause: Duration) -> Micros {
    // Rounded up, so that nothing falls due early.
    let micros = pause.as_nanos().div_ceil(1000);
    now.saturating_add(i64::try_from(micros).unwrap_or(i64::MAX))
}

/// When a message falls due. A time in the past means now, so that the message does not overtake those
/// that are ready already.
pub(super) fn due(now: Micros, due: Due) -> Micros {
    match due {
        Due::Now => now,
        Due::After(pause) => after(now, pause),
        Due::At(time) => to_micros(time).max(now),
    }
}

/// A time in whole microseconds, rounded up.
pub(super) fn to_micros(time: DateTime<Utc>) -> Micros {
    let finer = !time.timestamp_subsec_nanos().is_multiple_of(1000);
    time.timestamp_micros().saturating_add(i64::from(finer))
}

/// A time in the form that the contract uses.
pub(super) fn to_time(micros: Micros) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(micros).unwrap_or(DateTime::<Utc>::MAX_UTC)
}

/// How long from one time to another; zero if the second is earlier.
pub(super) fn between(from: Micros, to: Micros) -> Duration {
    Duration::from_micros(u64::try_from(to.saturating_sub(from)).unwrap_or(0))
}
