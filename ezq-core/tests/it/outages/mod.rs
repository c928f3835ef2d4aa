//! A store that hangs, refuses or stays away: nothing is handled twice without need, and no event
//! holds up another.

mod ends;

use std::sync::atomic::Ordering;
use std::time::Duration;

use ezq_core::ErrorKind;
use ezq_core::admin::DeadLetterFilter;
use ezq_core::app::App;
use ezq_core::consumer::ConsumerHandle;
use ezq_core::engine::Engine;
use ezq_core::handler::{Batch, Handler};
use ezq_core::memory::MemoryEngine;
use ezq_core::message::QueueName;
use tokio::sync::mpsc;
use tracing::Level;

use crate::faulty::Faulty;
use crate::fixtures::{Mail, Step};
use crate::logs::Logs;

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn app(engine: impl Engine, handler: Handler) -> App {
    App::builder()
        .without_discovered_handlers()
        .register(handler)
        .build(engine)
        .unwrap()
}

async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(secs(600), what)
        .await
        .expect("it is stuck")
}

/// A handler that takes a while, and says which events it was given.
fn slow(pause: Duration) -> (Handler, mpsc::UnboundedReceiver<u32>) {
    let (ran, runs) = mpsc::unbounded_channel();
    let handler = Handler::on("slow", move |step: Step| {
        ran.send(step.n).unwrap();
        tokio::time::sleep(pause)
    });
    (handler.timeout(None), runs)
}

#[tokio::test(start_paused = true)]
async fn a_renewal_without_an_answer_is_asked_again_before_the_lease_is_over() {
    let engine = Faulty::default();
    engine.faults.silent.store(1, Ordering::SeqCst);
    let (handler, mut runs) = slow(secs(60));
    let app = app(engine.clone(), handler);
    app.publish(&Step { n: 0 }).await.unwrap();

    let consumers: Vec<_> = (0..2)
        .map(|_| app.consumer().lease(secs(2)).spawn())
        .collect();
    tokio::time::sleep(secs(61)).await;
    assert_eq!(std::iter::from_fn(|| runs.try_recv().ok()).count(), 1);

    for consumer in consumers {
        consumer.stop();
        assert_eq!(within(consumer).await.unwrap().counts.lost, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn what_outstayed_its_lease_before_it_began_is_left_to_its_next_holder() {
    let engine = Faulty::default();
    let (handler, mut runs) = slow(secs(30));
    let app = app(engine.clone(), handler);
    app.publish_all(&[Step { n: 0 }, Step { n: 1 }])
        .await
        .unwrap();

    let cut_off = app.consumer().concurrency(1).lease(secs(2)).spawn();
    assert_eq!(runs.recv().await, Some(0));
    engine.faults.silent.store(usize::MAX, Ordering::SeqCst);
    tokio::time::sleep(secs(5)).await;

    let (handler, mut elsewhere) = slow(secs(1));
    let other = self::app(engine.memory.clone(), handler);
    other.consumer().until_idle().run().await.unwrap();
    assert_eq!(
        std::iter::from_fn(|| elsewhere.try_recv().ok()).collect::<Vec<_>>(),
        [0, 1]
    );

    tokio::time::sleep(secs(60)).await;
    assert!(runs.try_recv().is_err(), "handled here as well");
    cut_off.stop();
    within(cut_off).await.unwrap();
}

struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("dropped")
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_whose_task_dies_comes_again_and_ends_in_the_dead_letters() {
    let handler = Handler::on("bomb", |step: Step| async move {
        if step.n == 0 {
            std::panic::panic_any(Bomb)
        }
    });

    let app = App::builder()
        .without_discovered_handlers()
        .register(handler)
        .configure(|config| config.max_deliveries = 2)
        .build(MemoryEngine::new())
        .unwrap();
    app.publish(&Step { n: 0 }).await.unwrap();

    let consumer = app.consumer().lease(secs(1)).spawn();
    tokio::time::sleep(secs(30)).await;
    assert_eq!(
        (consumer.counts().lost, consumer.counts().dead_lettered),
        (2, 1)
    );

    consumer.stop();
    within(consumer).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn settling_that_fails_for_long_is_warned_of_once_for_each_kind_of_error() {
    let (logs, _guard) = Logs::begin();
    let engine = Faulty::default();
    let app = app(engine.clone(), Handler::on("quick", |_: Step| async {}));
    app.publish(&Step { n: 0 }).await.unwrap();

    let locked = || std::iter::repeat_n(ErrorKind::Transient, 40);
    let away = std::iter::repeat_n(ErrorKind::Connection, 20);
    engine
        .faults
        .settle
        .lock()
        .unwrap()
        .extend(locked().chain(away).chain(locked()));

    let report = within(app.consumer().until_idle().run()).await.unwrap();
    assert_eq!(report.counts.handled, 1);
    assert_eq!(
        logs.count(Level::WARN, "settling failed, will try again"),
        2
    );
    assert_eq!(logs.count(Level::DEBUG, "settling still fails"), 98);
    assert_eq!(logs.count(Level::INFO, "settling works again"), 1);

    // Another outage is told again.
    engine.faults.settle.lock().unwrap().extend(locked());
    app.publish(&Step { n: 1 }).await.unwrap();

    within(app.consumer().until_idle().run()).await.unwrap();
    assert_eq!(
        logs.count(Level::WARN, "settling failed, will try again"),
        3
    );
    assert_eq!(logs.count(Level::INFO, "settling works again"), 2);
}

#[tokio::test(start_paused = true)]
async fn an_event_for_a_queue_that_cannot_be_made_holds_up_no_other() {
    let engine = Faulty::default();
    *engine.faults.forbidden.lock().unwrap() = Some(QueueName::new("mail").unwrap());

    let handler = Handler::on("sends", |step: Step| async move {
        (step.n == 0).then_some(Mail {})
    });
    let app = app(engine.clone(), handler);
    app.publish_all(&[Step { n: 0 }, Step { n: 1 }, Step { n: 2 }])
        .await
        .unwrap();

    let report = within(app.consumer().until_idle().run()).await.unwrap();
    assert_eq!((report.counts.handled, report.counts.dead_lettered), (2, 1));

    let queue = QueueName::default();
    let letters = app
        .dead_letters(&queue)
        .unwrap()
        .list(&DeadLetterFilter::all(), 10)
        .await
        .unwrap();
    let error = &letters[0].reason.as_ref().unwrap().error;
    assert!(error.contains("forbidden by the test"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn an_event_that_another_engine_refuses_for_good_is_a_dead_letter() {
    let (ran, mut runs) = mpsc::unbounded_channel();
    let handler = Handler::on("sends", move |_: Step| {
        ran.send(()).unwrap();
        async { Mail {} }
    });

    let app = App::builder()
        .without_discovered_handlers()
        .register(handler)
        .named_engine("small", MemoryEngine::with_body_limit(1))
        .queue_engine(QueueName::new("mail").unwrap(), "small")
        .build(MemoryEngine::new())
        .unwrap();
    app.publish(&Step { n: 0 }).await.unwrap();

    let consumer = app.consumer().spawn();
    tokio::time::sleep(secs(60)).await;
    consumer.stop();

    let report = within(consumer).await.unwrap();
    assert_eq!((report.counts.retried, report.counts.dead_lettered), (0, 1));
    assert_eq!(std::iter::from_fn(|| runs.try_recv().ok()).count(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_panics_ends_the_consumer_with_an_error() {
    let engine = Faulty::default();
    engine.faults.panics.store(true, Ordering::SeqCst);
    let app = app(engine.clone(), Handler::on("quick", |_: Step| async {}));
    app.publish(&Step { n: 0 }).await.unwrap();
    let error = within(app.consumer().run()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Panicked);
    assert!(error.to_string().contains("settling"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_could_not_listen_at_its_start_listens_later() {
    let engine = Faulty::default();
    engine.faults.deaf.store(3, Ordering::SeqCst);
    let app = app(engine.clone(), Handler::on("quick", |_: Step| async {}));
    let consumer = app.consumer().spawn();
    tokio::time::sleep(secs(60)).await;
    assert_eq!(engine.faults.deaf.load(Ordering::SeqCst), 0);

    // Woken now: it does not wait for its next look at the queue.
    let published = tokio::time::Instant::now();
    app.publish(&Step { n: 0 }).await.unwrap();

    while consumer.counts().handled < 1 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    assert!(
        published.elapsed() < Duration::from_millis(100),
        "{:?}",
        published.elapsed()
    );

    consumer.stop();
    within(consumer).await.unwrap();
}

/// An application whose events are handled at once, and settled one by one.
fn quick(engine: &Faulty) -> App {
    App::builder()
        .without_discovered_handlers()
        .register(Handler::on("quick", |_: Step| async {}))
        .configure(|config| config.settle_batch = 1)
        .build(engine.clone())
        .unwrap()
}

async fn until(consumer: &ConsumerHandle, handled: u64) {
    let all = async {
        while consumer.counts().handled < handled {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    within(all).await;
    assert_eq!(consumer.counts().handled, handled);
}

#[tokio::test(start_paused = true)]
async fn an_event_that_another_session_has_locked_holds_up_no_other() {
    let engine = Faulty::default();
    let app = quick(&engine);
    let steps: Vec<Step> = (0..10).map(|n| Step { n }).collect();
    let published = app.publish_all(&steps).await.unwrap();
    let id = published[4].id.as_number().unwrap();
    engine.faults.locked.lock().unwrap().insert(id);

    let consumer = app.consumer().lease(secs(5)).spawn();
    until(&consumer, 9).await;
    app.publish_all(&steps).await.unwrap();
    until(&consumer, 19).await;
    tokio::time::sleep(secs(60)).await;
    assert_eq!((consumer.counts().handled, consumer.counts().lost), (19, 0));

    engine.faults.locked.lock().unwrap().clear();
    until(&consumer, 20).await;
    consumer.stop();

    let counts = within(consumer).await.unwrap().counts;
    assert_eq!((counts.handled, counts.lost), (20, 0));
}

#[tokio::test(start_paused = true)]
async fn what_was_settled_by_a_try_whose_answer_was_lost_counts_as_settled() {
    let engine = Faulty::default();
    let app = quick(&engine);
    app.publish_all(&[Step { n: 0 }, Step { n: 1 }])
        .await
        .unwrap();
    engine.faults.unheard.store(1, Ordering::SeqCst);
    let report = within(app.consumer().until_idle().run()).await.unwrap();
    assert_eq!((report.counts.handled, report.counts.lost), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_its_store_refuses_for_a_minute_is_not_live() {
    let engine = Faulty::default();
    let app = quick(&engine);
    let consumer = app.consumer().spawn();
    tokio::time::sleep(secs(1)).await;

    let refusals = std::iter::repeat_n(ErrorKind::Permission, 100_000);
    engine.faults.lease.lock().unwrap().extend(refusals);
    tokio::time::sleep(secs(50)).await;

    let health = app.health().await;
    assert!(health.is_live() && !health.is_ready(), "{health}");
    tokio::time::sleep(secs(30)).await;
    assert!(!app.health().await.is_live());

    // As when a password is changed back, or the right one is found.
    engine.faults.lease.lock().unwrap().clear();
    tokio::time::sleep(secs(30)).await;

    let health = app.health().await;
    assert!(health.is_live() && health.is_ready(), "{health}");
    consumer.stop();
    within(consumer).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_events_of_a_failed_batch_run_beside_each_other_up_to_the_concurrency() {
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;

    for (limit, at_once) in [(None, 5), (Some(2), 2)] {
        let running = Arc::new(AtomicUsize::new(0));
        let most = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&most);

        let handler = Handler::on_batch("hangs", move |batch: Batch<Step>| {
            let running = Arc::clone(&running);
            let most = Arc::clone(&seen);
            let count = batch.len();

            async move {
                if count > 1 {
                    return Err("all of it");
                }
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::time::sleep(secs(25)).await;
                running.fetch_sub(1, Ordering::SeqCst);
                Ok(())
            }
        });

        let handler = handler.batch_size(50).timeout(None);
        let handler = limit.into_iter().fold(handler, Handler::concurrency);
        let app = app(MemoryEngine::new(), handler);
        app.publish_all(&(0..50).map(|n| Step { n }).collect::<Vec<_>>())
            .await
            .unwrap();

        let report = app.consumer().concurrency(5).until_idle().run();
        let report = tokio::time::timeout(secs(2000), report)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(
            (report.counts.handled, most.load(Ordering::SeqCst)),
            (50, at_once)
        );

        let expected = secs(25) * 50 / u32::try_from(at_once).unwrap();
        assert!(report.elapsed < expected + secs(5), "{report}");
    }
}
