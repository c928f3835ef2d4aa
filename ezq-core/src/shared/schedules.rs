//! Keeps the time of an application's schedules, in a task of one of its consumers.
//!
//! # How a schedule fires once
//!
//! A schedule is declared in code. The engine keeps a row for it, with the time of its next tick.
//! The task looks at the rows, fires what is due and sleeps until the next tick, but no longer than
//! [`LOOK`], so that it notices what other processes changed. That is two statements a minute while
//! nothing ticks.
//!
//! A firing is one statement: the row moves from this tick to the next, if it still has this tick,
//! this definition and no pause, and the event is inserted because the row moved. So processes need
//! no leader and no lock between ticks. The worker computes the next tick, from the time that the
//! database told.
//!
//! Of several ticks that have passed only the newest counts. It fires, unless it is more than a
//! minute late and the schedule says `skip`, or it came during a pause.
//!
//! # Versions of a program
//!
//! A row has the definition (times, policy, event type, queue) of the process that began last. A
//! process with another definition stands by and changes nothing, until no process of the newer
//! definition was seen for two minutes; each look notes that its process is there. So two versions
//! of an application never both fire, and do not take the row from each other in turns. After a
//! roll-back the version that is left takes over. Ticks of a new definition count from when the old
//! one was last seen.
//!
//! A row whose schedule is in no code does not fire. Only `remove` and `prune` delete it. Names
//! belong to the database: if another application has a schedule of the same name for another event
//! or queue, the consumer of the second one does not start, and takes the row only once the first
//! is gone. Two programs with names of their own that publish the same event to the same queue
//! count as one application.
//!
//! The function of `#[on_schedule]` is a handler of an event type of its own, `ezq.tick.<name>`, on
//! an ordinary queue. Its retries, leases, dead letters and history are those of any event.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::sleep;
use tracing::{debug, info};

use crate::engine::{
    Advance, Fired, Firing, KeptSchedules, Registration, ScheduleRow, ScheduleStore,
};
use crate::error::{Error, ErrorKind, Result, error_chain};
use crate::logging::warn;
use crate::observe::metrics::ticked;
use crate::publish::publisher::Publisher;
use crate::schedule::{Missed, Planned};
use crate::shared::Shared;

/// The longest time between two looks. A change made elsewhere is noticed so late at most.
const LOOK: Duration = Duration::from_secs(30);
/// A tick that is found later than this was missed.
const ON_TIME: TimeDelta = TimeDelta::minutes(1);
/// A definition gives way to another once no process with it was seen for so long.
const GONE: TimeDelta = TimeDelta::minutes(2);
/// How long to wait after a failure before the next look.
const RETRY: Duration = Duration::from_secs(1);

impl Shared {
    /// Makes sure that the engine can keep the application's schedules, if it has any, and that no other
    /// application uses one of their names.
    pub(crate) async fn ready_to_schedule(&self) -> Result<()> {
        if self.schedules.planned.is_empty() {
            return Ok(());
        }

        self.schedule_store()?.prepare().await?;

        // As one without definitions: a schedule of another application must not count as seen now.
        let KeptSchedules { now, rows } = self.look_at(&[]).await?;
        for planned in &self.schedules.planned {
            if let Some(row) = rows.iter().find(|row| row.name == planned.name) {
                self.check_owner(planned, row, now)?;
            }
        }
        Ok(())
    }

    /// Fires ticks as they fall due, until it is dropped.
    pub(crate) async fn keep_schedules(self: Arc<Self>) {
        // Of all consumers of the application one keeps the time; the others wait for it to end.
        let Ok(_permit) = self.schedules.timekeeper.acquire().await else {
            return;
        };

        let mut pause = RETRY;
        let mut looked = false;
        loop {
            let wait = match self.fire_due().await {
                Ok(wait) => {
                    pause = RETRY;
                    wait
                }
                Err(error) => {
                    warn!(error = %error_chain(&error), "cannot read the schedules, will try \
                                                         again");
                    // The database may be gone for long: fewer and fewer attempts.
                    pause = (pause * 2).min(LOOK);
                    pause
                }
            };

            tokio::select! {
                // The next tick, or time to look at what others changed.
                () = sleep(wait) => {}
                // A schedule was changed in this process.
                () = self.schedules.nudge.notified() => {}
            }

            // Not before the first wait: consumers of other queues may start a moment later.
            if !std::mem::replace(&mut looked, true) {
                self.warn_of_unread_schedules();
            }
        }
    }

    /// Warns of schedules whose events, as far as this process knows, nobody reads.
    fn warn_of_unread_schedules(&self) {
        let consumers = self.consumers();
        for planned in &self.schedules.planned {
            let schedule = &planned.name;
            let queue = &planned.queue;
            let is_read = consumers
                .iter()
                .any(|consumer| consumer.queue.as_ref() == Some(queue));
            if is_read {
                continue;
            }

            warn!(
                schedule,
                %queue,
                "the schedule `{schedule}` publishes to the queue `{queue}`, which no consumer of \
                 this process reads: its events wait until one does, here or elsewhere"
            );
        }
    }

    /// The part of the default engine that keeps schedules.
    pub(crate) fn schedule_store(&self) -> Result<&dyn ScheduleStore> {
        let engine = &self.services.engines.default;
        engine.schedules().ok_or_else(|| {
            let name = engine.capabilities().name;
            Error::new(
                ErrorKind::Unsupported,
                format!("the engine `{name}` does not support schedules"),
            )
        })
    }

    /// Looks at the schedules once and fires what is due. Returns how long to wait for the next look.
    async fn fire_due(&self) -> Result<Duration> {
        let KeptSchedules { now, rows } = self.look().await?;

        // With jitter the processes of a fleet do not look all at once.
        let mut wait = LOOK.mul_f64(rand::random_range(0.8..1.0));
        for planned in &self.schedules.planned {
            let row = rows.iter().find(|row| row.name == planned.name);
            match self.tend(planned, row, now).await {
                Ok(pause) => {
                    // Only the task that keeps the time uses it. The plan is shared, hence an atomic.
                    planned.registered.store(true, Ordering::Relaxed);
                    wait = wait.min(pause);
                }
                // The other schedules fire all the same.
                Err(error) => {
                    let why = error_chain(&error);
                    warn!(
                        schedule = planned.name,
                        error = why,
                        "a schedule could not fire, will try again"
                    );
                    let pause = match error.kind() {
                        // Only a new version of this or another application mends it.
                        ErrorKind::Configuration | ErrorKind::ScheduleTaken => LOOK,
                        _ => RETRY,
                    };
                    if error.kind() == ErrorKind::SchemaMissing {
                        self.schedules.forget();
                    }
                    wait = wait.min(pause);
                }
            }
        }
        Ok(wait)
    }

    /// Looks at the schedules as a process that has the application's definitions.
    pub(super) async fn look(&self) -> Result<KeptSchedules> {
        let planned = &self.schedules.planned;
        let mine: Vec<_> = planned.iter().map(|p| (&*p.name, &*p.definition)).collect();
        self.look_at(&mine).await
    }

    /// Looks at the schedules; the store notes that a process with the definitions `mine` is there.
    pub(crate) async fn look_at(&self, mine: &[(&str, &str)]) -> Result<KeptSchedules> {
        let looked = self.schedule_store()?.look(mine).await;
        looked.inspect_err(|error| {
            if error.kind() == ErrorKind::SchemaMissing {
                self.schedules.forget();
            }
        })
    }

    /// Refuses a schedule whose name another application uses for something else, while a process of
    /// that application runs.
    pub(crate) fn check_owner(
        &self,
        planned: &Planned,
        row: &ScheduleRow,
        now: DateTime<Utc>,
    ) -> Result<()> {
        if !planned.differs_from(row, &self.services.source) || now - row.seen_at > GONE {
            return Ok(());
        }
        let ScheduleRow {
            name,
            application,
            definition,
            ..
        } = row;
        let text = format!(
            "the application `{application}` has a schedule `{}`, too ({definition}; here: {}): \
             give one of them another name. If it has moved here, stop it there and remove it by \
             `schedules()?.remove(..)`, or wait for two minutes",
            name.escape_debug(),
            planned.definition
        );
        Err(Error::new(ErrorKind::ScheduleTaken, text))
    }

    /// Registers, changes or fires a schedule, as its row says. Returns how long to wait for the next
    /// look; zero if what is left may be due now.
    async fn tend(
        &self,
        planned: &Planned,
        row: Option<&ScheduleRow>,
        now: DateTime<Utc>,
    ) -> Result<Duration> {
        let name = &*planned.name;
        let is_new_here = !planned.registered.load(Ordering::Relaxed);
        let Some(row) = row else {
            // It was removed while this process runs, so it comes back only when a process begins.
            if !is_new_here {
                return Ok(LOOK);
            }
            self.register(planned, None, now).await?;
            return Ok(Duration::ZERO);
        };

        if row.definition != planned.definition {
            self.check_owner(planned, row, now)?;
            // Processes of two versions must not change the row in turns: the newest one to begin wins.
            if !is_new_here && now - row.seen_at <= GONE {
                debug!(
                    schedule = name,
                    theirs = row.definition,
                    "another definition is in force"
                );
                return Ok(LOOK);
            }
            if self.register(planned, Some(row), now).await? {
                info!(
                    schedule = name,
                    old = row.definition,
                    new = planned.definition,
                    application = row.application,
                    "a schedule was changed"
                );
            }
            return Ok(Duration::ZERO);
        }

        // Another version of the program may have stored another event.
        if is_new_here {
            self.store_event(planned).await;
        }
        if row.paused_at.is_some() {
            return Ok(LOOK);
        }
        if let Ok(pause) = (row.next_at - now).to_std()
            && !pause.is_zero()
        {
            return Ok(pause);
        }

        self.fire(planned, row, now).await?;
        Ok(Duration::ZERO)
    }

    /// Puts a schedule in the place of the row that is there. Its ticks count from when a process with
    /// the old definition was last seen. False if another process changed the row meanwhile.
    pub(crate) async fn register(
        &self,
        planned: &Planned,
        old: Option<&ScheduleRow>,
        now: DateTime<Utc>,
    ) -> Result<bool> {
        let last = old.and_then(|row| row.last_tick);
        let after = old.map_or(now, |row| {
            row.seen_at.max(last.unwrap_or(row.seen_at)).min(now)
        });

        let registration = Registration {
            name: &planned.name,
            application: &self.services.source,
            definition: &planned.definition,
            next_at: planned.when.next(after, last.unwrap_or(after))?,
        };
        let instead_of = old.map(|row| &*row.definition);
        let registered = self
            .schedule_store()?
            .register(registration, instead_of)
            .await?;
        if registered {
            self.store_event(planned).await;
        }
        Ok(registered)
    }

    /// Stores what a schedule publishes, for processes that do not have it in their code.
    async fn store_event(&self, planned: &Planned) {
        let Planned {
            name,
            definition,
            stored_event,
            ..
        } = planned;
        let stored = match self.schedule_store() {
            Ok(store) => {
                store
                    .store_event(name, definition, stored_event.as_deref())
                    .await
            }
            Err(error) => Err(error),
        };

        // Its ticks fire all the same: they do not need it.
        if let Err(error) = stored {
            let schedule = name;
            warn!(
                schedule,
                error = error_chain(&error),
                "what a schedule publishes cannot be stored: only a process of its application can \
                 fire it by hand"
            );
        }
    }

    /// Fires the newest tick that is due, or leaves it out.
    async fn fire(&self, planned: &Planned, row: &ScheduleRow, now: DateTime<Utc>) -> Result<()> {
        let from = row.next_at;
        let due = planned.when.newest(from, now)?;
        let is_missed = planned.missed == Missed::Skip && now - due > ON_TIME;
        // It came during a pause.
        let is_left_out = is_missed || row.resumed_at.is_some_and(|resumed| due <= resumed);
        let to = planned.when.next(now, from)?;
        let tick = Advance {
            definition: &planned.definition,
            from,
            due,
            to,
        };
        let message = if is_left_out {
            None
        } else {
            let publisher = Publisher::new(Arc::clone(&self.services));
            Some(planned.message(&publisher, due, row.last_tick)?.outgoing)
        };

        let firing = Firing {
            name: &planned.name,
            tick: Some(tick),
            message,
        };
        if let Fired::Done(id) = self.store_firing(firing).await? {
            let schedule = &planned.name;
            ticked(schedule, due, now, id.is_some());
            match id {
                Some(id) => debug!(schedule, %due, id = id.to_string(), next = %to, "fired"),
                None => info!(schedule, %due, next = %to, "left out a tick"),
            }
        }
        Ok(())
    }

    /// Stores a firing, and creates the queue if it is missing.
    pub(crate) async fn store_firing(&self, firing: Firing<'_>) -> Result<Fired> {
        let store = self.schedule_store()?;
        let fired = match store.fire(firing.clone()).await {
            Err(error) if error.kind() == ErrorKind::QueueMissing => {
                if let Some(message) = &firing.message {
                    self.services
                        .engines
                        .default
                        .ensure_queue(&message.queue)
                        .await?;
                }
                store.fire(firing.clone()).await
            }
            other => other,
        };

        if let (Ok(Fired::Done(Some(id))), Some(message)) = (&fired, &firing.message) {
            self.services.notices.stored(message, id);
        }
        fired
    }
}
