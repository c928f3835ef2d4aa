//! The ticks of a schedule, as pure functions: the clock is an argument.

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::{TZ_VARIANTS, Tz};
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};

use super::{Interval, Length, Rhythm, Schedule, zoned};
use crate::error::{Error, ErrorKind, Result};
use crate::text::duration;

/// When a schedule ticks, checked.
#[derive(Debug, Clone)]
pub(crate) enum When {
    Cron { cron: Box<Cron>, tz: Tz },
    Every(TimeDelta),
}

impl When {
    pub(super) fn new(schedule: &Schedule) -> Result<Self> {
        match (&schedule.rhythm, &schedule.tz) {
            (Rhythm::Cron(expression), tz) => Self::cron(expression, tz.as_deref()),
            (Rhythm::Every(interval), None) => Self::every(interval),
            (Rhythm::Every(_), Some(_)) => Err(wrong(
                "an interval has no time zone: leave out `tz`, or give a cron expression",
            )),
        }
    }

    fn cron(expression: &str, tz: Option<&str>) -> Result<Self> {
        let tz = tz.map_or(Ok(Tz::UTC), zone)?;
        let cron = Box::new(parse(expression)?);
        let when = Self::Cron { cron, tz };

        // The 30th of February parses, but never comes.
        when.next(Utc::now(), Utc::now()).map_err(|_| {
            wrong(format!(
                "the cron expression `{expression}` matches no time"
            ))
        })?;
        Ok(when)
    }

    fn every(interval: &Interval) -> Result<Self> {
        let length = match &interval.0 {
            Length::Time(time) => *time,
            Length::Text(text) => duration(text).map_err(|how| {
                wrong(format!(
                    "`{}` is not an interval: {how}",
                    text.escape_debug()
                ))
            })?,
        };
        // Ticks are counted in milliseconds.
        if !length.subsec_nanos().is_multiple_of(1_000_000) {
            return Err(wrong(format!(
                "the interval {length:?} must be a whole number of milliseconds"
            )));
        }

        // A longer interval could take the next tick past the end of the calendar.
        let length = TimeDelta::from_std(length)
            .ok()
            .filter(|length| *length <= TimeDelta::days(36_500));
        match length {
            Some(length) if length >= TimeDelta::seconds(1) => Ok(Self::Every(length)),
            _ => Err(wrong(format!(
                "the interval {interval} must be at least 1s and at most 36500d"
            ))),
        }
    }

    /// The first tick after a time. Intervals are counted from `anchor`, which is one of their ticks.
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

    /// The newest tick up to `now`; at least `from`, which is a tick that is due.
    pub(crate) fn newest(&self, from: DateTime<Utc>, now: DateTime<Utc>) -> Result<DateTime<Utc>> {
        match self {
            Self::Cron { cron, tz } => Ok(zoned::previous(cron, *tz, now)
                .ok_or_else(endless)?
                .max(from)),
            Self::Every(length) => step(from, *length, passed(from, now, *length)),
        }
    }
}

/// The same text for the same ticks, however they are written: definitions are compared by it.
impl std::fmt::Display for When {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cron { cron, tz } => write!(f, "cron {} ({tz})", cron.as_str()),
            Self::Every(length) => write!(f, "every {:?}", length.to_std().unwrap_or_default()),
        }
    }
}

/// How many whole intervals lie between two times; none if the second is earlier.
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
    // ezq-macros parses expressions with the same settings.
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

    // croner accepts a list with an empty item, and then searches for a match until the year 5000.
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
    Error::new(ErrorKind::Configuration, "the schedule has no further tick")
}

fn wrong(text: impl Into<String>) -> Error {
    Error::new(ErrorKind::Configuration, text)
}

#[cfg(test)]
#[path = "when_tests.rs"]
mod tests;
