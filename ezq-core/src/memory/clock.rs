//! The memory engine's clock: the wall clock at creation, moved by tokio's monotonic clock.
//!
//! Times are whole microseconds since the epoch, as a database keeps them; what is finer is rounded
//! up, so that nothing falls due early.

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

/// The time so long after another.
pub(super) fn after(now: Micros, pause: Duration) -> Micros {
    let micros = pause.as_nanos().div_ceil(1000);
    now.saturating_add(i64::try_from(micros).unwrap_or(i64::MAX))
}

/// When a message falls due. What was due in the past is due now: it does not overtake what is
/// ready already.
pub(super) fn due(now: Micros, due: Due) -> Micros {
    match due {
        Due::Now => now,
        Due::After(pause) => after(now, pause),
        Due::At(time) => to_micros(time).max(now),
    }
}

/// The time as a database would keep it, rounded up.
pub(super) fn to_micros(time: DateTime<Utc>) -> Micros {
    let finer = !time.timestamp_subsec_nanos().is_multiple_of(1000);
    time.timestamp_micros().saturating_add(i64::from(finer))
}

/// The time as the contract speaks of it.
pub(super) fn to_time(micros: Micros) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(micros).unwrap_or(DateTime::<Utc>::MAX_UTC)
}

/// How long from one time to another; nothing if it has passed.
pub(super) fn between(from: Micros, to: Micros) -> Duration {
    Duration::from_micros(u64::try_from(to.saturating_sub(from)).unwrap_or(0))
}
