//! Stops during an outage: every one is heard, and an `End` is done or goes back.

use ezq_core::ErrorKind;
use ezq_core::app::App;
use ezq_core::consumer::{ConsumerState, StopReason};
use ezq_core::engine::Engine as _;
use ezq_core::event::End;
use ezq_core::handler::Handler;
use ezq_core::message::QueueName;

use super::{app, quick, secs, slow, within};
use crate::faulty::Faulty;
use crate::fixtures::Step;

#[tokio::test(start_paused = true)]
async fn a_consumer_can_be_stopped_while_nothing_can_be_settled() {
    let engine = Faulty::default();
    let app = App::builder()
        .without_discovered_handlers()
        .register(Handler::on("quick", |_: Step| async {}))
        .configure(|config| config.settle_batch = 1)
        .build(engine.clone())
        .unwrap();

    let steps: Vec<Step> = (0..100).map(|n| Step { n }).collect();
    app.publish_all(&steps).await.unwrap();
    let failures = std::iter::repeat_n(ErrorKind::Connection, 100_000);
    engine.faults.settle.lock().unwrap().extend(failures);

    let consumer = app.consumer().concurrency(8).lease(secs(5)).spawn();
    tokio::time::sleep(secs(60)).await;
    consumer.stop();

    let stopping = tokio::time::timeout(secs(10), consumer);
    assert_eq!(stopping.await.expect("it hangs").unwrap().counts.handled, 0);
}

#[tokio::test(start_paused = true)]
async fn a_token_is_heard_while_an_end_drains_its_queue() {
    let engine = Faulty::default();
    let (handler, mut runs) = slow(secs(100));
    let app = app(engine.clone(), handler);
    app.publish_all(&[Step { n: 0 }, Step { n: 1 }, Step { n: 2 }])
        .await
        .unwrap();
    app.publish(&End::default()).await.unwrap();

    let consumer = app.consumer().concurrency(2).grace(secs(5)).spawn();
    tokio::time::sleep(secs(10)).await;
    consumer.stop();

    let stopping = tokio::time::timeout(secs(10), consumer);
    let report = stopping.await.expect("its grace is over").unwrap();
    assert_eq!(
        (report.reason, report.counts.cancelled),
        (StopReason::Handle, 2)
    );
    assert_eq!(std::iter::from_fn(|| runs.try_recv().ok()).count(), 2);

    // The End goes on to the next consumer, with what stood before it.
    let stats = engine.memory.stats(&QueueName::default()).await.unwrap();
    assert_eq!(stats.ready, 4);
}

#[tokio::test(start_paused = true)]
async fn an_end_that_waits_only_for_handlers_has_done_its_work_when_its_consumer_is_stopped() {
    for interrupts in [false, true] {
        let engine = Faulty::default();
        let (handler, _runs) = slow(secs(100));
        let app = app(engine.clone(), handler);
        app.publish(&Step { n: 0 }).await.unwrap();
        app.publish(&End::default()).await.unwrap();

        let consumer = app.consumer().concurrency(2).grace(secs(5)).spawn();
        tokio::time::sleep(secs(10)).await;

        if interrupts {
            consumer.interrupt();
        } else {
            consumer.stop();
        }

        let stopping = tokio::time::timeout(secs(10), consumer);
        let report = stopping.await.expect("its grace is over").unwrap();
        assert_eq!(
            (report.reason, report.counts.cancelled),
            (StopReason::End, 1)
        );

        let stats = engine.memory.stats(&QueueName::default()).await.unwrap();
        assert_eq!(stats.ready, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn an_end_goes_back_when_its_consumer_is_interrupted_before_all_that_precedes_it() {
    let engine = Faulty::default();
    let (handler, _runs) = slow(secs(100));
    let app = app(engine.clone(), handler);
    app.publish_all(&[Step { n: 0 }, Step { n: 1 }, Step { n: 2 }])
        .await
        .unwrap();
    app.publish(&End::default()).await.unwrap();

    let consumer = app.consumer().concurrency(2).spawn();
    tokio::time::sleep(secs(10)).await;
    consumer.interrupt();

    let report = within(consumer).await.unwrap();
    assert_eq!(
        (report.reason, report.counts.cancelled),
        (StopReason::Handle, 2)
    );
    assert_eq!(
        engine
            .memory
            .stats(&QueueName::default())
            .await
            .unwrap()
            .ready,
        4
    );
}

#[tokio::test(start_paused = true)]
async fn an_end_goes_back_when_its_consumer_is_stopped_before_all_that_precedes_it_has_begun() {
    let engine = Faulty::default();
    let (handler, mut runs) = slow(secs(100));
    let app = app(engine.clone(), handler.concurrency(1));
    app.publish_all(&[Step { n: 0 }, Step { n: 1 }])
        .await
        .unwrap();
    app.publish(&End::default()).await.unwrap();

    let consumer = app.consumer().concurrency(4).spawn();
    tokio::time::sleep(secs(10)).await;
    consumer.stop();

    let report = within(consumer).await.unwrap();
    assert_eq!(
        (report.reason, report.counts.handled),
        (StopReason::Handle, 1)
    );
    assert_eq!(std::iter::from_fn(|| runs.try_recv().ok()).count(), 1);

    // What waited for the handler's limit comes again before the End.
    assert_eq!(
        engine
            .memory
            .stats(&QueueName::default())
            .await
            .unwrap()
            .ready,
        2
    );
}

#[tokio::test(start_paused = true)]
async fn a_consumer_stops_although_an_event_stays_locked() {
    let engine = Faulty::default();
    let app = quick(&engine);
    let published = app.publish(&Step { n: 0 }).await.unwrap();
    let id = published.id.as_number().unwrap();
    engine.faults.locked.lock().unwrap().insert(id);

    let consumer = app.consumer().lease(secs(5)).spawn();
    tokio::time::sleep(secs(60)).await;
    consumer.stop();

    let stopping = tokio::time::timeout(secs(10), consumer);
    let counts = stopping.await.expect("it hangs").unwrap().counts;
    assert_eq!((counts.handled, counts.lost), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_was_stopped_while_its_store_refused_it_is_no_failure() {
    let engine = Faulty::default();
    let app = quick(&engine);
    let refusals = std::iter::repeat_n(ErrorKind::Permission, 100_000);
    engine.faults.lease.lock().unwrap().extend(refusals);

    let consumer = app.consumer().spawn();
    tokio::time::sleep(secs(10)).await;
    assert!(consumer.health().await.refused_for.is_some());

    consumer.stop();
    within(consumer.states().wait_for(ConsumerState::is_ended))
        .await
        .unwrap();
    tokio::time::sleep(secs(3600)).await;
    assert_eq!(consumer.health().await.refused_for, None);
    assert!(app.health().await.is_live());
}
