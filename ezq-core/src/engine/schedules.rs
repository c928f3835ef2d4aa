//! The schedules that an engine keeps: one row each. A row advances to its next tick in the step that
//! publishes the event of the tick, so a tick is neither lost nor published twice.

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::engine::Outgoing;
use crate::error::Result;
use crate::message::message_id::MessageId;

/// The schedules of an engine. All times are by the engine's clock.
///
/// The engine knows no calendar: the caller that fires a schedule says when its next tick is due.
#[async_trait]
pub trait ScheduleStore: Send + Sync {
    /// Makes what the store needs to keep schedules, such as its table. A consumer that fires
    /// schedules does not start before.
    ///
    /// # Errors
    /// [`ErrorKind::SchemaMissing`](crate::ErrorKind::SchemaMissing) when the table is missing and may
    /// not be created; otherwise when the store could not be asked.
    async fn prepare(&self) -> Result<()> {
        Ok(())
    }

    /// Every schedule, and the time. Schedules in `mine`, by name and definition, are recorded as seen
    /// now; the store may skip this for schedules that were seen a few seconds ago.
    ///
    /// # Errors
    /// [`ErrorKind::SchemaMissing`](crate::ErrorKind::SchemaMissing) when the store's table of
    /// schedules is missing and may not be created, or was dropped; otherwise when the store could not
    /// be asked.
    async fn look(&self, mine: &[(&str, &str)]) -> Result<KeptSchedules>;

    /// Stores a schedule: a new one, or in place of one that still has the definition `instead_of`.
    /// Returns whether it did. A schedule that is replaced keeps the times of its firings and its
    /// pause.
    ///
    /// # Errors
    /// As [`look`](Self::look).
    async fn register(&self, schedule: Registration<'_>, instead_of: Option<&str>) -> Result<bool>;

    /// Stores what a schedule publishes, if the schedule has this definition; `None` stores that it is
    /// not known. It is a text that only ezq reads, for processes that do not have the schedule in their
    /// code. The event of a schedule that is replaced goes with its definition.
    ///
    /// # Errors
    /// As [`look`](Self::look).
    async fn store_event(&self, name: &str, definition: &str, event: Option<&str>) -> Result<()>;

    /// What a schedule publishes, if it is stored.
    ///
    /// # Errors
    /// As [`look`](Self::look).
    async fn stored_event(&self, name: &str) -> Result<Option<String>>;

    /// Advances a schedule and publishes its event, both in one step or neither.
    ///
    /// The answer is [`Fired::NotDue`] if the tick was fired already, if the schedule is paused, gone
    /// or of another definition, or if its time has not come. Of concurrent calls for one tick, one
    /// succeeds.
    ///
    /// # Errors
    /// [`ErrorKind::QueueMissing`](crate::ErrorKind::QueueMissing) when the queue is gone; otherwise
    /// when the store could not be written, or refused the event.
    async fn fire(&self, firing: Firing<'_>) -> Result<Fired>;

    /// Pauses a schedule, or resumes it. Returns whether there is such a schedule.
    ///
    /// # Errors
    /// As [`look`](Self::look).
    async fn pause(&self, name: &str, pause: bool) -> Result<bool>;

    /// Removes a schedule. Returns whether there was one.
    ///
    /// # Errors
    /// As [`look`](Self::look).
    async fn remove(&self, name: &str) -> Result<bool>;
}

/// The schedules of a store, and the time at which they were read.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct KeptSchedules {
    /// The time by the engine's clock.
    pub now: DateTime<Utc>,
    /// The schedules, sorted by name.
    pub rows: Vec<ScheduleRow>,
}

impl KeptSchedules {
    /// These schedules, which must be sorted by name, as they were at a time.
    #[must_use]
    pub fn new(now: DateTime<Utc>, rows: Vec<ScheduleRow>) -> Self {
        Self { now, rows }
    }
}

/// One schedule as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ScheduleRow {
    /// Its name.
    pub name: String,
    /// The application that registered it.
    pub application: String,
    /// The definition that it was registered with.
    pub definition: String,
    /// When its next tick is due.
    pub next_at: DateTime<Utc>,
    /// When the newest tick that fired was due.
    pub last_tick: Option<DateTime<Utc>>,
    /// When it fired last, by a tick or by hand.
    pub fired_at: Option<DateTime<Utc>>,
    /// When it was paused, if it is paused now.
    pub paused_at: Option<DateTime<Utc>>,
    /// When it was last resumed after a pause. Ticks due up to then are skipped.
    pub resumed_at: Option<DateTime<Utc>>,
    /// When a process with this definition was last seen.
    pub seen_at: DateTime<Utc>,
    /// Whether what it publishes [is stored](ScheduleStore::store_event).
    pub has_event: bool,
}

impl ScheduleRow {
    /// A schedule that never fired and was never paused, registered by a process seen at `seen_at`.
    #[must_use]
    pub fn new(registered: Registration<'_>, seen_at: DateTime<Utc>) -> Self {
        Self {
            name: registered.name.to_owned(),
            application: registered.application.to_owned(),
            definition: registered.definition.to_owned(),
            next_at: registered.next_at,
            last_tick: None,
            fired_at: None,
            paused_at: None,
            resumed_at: None,
            seen_at,
            has_event: false,
        }
    }
}

/// A schedule to store.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Registration<'a> {
    /// Its name.
    pub name: &'a str,
    /// The application that has it.
    pub application: &'a str,
    /// Its definition: times, policy, event type and queue in one text, to be compared.
    pub definition: &'a str,
    /// When its next tick is due.
    pub next_at: DateTime<Utc>,
}

impl<'a> Registration<'a> {
    /// A schedule of an application with its definition and its next tick.
    #[must_use]
    pub fn new(
        name: &'a str,
        application: &'a str,
        definition: &'a str,
        next_at: DateTime<Utc>,
    ) -> Self {
        Self {
            name,
            application,
            definition,
            next_at,
        }
    }
}

/// A firing to carry out.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Firing<'a> {
    /// The schedule's name.
    pub name: &'a str,
    /// The tick. `None` fires by hand: the event is published whatever the schedule's state, and its
    /// next tick stays.
    pub tick: Option<Advance<'a>>,
    /// The event. `None` skips the tick.
    pub message: Option<Outgoing>,
}

impl<'a> Firing<'a> {
    /// A firing by hand, until a [`tick`](Self::tick) is set, and without an event, until a
    /// [`message`](Self::message) is.
    #[must_use]
    pub fn new(name: &'a str) -> Self {
        Self {
            name,
            tick: None,
            message: None,
        }
    }

    /// Sets the tick that it fires.
    #[must_use]
    pub fn tick(mut self, tick: impl Into<Option<Advance<'a>>>) -> Self {
        self.tick = tick.into();
        self
    }

    /// Sets the event that it publishes.
    #[must_use]
    pub fn message(mut self, message: impl Into<Option<Outgoing>>) -> Self {
        self.message = message.into();
        self
    }
}

/// How a tick advances its schedule, on the condition that the schedule is as stated here.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Advance<'a> {
    /// The definition that the schedule must have.
    pub definition: &'a str,
    /// The [`next_at`](ScheduleRow::next_at) that the schedule must have.
    pub from: DateTime<Utc>,
    /// The tick to fire: `from`, or a later tick that is due as well.
    pub due: DateTime<Utc>,
    /// The next tick, which becomes `next_at`.
    pub to: DateTime<Utc>,
}

impl<'a> Advance<'a> {
    /// The tick at `from`, after which the schedule's next tick is `to`.
    #[must_use]
    pub fn new(definition: &'a str, from: DateTime<Utc>, to: DateTime<Utc>) -> Self {
        Self {
            definition,
            from,
            due: from,
            to,
        }
    }

    /// Fires a later tick than `from`, which is due as well.
    #[must_use]
    pub fn due(mut self, due: DateTime<Utc>) -> Self {
        self.due = due;
        self
    }
}

/// What became of a firing.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fired {
    /// The schedule advanced, and its event, if there was one, was published under this id.
    Done(Option<MessageId>),
    /// Nothing was changed.
    NotDue,
}
