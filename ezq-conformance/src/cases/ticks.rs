//! Schedules: a tick moves the schedule's row and publishes its event in one step, once.

use std::time::Duration;

use chrono::TimeDelta;
use ezq_core::ErrorKind;
use ezq_core::engine::{
    Advance, Engine, Fired, Firing, KeptSchedules, Outgoing, Registration, ScheduleRow,
    ScheduleStore,
};

use crate::error::{CaseError, CaseResult};
use crate::stage::{HOLD, Stage, numbers};

cases![
    a_tick_fires_once_when_its_time_has_come,
    concurrent_processes_fire_a_tick_once,
    a_tick_whose_queue_is_missing_stays,
    a_tick_that_is_left_out_moves_the_schedule_on,
    a_paused_schedule_does_not_tick,
    a_schedule_is_changed_only_by_who_knows_its_definition,
    a_schedule_fires_by_hand_and_stays_as_it_is,
    what_a_schedule_publishes_goes_with_its_definition,
    a_process_that_has_the_definition_is_seen,
    a_removed_schedule_does_not_fire,
];

const DEFINITION: &str = "every \"day\", 'as' a text";
const SOON: Duration = Duration::from_millis(300);

/// A schedule of the case's own. Its name is the case's queue with characters that are hard to quote.
struct Scheduled<'a, 'h> {
    stage: &'a Stage<'h>,
    store: &'a dyn ScheduleStore,
    name: String,
}

impl<'a, 'h> Scheduled<'a, 'h> {
    /// A schedule whose tick comes soon.
    async fn new(stage: &'a Stage<'h>) -> Result<Self, CaseError> {
        stage.needs("schedules", |c| c.schedules)?;
        // Quotes, a semicolon and a letter beyond ASCII would break a statement made from text.
        let name = format!("{} \"Täglich\"; '", stage.queue);
        let scheduled = Self {
            stage,
            store: store(&*stage.engine)?,
            name,
        };

        let at = scheduled.look().await?.now + TimeDelta::from_std(SOON).unwrap_or_default();
        check!(
            scheduled.register(DEFINITION, at, None).await?,
            "it could not be registered"
        );
        Ok(scheduled)
    }

    async fn look(&self) -> Result<KeptSchedules, CaseError> {
        Ok(self.store.look(&[]).await?)
    }

    async fn row(&self) -> Result<ScheduleRow, CaseError> {
        let found = self
            .look()
            .await?
            .rows
            .into_iter()
            .find(|row| row.name == self.name);
        found.ok_or_else(|| CaseError::Failed("the schedule is not listed".to_owned()))
    }

    async fn register(
        &self,
        definition: &str,
        next_at: chrono::DateTime<chrono::Utc>,
        instead_of: Option<&str>,
    ) -> Result<bool, CaseError> {
        let new = Registration::new(&self.name, "suite", definition, next_at);
        Ok(self.store.register(new, instead_of).await?)
    }

    fn firing<'f>(&'f self, row: &'f ScheduleRow, message: Option<Outgoing>) -> Firing<'f> {
        let tick = Advance::new(DEFINITION, row.next_at, row.next_at + TimeDelta::days(1))
            .due(row.next_at);
        Firing::new(&self.name).tick(tick).message(message)
    }

    /// Fires the tick of the row.
    async fn fire(&self, row: &ScheduleRow) -> Result<Fired, CaseError> {
        Ok(self
            .store
            .fire(self.firing(row, Some(self.stage.message(1))))
            .await?)
    }

    async fn not_due(&self, row: &ScheduleRow, why: &str) -> CaseResult {
        let fired = self.fire(row).await?;
        check_eq!(fired, Fired::NotDue, "{why}");
        self.stage.is_empty().await
    }

    async fn end(self) -> CaseResult {
        self.store.remove(&self.name).await?;
        Ok(())
    }
}

fn store(engine: &dyn Engine) -> Result<&dyn ScheduleStore, CaseError> {
    engine
        .schedules()
        .ok_or_else(|| CaseError::Failed("it offers schedules and keeps none".to_owned()))
}

async fn a_tick_fires_once_when_its_time_has_come(stage: &Stage<'_>) -> CaseResult {
    let scheduled = Scheduled::new(stage).await?;
    let row = scheduled.row().await?;
    check!(
        row.last_tick.is_none() && row.fired_at.is_none(),
        "it has fired: {row:?}"
    );
    check_eq!(
        (&*row.definition, &*row.application),
        (DEFINITION, "suite"),
        "what was registered"
    );

    scheduled.not_due(&row, "before its time").await?;
    check_eq!(scheduled.row().await?, row, "the row before its time");
    stage.pass(SOON).await;

    let fired = scheduled.fire(&row).await?;
    check!(
        matches!(fired, Fired::Done(Some(_))),
        "the tick answered {fired:?}"
    );
    check_eq!(
        scheduled.fire(&row).await?,
        Fired::NotDue,
        "the same tick again"
    );
    check_eq!(numbers(&stage.lease(10, HOLD).await?), [1], "messages");

    let after = scheduled.row().await?;
    check_eq!(
        after.next_at,
        row.next_at + TimeDelta::days(1),
        "the next tick"
    );
    check_eq!(after.last_tick, Some(row.next_at), "the last tick");
    check!(
        after.fired_at.is_some_and(|at| at >= row.next_at),
        "it fired: {after:?}"
    );

    scheduled.end().await
}

async fn concurrent_processes_fire_a_tick_once(stage: &Stage<'_>) -> CaseResult {
    let scheduled = Scheduled::new(stage).await?;
    let row = scheduled.row().await?;
    stage.pass(SOON).await;

    let second = store(&*stage.second)?;
    let firing = || scheduled.firing(&row, Some(stage.message(1)));
    // Two from each client: the store has to decide, not a lock within one process.
    let (a, b, c, d) = tokio::join!(
        scheduled.store.fire(firing()),
        second.fire(firing()),
        scheduled.store.fire(firing()),
        second.fire(firing())
    );

    let fired = [a?, b?, c?, d?];
    let done = fired
        .iter()
        .filter(|fired| matches!(fired, Fired::Done(_)))
        .count();
    check_eq!(done, 1, "firings of one tick: {fired:?}");
    check_eq!(numbers(&stage.lease(10, HOLD).await?), [1], "messages");

    scheduled.end().await
}

async fn a_tick_whose_queue_is_missing_stays(stage: &Stage<'_>) -> CaseResult {
    let scheduled = Scheduled::new(stage).await?;
    let row = scheduled.row().await?;
    stage.pass(SOON).await;
    let message = stage.message(1).queue(stage.missing.clone());

    match scheduled
        .store
        .fire(scheduled.firing(&row, Some(message)))
        .await
    {
        Err(error) => check_eq!(
            error.kind(),
            ErrorKind::QueueMissing,
            "the kind of the error"
        ),
        Ok(fired) => check!(false, "a missing queue answered {fired:?}"),
    }

    check_eq!(scheduled.row().await?, row, "the row after a failure");
    let fired = scheduled.fire(&row).await?;
    check!(
        matches!(fired, Fired::Done(Some(_))),
        "the tick answered {fired:?}"
    );
    scheduled.end().await
}

async fn a_tick_that_is_left_out_moves_the_schedule_on(stage: &Stage<'_>) -> CaseResult {
    let scheduled = Scheduled::new(stage).await?;
    let row = scheduled.row().await?;
    check_eq!(
        scheduled.store.fire(scheduled.firing(&row, None)).await?,
        Fired::NotDue,
        "early"
    );

    stage.pass(SOON).await;
    let fired = scheduled.store.fire(scheduled.firing(&row, None)).await?;
    check_eq!(fired, Fired::Done(None), "a tick that is left out");

    let after = scheduled.row().await?;
    check_eq!(
        after.next_at,
        row.next_at + TimeDelta::days(1),
        "the next tick"
    );
    check!(
        after.last_tick.is_none() && after.fired_at.is_none(),
        "it did not fire: {after:?}"
    );

    stage.is_empty().await?;
    scheduled.end().await
}

async fn a_paused_schedule_does_not_tick(stage: &Stage<'_>) -> CaseResult {
    let scheduled = Scheduled::new(stage).await?;
    let row = scheduled.row().await?;
    let pause = |pause| scheduled.store.pause(&scheduled.name, pause);
    check!(pause(true).await?, "the schedule was not found");

    let paused = scheduled.row().await?.paused_at;
    check!(paused.is_some(), "it does not say that it is paused");
    // Pausing again must not move the time since when it is paused.
    check!(pause(true).await?, "the paused schedule was not found");
    check_eq!(
        scheduled.row().await?.paused_at,
        paused,
        "the time since when it is paused"
    );

    stage.pass(SOON).await;
    scheduled.not_due(&row, "a paused schedule").await?;
    check!(pause(false).await?, "the paused schedule was not found");

    let after = scheduled.row().await?;
    check!(after.paused_at.is_none(), "it says that it is paused");
    check!(
        after.resumed_at.is_some_and(|at| at > row.next_at),
        "it went on: {after:?}"
    );

    let fired = scheduled.fire(&row).await?;
    check!(
        matches!(fired, Fired::Done(Some(_))),
        "a schedule that went on answered {fired:?}"
    );
    check!(
        !scheduled.store.pause("no such schedule", true).await?,
        "an unknown one was paused"
    );

    scheduled.end().await
}

async fn a_schedule_is_changed_only_by_who_knows_its_definition(stage: &Stage<'_>) -> CaseResult {
    let scheduled = Scheduled::new(stage).await?;
    let row = scheduled.row().await?;
    let at = row.next_at;
    check!(
        !scheduled.register("another", at, None).await?,
        "one that stands was new"
    );
    check!(
        !scheduled.register("another", at, Some("a third")).await?,
        "another's was changed"
    );
    check_eq!(
        scheduled.row().await?.definition,
        DEFINITION,
        "the definition"
    );
    check!(
        scheduled.register("another", at, Some(DEFINITION)).await?,
        "it was not changed"
    );
    check_eq!(
        scheduled.row().await?.definition,
        "another",
        "the definition"
    );

    stage.pass(SOON).await;
    scheduled
        // A process of an older version may still have this tick in hand.
        .not_due(&row, "a tick of an old definition")
        .await?;
    scheduled.end().await
}

async fn a_schedule_fires_by_hand_and_stays_as_it_is(stage: &Stage<'_>) -> CaseResult {
    let scheduled = Scheduled::new(stage).await?;
    let row = scheduled.row().await?;
    scheduled.store.pause(&scheduled.name, true).await?;

    let firing = Firing::new(&scheduled.name).message(stage.message(1));
    let fired = scheduled.store.fire(firing.clone()).await?;
    check!(
        matches!(fired, Fired::Done(Some(_))),
        "by hand it answered {fired:?}"
    );
    check_eq!(numbers(&stage.lease(10, HOLD).await?), [1], "messages");

    let after = scheduled.row().await?;
    check_eq!(
        (after.next_at, after.last_tick),
        (row.next_at, None),
        "the ticks"
    );
    check!(after.fired_at.is_some(), "it does not say that it fired");

    let unknown = Firing::new("no such schedule").message(firing.message);
    check_eq!(
        scheduled.store.fire(unknown).await?,
        Fired::NotDue,
        "an unknown schedule"
    );

    scheduled.end().await
}

async fn what_a_schedule_publishes_goes_with_its_definition(stage: &Stage<'_>) -> CaseResult {
    let scheduled = Scheduled::new(stage).await?;
    let row = scheduled.row().await?;
    check!(!row.has_event, "it has an event that nobody stored");
    let store = scheduled.store;
    let name = &*scheduled.name;
    check_eq!(store.stored_event(name).await?, None, "what nobody stored");

    // Quotes, an escape of JSON and letters beyond ASCII come back as they were.
    let event = r#"{"body": "it's \"ü\" \u0041 \u{1f980}"}"#;
    store.store_event(name, DEFINITION, Some(event)).await?;
    store.store_event(name, "another", Some("wrong")).await?;
    check_eq!(
        store.stored_event(name).await?.as_deref(),
        Some(event),
        "what was stored"
    );

    let stored = scheduled.row().await?;
    check!(stored.has_event, "its row does not say that it is stored");
    check_eq!(
        (stored.next_at, stored.fired_at),
        (row.next_at, None),
        "its ticks"
    );

    let is_replaced = scheduled
        .register("another", row.next_at, Some(DEFINITION))
        .await?;
    check!(is_replaced, "it was not changed");
    check_eq!(
        store.stored_event(name).await?,
        None,
        "the event of an old definition"
    );
    check!(
        !scheduled.row().await?.has_event,
        "its row still says that it is stored"
    );

    store.store_event(name, "another", Some(event)).await?;
    store.store_event(name, "another", None).await?;
    check_eq!(store.stored_event(name).await?, None, "what was taken back");
    check_eq!(
        store.stored_event("no such schedule").await?,
        None,
        "of an unknown schedule"
    );
    scheduled.end().await
}

async fn a_process_that_has_the_definition_is_seen(stage: &Stage<'_>) -> CaseResult {
    let scheduled = Scheduled::new(stage).await?;
    let row = scheduled.row().await?;
    stage.pass(SOON).await;

    // Looking does not count for another definition. Firing always counts, even where the store notes
    // looks only now and then.
    scheduled
        .store
        .look(&[(&scheduled.name, "another")])
        .await?;

    check_eq!(
        scheduled.row().await?.seen_at,
        row.seen_at,
        "when it was seen by another"
    );

    scheduled.fire(&row).await?;
    check!(
        scheduled.row().await?.seen_at > row.seen_at,
        "who fires is not seen"
    );

    let kept = scheduled
        .store
        .look(&[(&scheduled.name, DEFINITION)])
        .await?;
    check!(kept.now >= row.seen_at, "the clock goes back");
    scheduled.end().await
}

async fn a_removed_schedule_does_not_fire(stage: &Stage<'_>) -> CaseResult {
    let scheduled = Scheduled::new(stage).await?;
    let row = scheduled.row().await?;
    stage.pass(SOON).await;
    check!(
        scheduled.store.remove(&scheduled.name).await?,
        "it was not found"
    );
    check!(
        !scheduled.store.remove(&scheduled.name).await?,
        "it was removed twice"
    );

    scheduled.not_due(&row, "a removed schedule").await?;
    check!(
        scheduled
            .look()
            .await?
            .rows
            .iter()
            .all(|r| r.name != row.name),
        "it is listed"
    );
    Ok(())
}
