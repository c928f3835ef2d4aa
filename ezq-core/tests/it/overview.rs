//! Queues as an operator sees them: listed, counted up to a limit, with their rates.

use std::time::Duration;

use ezq_core::ErrorKind;
use ezq_core::admin::{COUNT_CAP, Count};
use ezq_core::app::App;
use ezq_core::engine::Engine;
use ezq_core::handler::Handler;
use ezq_core::memory::MemoryEngine;
use ezq_core::message::QueueName;

use crate::fixtures::Step;

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn app(engine: MemoryEngine) -> App {
    App::builder()
        .without_discovered_handlers()
        .register(Handler::on("steps", |_: Step| async {}))
        .build(engine)
        .unwrap()
}

async fn publish(app: &App, queue: &str, count: u32) {
    let steps: Vec<Step> = (0..count).map(|n| Step { n }).collect();
    app.publish_all(&steps).queue(queue).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn queues_are_listed_with_what_they_hold_and_the_age_of_what_can_be_handled() {
    let app = app(MemoryEngine::new());
    publish(&app, "mail", 3).await;
    tokio::time::sleep(secs(5)).await;
    publish(&app, "orders", 1).await;
    app.publish(&Step { n: 1 })
        .queue("later")
        .after(secs(60))
        .await
        .unwrap();
    app.queues().pause("mail").await.unwrap();

    let list = app.queues().list().await.unwrap().queues;
    let seen: Vec<_> = list
        .iter()
        .map(|one| (one.queue.as_str(), one.ready.value, one.scheduled.value))
        .collect();
    assert_eq!(seen, [("later", 0, 1), ("mail", 3, 0), ("orders", 1, 0)]);
    let ages: Vec<_> = list.iter().map(|one| one.oldest_claimable).collect();
    assert_eq!(
        ages,
        [None, None, Some(Duration::ZERO)],
        "what is due later or paused is not late"
    );
    assert_eq!(list.iter().filter(|one| one.is_paused()).count(), 1);

    app.queues().resume("mail").await.unwrap();
    let mail = app.queues().get("mail").await.unwrap();
    assert_eq!(mail.oldest_claimable, Some(secs(5)));
    assert!(mail.pauses.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_count_stops_at_its_limit_and_says_so() {
    let app = app(MemoryEngine::new());
    for _ in 0..11 {
        publish(&app, "ezq", 1000).await;
    }
    let ready = app.queues().get("ezq").await.unwrap().ready;
    assert_eq!(ready, Count::up_to(COUNT_CAP + 1, COUNT_CAP));
    assert_eq!(format!("{ready} {ready:>9}"), "10,000+   10,000+");
    let shown = [0, 12, 999, 1000, 9_999].map(|n| Count::up_to(n, COUNT_CAP).to_string());
    assert_eq!(shown, ["0", "12", "999", "1,000", "9,999"]);
}

#[tokio::test(start_paused = true)]
async fn two_looks_tell_how_fast_a_queue_moves() {
    let app = app(MemoryEngine::new());
    publish(&app, "ezq", 10).await;
    let before = app.queues().get("ezq").await.unwrap();
    assert_eq!(before.rates_since(&before), None, "no time has passed");

    publish(&app, "ezq", 30).await;
    app.consumer().until_idle().run().await.unwrap();
    tokio::time::sleep(secs(10)).await;
    let after = app.queues().get("ezq").await.unwrap();
    let rates = after.rates_since(&before).unwrap();
    assert!((2.9..=3.0).contains(&rates.stored), "{rates:?}");
    assert!((3.9..=4.0).contains(&rates.removed), "{rates:?}");
    assert_eq!(
        before.rates_since(&after),
        None,
        "time does not run backwards"
    );
}

#[tokio::test(start_paused = true)]
async fn a_mistyped_queue_is_answered_with_the_one_that_was_meant() {
    let engine = MemoryEngine::new();
    engine
        .ensure_queue(&QueueName::new("orders").unwrap())
        .await
        .unwrap();
    let app = app(engine);

    let queues = app.queues();
    for missing in [
        queues.get("ordesr").await.map(drop),
        queues.pause("ordesr").await.map(drop),
        queues.pause_handler("ordesr", "steps").await.map(drop),
    ] {
        let error = missing.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::QueueMissing);
        assert!(error.to_string().ends_with("is it `orders`?"), "{error}");
    }
    let other = queues.get("payments").await.unwrap_err();
    assert!(!other.to_string().contains("orders"), "{other}");
}

#[tokio::test(start_paused = true)]
async fn queues_of_named_engines_are_listed_with_the_others() {
    let app = App::builder()
        .without_discovered_handlers()
        .named_engine("side", MemoryEngine::new())
        .queue_engine("reports", "side")
        .build(MemoryEngine::new())
        .unwrap();
    publish(&app, "reports", 2).await;
    publish(&app, "orders", 1).await;

    let names: Vec<String> = app
        .queues()
        .names()
        .await
        .unwrap()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(names, ["orders", "reports"]);
    let list = app.queues().list().await.unwrap().queues;
    assert_eq!(list.iter().map(|one| one.ready.value).sum::<u64>(), 3);
}
