//! Settlements that the store refuses, each for itself: no event that a handler returned is lost, and
//! no event that was handled becomes a dead letter.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ezq_core::ErrorKind;
use ezq_core::admin::DeadLetterFilter;
use ezq_core::app::App;
use ezq_core::engine::Settle;
use ezq_core::event::Event;
use ezq_core::handler::{Backoff, Batch, Handler, HandlerError};
use ezq_core::message::QueueName;
use serde::{Deserialize, Serialize};

use crate::faulty::Faulty;
use crate::fixtures::{Mail, Step};

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn mail() -> QueueName {
    QueueName::new("mail").unwrap()
}

async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(secs(600), what)
        .await
        .expect("it is stuck")
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let all = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(secs(600), all).await.expect(what);
}

/// Refuses settlements for as long as the answer is true.
fn refuse(
    engine: &Faulty,
    kind: ErrorKind,
    refused: impl Fn(&Settle) -> bool + Send + 'static,
) -> Arc<AtomicBool> {
    let refuses = Arc::new(AtomicBool::new(true));
    let is_on = Arc::clone(&refuses);
    *engine.faults.judge.lock().unwrap() = Some(Box::new(move |_, settle| {
        (is_on.load(Ordering::SeqCst) && refused(settle)).then_some(kind)
    }));
    refuses
}

/// One handler that returns an event and counts its runs, and one that fails once.
fn handlers(fails: fn() -> HandlerError) -> ([Handler; 2], Arc<AtomicU32>) {
    let runs = Arc::new(AtomicU32::new(0));
    let tries = Arc::new(AtomicU32::new(0));
    let ran = Arc::clone(&runs);
    let book = Handler::on("book", move |_: Step| {
        ran.fetch_add(1, Ordering::SeqCst);
        async { Mail {} }
    });

    let post = Handler::on("post", move |_: Step| {
        let is_first = tries.fetch_add(1, Ordering::SeqCst) == 0;
        async move { if is_first { Err(fails()) } else { Ok(()) } }
    });
    ([book, post], runs)
}

/// Redrives the only dead letter of the default queue, and works it off.
async fn redrive(app: &App) {
    let letters = app.dead_letters(QueueName::default()).unwrap();
    let letter = letters
        .list(&DeadLetterFilter::all(), 2)
        .await
        .unwrap()
        .pop()
        .unwrap();
    letters.redrive(&letter.id).await.unwrap();
    within(app.consumer().until_idle().run()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_event_whose_settlement_was_refused_is_returned_again_after_a_redrive() {
    let failures: [fn() -> HandlerError; 2] = [
        || HandlerError::retry("once"),
        || HandlerError::fatal("once"),
    ];
    for fails in failures {
        let engine = Faulty::default();
        let ([book, post], runs) = handlers(fails);
        let builder = App::builder()
            .without_discovered_handlers()
            .register(book)
            .register(post);
        let app = builder.build(engine.clone()).unwrap();
        let publishes = |settle: &Settle| !settle.outgoing().is_empty();
        let refuses = refuse(&engine, ErrorKind::Permission, publishes);
        app.publish(&Step { n: 0 }).await.unwrap();

        let report = within(app.consumer().until_idle().run()).await.unwrap();
        assert_eq!(report.counts.dead_lettered, 1);
        assert!(engine.memory.published(&mail()).is_empty());

        refuses.store(false, Ordering::SeqCst);
        redrive(&app).await;
        assert_eq!(
            engine.memory.published(&mail()).len(),
            1,
            "the event is lost"
        );
        assert_eq!(runs.load(Ordering::SeqCst), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_that_another_engine_refused_is_returned_again_after_a_redrive() {
    let engine = Faulty::default();
    let other = Faulty::default();
    *other.faults.publish.lock().unwrap() = Some(ErrorKind::Permission);

    let ([book, post], runs) = handlers(|| HandlerError::retry("once"));
    let app = App::builder()
        .without_discovered_handlers()
        .register(book)
        .register(post)
        .named_engine("other", other.clone())
        .queue_engine(mail(), "other")
        .build(engine.clone())
        .unwrap();
    app.publish(&Step { n: 0 }).await.unwrap();

    let report = within(app.consumer().until_idle().run()).await.unwrap();
    assert_eq!(report.counts.dead_lettered, 1);

    *other.faults.publish.lock().unwrap() = None;
    redrive(&app).await;
    assert_eq!(
        other.memory.published(&mail()).len(),
        1,
        "the event is lost"
    );
    assert_eq!(runs.load(Ordering::SeqCst), 2);
}

/// Fails once for the first step, as it is told, and counts its runs by step.
fn flaky(fails: fn() -> HandlerError) -> (Handler, Arc<Mutex<BTreeMap<u32, u32>>>) {
    let runs = Arc::new(Mutex::new(BTreeMap::new()));
    let ran = Arc::clone(&runs);
    let handler = Handler::on("flaky", move |step: Step| {
        let mut runs = ran.lock().unwrap();
        let count = runs.entry(step.n).or_insert(0);
        *count += 1;
        let fails_now = step.n == 0 && *count == 1;
        async move { if fails_now { Err(fails()) } else { Ok(()) } }
    });
    (handler.backoff(Backoff::constant(secs(5))), runs)
}

#[tokio::test(start_paused = true)]
async fn acknowledgements_that_the_store_cannot_make_wait_beside_what_it_can_settle() {
    let engine = Faulty::default();
    let (handler, runs) = flaky(|| HandlerError::retry("once"));
    let app = App::builder()
        .without_discovered_handlers()
        .register(handler)
        .build(engine.clone());
    let app = app.unwrap();
    let acknowledges = |settle: &Settle| matches!(settle, Settle::Ack { .. });
    let refuses = refuse(&engine, ErrorKind::Permission, acknowledges);

    app.publish_all(&[Step { n: 0 }, Step { n: 1 }, Step { n: 2 }])
        .await
        .unwrap();

    let consumer = app.consumer().lease(secs(10)).spawn();
    until("nothing is retried", || consumer.counts().retried == 1).await;
    tokio::time::sleep(secs(60)).await;

    let counts = consumer.counts();
    assert_eq!(
        (counts.handled, counts.dead_lettered, counts.lost),
        (0, 0, 0)
    );

    let health = app.health().await;
    assert!(!health.is_ready(), "{health}");
    assert!(
        health.to_string().contains("a fault of the test"),
        "{health}"
    );

    refuses.store(false, Ordering::SeqCst);
    until("nothing is acknowledged", || consumer.counts().handled == 3).await;
    assert!(app.health().await.is_ready());
    assert_eq!(
        *runs.lock().unwrap(),
        BTreeMap::from([(0, 2), (1, 1), (2, 1)])
    );

    consumer.stop();
    assert_eq!(within(consumer).await.unwrap().counts.lost, 0);
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_that_the_store_cannot_write_waits_and_its_handler_does_not_run_again() {
    let engine = Faulty::default();
    let (handler, runs) = flaky(|| HandlerError::fatal("for good"));
    let app = App::builder()
        .without_discovered_handlers()
        .register(handler)
        .build(engine.clone());
    let app = app.unwrap();
    let buries = |settle: &Settle| matches!(settle, Settle::DeadLetter { .. });
    let refuses = refuse(&engine, ErrorKind::Engine, buries);

    app.publish_all(&[Step { n: 0 }, Step { n: 1 }])
        .await
        .unwrap();

    let consumer = app.consumer().lease(secs(10)).spawn();
    until("nothing is acknowledged", || consumer.counts().handled == 1).await;
    tokio::time::sleep(secs(60)).await;
    refuses.store(false, Ordering::SeqCst);
    until("nothing is a dead letter", || {
        consumer.counts().dead_lettered == 1
    })
    .await;
    assert_eq!(*runs.lock().unwrap(), BTreeMap::from([(0, 1), (1, 1)]));

    consumer.stop();
    assert_eq!(within(consumer).await.unwrap().counts.lost, 0);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_was_lost_is_told_from_a_lock_in_the_same_batch() {
    let engine = Faulty::default();
    let handler = Handler::on("quick", |_: Step| async {});
    let app = App::builder()
        .without_discovered_handlers()
        .register(handler)
        .build(engine.clone());

    let app = app.unwrap();
    let published = app
        .publish_all(&[Step { n: 0 }, Step { n: 1 }])
        .await
        .unwrap();
    let unheard = published[0].id.clone();

    let mut tries = BTreeMap::new();
    *engine.faults.judge.lock().unwrap() = Some(Box::new(move |receipt, _| {
        let count = tries.entry(receipt.message_id().as_number()).or_insert(0);
        *count += 1;
        (*count == 1).then_some(match *receipt.message_id() == unheard {
            true => ErrorKind::Connection,
            false => ErrorKind::Transient,
        })
    }));

    let report = within(app.consumer().until_idle().run()).await.unwrap();
    assert_eq!(
        engine.faults.batches.lock().unwrap()[0].1,
        2,
        "two batches prove nothing"
    );
    assert_eq!((report.counts.handled, report.counts.lost), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_missing_queue_is_created_beside_a_lock_in_the_same_batch() {
    let engine = Faulty::default();
    let handler = Handler::on("sends", |step: Step| async move {
        (step.n == 0).then_some(Mail {})
    });
    let app = App::builder()
        .without_discovered_handlers()
        .register(handler)
        .build(engine.clone());

    let app = app.unwrap();
    let published = app
        .publish_all(&[Step { n: 0 }, Step { n: 1 }])
        .await
        .unwrap();
    let id = published[1].id.as_number().unwrap();
    engine.faults.locked.lock().unwrap().insert(id);

    let consumer = app.consumer().spawn();
    until("the queue is not created", || {
        consumer.counts().handled == 1
    })
    .await;

    assert_eq!(
        engine.faults.batches.lock().unwrap()[0].1,
        2,
        "two batches prove nothing"
    );
    assert_eq!(engine.memory.published(&mail()).len(), 1);

    engine.faults.locked.lock().unwrap().clear();
    until("the lock is gone", || consumer.counts().handled == 2).await;
    consumer.stop();
    within(consumer).await.unwrap();
}

/// What a batch comes to.
#[derive(Debug, Serialize, Deserialize)]
struct Sum {
    steps: Vec<u32>,
}

impl Event for Sum {
    const TYPE: &'static str = "sum";
    const QUEUE: Option<&'static str> = Some("sums");
}

fn summing(engine: &Faulty) -> App {
    let handler = Handler::on_batch("sums", |batch: Batch<Step>| {
        let steps = batch.events().map(|step| step.n).collect();
        async { Sum { steps } }
    });
    App::builder()
        .without_discovered_handlers()
        .register(handler)
        .build(engine.clone())
        .unwrap()
}

fn sums(engine: &Faulty) -> Vec<Vec<u32>> {
    let published = engine.memory.published(&QueueName::new("sums").unwrap());
    let steps = |body: &str| {
        let mut body: serde_json::Value = serde_json::from_str(body).unwrap();
        serde_json::from_value::<Sum>(body["data"].take())
            .unwrap()
            .steps
    };

    published
        .iter()
        .map(|one| steps(&one.message.body))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn what_a_batch_without_a_transaction_returns_is_stored_before_any_of_it_is_acknowledged() {
    let engine = Faulty::default();
    let app = summing(&engine);
    let steps: Vec<Step> = (0..3).map(|n| Step { n }).collect();
    let published = app.publish_all(&steps).await.unwrap();
    let first = published[0].id.clone();
    let seen = Arc::new(Mutex::new(Vec::new()));

    let store = engine.clone();
    let stored = Arc::clone(&seen);
    *engine.faults.judge.lock().unwrap() = Some(Box::new(move |receipt, _| {
        stored.lock().unwrap().push(sums(&store));
        // As if the worker died before it acknowledged this one.
        (*receipt.message_id() == first).then_some(ErrorKind::Transient)
    }));

    let consumer = app.consumer().lease(secs(5)).spawn();
    until("nothing is acknowledged", || consumer.counts().handled == 2).await;
    assert_eq!(seen.lock().unwrap()[0], [vec![0, 1, 2]]);

    consumer.stop();
    within(consumer).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_batch_whose_events_cannot_be_stored_is_not_acknowledged() {
    let engine = Faulty::default();
    let app = summing(&engine);
    app.publish_all(&[Step { n: 0 }, Step { n: 1 }, Step { n: 2 }])
        .await
        .unwrap();

    let is_down = Arc::new(AtomicBool::new(true));
    *engine.faults.publish.lock().unwrap() = Some(ErrorKind::Connection);
    let publishes_while_down = Arc::clone(&is_down);
    *engine.faults.judge.lock().unwrap() = Some(Box::new(move |_, settle| {
        let fails = publishes_while_down.load(Ordering::SeqCst) && !settle.outgoing().is_empty();
        fails.then_some(ErrorKind::Transient)
    }));

    let consumer = app.consumer().spawn();
    until("nothing is put off", || consumer.counts().retried == 3).await;
    assert_eq!(consumer.counts().handled, 0);

    *engine.faults.publish.lock().unwrap() = None;
    is_down.store(false, Ordering::SeqCst);
    until("nothing is acknowledged", || consumer.counts().handled == 3).await;

    let mut steps = sums(&engine).concat();
    steps.sort_unstable();
    assert_eq!(steps, [0, 1, 2]);

    consumer.stop();
    within(consumer).await.unwrap();
}
