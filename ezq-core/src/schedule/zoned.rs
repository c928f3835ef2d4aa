//! The times of a cron expression in a time zone.
//!
//! croner finds the dates and times that an expression names, in a calendar without changes of the
//! clocks. What becomes of these where the clocks change is said here, in two rules:
//!
//! - A *fixed time* (one hour, one minute, one second) ticks at the first moment at which the clock
//!   shows it or a later time. So it ticks once a day: after the gap where clocks are set forward,
//!   and at its first occurrence where they are set back.
//! - Whatever else ticks at each moment at which the clock shows what it names. So it leaves out a
//!   gap, and counts twice what comes twice.

use chrono::{DateTime, NaiveDateTime, Offset, TimeDelta, TimeZone, Utc};
use chrono_tz::Tz;
use croner::{Cron, JobType};

/// No zone's clock was ever changed by more: those that crossed the date line.
const CHANGE: TimeDelta = TimeDelta::hours(25);
/// No zone is further from UTC.
const OFFSET: TimeDelta = TimeDelta::hours(15);
const SECOND: TimeDelta = TimeDelta::seconds(1);

/// A stretch of time in which a zone's clock goes evenly.
struct Stretch {
    /// Its first moment, and the first after it, as far as they were looked for.
    from: DateTime<Utc>,
    until: DateTime<Utc>,
    /// What the clock is ahead of UTC.
    ahead: TimeDelta,
}

/// The first tick after a time; `None` if there is no further one.
pub(super) fn next(cron: &Cron, tz: Tz, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let after = whole(after)?;
    match cron.determine_job_type() {
        JobType::FixedTime => {
            // A later time of the calendar never ticks before an earlier one.
            let mut named = shown(tz, after)?.checked_sub_signed(CHANGE)?;
            loop {
                named = next_named(cron, named)?;
                let tick = reached(tz, named)?;
                if tick > after {
                    return Some(tick);
                }
            }
        }
        JobType::IntervalWildcard => next_shown(cron, tz, after.checked_add_signed(SECOND)?),
    }
}

/// The last tick up to a time; `None` if there was none.
pub(super) fn previous(cron: &Cron, tz: Tz, until: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let until = whole(until)?;
    match cron.determine_job_type() {
        JobType::FixedTime => {
            let mut named = shown(tz, until)?.checked_add_signed(CHANGE)?;
            loop {
                named = previous_named(cron, named)?;
                let tick = reached(tz, named)?;
                if tick <= until {
                    return Some(tick);
                }
            }
        }
        JobType::IntervalWildcard => previous_shown(cron, tz, until),
    }
}

/// The first moment, this one included, at which the clock shows what the expression names.
fn next_shown(cron: &Cron, tz: Tz, mut from: DateTime<Utc>) -> Option<DateTime<Utc>> {
    loop {
        let stretch = stretch_from(tz, from)?;
        let named = next_named(
            cron,
            on_clock(from, stretch.ahead)?.checked_sub_signed(SECOND)?,
        )?;
        let tick = off_clock(named, stretch.ahead)?;
        if tick < stretch.until {
            return Some(tick);
        }
        from = stretch.until;
        // Where the clock was not changed for so long, it never again shows less than it did, and
        // nothing ticks before it comes near what is named next.
        if stretch.until - stretch.from >= CHANGE {
            from = from.max(off_clock(named, OFFSET)?);
        }
    }
}

/// The last moment, this one included, at which the clock shows what the expression names.
fn previous_shown(cron: &Cron, tz: Tz, mut until: DateTime<Utc>) -> Option<DateTime<Utc>> {
    loop {
        let stretch = stretch_until(tz, until)?;
        let named = previous_named(
            cron,
            on_clock(until, stretch.ahead)?.checked_add_signed(SECOND)?,
        )?;
        let tick = off_clock(named, stretch.ahead)?;
        if tick >= stretch.from {
            return Some(tick);
        }
        until = stretch.from.checked_sub_signed(SECOND)?;
        if stretch.until - stretch.from >= CHANGE {
            until = until.min(off_clock(named, -OFFSET)?);
        }
    }
}

/// The first moment at which a zone's clock shows a time or a later one.
fn reached(tz: Tz, time: NaiveDateTime) -> Option<DateTime<Utc>> {
    let mut from = off_clock(time, OFFSET)?.checked_sub_signed(CHANGE)?;
    loop {
        let stretch = stretch_from(tz, from)?;
        let moment = off_clock(time, stretch.ahead)?.max(from);
        if moment < stretch.until {
            return Some(moment);
        }
        from = stretch.until;
    }
}

/// How long the clock goes evenly from a moment on; a day and an hour at most are looked at.
fn stretch_from(tz: Tz, from: DateTime<Utc>) -> Option<Stretch> {
    let ahead = ahead(tz, from);
    let end = from.checked_add_signed(CHANGE)?;
    let mut even = from;
    while even < end {
        let look = even.checked_add_signed(TimeDelta::hours(1))?;
        if self::ahead(tz, look) != ahead {
            let until = change(tz, even, look);
            return Some(Stretch { from, until, ahead });
        }
        even = look;
    }
    Some(Stretch {
        from,
        until: even,
        ahead,
    })
}

/// For how long the clock went evenly up to a moment, this one included.
fn stretch_until(tz: Tz, until: DateTime<Utc>) -> Option<Stretch> {
    let ahead = ahead(tz, until);
    let begin = until.checked_sub_signed(CHANGE)?;
    let mut even = until;
    while even > begin {
        let look = even.checked_sub_signed(TimeDelta::hours(1))?;
        if self::ahead(tz, look) != ahead {
            let from = change(tz, look, even);
            return Some(Stretch { from, until, ahead });
        }
        even = look;
    }
    Some(Stretch {
        from: even,
        until,
        ahead,
    })
}

/// The first moment of another offset, between two moments of different ones.
fn change(tz: Tz, mut before: DateTime<Utc>, mut after: DateTime<Utc>) -> DateTime<Utc> {
    let old = ahead(tz, before);
    while after - before > SECOND {
        let middle = before + TimeDelta::seconds((after - before).num_seconds() / 2);
        if ahead(tz, middle) == old {
            before = middle
        } else {
            after = middle
        }
    }
    after
}

fn ahead(tz: Tz, at: DateTime<Utc>) -> TimeDelta {
    let offset = tz.offset_from_utc_datetime(&at.naive_utc()).fix();
    TimeDelta::seconds(i64::from(offset.local_minus_utc()))
}

/// What a zone's clock shows.
fn shown(tz: Tz, at: DateTime<Utc>) -> Option<NaiveDateTime> {
    on_clock(at, ahead(tz, at))
}

fn on_clock(at: DateTime<Utc>, ahead: TimeDelta) -> Option<NaiveDateTime> {
    at.naive_utc().checked_add_signed(ahead)
}

fn off_clock(shown: NaiveDateTime, ahead: TimeDelta) -> Option<DateTime<Utc>> {
    shown.checked_sub_signed(ahead).map(|time| time.and_utc())
}

/// Ticks are whole seconds.
fn whole(at: DateTime<Utc>) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(at.timestamp(), 0)
}

/// The first date and time after another that the expression names. UTC stands for a calendar whose
/// clocks are never changed.
fn next_named(cron: &Cron, after: NaiveDateTime) -> Option<NaiveDateTime> {
    let found = cron.find_next_occurrence(&after.and_utc(), false).ok()?;
    Some(found.naive_utc())
}

/// The last one before another.
fn previous_named(cron: &Cron, before: NaiveDateTime) -> Option<NaiveDateTime> {
    let found = cron
        .find_previous_occurrence(&before.and_utc(), false)
        .ok()?;
    Some(found.naive_utc())
}

#[cfg(test)]
#[path = "zoned_tests.rs"]
mod tests;
