//! Relays against a broker that does as it is told, in paused time.

mod broker;
mod keys;

use std::sync::atomic::Ordering;
use std::time::Duration;

use ezq_core::ErrorKind;
use ezq_core::config::Config;
use ezq_core::consumer::StopReason;
use ezq_core::engine::{Engine as _, Outgoing};
use ezq_core::event::{End, Envelope};
use ezq_core::handler::HandlerOptions;
use ezq_core::message::headers::Headers;
use ezq_core::message::{HandlerName, QueueName};
use ezq_core::relay::Relay;
use ezq_core::testing::TestApp;
use tokio::time::{Instant, timeout};

use self::broker::{Answer, Broker};
use crate::fixtures::Step;

/// An application whose relay gives every event one attempt.
fn app(relay: Relay) -> TestApp {
    app_with(relay, 1)
}

fn app_with(relay: Relay, max_attempts: u32) -> TestApp {
    let limited = move |config: &mut Config| {
        let options = HandlerOptions::default().max_attempts(max_attempts);
        config
            .handlers
            .insert(HandlerName::from("relay:outbox"), options);
    };
    TestApp::new(|app| app.queue("outbox").configure(limited).register(relay)).unwrap()
}

async fn publish(app: &TestApp, count: u32) {
    let steps: Vec<Step> = (0..count).map(|n| Step { n }).collect();
    app.publish_all(&steps).await.unwrap();
}

async fn dead(app: &TestApp) -> u64 {
    let queue = QueueName::new("outbox").unwrap();
    app.stats(&queue).await.unwrap().dead
}

#[tokio::test(start_paused = true)]
async fn events_reach_the_topic_that_their_type_is_routed_to() {
    let broker = Broker::default();
    let relay = Relay::new("outbox", broker.clone()).topic("rest");
    let app = app(relay.route("step", "steps").unwrap());
    publish(&app, 3).await;

    app.drain().await.unwrap();
    assert_eq!(broker.numbers(), [0, 1, 2]);
    assert_eq!(broker.calls(), 1, "one call for the whole batch");
    let stored = broker.stored.lock().unwrap();
    assert!(stored.iter().all(|(topic, ..)| topic == "steps"));
}

#[tokio::test(start_paused = true)]
async fn a_stored_body_goes_out_as_it_is_unless_it_is_another_than_the_event() {
    let broker = Broker::default();
    let app = app(Relay::new("outbox", broker.clone()));
    let whole =
        r#"{"data": {"n": 0}, "type": "step", "specversion": "1.0", "id": "a", "source": "s"}"#;
    let with_null = whole.replace("\"a\"", "\"b\", \"word\": null");
    let queue = QueueName::new("outbox").unwrap();
    let flat = r#"{"_type": "step", "n": 2}"#;
    let messages =
        [whole, &with_null, flat].map(|body| Outgoing::new(queue.clone(), body, Headers::new()));
    app.engine().ensure_queue(&queue).await.unwrap();
    app.engine().publish(messages.into()).await.unwrap();

    let consumer = app.consumer().spawn();
    broker.has_stored(3).await;
    consumer.stop();
    consumer.await.unwrap();
    let bodies = broker.bodies.lock().unwrap();
    assert!(bodies.iter().any(|body| body == whole), "{bodies:?}");
    assert!(bodies.iter().all(|body| !body.contains("null")));
    assert!(bodies.iter().all(|body| body.contains("specversion")));
}

#[test]
fn a_route_that_is_no_pattern_is_refused() {
    let relay = Relay::new("outbox", Broker::default()).route("ord*er", "orders");
    assert_eq!(relay.unwrap_err().kind(), ErrorKind::InvalidPattern);
}

#[tokio::test(start_paused = true)]
async fn an_event_that_the_broker_refuses_becomes_a_dead_letter_and_holds_up_no_other() {
    let broker = Broker::told([Answer::RejectOdd]);
    let app = app(Relay::new("outbox", broker.clone()));
    publish(&app, 4).await;

    let consumer = app.consumer().spawn();
    broker.has_stored(2).await;
    consumer.stop();
    consumer.await.unwrap();
    assert_eq!(broker.numbers(), [0, 2]);
    assert_eq!(dead(&app).await, 2);
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_is_away_for_minutes_costs_no_attempt() {
    let broker = Broker::told([Answer::Away; 200]);
    let app = app(Relay::new("outbox", broker.clone()));
    publish(&app, 5).await;

    let consumer = app.consumer().spawn();
    let began = Instant::now();
    broker.has_stored(5).await;
    assert!(
        began.elapsed() > Duration::from_secs(120),
        "{:?}",
        began.elapsed()
    );
    consumer.stop();
    consumer.await.unwrap();
    assert_eq!(dead(&app).await, 0);
    assert_eq!(broker.numbers(), [0, 1, 2, 3, 4], "each of them once");
}

#[tokio::test(start_paused = true)]
async fn events_that_were_not_stored_are_sent_again_with_their_ids_and_without_the_others() {
    let broker = Broker::told([Answer::FailOdd, Answer::FailOdd]);
    let app = app(Relay::new("outbox", broker.clone()));
    publish(&app, 4).await;

    let consumer = app.consumer().spawn();
    broker.has_stored(4).await;
    consumer.stop();
    consumer.await.unwrap();
    let mut numbers = broker.numbers();
    numbers.sort_unstable();
    assert_eq!(numbers, [0, 1, 2, 3]);
    assert_eq!(dead(&app).await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_does_not_answer_gets_the_batch_again() {
    let broker = Broker::told([Answer::Hang, Answer::Short]);
    let limit = Duration::from_secs(3);
    let app = app(Relay::new("outbox", broker.clone()).send_timeout(limit));
    publish(&app, 2).await;

    let consumer = app.consumer().spawn();
    broker.has_stored(2).await;
    consumer.stop();
    consumer.await.unwrap();
    let calls = broker.calls.lock().unwrap();
    assert_eq!(calls.len(), 3);
    assert!(calls[1] - calls[0] >= limit);
}

#[tokio::test(start_paused = true)]
async fn a_stop_does_not_wait_for_a_broker_that_is_away() {
    let broker = Broker::told([Answer::Away; 10_000]);
    let app = app(Relay::new("outbox", broker.clone()));
    publish(&app, 5).await;

    let consumer = app.consumer().spawn();
    while broker.calls() < 3 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    consumer.stop();
    let ended = timeout(Duration::from_secs(15), consumer).await;
    ended.expect("it stops").unwrap();

    // Nothing is lost: another run sends them.
    broker.answers.lock().unwrap().clear();
    let consumer = app.consumer().spawn();
    broker.has_stored(5).await;
    consumer.stop();
    consumer.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_rate_spaces_what_is_sent() {
    let broker = Broker::default();
    let relay = Relay::new("outbox", broker.clone()).batch_size(10).rate(10);
    let app = app(relay);
    publish(&app, 50).await;

    let consumer = app.consumer().spawn();
    let began = Instant::now();
    broker.has_stored(50).await;
    consumer.stop();
    consumer.await.unwrap();
    assert!(
        began.elapsed() >= Duration::from_secs(4),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn three_batches_are_held_while_the_broker_does_not_answer() {
    let broker = Broker::told([Answer::Hang; 3]);
    let limit = Duration::from_secs(60);
    let relay = Relay::new("outbox", broker.clone()).batch_size(10);
    let app = app(relay.send_timeout(limit));
    publish(&app, 100).await;

    let consumer = app.consumer().concurrency(8).spawn();
    tokio::time::sleep(limit / 2).await;
    let queue = QueueName::new("outbox").unwrap();
    let stats = app.stats(&queue).await.unwrap();
    assert_eq!((stats.in_progress, stats.ready), (30, 70));
    assert_eq!(*broker.sizes.lock().unwrap(), [10; 3]);

    broker.has_stored(100).await;
    consumer.stop();
    consumer.await.unwrap();
    assert_eq!(*broker.sizes.lock().unwrap(), [10; 13]);
}

#[tokio::test(start_paused = true)]
async fn large_events_are_not_held_in_several_batches() {
    let broker = Broker {
        is_unordered: true,
        ..Broker::told([Answer::Hang; 3])
    };
    let app = app(Relay::new("outbox", broker.clone()).batch_size(10));
    let text = format!("\"{}\"", "x".repeat(900_000));
    for _ in 0..40 {
        let large = Envelope::builder("large", "shop").json(&text).unwrap();
        app.publish_envelope(large.build().unwrap()).await.unwrap();
    }

    let consumer = app.consumer().concurrency(8).spawn();
    tokio::time::sleep(Duration::from_secs(20)).await;
    let queue = QueueName::new("outbox").unwrap();
    let stats = app.stats(&queue).await.unwrap();
    // The second claim was sent before the first was read.
    assert_eq!((broker.calls(), stats.in_progress), (1, 20));
    consumer.stop();
    consumer.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_consumer_of_one_place_sends_one_batch_at_a_time() {
    let broker = Broker::told([Answer::Hang]);
    let relay = Relay::new("outbox", broker.clone()).batch_size(10);
    let app = app(relay.send_timeout(Duration::from_secs(60)));
    publish(&app, 30).await;

    let consumer = app.consumer().concurrency(1).spawn();
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(broker.calls(), 1);
    broker.has_stored(30).await;
    consumer.stop();
    consumer.await.unwrap();
    assert_eq!(*broker.sizes.lock().unwrap(), [10; 4]);
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_gathers_goes_back_at_a_stop_and_is_sent_before_an_end() {
    let broker = Broker::default();
    let wait = Duration::from_secs(3600);
    let app = app(Relay::new("outbox", broker.clone()).batch_wait(wait));
    publish(&app, 5).await;

    let consumer = app.consumer().spawn();
    tokio::time::sleep(Duration::from_secs(30)).await;
    consumer.stop();
    let began = Instant::now();
    consumer.await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(1));
    let queue = QueueName::new("outbox").unwrap();
    let stats = app.stats(&queue).await.unwrap();
    assert_eq!((stats.ready, broker.calls()), (5, 0));

    app.publish(&End::default()).await.unwrap();
    publish(&app, 1).await;
    let report = timeout(Duration::from_secs(30), app.consumer().run());
    let report = report.await.expect("it does not gather").unwrap();
    assert_eq!(report.reason, StopReason::End);
    assert_eq!(broker.numbers(), [0, 1, 2, 3, 4]);
    assert_eq!(broker.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_does_not_answer_is_seen_in_health_and_closed_with_the_application() {
    let broker = Broker::default();
    let app = app(Relay::new("outbox", broker.clone()));
    let consumer = app.consumer().spawn();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(app.health().await.is_ready());

    broker.is_ill.store(true, Ordering::Relaxed);
    let health = app.health().await;
    assert!(!health.is_ready() && health.is_live(), "{health}");
    assert!(health.to_string().contains("scripted"), "{health}");
    consumer.stop();
    consumer.await.unwrap();
    app.close().await;
    assert!(broker.is_closed.load(Ordering::Relaxed));
}

#[tokio::test(start_paused = true)]
async fn an_event_that_no_call_could_send_is_given_up_and_not_sent() {
    let broker = Broker::default();
    let app = app(Relay::new("outbox", broker.clone()));
    publish(&app, 1).await;
    let text = format!("\"{}\"", "x".repeat(1_000));
    let large = Envelope::builder("large", "shop").json(&text).unwrap();
    app.publish_envelope(large.build().unwrap()).await.unwrap();
    let consumer = app.consumer().spawn();
    broker.has_stored(1).await;
    consumer.stop();
    consumer.await.unwrap();
    assert_eq!(dead(&app).await, 1);
}
