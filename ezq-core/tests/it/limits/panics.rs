//! Errors and handlers that panic where nobody expects it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use ezq_core::app::App;
use ezq_core::engine::{Engine as _, LeaseRequest};
use ezq_core::handler::{Batch, Handler};
use ezq_core::memory::MemoryEngine;
use ezq_core::message::{Progress, QueueName, ReasonKind};
use tracing::Level;

use super::{app, the_dead_letter, within};
use crate::faulty::Faulty;
use crate::fixtures::Step;
use crate::logs::Logs;

#[derive(Debug)]
pub(super) struct Unspeakable;

impl fmt::Display for Unspeakable {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        panic!("no words")
    }
}

impl std::error::Error for Unspeakable {}

#[tokio::test(start_paused = true)]
async fn an_error_that_panics_when_it_is_written_is_a_failed_attempt() {
    let handler = Handler::on("fails", |_: Step| async { Err::<(), _>(Unspeakable) });
    let (app, _) = app(handler.max_attempts(2), |_| {});
    app.publish(&Step { n: 0 }).await.unwrap();

    let consumer = app.consumer().spawn();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(consumer.counts().dead_lettered, 1);

    consumer.stop();
    within(consumer).await.unwrap();

    let reason = the_dead_letter(&app).await;
    assert_eq!((reason.kind, reason.attempts), (ReasonKind::MaxAttempts, 2));
    assert!(
        reason.error.contains("panicked: no words"),
        "{}",
        reason.error
    );
}

#[derive(Debug)]
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("dropped")
    }
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_panics_when_it_is_cut_off_is_a_failed_attempt() {
    let handler = Handler::on("bomb", |_: Step| async {
        let _bomb = Bomb;
        std::future::pending::<()>().await;
    });
    let handler = handler
        .timeout(Some(Duration::from_secs(1)))
        .max_attempts(1);
    let (app, _) = app(handler, |_| {});
    app.publish(&Step { n: 0 }).await.unwrap();
    within(app.consumer().until_idle().run()).await.unwrap();
    assert_eq!(the_dead_letter(&app).await.kind, ReasonKind::MaxAttempts);
}

#[derive(Debug)]
struct Unstable {
    _bomb: Bomb,
}

impl fmt::Display for Unstable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("unstable")
    }
}

impl std::error::Error for Unstable {}

#[tokio::test(start_paused = true)]
async fn an_error_that_panics_when_it_is_dropped_is_a_failed_attempt() {
    let error = || Unstable { _bomb: Bomb };
    let single = Handler::on("fails", move |_: Step| async move { Err::<(), _>(error()) });
    let batch = Handler::on_batch("fails", move |batch: Batch<Step>| async move {
        batch
            .iter()
            .map(|_| Err::<(), _>(error()))
            .collect::<Vec<_>>()
    });

    for handler in [single, batch] {
        let (logs, _guard) = Logs::begin();
        let (app, _) = app(handler.max_attempts(2), |_| {});
        app.publish(&Step { n: 0 }).await.unwrap();

        let consumer = app.consumer().spawn();
        tokio::time::sleep(Duration::from_secs(60)).await;
        consumer.stop();

        let reason = the_dead_letter(&app).await;
        assert_eq!((reason.kind, reason.attempts), (ReasonKind::MaxAttempts, 2));
        assert_eq!(reason.error, "unstable");
        assert_eq!(logs.count(Level::WARN, "panicked when it was dropped"), 2);
    }
}

/// Handlers that panic when they are cut off, for one event and for a batch.
fn bombs() -> [Handler; 2] {
    let single = Handler::on("bomb", |_: Step| async {
        let _bomb = Bomb;
        std::future::pending::<()>().await;
    });
    let batch = Handler::on_batch("bomb", |_: Batch<Step>| async {
        let _bomb = Bomb;
        std::future::pending::<()>().await;
    });
    [single, batch].map(|handler| handler.timeout(None).max_attempts(1))
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_panics_when_a_stop_cuts_it_off_has_made_no_attempt() {
    for handler in bombs() {
        let (logs, _guard) = Logs::begin();
        let (app, engine) = app(handler, |_| {});
        app.publish(&Step { n: 0 }).await.unwrap();

        let consumer = app.consumer().spawn();
        tokio::time::sleep(Duration::from_secs(1)).await;
        consumer.interrupt();

        let counts = within(consumer).await.unwrap().counts;
        assert_eq!(
            (counts.cancelled, counts.retried, counts.dead_lettered),
            (1, 0, 0)
        );
        assert_eq!(logs.count(Level::WARN, "panicked: dropped"), 1);
        assert_eq!(marks(&engine).await, Progress::default());
    }
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_panics_when_its_lease_is_lost_has_made_no_attempt() {
    for handler in bombs() {
        let (logs, _guard) = Logs::begin();
        let (app, engine) = app(handler, |_| {});
        app.publish(&Step { n: 0 }).await.unwrap();
        engine.faults.lose.store(true, Ordering::SeqCst);

        let consumer = app.consumer().lease(Duration::from_secs(6)).spawn();
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(logs.count(Level::WARN, "panicked: dropped"), 1);
        consumer.interrupt();

        let counts = within(consumer).await.unwrap().counts;
        assert_eq!((counts.retried, counts.dead_lettered), (0, 0));
        tokio::time::sleep(Duration::from_secs(6)).await;
        assert_eq!(marks(&engine).await, Progress::default());
    }
}

/// What the event that waits has of attempts.
async fn marks(engine: &Faulty) -> Progress {
    let queue = QueueName::default();
    let ttl = Duration::from_secs(1);
    let request = LeaseRequest::new(queue, 1, ttl).keys(1);
    let leased = engine.memory.lease(request).await.unwrap();
    Progress::from_headers(&leased.deliveries[0].headers)
}

#[tokio::test(start_paused = true)]
async fn nothing_new_starts_in_a_delivery_that_was_cancelled() {
    let later = Arc::new(AtomicU32::new(0));
    let first = Handler::on("first", |_: Step| std::future::pending::<()>()).timeout(None);
    let second = {
        let later = Arc::clone(&later);
        Handler::on("second", move |_: Step| {
            later.fetch_add(1, Ordering::SeqCst);
            async {}
        })
    };

    let app = App::builder()
        .without_discovered_handlers()
        .register(first)
        .register(second.order(1))
        .build(MemoryEngine::new())
        .unwrap();
    app.publish(&Step { n: 0 }).await.unwrap();

    let consumer = app.consumer().spawn();
    tokio::time::sleep(Duration::from_secs(1)).await;
    consumer.interrupt();
    assert_eq!(within(consumer).await.unwrap().counts.cancelled, 1);
    assert_eq!(later.load(Ordering::SeqCst), 0);
}
