//! Schedules on the memory engine in paused time: two applications on one store are two processes.

mod by_hand;
mod refusals;

use std::sync::atomic::Ordering;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use ezq_core::app::{App, AppBuilder};
use ezq_core::consumer::ConsumerHandle;
use ezq_core::engine::{Engine as _, ScheduleRow, ScheduleStore};
use ezq_core::event::Event;
use ezq_core::handler::{Call, Handler};
use ezq_core::memory::MemoryEngine;
use ezq_core::message::QueueName;
use ezq_core::schedule::{Missed, Schedule};
use ezq_core::{ErrorKind, memory};
use serde::{Deserialize, Serialize};

use crate::faulty::Faulty;

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Sweep {
    what: String,
}

impl Event for Sweep {
    const TYPE: &'static str = "sweep";
}

pub(crate) const MINUTE: Duration = Duration::from_secs(60);

pub(crate) fn sweep() -> Sweep {
    Sweep {
        what: "all".to_owned(),
    }
}

pub(crate) fn builder() -> AppBuilder {
    let handler = Handler::on("sweep", |_: Sweep| async {});
    App::builder()
        .without_discovered_handlers()
        .register(handler)
}

fn app(engine: &MemoryEngine, schedule: Schedule) -> App {
    builder()
        .schedule("sweep", schedule, &sweep())
        .build(engine.clone())
        .unwrap()
}

/// When the ticks of what was published were due.
pub(crate) fn ticks(engine: &MemoryEngine) -> Vec<DateTime<Utc>> {
    let published = engine.published(&QueueName::default());
    let time = |published: &memory::Published| {
        let body: serde_json::Value = serde_json::from_str(&published.message.body).unwrap();
        body["time"].as_str().unwrap().parse().unwrap()
    };
    published.iter().map(time).collect()
}

/// The steps between times, in seconds.
fn steps(times: &[DateTime<Utc>]) -> Vec<i64> {
    times
        .windows(2)
        .map(|pair| (pair[1] - pair[0]).num_seconds())
        .collect()
}

pub(crate) async fn row(engine: &MemoryEngine) -> ScheduleRow {
    engine
        .schedules()
        .unwrap()
        .look(&[])
        .await
        .unwrap()
        .rows
        .remove(0)
}

pub(crate) async fn stop(consumer: ConsumerHandle) {
    consumer.stop();
    consumer.await.unwrap();
}

/// Lets time pass, and the tasks do what they do about it.
pub(crate) async fn pass(time: Duration) {
    tokio::time::sleep(time + Duration::from_millis(100)).await;
}

#[tokio::test(start_paused = true)]
async fn three_processes_fire_each_tick_once_and_on_time() {
    let engine = MemoryEngine::new();
    let apps = [(); 3].map(|()| app(&engine, Schedule::every("90s")));
    let began = engine.now();

    // Two consumers of one process share its turn.
    let consumers: Vec<_> = apps
        .iter()
        .chain(&apps[..1])
        .map(|app| app.consumer().spawn())
        .collect();
    pass(90 * 10 * Duration::from_secs(1)).await;

    let found = ticks(&engine);
    assert_eq!(found.len(), 10, "{found:?}");
    assert_eq!(steps(&found), [90; 9]);
    assert!(found[0] - began >= TimeDelta::seconds(90));
    for published in engine.published(&QueueName::default()) {
        let body: serde_json::Value = serde_json::from_str(&published.message.body).unwrap();
        let due: DateTime<Utc> = body["time"].as_str().unwrap().parse().unwrap();
        assert!(published.at >= due && published.at - due < TimeDelta::seconds(1));
        assert_eq!(
            (&body["type"], &body["data"]["what"]),
            (&"sweep".into(), &"all".into())
        );
    }

    let mut handled = 0;
    for consumer in consumers {
        consumer.stop();
        handled += consumer.await.unwrap().counts.handled;
    }
    assert_eq!(handled, 10);
}

#[tokio::test(start_paused = true)]
async fn the_next_consumer_of_a_process_keeps_the_time_when_one_ends() {
    let engine = MemoryEngine::new();
    let app = app(&engine, Schedule::every("1m"));
    let first = app.consumer().spawn();
    let second = app.consumer().spawn();

    pass(MINUTE).await;
    stop(first).await;
    pass(MINUTE).await;
    stop(second).await;
    pass(5 * MINUTE).await;
    assert_eq!(ticks(&engine).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn missed_ticks_fire_once_or_not_at_all() {
    for (missed, made_up) in [(Missed::FireOnce, 1), (Missed::Skip, 0)] {
        let engine = MemoryEngine::new();
        let app = app(&engine, Schedule::every("10m").missed(missed));
        let consumer = app.consumer().spawn();
        pass(10 * MINUTE).await;
        stop(consumer).await;
        let before = ticks(&engine);
        assert_eq!(before.len(), 1);

        // Nobody is there for 20, 30 and 40; at 45 somebody is.
        pass(35 * MINUTE).await;

        let consumer = app.consumer().spawn();
        pass(MINUTE).await;

        let after = ticks(&engine);
        assert_eq!(after.len(), 1 + made_up, "{missed:?}");
        if made_up == 1 {
            // It is the newest that counts.
            assert_eq!(steps(&after), [30 * 60]);
        }

        // The next keeps its place.
        pass(5 * MINUTE).await;
        let all = ticks(&engine);
        assert_eq!(
            (all[all.len() - 1] - before[0]).num_minutes(),
            40,
            "{missed:?}"
        );

        stop(consumer).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_tick_that_is_found_a_little_late_is_not_missed() {
    let engine = MemoryEngine::new();
    let app = app(&engine, Schedule::every("10m").missed(Missed::Skip));
    stop({
        let consumer = app.consumer().spawn();
        pass(MINUTE).await;
        consumer
    })
    .await;
    pass(9 * MINUTE + MINUTE / 2).await;

    let consumer = app.consumer().spawn();
    pass(Duration::from_secs(1)).await;
    assert_eq!(ticks(&engine).len(), 1);
    stop(consumer).await;
}

#[tokio::test(start_paused = true)]
async fn a_paused_schedule_is_silent_and_its_pause_is_not_made_up_for() {
    let engine = MemoryEngine::new();
    let app = app(&engine, Schedule::every("1m"));
    let consumer = app.consumer().spawn();
    pass(MINUTE).await;

    let schedules = app.schedules().unwrap();
    schedules.pause("sweep").await.unwrap();
    pass(10 * MINUTE).await;
    assert_eq!(ticks(&engine).len(), 1);

    let [status] = &schedules.list().await.unwrap()[..] else {
        panic!()
    };
    assert!(status.is_paused && status.next_at.is_none() && status.fired_at.is_some());

    schedules.resume("sweep").await.unwrap();
    pass(Duration::from_secs(1)).await;
    assert_eq!(ticks(&engine).len(), 1);

    pass(MINUTE).await;
    assert_eq!(steps(&ticks(&engine)), [11 * 60]);

    // Paused and resumed while no process was there: the same.
    stop(consumer).await;
    schedules.pause("sweep").await.unwrap();
    pass(10 * MINUTE).await;
    schedules.resume("sweep").await.unwrap();

    let consumer = app.consumer().spawn();
    pass(Duration::from_secs(1)).await;
    assert_eq!(ticks(&engine).len(), 2);
    stop(consumer).await;
}

#[tokio::test(start_paused = true)]
async fn a_schedule_is_run_by_hand_beside_its_ticks() {
    let engine = MemoryEngine::new();
    let app = app(&engine, Schedule::every("1m"));
    let schedules = app.schedules().unwrap();

    // Also before any consumer was there, and while it is paused.
    let published = schedules.run_now("sweep").await.unwrap();
    assert_eq!(published.queue, QueueName::default());

    schedules.pause("sweep").await.unwrap();
    schedules.run_now("sweep").await.unwrap();
    schedules.resume("sweep").await.unwrap();

    let before = row(&engine).await;
    assert_eq!(ticks(&engine).len(), 2);
    assert!(before.last_tick.is_none() && before.fired_at.is_some());

    let consumer = app.consumer().spawn();
    pass(MINUTE).await;
    assert_eq!(ticks(&engine).len(), 3);
    assert_eq!(row(&engine).await.last_tick, Some(before.next_at));

    stop(consumer).await;
    for error in [
        schedules.run_now("swep").await.unwrap_err(),
        schedules.pause("swep").await.unwrap_err(),
        schedules.resume("swep").await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::ScheduleMissing);
    }
}

#[tokio::test(start_paused = true)]
async fn the_version_that_began_last_decides_and_others_stand_by_until_it_is_gone() {
    let engine = MemoryEngine::new();
    let old = app(&engine, Schedule::every("1m"));
    let new = app(&engine, Schedule::every("10s"));

    let olds = old.consumer().spawn();
    pass(MINUTE).await;
    assert_eq!(ticks(&engine).len(), 1);

    let news = new.consumer().spawn();
    pass(Duration::from_secs(50)).await;

    // The old one runs on and neither fires nor takes it back.
    assert_eq!(ticks(&engine).len(), 1 + 5);
    assert!(row(&engine).await.definition.starts_with("every 10s"));

    // A roll-back: only the old one is left.
    stop(news).await;
    let before = ticks(&engine).len();

    pass(Duration::from_secs(100)).await;
    assert_eq!(
        ticks(&engine).len(),
        before,
        "it is not gone for long enough"
    );

    pass(2 * MINUTE).await;
    assert!(row(&engine).await.definition.starts_with("every 60s"));
    let since = ticks(&engine).len() - before;
    assert!((1..=3).contains(&since), "{since}");
    stop(olds).await;
}

#[tokio::test(start_paused = true)]
async fn what_a_changed_schedule_missed_counts_from_when_the_old_one_was_last_seen() {
    let engine = MemoryEngine::new();
    let old = app(&engine, Schedule::every("365d"));
    let consumer = old.consumer().spawn();
    pass(MINUTE).await;
    stop(consumer).await;
    pass(60 * MINUTE).await;

    // Between the versions there was nobody.
    let new = app(&engine, Schedule::every("10m"));
    let consumer = new.consumer().spawn();
    pass(Duration::from_secs(1)).await;
    assert_eq!(ticks(&engine).len(), 1);
    stop(consumer).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_no_longer_in_the_code_is_pruned_and_only_by_hand() {
    let engine = MemoryEngine::new();
    let old = app(&engine, Schedule::every("1m"));
    old.schedules().unwrap().run_now("sweep").await.unwrap();

    let other = builder().configure(|config| config.app = "other".into());
    let other = other.schedule("theirs", Schedule::every("1m"), &sweep());
    let other = other.build(engine.clone()).unwrap();
    other.schedules().unwrap().run_now("theirs").await.unwrap();

    let new = builder().schedule("mine", Schedule::every("1m"), &sweep());
    let new = new.build(engine.clone()).unwrap();
    let consumer = new.consumer().spawn();
    pass(10 * MINUTE).await;

    let schedules = new.schedules().unwrap();
    let names = async || {
        let list = schedules.list().await.unwrap().into_iter();
        list.map(|s| (s.name, s.is_known)).collect::<Vec<_>>()
    };
    let [mine, gone, theirs] =
        [("mine", true), ("sweep", false), ("theirs", false)].map(|(n, k)| (n.to_owned(), k));
    assert_eq!(names().await, [mine.clone(), gone, theirs.clone()]);
    assert_eq!(schedules.prune().await.unwrap(), ["sweep"]);
    assert_eq!(names().await, [mine, theirs]);

    // What is removed under a running process stays away until one begins.
    assert!(schedules.remove("mine").await.unwrap());

    let count = engine.all_published().len();
    pass(10 * MINUTE).await;
    assert_eq!(engine.all_published().len(), count);

    stop(consumer).await;
    assert!(!schedules.remove("mine").await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_only_empties_its_queue_keeps_no_time() {
    let engine = MemoryEngine::new();
    let app = app(&engine, Schedule::every("1m"));
    app.consumer().until_idle().run().await.unwrap();
    assert!(app.schedules().unwrap().list().await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_dropped_queue_of_a_schedule_is_created_again() {
    let engine = MemoryEngine::new();
    let queue = QueueName::new("sweeps").unwrap();
    let app = app(&engine, Schedule::every("1m").queue("sweeps"));
    let consumer = app.consumer().spawn();
    pass(MINUTE).await;
    assert!(engine.remove_queue(&queue));

    pass(MINUTE).await;
    assert_eq!(engine.published(&queue).len(), 2);
    stop(consumer).await;
}

#[tokio::test(start_paused = true)]
async fn an_idle_schedule_costs_a_few_statements_a_minute() {
    let engine = Faulty::default();
    let app = builder().schedule("sweep", Schedule::every("365d"), &sweep());
    let app = app.build(engine.clone()).unwrap();
    let consumer = app.consumer().spawn();
    pass(60 * MINUTE).await;
    let looks = engine.faults.looks.load(Ordering::SeqCst);
    assert!((100..160).contains(&looks), "{looks} in an hour");
    stop(consumer).await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_for_a_while_is_ridden_out() {
    let engine = Faulty::default();
    let app = builder().schedule("sweep", Schedule::every("1m"), &sweep());
    let app = app.build(engine.clone()).unwrap();
    let fail = |kinds: &[ErrorKind]| engine.faults.schedules.lock().unwrap().extend(kinds);
    // At the start, at the registration, and while it runs: whatever call it hits.
    fail(&[ErrorKind::Connection, ErrorKind::Transient]);

    let consumer = app.consumer().spawn();
    pass(Duration::from_secs(1)).await;
    fail(&[ErrorKind::Connection; 3]);
    pass(5 * MINUTE).await;
    let before = ticks(&engine.memory);
    assert!(before.len() >= 4, "{before:?}");

    // The table is gone, and is made again: so are the rows.
    let store: &dyn ScheduleStore = &engine.memory;
    assert!(store.remove("sweep").await.unwrap());

    fail(&[ErrorKind::SchemaMissing]);
    pass(3 * MINUTE).await;
    let after = ticks(&engine.memory);
    assert!(after.len() > before.len());

    let all: std::collections::BTreeSet<_> = after.iter().collect();
    assert_eq!(all.len(), after.len(), "a tick fired twice");
    stop(consumer).await;
    fail(&[ErrorKind::SchemaMissing]);

    let refused = app.consumer().run().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::SchemaMissing);
}

#[tokio::test(start_paused = true)]
async fn a_scheduled_function_gets_its_own_ticks_and_its_consumer_subscribes_to_none() {
    use ezq_core::private::{HandlerFuture, scheduled, tick};

    let engine = MemoryEngine::new();
    let (sender, mut ticks) = tokio::sync::mpsc::unbounded_channel();
    let function = |name: &'static str, event_type| {
        let sender = sender.clone();
        scheduled(
            name,
            event_type,
            Schedule::every("1m"),
            move |call: Call| -> HandlerFuture {
                let tick = tick(&call);
                let sent = tick.map(|tick| sender.send((name, tick)).unwrap());
                Box::pin(async { sent.map(|()| Vec::new()) })
            },
        )
    };

    let app = App::builder()
        .without_discovered_handlers()
        .register(function("shop::a", "ezq.tick.shop::a"))
        .register(function("shop::b", "ezq.tick.shop::b").queue("own"))
        .build(engine.clone())
        .unwrap();
    let first = app.consumer().subscribe();
    let second = app.consumer().queue("own").subscribe();

    let first = first.spawn();
    let second = second.spawn();
    pass(2 * MINUTE).await;

    let mut found = Vec::new();
    while let Ok((name, tick)) = ticks.try_recv() {
        assert_eq!(tick.schedule, name);
        found.push((
            name,
            tick.previous
                .map(|previous| (tick.due - previous).num_seconds()),
        ));
    }

    found.sort();
    let each = |name| [(name, None), (name, Some(60))];
    assert_eq!(found, [each("shop::a"), each("shop::b")].concat());
    assert!(
        app.subscriptions()
            .unwrap()
            .list()
            .await
            .unwrap()
            .is_empty()
    );

    stop(first).await;
    stop(second).await;
}
