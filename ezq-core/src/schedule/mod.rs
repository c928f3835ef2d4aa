//! Events that come by the calendar or at an interval.
//!
//! A schedule is said in code and kept by the engine: a row with the time of its next tick. Whoever
//! finds that the time has come moves the row on and publishes the event in one step, so of any
//! number of processes one fires each tick, and no lock is held between ticks. Times are the
//! engine's, not the workers'.

mod plan;
mod when;
mod zoned;

pub(crate) use plan::{Plan, Planned, Plans, Template};

/// When something is to happen again and again, and what becomes of the times that nobody was there
/// for.
///
/// ```
/// use ezq_core::{App, Event, MemoryEngine, Missed, Schedule};
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
    Every(String),
}

impl Schedule {
    /// By a cron expression: minute, hour, day of the month, month and day of the week, with the
    /// second before them if there are six fields. Names (`MON`, `JAN`), ranges, lists, steps, `L`,
    /// `W`, `#` and aliases such as `@daily` work as in [croner](https://docs.rs/croner).
    ///
    /// Where clocks are set forward, a fixed time that is left out ticks at the first moment after
    /// the gap, even if that is on the next day; where they are set back, a fixed time ticks once, at
    /// its first occurrence. A fixed time has one minute and one hour: what is written with `*`, a
    /// range, a list or a step goes by what the clock shows, so it leaves out the gap and counts the
    /// hour that comes twice, twice.
    ///
    /// A wrong expression is an error when the application is built.
    pub fn cron(expression: impl Into<String>) -> Self {
        Self::of(Rhythm::Cron(expression.into()))
    }

    /// At an interval: a whole number and a unit (`ms`, `s`, `m`, `h` or `d`), at least `1s`. The
    /// first tick comes one interval after the schedule was first seen in this database; restarts
    /// do not begin it anew.
    ///
    /// A wrong interval is an error when the application is built.
    pub fn every(interval: impl Into<String>) -> Self {
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

    /// The time zone of a cron expression, by its name in the IANA database, such as
    /// `Europe/Paris`. Defaults to UTC. An unknown one is an error when the application is built.
    pub fn tz(mut self, name: impl Into<String>) -> Self {
        self.tz = Some(name.into());
        self
    }

    /// What becomes of ticks that nobody was there for. Defaults to [`Missed::FireOnce`].
    pub fn missed(mut self, missed: Missed) -> Self {
        self.missed = missed;
        self
    }

    /// The queue of its events, in place of the event type's or the application's.
    pub fn queue(mut self, queue: impl Into<String>) -> Self {
        self.queue = Some(queue.into());
        self
    }
}

/// What becomes of ticks that no process was there for.
///
/// Of several that have passed only the newest counts: it fires once, or not at all. A tick counts
/// as missed when it is found more than a minute late.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Missed {
    /// One firing makes up for all of them, as soon as a process is there again.
    #[default]
    FireOnce,
    /// They are left out.
    Skip,
}
