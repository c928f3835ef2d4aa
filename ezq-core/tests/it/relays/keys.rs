//! Events with ordering keys on their way through a relay.

use std::time::Duration;

use ezq_core::relay::Relay;
use ezq_core::testing::TestApp;
use tokio::time::Instant;

use super::broker::{Answer, Broker};
use super::{app, app_with, dead};
use crate::fixtures::Step;

async fn publish_for(app: &TestApp, key: &str, numbers: std::ops::Range<u32>) {
    for n in numbers {
        app.publish(&Step { n }).key(key).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn events_of_a_key_keep_their_order_while_the_broker_fails() {
    let broker = Broker::told([
        Answer::FailOdd,
        Answer::Away,
        Answer::FailOdd,
        Answer::Panic,
        Answer::FailOdd,
    ]);
    let app = app_with(Relay::new("outbox", broker.clone()), 2);
    publish_for(&app, "ada", 0..12).await;

    let consumer = app.consumer().spawn();
    broker.has_stored(12).await;
    consumer.stop();
    consumer.await.unwrap();
    assert_eq!(broker.numbers(), (0..12).collect::<Vec<_>>());
    assert_eq!(dead(&app).await, 0);
    assert!(broker.answers.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn events_of_a_key_share_a_batch_and_go_in_their_order() {
    let broker = Broker::default();
    let app = app(Relay::new("outbox", broker.clone()).batch_size(50));
    publish_for(&app, "ada", 0..200).await;

    let consumer = app.consumer().spawn();
    broker.has_stored(200).await;
    consumer.stop();
    consumer.await.unwrap();
    assert_eq!(broker.numbers(), (0..200).collect::<Vec<_>>());
    // The memory engine hands out half of a claim from one key at most.
    assert_eq!(*broker.sizes.lock().unwrap(), [25; 8]);
}

#[tokio::test(start_paused = true)]
async fn what_stands_behind_a_failed_event_of_its_key_goes_back_though_the_sink_has_sent_it() {
    let broker = Broker::told([Answer::FailOddOnly]);
    let app = app(Relay::new("outbox", broker.clone()));
    publish_for(&app, "ada", 0..4).await;
    publish_for(&app, "bob", 10..11).await;

    let consumer = app.consumer().spawn();
    broker.has_stored(6).await;
    consumer.stop();
    consumer.await.unwrap();
    // 2 is not acknowledged, so it comes after 1 once more.
    assert_eq!(broker.numbers(), [0, 2, 10, 1, 2, 3]);
    // None is sent before the first of its key.
    assert_eq!(*broker.sizes.lock().unwrap(), [5, 1, 2]);
    assert_eq!(dead(&app).await, 0, "no attempt is counted");
}

#[tokio::test(start_paused = true)]
async fn an_event_that_is_refused_holds_up_none_of_its_key() {
    let broker = Broker::told([Answer::RejectOdd]);
    let app = app(Relay::new("outbox", broker.clone()));
    publish_for(&app, "ada", 0..5).await;

    let consumer = app.consumer().spawn();
    broker.has_stored(3).await;
    consumer.stop();
    consumer.await.unwrap();
    assert_eq!(broker.numbers(), [0, 2, 4]);
    assert_eq!((broker.calls(), dead(&app).await), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn a_sink_without_order_gets_one_event_of_a_key_at_a_time() {
    let broker = Broker {
        is_unordered: true,
        ..Broker::told([Answer::Away])
    };
    let app = app(Relay::new("outbox", broker.clone()));
    publish_for(&app, "ada", 0..20).await;

    let consumer = app.consumer().spawn();
    broker.has_stored(20).await;
    consumer.stop();
    consumer.await.unwrap();
    assert_eq!(broker.numbers(), (0..20).collect::<Vec<_>>());
    assert_eq!(*broker.sizes.lock().unwrap(), [1; 21]);
}

#[tokio::test(start_paused = true)]
async fn events_of_one_key_do_not_wait_for_others() {
    for (is_unordered, limit) in [(true, 50), (false, 2)] {
        let broker = Broker {
            is_unordered,
            ..Broker::default()
        };
        let wait = Duration::from_millis(100);
        let relay = Relay::new("outbox", broker.clone()).batch_size(20);
        let app = app(relay.batch_wait(wait));
        publish_for(&app, "ada", 0..200).await;

        let began = Instant::now();
        let consumer = app.consumer().spawn();
        broker.has_stored(200).await;
        consumer.stop();
        consumer.await.unwrap();
        assert_eq!(broker.numbers(), (0..200).collect::<Vec<_>>());
        // Only an event that nobody waits behind waits for others.
        assert!(began.elapsed() < wait * limit, "{:?}", began.elapsed());
    }
}
