//! Looking at schedules and changing them by hand, from any process.

use std::sync::Arc;

use chrono::{DateTime, Utc};

use crate::engine::{Fired, Firing, ScheduleRow, ScheduleStore};
use crate::error::{Error, ErrorKind, Result};
use crate::publish::publisher::{Published, Publisher};
use crate::schedule::Planned;
use crate::shared::Shared;

/// The schedules that an application's engine keeps, those of other applications included.
///
/// ```
/// # use ezq_core::testing::TestApp;
/// # use ezq_core::{Event, Schedule};
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

/// A schedule as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ScheduleStatus {
    /// Its name.
    pub name: String,
    /// The application that registered its definition.
    pub application: String,
    /// Its times, what becomes of missed ones, its event's type and its queue, for people.
    pub definition: String,
    /// When its next tick comes, on the engine's clock; none while it is paused.
    pub next_at: Option<DateTime<Utc>>,
    /// When the newest tick was due that fired.
    pub last_tick: Option<DateTime<Utc>>,
    /// When it fired last, by a tick or by hand.
    pub fired_at: Option<DateTime<Utc>>,
    /// Whether it is paused.
    pub is_paused: bool,
    /// Whether this application has it in its code.
    pub is_known: bool,
}

impl<'a> Schedules<'a> {
    pub(crate) fn of(inner: &'a Arc<Shared>) -> Result<Self> {
        Ok(Self {
            inner,
            store: inner.schedule_store()?,
        })
    }

    /// Every schedule, by name. One of this application is there once a consumer of it has run, or
    /// it was changed by hand.
    ///
    /// # Errors
    /// When the engine could not be asked.
    pub async fn list(&self) -> Result<Vec<ScheduleStatus>> {
        let status = |row: ScheduleRow| ScheduleStatus {
            next_at: row.paused_at.is_none().then_some(row.next_at),
            is_paused: row.paused_at.is_some(),
            is_known: self.is_known(&row),
            name: row.name,
            application: row.application,
            definition: row.definition,
            last_tick: row.last_tick,
            fired_at: row.fired_at,
        };
        Ok(self
            .inner
            .look_at(&[])
            .await?
            .rows
            .into_iter()
            .map(status)
            .collect())
    }

    /// Lets a schedule's ticks pass until it is [resumed](Self::resume), in every process at once.
    ///
    /// # Errors
    /// [`ErrorKind::ScheduleMissing`]; [`ErrorKind::Configuration`] for one of this application whose
    /// name another has for something else; else when the engine could not be asked.
    pub async fn pause(&self, name: &str) -> Result<()> {
        self.set_paused(name, true).await
    }

    /// Lets a paused schedule go on, with its first tick from now on; what ticked meanwhile is left
    /// out, whatever it says of missed ticks. Other processes notice within half a minute.
    ///
    /// # Errors
    /// As [`pause`](Self::pause).
    pub async fn resume(&self, name: &str) -> Result<()> {
        self.set_paused(name, false).await
    }

    async fn set_paused(&self, name: &str, pause: bool) -> Result<()> {
        if let Some(planned) = self.inner.schedules.find(name) {
            self.row(planned).await?;
        }
        if !self.store.pause(name, pause).await? {
            self.register(self.known(name)?).await?;
            if !self.store.pause(name, pause).await? {
                return Err(missing(name));
            }
        }
        self.inner.schedules.nudge.notify_one();
        Ok(())
    }

    /// Publishes a schedule's event now, also while it is paused; its ticks go on as they were. It
    /// must be one of this application, which knows its event.
    ///
    /// # Errors
    /// As [`pause`](Self::pause), and as publishing an event.
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open whether the event was published.
    pub async fn run_now(&self, name: &str) -> Result<Published> {
        let planned = self.known(name)?;
        let (row, now) = self.row(planned).await?;
        if row.is_none() {
            self.inner.register(planned, None, now).await?;
        }
        let publisher = Publisher::new(Arc::clone(&self.inner.services));
        let previous = row.and_then(|row| row.last_tick);
        let prepared = planned.message(&publisher, now, previous)?;
        let queue = prepared.outgoing.queue.clone();
        let (event_id, event_type) = (prepared.event_id, prepared.event_type);
        let firing = Firing {
            name,
            tick: None,
            message: Some(prepared.outgoing),
        };
        match self.inner.store_firing(firing).await? {
            Fired::Done(Some(id)) => Ok(Published {
                queue,
                id,
                event_id,
                event_type,
                is_duplicate: false,
            }),
            Fired::Done(None) | Fired::NotDue => Err(missing(name)),
        }
    }

    /// Removes a schedule, in every process at once; whether it was there. One that stands in the
    /// code of a process comes back when that is started again.
    ///
    /// # Errors
    /// When the engine could not be asked.
    pub async fn remove(&self, name: &str) -> Result<bool> {
        self.store.remove(name).await
    }

    /// Removes the schedules that were registered under this application's name and are no longer
    /// in its code; their names. Nothing else ever removes them: without their code they do not
    /// fire. Call it at a deployment, from a program that has all schedules of its application.
    ///
    /// # Errors
    /// When the engine could not be asked.
    ///
    /// # Cancel safety
    /// What was removed stays removed.
    pub async fn prune(&self) -> Result<Vec<String>> {
        let mut pruned = Vec::new();
        for schedule in self.list().await? {
            let is_ours = schedule.application == self.inner.services.source;
            if is_ours && !schedule.is_known && self.store.remove(&schedule.name).await? {
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

    /// What is kept of a schedule of this application, and the time.
    async fn row(&self, planned: &Planned) -> Result<(Option<ScheduleRow>, DateTime<Utc>)> {
        let kept = self.inner.look_at(&[]).await?;
        let row = kept.rows.into_iter().find(|row| row.name == planned.name);
        if let Some(row) = &row {
            self.inner.owned(planned, row, kept.now)?;
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

fn missing(name: &str) -> Error {
    let text = format!(
        "there is no schedule `{}`: `schedules()?.list()` tells those there are",
        name.escape_debug()
    );
    Error::new(ErrorKind::ScheduleMissing, text)
}
