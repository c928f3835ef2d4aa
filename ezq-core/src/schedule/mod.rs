//! Schedules: events that are published by a cron expression or at an interval.
//!
//! Begin at [`Schedule`], or at `#[on_schedule]` for a function that runs at each tick. To list, pause
//! and fire schedules at run time, see [`admin::Schedules`](crate::admin::Schedules).
//!
//! A schedule is declared in code. The engine keeps a row for it, with the time of its next tick. The
//! process that finds a tick due advances the row and publishes the event in one step. So of any number
//! of processes one fires each tick, and no lock is held between ticks. All times are by the engine's
//! clock, not the workers'.
//!
//! # Source files
//!
//! This folder says when a schedule ticks and what it publishes. The task that waits for ticks is in
//! `shared/schedules.rs`, changes by hand are in `admin/schedules.rs`, and the rows in
//! `engine/schedules.rs`.
//!
//! | to see | open |
//! |---|---|
//! | what a program can say about a schedule | this file |
//! | a schedule checked when the application is built | `plan.rs` |
//! | what a schedule publishes, for processes without its code | `stored.rs` |
//! | the next and the newest tick | `when.rs` |
//! | cron expressions where clocks are set forward or back | `zoned.rs` |

mod plan;
mod stored;
mod when;
mod zoned;

use std::time::Duration;

pub(crate) use plan::{Plan, Planned, Plans, Template};
pub(crate) use stored::StoredEvent;

/// When an event is published again and again, and what becomes of ticks for which no process was
/// running.
///
/// ```
/// use ezq_core::app::App;
/// use ezq_core::event::Event;
/// use ezq_core::memory::MemoryEngine;
/// use ezq_core::schedule::{Missed, Schedule};
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Serialize, Deserialize)] struct ReportDue {}
/// # impl Event for ReportDue { const TYPE: &'static str = "report.due"; }
/// # #[derive(Serialize, Deserialize)] struct Sweep {}
/// # impl Event for Sweep { const TYPE: &'static str = "sweep"; }
///
/// let mondays = Schedule::cron("0 9 * * MON").tz("Europe/Paris").missed(Missed::Skip);
/// let app = App::builder()
///     .schedule("weekly report", mondays, &ReportDue {})
///     .schedule("sweep", Schedule::every("30s"), &Sweep {})
///     .build(MemoryEngine::new())?;
/// # Ok::<(), ezq_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a schedule does nothing until it is given to an application's builder"]
pub struct Schedule {
    rhythm: Rhythm,
    tz: Option<String>,
    missed: Missed,
    queue: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Rhythm {
    Cron(String),
    Every(Interval),
}

/// The interval of a [`Schedule`]: a `Duration`, or a text such as `"30s"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interval(Length);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Length {
    Time(Duration),
    Text(String),
}

impl std::fmt::Display for Interval {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Length::Time(time) => write!(f, "{time:?}"),
            Length::Text(text) => write!(f, "`{text}`"),
        }
    }
}

impl From<Duration> for Interval {
    fn from(time: Duration) -> Self {
        Self(Length::Time(time))
    }
}

impl From<&str> for Interval {
    fn from(text: &str) -> Self {
        Self(Length::Text(text.to_owned()))
    }
}

impl From<String> for Interval {
    fn from(text: String) -> Self {
        Self(Length::Text(text))
    }
}

impl Schedule {
    /// A schedule by a cron expression: minute, hour, day of the month, month and day of the week. With
    /// six fields, the first is the second. Names (`MON`, `JAN`), ranges, lists, steps, `L`, `W`, `#`
    /// and aliases such as `@daily` work as in [croner](https://docs.rs/croner).
    ///
    /// When clocks are set forward or back:
    ///
    /// - An expression with one fixed time (one minute, one hour) ticks once. If the time is skipped, it
    ///   ticks at the first moment after the gap, even if that is on the next day. If the time comes
    ///   twice, it ticks at the first.
    /// - An expression with `*`, a range, a list or a step goes by what the clock shows. It skips the
    ///   gap, and ticks in both of the hours that come twice.
    ///
    /// A wrong expression is refused when the application is built.
    pub fn cron(expression: impl Into<String>) -> Self {
        Self::of(Rhythm::Cron(expression.into()))
    }

    /// A schedule at an interval: a `Duration` of whole milliseconds, or a whole number and a unit as text
    /// (`ms`, `s`, `m`, `h` or `d`), from `1s` to `36500d`. The first tick is due one interval after the schedule was first stored in the database.
    /// Restarts do not begin the interval again.
    ///
    /// A wrong interval is refused when the application is built.
    ///
    /// ```
    /// use ezq_core::schedule::Schedule;
    /// use std::time::Duration;
    ///
    /// let by_text = Schedule::every("90s");
    /// let by_time = Schedule::every(Duration::from_secs(90));
    /// ```
    pub fn every(interval: impl Into<Interval>) -> Self {
        Self::of(Rhythm::Every(interval.into()))
    }

    fn of(rhythm: Rhythm) -> Self {
        Self {
            rhythm,
            tz: None,
            missed: Missed::default(),
            queue: None,
        }
    }

    /// Sets the time zone of a cron expression, by its name in the IANA database, such as
    /// `Europe/Paris`. Defaults to UTC. An unknown zone is refused when the application is built; so is
    /// any zone for an interval.
    pub fn tz(mut self, name: impl Into<String>) -> Self {
        self.tz = Some(name.into());
        self
    }

    /// Sets what becomes of ticks for which no process was running. Defaults to [`Missed::FireOnce`].
    pub fn missed(mut self, missed: Missed) -> Self {
        self.missed = missed;
        self
    }

    /// Sets the queue of the schedule's events. Defaults to the queue to which the event would be
    /// published anyway: by a route, by its type, or the application's.
    pub fn queue(mut self, queue: impl Into<String>) -> Self {
        self.queue = Some(queue.into());
        self
    }
}

/// What becomes of ticks for which no process was running.
///
/// Of several missed ticks only the newest counts: it fires once, or not at all. A tick counts as missed
/// when it is found more than a minute late.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Missed {
    /// One firing makes up for all of them, as soon as a process runs again.
    #[default]
    FireOnce,
    /// They are skipped.
    Skip,
}
