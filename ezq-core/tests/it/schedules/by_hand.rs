//! Schedules that are run by a process whose code does not have them.

use std::time::Duration;

use ezq_core::app::App;
use ezq_core::memory::MemoryEngine;
use ezq_core::message::QueueName;
use ezq_core::schedule::Schedule;
use ezq_core::{ErrorKind, memory};

use super::{MINUTE, Sweep, app, builder, pass, row, stop, sweep};

#[tokio::test(start_paused = true)]
async fn a_schedule_is_run_by_a_process_without_its_code() {
    let engine = MemoryEngine::new();
    let app = app(&engine, Schedule::every("1m"));
    let consumer = app.consumer().spawn();
    pass(MINUTE).await;
    stop(consumer).await;

    let tool = App::builder().without_discovered_handlers();
    let tool = tool.configure(|config| config.app = "tool".into());
    let tool = tool.build(engine.clone()).unwrap();
    let schedules = tool.schedules().unwrap();
    let listed = schedules.list().await.unwrap().remove(0);
    assert!(listed.can_run && !listed.is_known);

    let before = row(&engine).await;
    let first = schedules.run_now("sweep").await.unwrap();
    let second = schedules.run_now("sweep").await.unwrap();
    assert_ne!(first.event_id, second.event_id);
    let after = row(&engine).await;
    assert_eq!(
        (after.next_at, after.last_tick),
        (before.next_at, before.last_tick)
    );

    // All but the id and the time is that of a tick.
    let published = engine.published(&QueueName::default());
    let [tick, by_hand, _] = &published[..] else {
        panic!("{published:?}")
    };
    let body = |published: &memory::Published| -> serde_json::Value {
        serde_json::from_str(&published.message.body).unwrap()
    };
    let mut expected = body(tick);
    expected["id"] = first.event_id.into();
    expected["time"] = body(by_hand)["time"].clone();
    assert_eq!(body(by_hand), expected);
    assert!(body(by_hand)["time"] != body(tick)["time"]);
    assert_eq!(by_hand.message.headers, tick.message.headers);

    let missing = schedules.run_now("swep").await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::ScheduleMissing);
}

#[tokio::test(start_paused = true)]
async fn only_its_own_code_runs_a_schedule_whose_event_a_codec_writes() {
    let engine = MemoryEngine::new();
    let raw = builder().event_codec("sweep", "raw");
    let raw = raw.schedule("sweep", Schedule::every("1m"), &sweep());
    let raw = raw.build(engine.clone()).unwrap();
    raw.schedules().unwrap().run_now("sweep").await.unwrap();

    let tool = builder().build(engine.clone()).unwrap();
    let schedules = tool.schedules().unwrap();
    assert!(!schedules.list().await.unwrap()[0].can_run);
    let refused = schedules.run_now("sweep").await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unsupported);
    assert!(refused.to_string().contains("Fire it from `"), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn a_version_that_begins_stores_the_event_that_it_publishes() {
    let engine = MemoryEngine::new();
    let old = app(&engine, Schedule::every("1m"));
    old.schedules().unwrap().run_now("sweep").await.unwrap();

    // Of the same definition, but with another event.
    let event = Sweep {
        what: "some".to_owned(),
    };
    let new = builder().schedule("sweep", Schedule::every("1m"), &event);
    let new = new.build(engine.clone()).unwrap();
    let consumer = new.consumer().spawn();
    pass(Duration::from_secs(1)).await;
    stop(consumer).await;

    let tool = builder().build(engine.clone()).unwrap();
    tool.schedules().unwrap().run_now("sweep").await.unwrap();
    let published = engine.published(&QueueName::default());
    let bodies: Vec<bool> = published
        .iter()
        .map(|one| one.message.body.contains(r#""some""#))
        .collect();
    assert_eq!(bodies, [false, true]);
}
