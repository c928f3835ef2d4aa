//! What an engine keeps of schedules: a row each, which moves on with the event it publishes.

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::engine::{MessageId, Outgoing};
use crate::error::Result;

/// An engine's schedules. Times are those of the engine's clock.
///
/// The engine knows no calendar: whoever fires says when the next tick comes.
#[async_trait]
pub trait ScheduleStore: Send + Sync {
    /// Every schedule, and the time. Those of `mine`, by name and definition, count as seen now; the
    /// store may leave that out for what was seen a few seconds ago.
    ///
    /// # Errors
    /// [`ErrorKind::SchemaMissing`](crate::ErrorKind::SchemaMissing) when there is no place for
    /// schedules and none is to be made, or when it was found gone; else when the store could not be
    /// asked.
    async fn look(&self, mine: &[(&str, &str)]) -> Result<KeptSchedules>;

    /// Puts a schedule in place: a new one, or instead of one that still has this definition. Whether
    /// it did. What was known of an old one's firings, and whether it is paused, is kept.
    ///
    /// # Errors
    /// As [`look`](Self::look).
    async fn register(&self, schedule: Registration<'_>, instead_of: Option<&str>) -> Result<bool>;

    /// Moves a schedule on and publishes its event, both or neither: [`Fired::NotDue`] where another
    /// was faster, the schedule is paused, gone or of another definition, or its time has not come.
    /// Of concurrent calls for one tick one is done.
    ///
    /// # Errors
    /// [`ErrorKind::QueueMissing`](crate::ErrorKind::QueueMissing) when the queue is gone; else what
    /// kept it from being done.
    async fn fire(&self, firing: Firing<'_>) -> Result<Fired>;

    /// Pauses a schedule, or lets it go on; whether it is there.
    ///
    /// # Errors
    /// As [`look`](Self::look).
    async fn pause(&self, name: &str, pause: bool) -> Result<bool>;

    /// Removes a schedule; whether it was there.
    ///
    /// # Errors
    /// As [`look`](Self::look).
    async fn remove(&self, name: &str) -> Result<bool>;
}

/// What a store knows of its schedules.
#[derive(Debug, Clone)]
pub struct KeptSchedules {
    /// The time on the engine's clock.
    pub now: DateTime<Utc>,
    /// The schedules, by name.
    pub rows: Vec<ScheduleRow>,
}

/// One schedule as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScheduleRow {
    /// Its name.
    pub name: String,
    /// The application that registered it.
    pub application: String,
    /// What it was registered with.
    pub definition: String,
    /// When its next tick comes.
    pub next_at: DateTime<Utc>,
    /// When the newest tick was due that fired.
    pub last_tick: Option<DateTime<Utc>>,
    /// When it fired last, by a tick or by hand.
    pub fired_at: Option<DateTime<Utc>>,
    /// Since when it is paused.
    pub paused_at: Option<DateTime<Utc>>,
    /// When it last went on after a pause: ticks up to then are left out.
    pub resumed_at: Option<DateTime<Utc>>,
    /// When a process that has this definition was last there.
    pub seen_at: DateTime<Utc>,
}

/// A schedule to put in place.
#[derive(Debug, Clone, Copy)]
pub struct Registration<'a> {
    /// Its name.
    pub name: &'a str,
    /// The application that has it.
    pub application: &'a str,
    /// What it consists of.
    pub definition: &'a str,
    /// When its next tick comes.
    pub next_at: DateTime<Utc>,
}

/// A firing to be made.
#[derive(Debug, Clone)]
pub struct Firing<'a> {
    /// The schedule's name.
    pub name: &'a str,
    /// The tick; `None` to publish by hand, whatever the schedule's state, which stays as it is.
    pub tick: Option<Advance<'a>>,
    /// The event; `None` to leave the tick out.
    pub message: Option<Outgoing>,
}

/// How a tick moves its schedule on, if the schedule is as it says.
#[derive(Debug, Clone, Copy)]
pub struct Advance<'a> {
    /// The schedule's definition.
    pub definition: &'a str,
    /// The [`next_at`](ScheduleRow::next_at) that has come.
    pub from: DateTime<Utc>,
    /// The tick it fires for: that, or a later one that has come too.
    pub due: DateTime<Utc>,
    /// The next tick.
    pub to: DateTime<Utc>,
}

/// What became of a firing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fired {
    /// It was done, and the event published, if there was one.
    Done(Option<MessageId>),
    /// Nothing was changed.
    NotDue,
}
