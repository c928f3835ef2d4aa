//! Leases that cannot be renewed, or that end by the store's clock while they are held: a consumer
//! takes nothing from itself.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ezq_core::app::App;
use ezq_core::engine::{Engine, LeaseRequest};
use ezq_core::event::Event;
use ezq_core::handler::{Backoff, Batch, Context, Handler};
use ezq_core::message::QueueName;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::faulty::Faulty;
use crate::fixtures::Within;

#[derive(Debug, Serialize, Deserialize)]
struct Step {
    n: u32,
    key: Option<String>,
}

impl Event for Step {
    const TYPE: &'static str = "step";

    fn key(&self) -> Option<String> {
        self.key.clone()
    }
}

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn steps(count: u32) -> Vec<Step> {
    (0..count).map(|n| Step { n, key: None }).collect()
}

fn app(engine: &Faulty, handler: Handler) -> App {
    App::builder()
        .without_discovered_handlers()
        .register(handler)
        .configure(|config| config.max_deliveries = 3)
        .build(engine.clone())
        .unwrap()
}

async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(secs(600), what)
        .await
        .expect("it is stuck")
}

/// A handler that takes a while, and says which events it began.
fn slow(pause: Duration) -> (Handler, mpsc::UnboundedReceiver<u32>) {
    let (began, begins) = mpsc::unbounded_channel();
    let handler = Handler::on("slow", move |step: Step| {
        let _ = began.send(step.n);
        tokio::time::sleep(pause)
    });
    (handler.timeout(None), begins)
}

fn all(begins: &mut mpsc::UnboundedReceiver<u32>) -> Vec<u32> {
    let mut all: Vec<u32> = std::iter::from_fn(|| begins.try_recv().ok()).collect();
    all.sort_unstable();
    all
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_cannot_renew_is_not_ready_and_claims_nothing_until_it_can() {
    let engine = Faulty::default();
    let (handler, mut begins) = slow(secs(6));
    let app = app(&engine, handler);
    app.publish_all(&steps(3)).await.unwrap();
    engine.faults.unrenewable.store(true, Ordering::SeqCst);

    let consumer = app.consumer().concurrency(1).lease(secs(2)).spawn();
    tokio::time::sleep(secs(1)).await;

    let health = app.health().await;
    assert!(health.is_live() && !health.is_ready(), "{health}");
    assert!(
        health.to_string().contains("renewing leases fails"),
        "{health}"
    );

    let claims = engine.faults.fetches.load(Ordering::SeqCst);
    tokio::time::sleep(secs(30)).await;
    assert_eq!(
        engine.faults.fetches.load(Ordering::SeqCst),
        claims,
        "it claimed"
    );
    assert_eq!(
        all(&mut begins),
        [0],
        "what it had begun it ends, and begins nothing again"
    );
    assert_eq!(consumer.counts().handled, 1);

    engine.faults.unrenewable.store(false, Ordering::SeqCst);
    while consumer.counts().handled < 3 {
        tokio::time::sleep(secs(1)).await;
    }

    assert!(app.health().await.is_ready());
    assert_eq!(all(&mut begins), [1, 2]);
    consumer.stop();
    assert_eq!(within(consumer).await.unwrap().counts.lost, 0);
}

#[tokio::test(start_paused = true)]
async fn what_a_claim_brings_that_is_still_held_goes_on_and_runs_once() {
    for keyed in [false, true] {
        let engine = Faulty::default();
        // A lease of ten seconds is over after a tenth of one.
        engine.faults.fast.store(100, Ordering::SeqCst);

        let (handler, mut begins) = slow(secs(5));
        let app = app(&engine, handler);
        let mut steps = steps(5);
        steps
            .iter_mut()
            .for_each(|step| step.key = keyed.then(|| "one".to_owned()));
        app.publish_all(&steps).await.unwrap();

        let consumer = app.consumer().concurrency(3).lease(secs(10)).until_idle();
        let report = within(consumer.run()).await.unwrap();
        assert_eq!(all(&mut begins), [0, 1, 2, 3, 4]);
        assert_eq!(
            (report.counts.handled, report.counts.lost),
            (5, 0),
            "{report}"
        );
        assert_eq!(report.counts.dead_lettered, 0);
    }
}

/// An engine that has transactions.
fn transactional() -> Faulty {
    let engine = Faulty::default();
    let mut capabilities = engine.memory.capabilities().clone();
    capabilities.transactions = true;
    Faulty {
        capabilities: Some(capabilities),
        ..engine
    }
}

/// Handles four events, and stops the process meanwhile for longer than its leases.
async fn run_stopped(handler: Handler, stops_at: Duration, way: u64) {
    let engine = transactional();
    engine.faults.way.store(way, Ordering::SeqCst);
    engine.faults.trip.store(400, Ordering::SeqCst);

    let app = App::builder()
        .without_discovered_handlers()
        .register(handler.timeout(None))
        .configure(|config| config.poll_max = Some(Duration::from_millis(10)))
        .build(engine)
        .unwrap();
    app.publish_all(&steps(4)).await.unwrap();

    let consumer = app.consumer().concurrency(8).lease(secs(2)).spawn();
    tokio::time::sleep(stops_at).await;
    // All that falls due meanwhile comes at once, as after a stop of the process.
    tokio::time::advance(secs(6)).await;
    tokio::time::sleep(secs(30)).await;
    consumer.stop();

    let report = within(consumer).await.unwrap();
    assert_eq!(
        (report.counts.handled, report.counts.lost),
        (4, 0),
        "{report}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_transaction_of_a_handler_that_ends_after_a_stop_is_not_overtaken_by_a_claim() {
    // There may be a claim on its way when the process is stopped.
    for (batch, way) in [(false, 0), (true, 0), (false, 300), (true, 300)] {
        let (began, mut begins) = mpsc::unbounded_channel();
        let handler = if batch {
            Handler::on_batch("within", move |steps: Batch<Step>, _: Within| {
                for step in &steps {
                    let _ = began.send(step.event.n);
                }
                tokio::time::sleep(secs(3))
            })
        } else {
            Handler::on("within", move |step: Step, _: Within| {
                let _ = began.send(step.n);
                tokio::time::sleep(secs(3))
            })
        };

        // It ends before the next renewal.
        run_stopped(handler, Duration::from_millis(2900), way).await;
        assert_eq!(all(&mut begins), [0, 1, 2, 3]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_transaction_that_commits_during_a_stop_is_not_overtaken_by_a_claim() {
    let (began, mut begins) = mpsc::unbounded_channel();
    let handler = Handler::on("within", move |step: Step, _: Within| {
        let _ = began.send(step.n);
        tokio::time::sleep(secs(1))
    });
    run_stopped(handler, Duration::from_millis(1200), 0).await;
    assert_eq!(all(&mut begins), [0, 1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn a_transaction_commits_under_the_receipt_that_its_own_consumer_claimed() {
    let engine = transactional();
    engine.faults.fast.store(100, Ordering::SeqCst);

    let runs = Arc::new(AtomicU32::new(0));
    let seen = Arc::clone(&runs);
    let handler = Handler::on("within", move |_: Step, _: Within| {
        seen.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(secs(5))
    });
    let app = app(&engine, handler);
    app.publish_all(&steps(1)).await.unwrap();

    let report = within(app.consumer().lease(secs(10)).until_idle().run())
        .await
        .unwrap();
    assert_eq!(
        (report.counts.handled, runs.load(Ordering::SeqCst)),
        (1, 1),
        "{report}"
    );
}

#[tokio::test(start_paused = true)]
async fn the_acknowledgement_of_what_is_done_survives_its_own_consumers_claim() {
    let engine = Faulty::default();
    engine.faults.fast.store(100, Ordering::SeqCst);
    // The store takes them only after the lease has ended for it.
    engine.faults.slow.store(400, Ordering::SeqCst);

    let (handler, mut begins) = slow(Duration::ZERO);
    let app = app(&engine, handler);
    app.publish_all(&steps(20)).await.unwrap();

    let consumer = app
        .consumer()
        .concurrency(4)
        .lease(secs(10))
        .until_idle()
        .spawn();

    tokio::time::sleep(secs(1)).await;
    engine.faults.fast.store(1, Ordering::SeqCst);

    let report = within(consumer).await.unwrap();
    assert_eq!(all(&mut begins), (0..20).collect::<Vec<_>>());
    assert_eq!(
        (report.counts.handled, report.counts.lost),
        (20, 0),
        "{report}"
    );
}

#[tokio::test(start_paused = true)]
async fn what_comes_back_after_a_retry_runs_again() {
    let engine = Faulty::default();
    engine.faults.fast.store(100, Ordering::SeqCst);
    let attempts = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&attempts);

    let handler = Handler::on("fails", move |_: Step, context: Context| {
        seen.lock().unwrap().push(context.attempt());
        async move {
            tokio::time::sleep(secs(1)).await;
            if context.attempt() < 3 {
                Err("not yet")
            } else {
                Ok(())
            }
        }
    });

    let app = app(&engine, handler.backoff(Backoff::constant(Duration::ZERO)));
    app.publish_all(&steps(1)).await.unwrap();

    let report = within(app.consumer().lease(secs(10)).until_idle().run())
        .await
        .unwrap();
    assert_eq!(
        (report.counts.handled, report.counts.retried),
        (1, 2),
        "{report}"
    );
    assert_eq!(*attempts.lock().unwrap(), [1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn what_another_worker_had_in_between_does_not_go_on() {
    let engine = Faulty::default();
    let (handler, mut begins) = slow(secs(30));
    let app = app(&engine, handler);
    app.publish_all(&steps(1)).await.unwrap();
    engine.faults.silent.store(1, Ordering::SeqCst);
    engine.faults.fast.store(100, Ordering::SeqCst);

    let consumer = app.consumer().lease(secs(10)).spawn();
    assert_eq!(within(begins.recv()).await, Some(0));

    // Another worker takes it, and dies.
    let queue = QueueName::default();
    let mut taken = false;

    for _ in 0..1000 {
        let request = LeaseRequest::new(queue.clone(), 1, secs(1)).keys(1);
        taken |= !engine
            .memory
            .lease(request)
            .await
            .unwrap()
            .deliveries
            .is_empty();

        if taken {
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    engine.faults.fast.store(1, Ordering::SeqCst);
    if taken {
        assert_eq!(
            within(begins.recv()).await,
            Some(0),
            "it runs once more, from its beginning"
        );
    }

    consumer.interrupt();
    within(consumer).await.unwrap();
    assert!(taken, "the consumer was always first");
}

#[test]
fn handlers_that_block_their_runtime_for_longer_than_the_lease_kill_nothing() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let engine = Faulty::default();
        let runs = Arc::new(AtomicU32::new(0));
        let seen = Arc::clone(&runs);
        let handler = Handler::on("blocks", move |_: Step| {
            seen.fetch_add(1, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(1500));
            async {}
        });
        let app = app(&engine, handler);
        app.publish_all(&steps(5)).await.unwrap();

        let consumer = app.consumer().concurrency(5).lease(secs(1)).until_idle();
        let report = tokio::time::timeout(secs(60), consumer.run())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(
            (report.counts.handled, report.counts.dead_lettered),
            (5, 0),
            "{report}"
        );
        assert_eq!(runs.load(Ordering::SeqCst), 5);
    });
}
