//! Who runs where: consumers are listed with what they do while they run, and not when they have ended.

use std::sync::atomic::Ordering;
use std::time::Duration;

use ezq_core::admin::ConsumerInfo;
use ezq_core::app::App;
use ezq_core::engine::Engine;
use ezq_core::event::End;
use ezq_core::handler::Handler;
use ezq_core::memory::MemoryEngine;
use ezq_core::message::QueueName;

use crate::faulty::Faulty;
use crate::fixtures::Step;

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn app(engine: impl Engine, presence: bool) -> App {
    App::builder()
        .without_discovered_handlers()
        .configure(|config| {
            config.app = "shop".into();
            config.app_version = Some("1.4".into());
            config.presence = presence;
        })
        .register(Handler::on("steps", |_: Step| tokio::time::sleep(secs(100))).timeout(None))
        .register(Handler::on("ends", |_: End| async {}))
        .build(engine)
        .unwrap()
}

async fn list(app: &App) -> Vec<ConsumerInfo> {
    app.consumers().list().await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_consumer_is_listed_with_what_it_does_until_it_has_ended() {
    let app = app(Faulty::default(), true);
    assert!(list(&app).await.is_empty());
    let handle = app.consumer().concurrency(3).spawn();
    for n in 0..3 {
        app.publish(&Step { n }).await.unwrap();
    }
    tokio::time::sleep(secs(30)).await;

    let [one] = &list(&app).await[..] else {
        panic!("not one consumer");
    };
    let consumer = &one.consumer;
    assert_eq!(
        (consumer.application.as_str(), consumer.version.as_deref()),
        ("shop", Some("1.4"))
    );
    assert_eq!(consumer.queue, QueueName::default());
    assert_eq!(consumer.process, std::process::id());
    assert!(!consumer.host.is_empty());
    let handlers: Vec<_> = consumer.handlers.iter().map(|name| name.as_str()).collect();
    assert_eq!(handlers, ["ends", "steps"]);
    assert_eq!(
        (consumer.concurrency, consumer.in_flight, consumer.handled),
        (3, 3, 0)
    );
    assert!(consumer.uptime >= secs(20), "{:?}", consumer.uptime);
    assert!(!one.is_gone && one.seen_ago <= secs(10), "{one:?}");
    assert!(!consumer.is_paused && !consumer.is_stopping);

    app.queues().pause("ezq").await.unwrap();
    handle.stop();
    tokio::time::sleep(secs(11)).await;
    let one = &list(&app).await[0].consumer;
    assert!(one.is_paused && one.is_stopping, "{one:?}");

    assert_eq!(handle.await.unwrap().counts.handled, 3);
    assert!(list(&app).await.is_empty(), "it has ended");
}

#[tokio::test(start_paused = true)]
async fn one_statement_in_ten_seconds_tells_of_all_consumers_of_a_process() {
    let engine = Faulty::default();
    let app = app(engine.clone(), true);
    let queues = ["one", "two", "three"];
    let handles: Vec<_> = queues
        .iter()
        .map(|queue| app.consumer().queue(*queue).spawn())
        .collect();
    tokio::time::sleep(secs(1)).await;
    assert_eq!(list(&app).await.len(), 3);

    let before = engine.faults.notes.load(Ordering::SeqCst);
    assert!(
        before <= 2,
        "{before} statements for three consumers that began together"
    );
    tokio::time::sleep(secs(100)).await;
    let notes = engine.faults.notes.load(Ordering::SeqCst) - before;
    assert!((10..=13).contains(&notes), "{notes} statements in 100 s");

    // The one that tells of the others ends, and another goes on.
    let mut handles = handles.into_iter();
    let first = handles.next().unwrap();
    first.stop();
    first.await.unwrap();
    tokio::time::sleep(secs(40)).await;
    let left = list(&app).await;
    assert_eq!(left.len(), 2);
    assert!(left.iter().all(|one| !one.is_gone), "{left:?}");
    for handle in handles {
        handle.stop();
        handle.await.unwrap();
    }
    assert!(list(&app).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_died_is_listed_as_gone_and_forgotten_after_a_day() {
    let engine = MemoryEngine::new();
    let app = app(engine.clone(), true);
    let mut running = Box::pin(app.consumer().run());
    assert!(tokio::time::timeout(secs(5), &mut running).await.is_err());
    assert_eq!(list(&app).await.len(), 1);

    // Its process dies, as far as the others can tell.
    drop(running);
    tokio::time::sleep(secs(31)).await;
    let gone = list(&app).await;
    assert!(gone.len() == 1 && gone[0].is_gone, "{gone:?}");

    tokio::time::sleep(secs(24 * 3600)).await;
    assert!(list(&app).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn nothing_is_told_where_that_is_turned_off_or_a_consumer_only_empties_its_queue() {
    let engine = Faulty::default();
    let silent = app(engine.clone(), false);
    let handle = silent.consumer().spawn();
    tokio::time::sleep(secs(60)).await;
    handle.stop();
    handle.await.unwrap();

    let told = app(engine.clone(), true);
    told.publish(&Step { n: 1 }).await.unwrap();
    told.consumer().until_idle().run().await.unwrap();
    assert_eq!(engine.faults.notes.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_cannot_note_consumers_harms_none() {
    let engine = Faulty::default();
    engine.faults.unnotable.store(true, Ordering::SeqCst);
    let app = app(engine.clone(), true);
    app.publish(&Step { n: 1 }).await.unwrap();
    let handle = app.consumer().spawn();
    tokio::time::sleep(secs(120)).await;
    assert_eq!(handle.counts().handled, 1);
    assert!(handle.health().await.is_ready());

    engine.faults.unnotable.store(false, Ordering::SeqCst);
    tokio::time::sleep(secs(11)).await;
    assert_eq!(list(&app).await.len(), 1);
    handle.interrupt();
    handle.await.unwrap();
}
