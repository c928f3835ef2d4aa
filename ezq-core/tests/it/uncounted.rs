//! Runs that end without success: each counts against a bound, whoever is to blame.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ezq_core::ErrorKind;
use ezq_core::admin::DeadLetterFilter;
use ezq_core::app::{App, AppBuilder};
use ezq_core::consumer::Counts;
use ezq_core::engine::Engine;
use ezq_core::event::Event;
use ezq_core::handler::{Backoff, Batch, Call, Context, Extract, Handler, HandlerError};
use ezq_core::memory::MemoryEngine;
use ezq_core::message::{Progress, QueueName, Reason, ReasonKind};
use serde::{Deserialize, Serialize};

use crate::faulty::Faulty;
use crate::fixtures::Step;

#[derive(Debug, Serialize, Deserialize)]
struct Moved {
    n: u32,
}

impl Event for Moved {
    const TYPE: &'static str = "moved";
    const QUEUE: Option<&'static str> = Some("other");
}

async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(3600), what)
        .await
        .expect("it runs for ever")
}

fn app(handler: Handler) -> AppBuilder {
    App::builder()
        .without_discovered_handlers()
        .register(handler)
        .configure(|config| {
            config.retry.backoff = Backoff::constant(Duration::ZERO);
            config.max_deliveries = 3;
        })
}

/// Handles one event with a memory engine.
async fn run_one(handler: Handler) -> Counts {
    let app = app(handler).build(MemoryEngine::new()).unwrap();
    app.publish(&Step { n: 0 }).await.unwrap();
    within(app.consumer().until_idle().run())
        .await
        .unwrap()
        .counts
}

/// Handles one event until it is a dead letter; why it is one.
async fn death(app: &App) -> (Reason, Progress) {
    app.publish(&Step { n: 0 }).await.unwrap();

    let consumer = app.consumer().spawn();
    within(async {
        while consumer.counts().dead_lettered == 0 {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    })
    .await;

    consumer.stop();
    within(consumer).await.unwrap();

    let queue = app.config().queue.clone();
    let letters = app.dead_letters(&queue).unwrap();
    let mut letters = letters.list(&DeadLetterFilter::all(), 10).await.unwrap();
    let letter = letters.pop().unwrap();
    (
        letter.reason.unwrap(),
        Progress::from_headers(&letter.headers),
    )
}

/// What stands for an engine's transaction.
struct Needed;

impl Extract for Needed {
    const TRANSACTION: bool = true;

    async fn extract(_: &Call) -> Result<Self, HandlerError> {
        Ok(Self)
    }
}

/// An engine whose transactions never begin.
fn without_transactions(kind: ErrorKind) -> Faulty {
    let mut engine = Faulty::default();
    let mut capabilities = engine.memory.capabilities().clone();
    capabilities.transactions = true;
    engine.capabilities = Some(capabilities);
    *engine.faults.begin.lock().unwrap() = Some(kind);
    engine
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_cancels_its_token_is_done_when_it_returns() {
    let runs = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&runs);
    let cancels = Handler::on("cancels", move |_: Step, context: Context| {
        // So that a consumer without end does not run for ever.
        assert!(
            seen.fetch_add(1, Ordering::SeqCst) < 100,
            "it runs again and again"
        );
        async move {
            context.cancellation().cancel();
            tokio::task::yield_now().await;
        }
    });

    let counts = run_one(cancels).await;
    assert_eq!((counts.handled, counts.cancelled), (1, 0));
    assert_eq!(runs.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_fails_and_cancels_its_token_counts_its_attempts() {
    let runs = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&runs);
    let fails = Handler::on("fails", move |_: Step, context: Context| {
        assert!(
            seen.fetch_add(1, Ordering::SeqCst) < 100,
            "it runs again and again"
        );
        async move {
            let _guard = context.cancellation().drop_guard();
            Err::<(), _>("on purpose")
        }
    });

    let counts = run_one(fails.max_attempts(3)).await;
    assert_eq!((counts.dead_lettered, counts.cancelled), (1, 0));
    assert_eq!(runs.load(Ordering::SeqCst), 3);
}

#[tokio::test(start_paused = true)]
async fn a_batch_handler_that_cancels_its_token_is_done_when_it_returns() {
    let runs = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&runs);
    let cancels = Handler::on_batch("cancels", move |batch: Batch<Step>| {
        assert!(
            seen.fetch_add(1, Ordering::SeqCst) < 100,
            "it runs again and again"
        );
        async move {
            for item in &batch {
                item.context.cancellation().cancel();
            }
            tokio::task::yield_now().await;
        }
    });

    let counts = run_one(cancels).await;
    assert_eq!((counts.handled, counts.cancelled), (1, 0));
    assert_eq!(runs.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn the_token_of_a_handler_still_hears_of_an_interrupt() {
    let (heard, mut hears) = tokio::sync::mpsc::unbounded_channel();
    let (started, mut starts) = tokio::sync::mpsc::unbounded_channel();

    let waits = Handler::on("waits", move |_: Step, context: Context| {
        let heard = heard.clone();
        let started = started.clone();

        async move {
            let token = context.cancellation();
            tokio::spawn(async move {
                token.cancelled().await;
                heard.send(()).unwrap();
            });
            started.send(()).unwrap();
            std::future::pending::<()>().await;
        }
    });

    let app = app(waits.timeout(None)).build(MemoryEngine::new()).unwrap();
    app.publish(&Step { n: 0 }).await.unwrap();

    let consumer = app.consumer().spawn();
    within(starts.recv()).await.unwrap();
    consumer.interrupt();
    within(hears.recv()).await.unwrap();
    within(consumer).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_event_whose_transaction_never_begins_ends_in_the_dead_letters() {
    for kind in [
        ErrorKind::Connection,
        ErrorKind::Transient,
        ErrorKind::QueueMissing,
    ] {
        let needs = Handler::on("needs", |_: Step, _: Needed| async {});
        let app = app(needs).build(without_transactions(kind)).unwrap();
        let (reason, marks) = death(&app).await;
        assert_eq!((reason.kind, reason.attempts), (ReasonKind::StoreFailed, 4));
        assert_eq!(
            (reason.handler, &*reason.error),
            (None, "a fault of the test")
        );
        assert_eq!(
            marks.get(&"needs".into()),
            None,
            "it was no attempt of the handler"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_whose_transaction_never_begins_ends_in_the_dead_letters() {
    let needs = Handler::on_batch("needs", |_: Batch<Step>, _: Needed| async {});
    let app = app(needs)
        .build(without_transactions(ErrorKind::Connection))
        .unwrap();
    let (reason, _) = death(&app).await;
    assert_eq!((reason.kind, reason.attempts), (ReasonKind::StoreFailed, 4));
}

#[tokio::test(start_paused = true)]
async fn an_event_whose_events_another_engine_never_takes_ends_in_the_dead_letters() {
    let elsewhere = Faulty::default();
    *elsewhere.faults.publish.lock().unwrap() = Some(ErrorKind::Connection);
    let other = QueueName::new("other").unwrap();
    let returns = Handler::on("returns", |step: Step| async move { Moved { n: step.n } });
    let builder = app(returns)
        .named_engine("elsewhere", elsewhere)
        .queue_engine(&other, "elsewhere");

    let app = builder.build(MemoryEngine::new()).unwrap();
    let (reason, marks) = death(&app).await;
    assert_eq!((reason.kind, reason.attempts), (ReasonKind::StoreFailed, 4));
    assert_eq!(
        marks.get(&"returns".into()),
        None,
        "a redrive runs it again"
    );
}
