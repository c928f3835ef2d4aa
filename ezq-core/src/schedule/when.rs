//! The times of a schedule: pure functions of the times they are given.

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::{TZ_VARIANTS, Tz};
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};

use super::{Rhythm, Schedule, zoned};
use crate::error::{Error, ErrorKind, Result};
use crate::text::duration;

/// A schedule's times, checked.
#[derive(Debug, Clone)]
pub(crate) enum When {
    Cron { cron: Box<Cron>, tz: Tz },
    Every(TimeDelta),
}

impl When {
    pub(super) fn new(schedule: &Schedule) -> Result<Self> {
        match (&schedule.rhythm, &schedule.tz) {
            (Rhythm::Cron(expression), tz) => {
                let tz = tz.as_deref().map_or(Ok(Tz::UTC), zone)?;
                let cron = Box::new(parse(expression)?);
                let when = Self::Cron { cron, tz };
                // Such as the 30th of February.
                when.next(Utc::now(), Utc::now()).map_err(|_| {
                    wrong(format!(
                        "the cron expression `{expression}` names no time that ever comes"
                    ))
                })?;
                Ok(when)
            }
            (Rhythm::Every(_), Some(_)) => Err(wrong(
                "an interval has no time zone: leave out `tz`, or give a cron expression",
            )),
            (Rhythm::Every(interval), None) => {
                let length = duration(interval).map_err(|how| {
                    wrong(format!(
                        "`{}` is not an interval: {how}",
                        interval.escape_debug()
                    ))
                })?;
                let length = TimeDelta::from_std(length)
                    .ok()
                    .filter(|l| *l <= TimeDelta::days(36_500));
                match length {
                    Some(length) if length >= TimeDelta::seconds(1) => Ok(Self::Every(length)),
                    _ => Err(wrong(format!(
                        "the interval `{interval}` must be at least 1s and at most 36500d"
                    ))),
                }
            }
        }
    }

    /// The first time after another. Intervals are counted from a time that was one of theirs.
    pub(crate) fn next(
        &self,
        after: DateTime<Utc>,
        anchor: DateTime<Utc>,
    ) -> Result<DateTime<Utc>> {
        match self {
            Self::Cron { cron, tz } => zoned::next(cron, *tz, after).ok_or_else(endless),
            Self::Every(length) => step(anchor, *length, passed(anchor, after, *length) + 1),
        }
    }

    /// The newest time up to now, of those from `from` on, which is one and has come.
    pub(crate) fn newest(&self, from: DateTime<Utc>, now: DateTime<Utc>) -> Result<DateTime<Utc>> {
        match self {
            Self::Cron { cron, tz } => Ok(zoned::previous(cron, *tz, now)
                .ok_or_else(endless)?
                .max(from)),
            Self::Every(length) => step(from, *length, passed(from, now, *length)),
        }
    }
}

/// In one way, whoever writes it: part of what tells two definitions apart.
impl std::fmt::Display for When {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cron { cron, tz } => write!(f, "cron {} ({tz})", cron.as_str()),
            Self::Every(length) => write!(f, "every {:?}", length.to_std().unwrap_or_default()),
        }
    }
}

/// How many whole intervals lie between; none if the second is the earlier.
fn passed(from: DateTime<Utc>, to: DateTime<Utc>, length: TimeDelta) -> i64 {
    (to - from).num_milliseconds().max(0) / length.num_milliseconds().max(1)
}

fn step(from: DateTime<Utc>, length: TimeDelta, count: i64) -> Result<DateTime<Utc>> {
    let millis = length
        .num_milliseconds()
        .checked_mul(count)
        .and_then(TimeDelta::try_milliseconds);
    millis
        .and_then(|millis| from.checked_add_signed(millis))
        .ok_or_else(endless)
}

fn parse(expression: &str) -> Result<Cron> {
    // ezq-macros reads expressions in the same way.
    let parser = CronParser::builder()
        .seconds(Seconds::Optional)
        .year(Year::Disallowed)
        .build();
    let refused = || {
        let text = format!(
            "`{}` is not a cron expression: write minute, hour, day of the month, month and day of \
             the week, such as `0 9 * * MON`",
            expression.escape_debug()
        );
        wrong(text)
    };
    // croner takes a list with an empty place, and looks for what that names until the year 5000.
    if expression
        .split_whitespace()
        .any(|field| field.split(',').any(str::is_empty))
    {
        return Err(refused());
    }
    parser
        .parse(expression)
        .map_err(|error| refused().with_source(error))
}

fn zone(name: &str) -> Result<Tz> {
    name.parse().map_err(|_| {
        let near = TZ_VARIANTS
            .iter()
            .find(|tz| tz.name().eq_ignore_ascii_case(name.trim()));
        let hint = near.map_or_else(
            || "write its name in the IANA database, such as `Europe/Paris`".to_owned(),
            |tz| format!("write `{}`", tz.name()),
        );
        wrong(format!(
            "there is no time zone `{}`: {hint}",
            name.escape_debug()
        ))
    })
}

fn endless() -> Error {
    Error::new(ErrorKind::Engine, "the schedule names no further time")
}

fn wrong(text: impl Into<String>) -> Error {
    Error::new(ErrorKind::Configuration, text)
}

#[cfg(test)]
#[path = "when_tests.rs"]
mod tests;
