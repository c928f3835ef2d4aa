//! The ticks of a cron expression in a time zone.
//!
//! croner finds the local times that an expression names, in a calendar whose clocks never change. This
//! file decides at which moments they tick where clocks do change, by two rules:
//!
//! - A *fixed time* (one hour, one minute, one second) ticks at the first moment at which the clock
//!   shows it or a later time. So it ticks once a day: after the gap if clocks are set forward, and
//!   the first time if they are set back.
//! - Any other expression ticks at every moment at which the clock shows a time that it names. So it
//!   skips the gap, and ticks twice in what comes twice.

use chrono::{DateTime, NaiveDateTime, Offset, TimeDelta, TimeZone, Utc};
use chrono_tz::Tz;
use croner::{Cron, JobType};

/// More than the largest change of any zone's clock: those of zones that crossed the date line.
const CHANGE: TimeDelta = TimeDelta::hours(25);
/// More than the largest offset of any zone from UTC.
const OFFSET: TimeDelta = TimeDelta::hours(15);
const SECOND: TimeDelta = TimeDelta::seconds(1);

/// A stretch of time in which a zone's clock does not change.
struct Stretch {
    /// The first moment of the stretch, as far back as the search went.
    from: DateTime<Utc>,
    /// The first moment after the stretch, as far ahead as the search went.
    until: DateTime<Utc>,
    /// By how much the clock is ahead of UTC.
    ahead: TimeDelta,
}

/// The first tick after a time; `None` if there is no further one.
pub(super) fn next(cron: &Cron, tz: Tz, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let after = whole(after)?;

    match cron.determine_job_type() {
        JobType::FixedTime => {
            // Of two named times the later never ticks before the earlier, so they are tried in order,
            // from one that surely ticks too early.
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

/// The first moment from `from` on at which the clock shows a time that the expression names.
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
        // After so long without a change, the clock never again shows a time that it has shown. So
        // nothing ticks before the clock comes near the next named time, and the search can skip to it.
        if stretch.until - stretch.from >= CHANGE {
            from = from.max(off_clock(named, OFFSET)?);
        }
    }
}

/// The last moment up to `until` at which the clock shows a time that the expression names.
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

        // The same skip as in `next_shown`, backwards.
        until = stretch.from.checked_sub_signed(SECOND)?;
        if stretch.until - stretch.from >= CHANGE {
            until = until.min(off_clock(named, -OFFSET)?);
        }
    }
}

/// The first moment at which a zone's clock shows this time or a later one.
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

/// The stretch that begins at a moment. The search goes no further than [`CHANGE`].
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

/// The stretch that ends with a moment. The search goes back no further than [`CHANGE`].
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

/// The moment at which the offset changes, between two moments of different offsets. By bisection.
fn change(tz: Tz, mut before: DateTime<Utc>, mut after: DateTime<Utc>) -> DateTime<Utc> {
    let old = ahead(tz, before);
    while after - before > SECOND {
        let middle = before + TimeDelta::seconds((after - before).num_seconds() / 2);
        if ahead(tz, middle) == old {
            before = middle;
        } else {
            after = middle;
        }
    }
    after
}

/// By how much a zone's clock is ahead of UTC.
fn ahead(tz: Tz, at: DateTime<Utc>) -> TimeDelta {
    let offset = tz.offset_from_utc_datetime(&at.naive_utc()).fix();
    TimeDelta::seconds(i64::from(offset.local_minus_utc()))
}

/// The time that a zone's clock shows.
fn shown(tz: Tz, at: DateTime<Utc>) -> Option<NaiveDateTime> {
    on_clock(at, ahead(tz, at))
}

fn on_clock(at: DateTime<Utc>, ahead: TimeDelta) -> Option<NaiveDateTime> {
    at.naive_utc().checked_add_signed(ahead)
}

fn off_clock(shown: NaiveDateTime, ahead: TimeDelta) -> Option<DateTime<Utc>> {
    shown.checked_sub_signed(ahead).map(|time| time.and_utc())
}

/// The whole second of a time; ticks are whole seconds.
fn whole(at: DateTime<Utc>) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(at.timestamp(), 0)
}

/// The first local time after another that the expression names. croner is given it as UTC, a calendar
/// whose clocks never change.
fn next_named(cron: &Cron, after: NaiveDateTime) -> Option<NaiveDateTime> {
    let found = cron.find_next_occurrence(&after.and_utc(), false).ok()?;
    Some(found.naive_utc())
}

/// The last local time before another that the expression names.
fn previous_named(cron: &Cron, before: NaiveDateTime) -> Option<NaiveDateTime> {
    let found = cron
        .find_previous_occurrence(&before.and_utc(), false)
        .ok()?;
    Some(found.naive_utc())
}

#[cfg(test)]
#[path = "zoned_tests.rs"]
mod tests;
