//! Schedules of several applications and versions under one name, and what fails beside them.

use std::time::Duration;

use chrono::TimeDelta;
use ezq_core::app::{App, AppBuilder};
use ezq_core::engine::{Engine, ScheduleStore};
use ezq_core::memory::MemoryEngine;
use ezq_core::message::QueueName;
use ezq_core::schedule::Schedule;
use ezq_core::{Error, ErrorKind, engine};

use crate::faulty::Faulty;
use crate::schedules::{MINUTE, builder, pass, row, stop, sweep, ticks};

/// An application that has a name of its own, and a queue for its schedule.
fn named(engine: &MemoryEngine, name: &str, queue: &str, every: &str) -> App {
    let builder = builder().configure(|config| config.app = name.into());
    let schedule = Schedule::every(every).queue(queue);
    builder
        .schedule("sweep", schedule, &sweep())
        .build(engine.clone())
        .unwrap()
}

async fn refusal(app: &App) -> Error {
    let run = tokio::time::timeout(MINUTE, app.consumer().run());
    run.await.expect("it does not start").unwrap_err()
}

#[tokio::test(start_paused = true)]
async fn a_name_that_another_application_has_for_something_else_is_refused_while_that_one_runs() {
    let engine = MemoryEngine::new();
    let shop = named(&engine, "shop", "shop", "1m");
    let shops = shop.consumer().spawn();
    pass(MINUTE).await;

    let mail = named(&engine, "mail", "mail", "10s");
    let refused = refusal(&mail).await;
    assert_eq!(refused.kind(), ErrorKind::ScheduleTaken);

    let text = refused.to_string();
    assert!(
        text.contains("`shop` has a schedule `sweep`") && text.contains("to mail"),
        "{text}"
    );

    let schedules = mail.schedules().unwrap();
    let [theirs] = &schedules.list().await.unwrap()[..] else {
        panic!()
    };
    assert!(!theirs.is_known && theirs.application == "shop");

    for refused in [
        schedules.run_now("sweep").await.unwrap_err(),
        schedules.pause("sweep").await.unwrap_err(),
        schedules.resume("sweep").await.unwrap_err(),
    ] {
        assert_eq!(refused.kind(), ErrorKind::ScheduleTaken);
    }

    // Neither another version nor another program of it, nor who only watches, is refused.
    for other in [
        named(&engine, "shop", "other", "1m"),
        named(&engine, "api", "shop", "1m"),
    ] {
        other.schedules().unwrap().pause("sweep").await.unwrap();
        other.schedules().unwrap().resume("sweep").await.unwrap();
    }

    assert_eq!(row(&engine).await.application, "shop");
    let all = engine.all_published().len();
    pass(MINUTE).await;
    assert_eq!(
        engine.all_published().len(),
        all + 1,
        "the shop's ticks go on"
    );

    // Where that one is gone, it is this one's.
    stop(shops).await;
    pass(3 * MINUTE).await;

    let consumer = mail.consumer().spawn();
    pass(Duration::from_secs(21)).await;
    assert_eq!(row(&engine).await.application, "mail");
    assert!(engine.published(&QueueName::new("mail").unwrap()).len() >= 2);
    assert_eq!(refusal(&shop).await.kind(), ErrorKind::ScheduleTaken);
    stop(consumer).await;
}

#[tokio::test(start_paused = true)]
async fn two_applications_that_start_at_once_with_one_name_do_not_fight_for_it() {
    let engine = MemoryEngine::new();
    let apps = [
        named(&engine, "shop", "shop", "30s"),
        named(&engine, "mail", "mail", "30s"),
    ];

    // Both looked before either had registered.
    let consumers = apps.each_ref().map(|app| app.consumer().spawn());
    pass(10 * MINUTE).await;
    let counts = ["shop", "mail"].map(|q| engine.published(&QueueName::new(q).unwrap()).len());
    assert!(counts == [20, 0] || counts == [0, 20], "{counts:?}");

    for consumer in consumers {
        stop(consumer).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_name_that_another_application_took_in_a_new_table_is_not_taken_back() {
    let engine = Faulty::default();
    let app = builder().schedule("sweep", Schedule::every("1m"), &sweep());
    let app = app.build(engine.clone()).unwrap();
    let consumer = app.consumer().spawn();
    pass(MINUTE).await;
    let store: &dyn ScheduleStore = &engine.memory;
    assert!(store.remove("sweep").await.unwrap());

    let theirs = engine::Registration::new(
        "sweep",
        "shop",
        "every 60s, missed: skip, `sweep` to shop",
        engine.memory.now() + TimeDelta::days(1),
    );
    assert!(store.register(theirs, None).await.unwrap());

    engine
        .faults
        .schedules
        .lock()
        .unwrap()
        .push_back(ErrorKind::SchemaMissing);

    pass(MINUTE).await;
    assert_eq!(row(&engine.memory).await.application, "shop");
    stop(consumer).await;
}

#[tokio::test(start_paused = true)]
async fn a_schedule_that_cannot_fire_leaves_the_versions_of_others_alone() {
    let engine = Faulty::default();
    *engine.faults.forbidden.lock().unwrap() = Some(QueueName::new("forbidden").unwrap());

    let with = |builder: AppBuilder, schedule| {
        builder
            .schedule("sweep", schedule, &sweep())
            .build(engine.clone())
            .unwrap()
    };

    let stuck = || {
        let stuck = Schedule::every("1s").queue("forbidden");
        with(
            builder().schedule("stuck", stuck, &sweep()),
            Schedule::every("1m"),
        )
    };

    let first = stuck().consumer().spawn();
    pass(MINUTE).await;
    stop(first).await;

    // Of this process it has failed from the start.
    let olds = stuck().consumer().spawn();
    pass(MINUTE).await;
    let new = with(builder(), Schedule::every("20s"));
    let news = new.consumer().spawn();

    for _ in 0..30 {
        pass(Duration::from_secs(1)).await;

        let rows = engine
            .memory
            .schedules()
            .unwrap()
            .look(&[])
            .await
            .unwrap()
            .rows;

        let sweep = rows.iter().find(|row| row.name == "sweep").unwrap();
        assert!(sweep.definition.starts_with("every 20s"), "{sweep:?}");
    }

    stop(olds).await;
    stop(news).await;
}

#[tokio::test(start_paused = true)]
async fn a_table_that_was_made_again_by_another_call_gets_its_rows_back() {
    let engine = Faulty::default();
    let app = builder().schedule("sweep", Schedule::every("1m"), &sweep());
    let app = app.build(engine.clone()).unwrap();
    let consumer = app.consumer().spawn();
    pass(MINUTE).await;

    let store: &dyn ScheduleStore = &engine.memory;
    // Whoever finds that it is gone: who lists, or who fires.
    assert!(store.remove("sweep").await.unwrap());

    engine
        .faults
        .schedules
        .lock()
        .unwrap()
        .push_back(ErrorKind::SchemaMissing);
    app.schedules().unwrap().list().await.unwrap_err();
    pass(3 * MINUTE).await;

    let before = ticks(&engine.memory).len();
    assert!(before >= 3, "{before}");
    stop(consumer).await;
}
