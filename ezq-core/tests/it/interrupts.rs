//! An `Interrupt` takes its place in the queue: what stands before it is begun, and nothing behind it.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ezq_core::app::App;
use ezq_core::consumer::StopReason;
use ezq_core::engine::{Due, Engine};
use ezq_core::event::{End, Event, Interrupt};
use ezq_core::handler::{Batch, Handler};
use ezq_core::memory::MemoryEngine;
use ezq_core::message::QueueName;
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, mpsc};

use crate::faulty::Faulty;

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Step {
    n: u32,
    /// Of events with an ordering key.
    key: Option<u32>,
}

impl Event for Step {
    const TYPE: &'static str = "step";

    fn key(&self) -> Option<String> {
        self.key.map(|key| key.to_string())
    }
}

fn steps(numbers: impl IntoIterator<Item = u32>) -> Vec<Step> {
    numbers.into_iter().map(|n| Step { n, key: None }).collect()
}

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

async fn publish(app: &App, steps: &[Step]) {
    app.publish_all(steps).await.unwrap();
}

async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(secs(600), what)
        .await
        .expect("it is stuck")
}

async fn next(begins: &mut mpsc::UnboundedReceiver<u32>) -> u32 {
    within(begins.recv()).await.unwrap()
}

async fn ready(app: &App) -> u64 {
    app.stats(&QueueName::default()).await.unwrap().ready
}

/// What handlers were called for.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<BTreeSet<u32>>>);

impl Log {
    fn add(&self, n: u32) {
        assert!(self.0.lock().unwrap().insert(n), "{n} came twice");
    }

    fn numbers(&self) -> Vec<u32> {
        self.0.lock().unwrap().iter().copied().collect()
    }
}

/// A handler that writes down what it begins and then waits for a permit.
fn gated(gate: &Arc<Semaphore>) -> (Handler, Log, mpsc::UnboundedReceiver<u32>) {
    let gate = Arc::clone(gate);
    let log = Log::default();
    let (began, begins) = mpsc::unbounded_channel();
    let begun = log.clone();

    let handler = Handler::on("gated", move |step: Step| {
        let gate = Arc::clone(&gate);
        begun.add(step.n);
        let _ = began.send(step.n);
        async move { gate.acquire().await.unwrap().forget() }
    });
    (handler.timeout(None), log, begins)
}

async fn all_that_precedes_is_handled(count: u32, concurrency: usize) {
    let log = Log::default();
    let handled = log.clone();
    let handler = Handler::on("quick", move |step: Step| {
        handled.add(step.n);
        async {}
    });
    let app = app(MemoryEngine::new(), handler);
    publish(&app, &steps(0..count)).await;
    app.publish(&Interrupt::default()).await.unwrap();
    publish(&app, &steps(count..count + 3)).await;

    let report = within(app.consumer().concurrency(concurrency).run())
        .await
        .unwrap();
    assert_eq!(report.reason, StopReason::Interrupt);
    assert_eq!(log.numbers(), (0..count).collect::<Vec<_>>());
    assert_eq!(
        (report.counts.handled, report.counts.cancelled),
        (u64::from(count), 0)
    );
    assert_eq!(
        ready(&app).await,
        3,
        "what stands behind it is left, and it is settled"
    );
}

#[tokio::test(start_paused = true)]
async fn what_precedes_an_interrupt_is_handled() {
    for count in [0, 1, 5, 50, 500] {
        for concurrency in [1, 4, 32] {
            all_that_precedes_is_handled(count, concurrency).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_precedes_an_interrupt_is_handled_on_many_threads() {
    for count in [5, 50, 500] {
        for concurrency in [1, 4, 32] {
            all_that_precedes_is_handled(count, concurrency).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_interrupt_waits_until_what_precedes_it_has_begun_and_cancels_what_then_runs() {
    let gate = Arc::new(Semaphore::new(0));
    let (handler, begun, mut begins) = gated(&gate);
    let app = app(MemoryEngine::new(), handler);
    publish(&app, &steps(0..20)).await;
    app.publish(&Interrupt::default()).await.unwrap();
    publish(&app, &steps(20..22)).await;

    let consumer = app.consumer().concurrency(2).spawn();
    assert_eq!([next(&mut begins).await, next(&mut begins).await], [0, 1]);
    tokio::time::sleep(secs(60)).await;
    assert!(consumer.is_running(), "eighteen are still to begin");

    // Each that ends lets another begin; with the last two it stops.
    gate.add_permits(18);

    let report = within(consumer).await.unwrap();
    assert_eq!(report.reason, StopReason::Interrupt);
    assert_eq!(begun.numbers(), (0..20).collect::<Vec<_>>());
    assert_eq!((report.counts.handled, report.counts.cancelled), (18, 2));
    assert_eq!(ready(&app).await, 4);
}

#[tokio::test(start_paused = true)]
async fn an_interrupt_waits_for_the_turn_of_what_has_an_ordering_key() {
    let gate = Arc::new(Semaphore::new(0));
    let (handler, begun, mut begins) = gated(&gate);
    let app = app(MemoryEngine::new(), handler);
    let keyed: Vec<Step> = (0..4).map(|n| Step { n, key: Some(7) }).collect();
    publish(&app, &keyed).await;
    app.publish(&Interrupt::default()).await.unwrap();

    let consumer = app.consumer().concurrency(8).spawn();
    assert_eq!(next(&mut begins).await, 0);

    tokio::time::sleep(secs(60)).await;
    assert_eq!((consumer.is_running(), begun.numbers()), (true, vec![0]));
    gate.add_permits(3);

    let report = within(consumer).await.unwrap();
    assert_eq!((report.counts.handled, report.counts.cancelled), (3, 1));
    assert_eq!(ready(&app).await, 1, "the last of the key was cut off");
}

#[tokio::test(start_paused = true)]
async fn an_interrupt_waits_for_a_handlers_limit() {
    let gate = Arc::new(Semaphore::new(0));
    let (handler, begun, mut begins) = gated(&gate);
    let app = app(MemoryEngine::new(), handler.concurrency(1));
    publish(&app, &steps(0..3)).await;
    app.publish(&Interrupt::default()).await.unwrap();

    let consumer = app.consumer().concurrency(8).spawn();
    assert_eq!(next(&mut begins).await, 0);

    tokio::time::sleep(secs(60)).await;
    assert_eq!((consumer.is_running(), begun.numbers()), (true, vec![0]));
    gate.add_permits(2);

    let report = within(consumer).await.unwrap();
    assert_eq!((report.counts.handled, report.counts.cancelled), (2, 1));
    assert_eq!((begun.numbers(), ready(&app).await), (vec![0, 1, 2], 1));
}

/// A batch handler that says what it was given, and may then take an hour.
fn batches(waits: bool) -> (Handler, mpsc::UnboundedReceiver<Vec<u32>>) {
    let (given, batches) = mpsc::unbounded_channel();
    let handler = Handler::on_batch("batches", move |batch: Batch<Step>| {
        given
            .send(batch.events().map(|step| step.n).collect())
            .unwrap();
        async move {
            if waits {
                tokio::time::sleep(secs(3600)).await;
            }
        }
    });

    (
        handler.batch_size(10).batch_wait(secs(1800)).timeout(None),
        batches,
    )
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_gathers_begins_once_nothing_can_join_it_before_a_control_event() {
    for (waits, ends, handled) in [
        (false, false, 13),
        (true, false, 0),
        (false, true, 13),
        (true, true, 13),
    ] {
        let (handler, mut given) = batches(waits);
        let app = app(MemoryEngine::new(), handler);
        publish(&app, &steps(0..13)).await;

        if ends {
            app.publish(&End::default()).await.unwrap();
        } else {
            app.publish(&Interrupt::default()).await.unwrap();
        }

        let began = tokio::time::Instant::now();
        let report = app.consumer().concurrency(4).run();
        let report = tokio::time::timeout(secs(20_000), report)
            .await
            .unwrap()
            .unwrap();

        let given: Vec<Vec<u32>> = std::iter::from_fn(|| given.try_recv().ok()).collect();
        assert_eq!(
            given.concat(),
            (0..13).collect::<Vec<_>>(),
            "all of them in batches"
        );
        assert_eq!(given.len(), 2, "{given:?}");
        assert_eq!(
            (report.counts.handled, report.counts.cancelled),
            (handled, 13 - handled)
        );

        let most = if waits && ends { secs(3601) } else { secs(1) };
        assert!(
            began.elapsed() < most,
            "{:?} ({waits}, {ends})",
            began.elapsed()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn the_earlier_of_two_control_events_counts() {
    let (handler, ..) = gated(&Arc::new(Semaphore::new(100)));
    let app = app(MemoryEngine::new(), handler);
    publish(&app, &steps(0..3)).await;
    app.publish(&Interrupt::default()).await.unwrap();
    publish(&app, &steps(3..5)).await;
    app.publish(&End::default()).await.unwrap();
    publish(&app, &steps(5..7)).await;
    app.publish(&Interrupt::default()).await.unwrap();

    let mut stopped = Vec::new();
    for _ in 0..3 {
        let report = within(app.consumer().concurrency(2).run()).await.unwrap();
        stopped.push((report.reason, report.counts.handled));
    }

    let expected = [
        (StopReason::Interrupt, 3),
        (StopReason::End, 2),
        (StopReason::Interrupt, 2),
    ];
    assert_eq!(stopped, expected);
    assert_eq!(ready(&app).await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_handle_stops_a_consumer_before_an_interrupt_has_its_turn() {
    for interrupts in [false, true] {
        let gate = Arc::new(Semaphore::new(0));
        let (handler, begun, mut begins) = gated(&gate);
        let app = app(MemoryEngine::new(), handler);
        publish(&app, &steps(0..5)).await;
        app.publish(&Interrupt::default()).await.unwrap();

        let consumer = app.consumer().concurrency(1).grace(secs(5)).spawn();
        assert_eq!(next(&mut begins).await, 0);
        tokio::time::sleep(secs(1)).await;
        let asked = tokio::time::Instant::now();

        if interrupts {
            consumer.interrupt();
        } else {
            consumer.stop();
        }

        let report = within(consumer).await.unwrap();
        assert_eq!(
            (report.reason, report.counts.cancelled),
            (StopReason::Handle, 1)
        );
        assert!(asked.elapsed() < secs(if interrupts { 1 } else { 7 }));
        assert_eq!(begun.numbers(), [0]);
        assert_eq!(
            ready(&app).await,
            6,
            "with the Interrupt, which another is to meet"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_interrupt_that_is_met_while_an_end_behind_it_drains_counts() {
    let engine = Faulty::default();
    let gate = Arc::new(Semaphore::new(0));
    let (handler, begun, mut begins) = gated(&gate);
    let app = app(engine, handler);
    publish(&app, &steps(0..1)).await;

    // The End falls due later, and yet is met first: the Interrupt is moved before it.
    let later = app
        .publish(&Interrupt::default())
        .after(secs(30))
        .await
        .unwrap();

    app.publish(&End::within(secs(5)))
        .after(secs(10))
        .await
        .unwrap();

    let consumer = app.consumer().concurrency(4).spawn();
    assert_eq!(next(&mut begins).await, 0);

    tokio::time::sleep(secs(9)).await;
    app.reschedule(&later, Due::After(Duration::ZERO))
        .await
        .unwrap();

    let report = within(consumer).await.unwrap();
    assert_eq!(
        (report.reason, report.counts.cancelled),
        (StopReason::Interrupt, 1)
    );
    assert_eq!(begun.numbers(), [0]);
}
