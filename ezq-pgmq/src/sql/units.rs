//! Durations and times in the units of statements, within Postgres' calendar.

use std::time::Duration;

use chrono::{DateTime, Utc};

/// Microseconds, limited to what can multiply an interval within Postgres' calendar.
pub(crate) fn micros(duration: Duration) -> i64 {
    const LONGEST: i64 = 1000 * 366 * 24 * 3600 * 1_000_000;
    i64::try_from(duration.as_nanos().div_ceil(1000)).map_or(LONGEST, |us| us.min(LONGEST))
}

/// A time in Postgres' calendar, which begins later than chrono's. Every past time means now.
pub(crate) fn in_calendar(time: DateTime<Utc>) -> DateTime<Utc> {
    time.max(DateTime::UNIX_EPOCH)
}
