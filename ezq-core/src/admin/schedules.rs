//! Schedules as an operator sees them: listed, paused, fired by hand and removed, from any process.

use std::sync::Arc;

use chrono::{DateTime, Utc};

use super::recorded::{RecordedAct, recorded, unless_absent};
use crate::engine::{
    AuditAction, AuditEntry, Engine, Fired, Firing, ScheduleRow, ScheduleStore, Signature,
};
use crate::error::{Error, ErrorKind, Result};
use crate::event::tick::Tick;
use crate::publish::prepared::Prepared;
use crate::publish::published::Published;
use crate::publish::publisher::Publisher;
use crate::schedule::{Planned, StoredEvent};
use crate::shared::Shared;

/// The schedules that an application's engine keeps, including those of other applications. Get it by
/// [`App::schedules`](crate::app::App::schedules).
///
/// ```
/// # use ezq_core::event::Event;
/// # use ezq_core::schedule::Schedule;
/// # use ezq_core::testing::TestApp;
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Serialize, Deserialize)] struct Sweep {}
/// # impl Event for Sweep { const TYPE: &'static str = "sweep"; }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> ezq_core::Result<()> {
/// let app = TestApp::new(|app| app.schedule("sweep", Schedule::every("1h"), &Sweep {}))?;
/// let schedules = app.schedules()?;
/// schedules.pause("sweep").await?;
/// schedules.run_now("sweep").await?; // by hand it fires all the same
/// app.assert_published::<Sweep>();
/// for schedule in schedules.list().await? {
///     println!("{}: next {:?}, last {:?}", schedule.name, schedule.next_at, schedule.fired_at);
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, Copy)]
pub struct Schedules<'a> {
    inner: &'a Arc<Shared>,
    store: &'a dyn ScheduleStore,
}

/// The state of a schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ScheduleStatus {
    /// Its name.
    pub name: String,
    /// The application that registered its definition.
    pub application: String,
    /// Its ticks, its policy for missed ones, its event type and its queue, for people.
    pub definition: String,
    /// When its next tick is due, by the engine's clock; `None` while it is paused.
    pub next_at: Option<DateTime<Utc>>,
    /// When the newest tick that fired was due.
    pub last_tick: Option<DateTime<Utc>>,
    /// When it fired last, by a tick or by hand.
    pub fired_at: Option<DateTime<Utc>>,
    /// Whether it is paused.
    pub is_paused: bool,
    /// Whether this application's code has it.
    pub is_known: bool,
    /// Whether [`run_now`](Schedules::run_now) can fire it from here: it is in this application's code, or
    /// its own application has stored its event.
    pub can_run: bool,
}

impl<'a> Schedules<'a> {
    pub(crate) fn of(inner: &'a Arc<Shared>) -> Result<Self> {
        Ok(Self {
            inner,
            store: inner.schedule_store()?,
        })
    }

    /// Every schedule, sorted by name. A schedule of this application is listed once a consumer of the
    /// application has run, or once the schedule was changed by hand.
    ///
    /// # Errors
    /// When the engine could not be asked.
    pub async fn list(&self) -> Result<Vec<ScheduleStatus>> {
        let kept = self.inner.look_at(&[]).await?;
        Ok(kept.rows.into_iter().map(|row| self.status(row)).collect())
    }

    fn status(&self, row: ScheduleRow) -> ScheduleStatus {
        ScheduleStatus {
            next_at: row.paused_at.is_none().then_some(row.next_at),
            is_paused: row.paused_at.is_some(),
            is_known: self.is_known(&row),
            can_run: row.has_event || self.inner.schedules.find(&row.name).is_some(),
            name: row.name,
            application: row.application,
            definition: row.definition,
            last_tick: row.last_tick,
            fired_at: row.fired_at,
        }
    }

    /// Pauses a schedule when awaited, in every process at once: it does not tick until it is
    /// [resumed](Self::resume).
    ///
    /// # Errors
    /// - [`ErrorKind::ScheduleMissing`] when there is no such schedule.
    /// - [`ErrorKind::ScheduleTaken`] when this application has the schedule, and another application
    ///   uses its name for something else.
    /// - Otherwise when the engine could not be asked.
    pub fn pause(&self, name: impl Into<String>) -> RecordedAct<'a, ()> {
        self.change(name.into(), true)
    }

    /// Resumes a paused schedule when awaited, with its first tick after now. Ticks during the pause are
    /// skipped, whatever its policy for missed ticks. Other processes notice within half a minute.
    ///
    /// # Errors
    /// As [`pause`](Self::pause).
    pub fn resume(&self, name: impl Into<String>) -> RecordedAct<'a, ()> {
        self.change(name.into(), false)
    }

    fn change(&self, name: String, pause: bool) -> RecordedAct<'a, ()> {
        let action = match pause {
            true => AuditAction::Pause,
            false => AuditAction::Resume,
        };
        let schedules = *self;
        RecordedAct::new(Ok(self.entry(action, &name)), move |entry| async move {
            let change = schedules.set_paused(&name, pause);
            recorded(schedules.engine(), entry, change, |()| None).await
        })
    }

    /// An entry of the audit trail about a schedule. The engine sets its time.
    fn entry(&self, action: AuditAction, name: &str) -> AuditEntry {
        let signature = Signature::new(&self.inner.config.app);
        AuditEntry {
            schedule: Some(name.to_owned()),
            ..AuditEntry::new(DateTime::UNIX_EPOCH, signature, action, None)
        }
    }

    fn engine(&self) -> &'a dyn Engine {
        &*self.inner.services.engines.default
    }

    async fn set_paused(&self, name: &str, pause: bool) -> Result<()> {
        if let Some(planned) = self.inner.schedules.find(name) {
            self.row(planned).await?;
        }

        // A schedule that no consumer has registered yet must be stored before it can be paused.
        if !self.store.pause(name, pause).await? {
            self.register(self.known(name)?).await?;
            if !self.store.pause(name, pause).await? {
                return Err(missing(name));
            }
        }

        // This process reads the schedules again at once; others notice within half a minute.
        self.inner.schedules.nudge.notify_one();
        Ok(())
    }

    /// Publishes the event of a schedule once and now when awaited, also while it is paused. Its ticks stay
    /// as they are.
    ///
    /// For a schedule that is not in this application's code, the event is the one that its own
    /// application stored when it began. Of an `#[on_schedule]` function, the tick is that of now.
    ///
    /// # Errors
    /// As [`pause`](Self::pause), and as publishing an event. [`ErrorKind::Unsupported`] if another
    /// application has the schedule and its event is not stored: an older ezq registered it, or a codec
    /// writes it.
    pub fn run_now(&self, name: impl Into<String>) -> RecordedAct<'a, Published> {
        let name = name.into();
        let schedules = *self;
        let entry = self.entry(AuditAction::RunSchedule, &name);
        RecordedAct::new(Ok(entry), move |entry| async move {
            let fire = schedules.fire(&name);
            recorded(schedules.engine(), entry, fire, |_| Some(1)).await
        })
    }

    async fn fire(&self, name: &str) -> Result<Published> {
        let prepared = match self.inner.schedules.find(name) {
            Some(planned) => self.own_message(planned).await?,
            None => self.stored_message(name).await?,
        };

        let queue = prepared.outgoing.queue.clone();
        let firing = Firing {
            name,
            tick: None,
            message: Some(prepared.outgoing),
        };
        match self.inner.store_firing(firing).await? {
            Fired::Done(Some(id)) => Ok(Published {
                queue,
                id,
                event_id: prepared.event_id,
                event_type: prepared.event_type,
                is_duplicate: false,
            }),
            Fired::Done(None) | Fired::NotDue => Err(missing(name)),
        }
    }

    /// The event of a schedule of this application.
    async fn own_message(&self, planned: &Planned) -> Result<Prepared> {
        let (row, now) = self.row(planned).await?;
        // Firing by hand needs a row, and no consumer may have registered the schedule yet.
        if row.is_none() {
            self.inner.register(planned, None, now).await?;
        }

        let publisher = Publisher::new(Arc::clone(&self.inner.services));
        let previous = row.and_then(|row| row.last_tick);
        planned.message(&publisher, now, previous)
    }

    /// The event of a schedule of another application.
    async fn stored_message(&self, name: &str) -> Result<Prepared> {
        let kept = self.inner.look_at(&[]).await?;
        let row = kept.rows.into_iter().find(|row| row.name == name);
        let row = row.ok_or_else(|| missing(name))?;
        let stored = self.store.stored_event(name).await?;
        let stored = stored.ok_or_else(|| not_stored(&row))?;

        let tick = Tick {
            schedule: row.name,
            due: kept.now,
            previous: row.last_tick,
        };
        StoredEvent::read(&stored)?.message(&tick)
    }

    /// Removes a schedule when awaited, in every process at once. Returns whether there was one. If the code
    /// of a process has it, it comes back when that process is started again.
    ///
    /// # Errors
    /// When the engine could not be asked.
    pub fn remove(&self, name: impl Into<String>) -> RecordedAct<'a, bool> {
        let name = name.into();
        let schedules = *self;
        let entry = self.entry(AuditAction::RemoveSchedule, &name);
        RecordedAct::new(Ok(entry), move |entry| async move {
            let remove = schedules.store.remove(&name);
            recorded(schedules.engine(), entry, remove, unless_absent).await
        })
    }

    /// Removes the schedules, when awaited, that were registered under this application's name and that its
    /// code no longer has. Returns their names. Each is recorded by itself.
    ///
    /// Such schedules do not fire, but nothing else removes them. Call this at a deployment, from a
    /// program whose code has every schedule of its application.
    ///
    /// # Errors
    /// When the engine could not be asked. Schedules that were removed before stay removed.
    pub fn prune(&self) -> RecordedAct<'a, Vec<String>> {
        let schedules = *self;
        let entry = AuditEntry {
            application: Some(self.inner.services.source.clone()),
            ..self.entry(AuditAction::Prune, "")
        };
        RecordedAct::new(Ok(entry), move |entry| async move {
            schedules.remove_unknown(entry).await
        })
    }

    async fn remove_unknown(&self, entry: AuditEntry) -> Result<Vec<String>> {
        let mut pruned = Vec::new();
        for schedule in self.list().await? {
            let is_ours = schedule.application == self.inner.services.source;
            if !is_ours || schedule.is_known {
                continue;
            }

            // One entry each: the trail names what was removed.
            let entry = AuditEntry {
                schedule: Some(schedule.name.clone()),
                ..entry.clone()
            };
            let remove = self.store.remove(&schedule.name);
            if recorded(self.engine(), entry, remove, unless_absent).await? {
                pruned.push(schedule.name);
            }
        }
        Ok(pruned)
    }

    fn is_known(&self, row: &ScheduleRow) -> bool {
        let planned = self.inner.schedules.find(&row.name);
        planned.is_some_and(|planned| !planned.differs_from(row, &self.inner.services.source))
    }

    fn known(&self, name: &str) -> Result<&'a Planned> {
        self.inner.schedules.find(name).ok_or_else(|| missing(name))
    }

    /// The stored row of a schedule of this application, if there is one, and the time.
    async fn row(&self, planned: &Planned) -> Result<(Option<ScheduleRow>, DateTime<Utc>)> {
        let kept = self.inner.look_at(&[]).await?;
        let row = kept.rows.into_iter().find(|row| row.name == planned.name);
        if let Some(row) = &row {
            self.inner.check_owner(planned, row, kept.now)?;
        }
        Ok((row, kept.now))
    }

    async fn register(&self, planned: &Planned) -> Result<bool> {
        let now = self.inner.look_at(&[]).await?.now;
        self.inner.register(planned, None, now).await
    }
}

impl std::fmt::Debug for Schedules<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Schedules").finish_non_exhaustive()
    }
}

fn not_stored(row: &ScheduleRow) -> Error {
    let text = format!(
        "what the schedule `{}` publishes is not stored: an older ezq registered it, or a codec writes it. \
         Fire it from `{}`, whose code has it",
        row.name.escape_debug(),
        row.application.escape_debug()
    );
    Error::new(ErrorKind::Unsupported, text)
}

fn missing(name: &str) -> Error {
    let text = format!(
        "there is no schedule `{}`: `schedules()?.list()` lists the schedules",
        name.escape_debug()
    );
    Error::new(ErrorKind::ScheduleMissing, text)
}
