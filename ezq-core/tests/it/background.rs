//! Consumers in the background: how they are observed, started again, and how health is told.

use std::sync::atomic::Ordering;
use std::time::Duration;

use ezq_core::ErrorKind;
use ezq_core::app::App;
use ezq_core::consumer::{ConsumerHandle, ConsumerState, StopReason};
use ezq_core::engine::Engine;
use ezq_core::event::End;
use ezq_core::handler::{Backoff, Handler};
use ezq_core::message::QueueName;
use tokio_util::sync::CancellationToken;

use crate::faulty::Faulty;
use crate::fixtures::Step;

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn app(engine: impl Engine) -> App {
    let handler = Handler::on("quick", |_: Step| async {});
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

/// Waits for a state.
async fn turns(handle: &ConsumerHandle, wanted: impl Fn(&ConsumerState) -> bool) -> ConsumerState {
    within(handle.states().wait_for(|state| wanted(state)))
        .await
        .unwrap()
        .clone()
}

#[tokio::test(start_paused = true)]
async fn a_handle_tells_how_far_its_consumer_is_and_why_it_stopped() {
    let app = app(Faulty::default());
    let handle = app.consumer().spawn();
    assert_eq!(handle.state(), ConsumerState::Starting);

    turns(&handle, |state| *state == ConsumerState::Running).await;
    app.publish(&End::default()).await.unwrap();
    let ConsumerState::Stopped(report) = turns(&handle, ConsumerState::is_ended).await else {
        panic!("{}", handle.state());
    };
    assert_eq!(report.reason, StopReason::End);
    assert_eq!(within(handle).await.unwrap(), report);
}

#[tokio::test(start_paused = true)]
async fn a_stop_is_seen_while_handlers_still_run() {
    let slow = Handler::on("slow", |_: Step| tokio::time::sleep(secs(20)));
    let builder = App::builder().without_discovered_handlers().register(slow);
    let app = builder.build(Faulty::default()).unwrap();
    app.publish(&Step { n: 1 }).await.unwrap();

    let handle = app.consumer().spawn();
    tokio::time::sleep(secs(1)).await;
    handle.stop();
    turns(&handle, |state| *state == ConsumerState::Stopping).await;
    assert!(!handle.health().await.is_ready());
    assert!(handle.is_running());
    assert_eq!(within(handle).await.unwrap().counts.handled, 1);
}

#[tokio::test(start_paused = true)]
async fn a_failed_consumer_starts_again_and_handles_what_it_had() {
    let engine = Faulty::default();
    engine.faults.panics.store(true, Ordering::SeqCst);
    let app = app(engine.clone());
    app.publish(&Step { n: 1 }).await.unwrap();

    let handle = app.consumer().restart(Backoff::constant(secs(30))).spawn();
    let state = turns(&handle, |state| {
        matches!(state, ConsumerState::Restarting(_))
    })
    .await;
    assert!(state.to_string().contains("settling"), "{state}");
    assert!(app.health().await.is_live() && !app.health().await.is_ready());

    turns(&handle, |state| *state == ConsumerState::Running).await;
    turns(&handle, |state| {
        matches!(state, ConsumerState::Restarting(_))
    })
    .await;
    engine.faults.panics.store(false, Ordering::SeqCst);

    while handle.counts().handled == 0 {
        tokio::time::sleep(secs(1)).await;
    }

    let health = handle.health().await;
    assert!(health.is_ready() && health.restarts == 2, "{health}");
    handle.stop();

    let report = within(handle).await.unwrap();
    assert_eq!(
        (report.reason, report.counts.handled),
        (StopReason::Handle, 1)
    );
    assert!(report.elapsed >= secs(60), "{report}");
}

#[tokio::test(start_paused = true)]
async fn the_pauses_before_a_restart_grow_and_begin_anew_after_a_minute() {
    // Its pauses are the attempts themselves, in seconds.
    let pauses = Backoff::linear(secs(1), secs(1000));
    let engine = Faulty::default();
    engine.faults.panics.store(true, Ordering::SeqCst);

    let app = app(engine.clone());
    let handle = app.consumer().lease(secs(1)).restart(pauses).spawn();
    let mut pauses = Vec::new();

    for round in 0..4 {
        turns(&handle, |state| *state == ConsumerState::Running).await;
        if round == 3 {
            tokio::time::sleep(secs(61)).await;
        }

        app.publish(&Step { n: 1 }).await.unwrap();
        turns(&handle, |state| {
            matches!(state, ConsumerState::Restarting(_))
        })
        .await;

        let failed = tokio::time::Instant::now();
        app.purge(QueueName::default()).await.unwrap();
        turns(&handle, |state| *state == ConsumerState::Running).await;
        pauses.push(failed.elapsed().as_secs());
    }

    assert_eq!(pauses, [1, 2, 3, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_the_pause_before_a_restart() {
    for (way, reason) in [
        ("stop", StopReason::Handle),
        ("interrupt", StopReason::Handle),
        ("token", StopReason::Token),
    ] {
        let engine = Faulty::default();
        let app = app(engine.clone());
        app.publish(&Step { n: 1 }).await.unwrap();

        let token = CancellationToken::new();
        let consumer = app.consumer().stop_on(token.clone());
        let handle = consumer.restart(Backoff::constant(secs(10_000))).spawn();
        while handle.counts().handled == 0 {
            tokio::time::sleep(secs(1)).await;
        }

        engine.faults.panics.store(true, Ordering::SeqCst);
        app.publish(&Step { n: 2 }).await.unwrap();
        turns(&handle, |state| {
            matches!(state, ConsumerState::Restarting(_))
        })
        .await;
        let began = tokio::time::Instant::now();

        match way {
            "stop" => handle.stop(),
            "interrupt" => handle.interrupt(),
            _ => token.cancel(),
        }

        let report = within(handle).await.unwrap();
        // What it did before it failed is told.
        assert_eq!((report.reason, report.counts.handled), (reason, 1), "{way}");
        assert!(began.elapsed() < secs(1), "{way}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_fails_is_not_ready_although_nothing_consumes() {
    let engine = Faulty::default();
    let app = app(engine.clone());
    assert!(app.health().await.is_ready());

    engine.faults.mute.store(true, Ordering::SeqCst);
    let health = app.health().await;
    assert!(
        health.consumers.is_empty() && !health.is_ready() && health.is_live(),
        "{health}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_cannot_settle_is_not_ready() {
    let engine = Faulty::default();
    let app = app(engine.clone());
    engine
        .faults
        .settle
        .lock()
        .unwrap()
        .extend([ErrorKind::Connection; 100]);

    let handle = app.consumer().spawn();
    app.publish(&Step { n: 1 }).await.unwrap();
    // It still claims.
    tokio::time::sleep(secs(10)).await;

    let health = app.health().await;
    assert!(health.is_live() && !health.is_ready(), "{health}");
    assert!(
        health.to_string().contains("failing: settling fails"),
        "{health}"
    );

    engine.faults.settle.lock().unwrap().clear();
    while handle.counts().handled == 0 {
        tokio::time::sleep(secs(1)).await;
    }
    assert!(app.health().await.is_ready());
}

#[test]
fn a_consumer_whose_runtime_is_gone_is_told_of_as_failed() {
    let build = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };

    let runtime = build();
    let app = app(Faulty::default());
    let entered = runtime.enter();
    let handle = app.consumer().spawn();
    drop(entered);
    runtime.block_on(turns(&handle, |state| *state == ConsumerState::Running));

    drop(runtime);
    assert!(
        matches!(handle.state(), ConsumerState::Failed(_)),
        "{}",
        handle.state()
    );
    assert!(!build().block_on(app.health()).is_live());
    let error = build().block_on(handle).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::RuntimeEnded);
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_with_the_application_and_what_is_not_to_be_restarted_ends_with_its_error() {
    let engine = Faulty::default();
    *engine.faults.forbidden.lock().unwrap() = Some(QueueName::default());
    let app = app(engine);
    let again = || app.consumer().restart(Backoff::constant(Duration::ZERO));

    for (consumer, kind) in [
        (app.consumer(), ErrorKind::Permission),
        (again().queue("Orders!"), ErrorKind::InvalidQueueName),
        (again().concurrency(0), ErrorKind::Configuration),
        (again().lease(Duration::ZERO), ErrorKind::Configuration),
    ] {
        let handle = consumer.spawn();
        let state = turns(&handle, ConsumerState::is_ended).await;
        assert!(matches!(state, ConsumerState::Failed(_)), "{state}");
        assert!(!app.health().await.is_live());
        assert_eq!(within(handle).await.unwrap_err().kind(), kind);
    }

    // Of those that nobody has any more, the last of the queue is told of.
    let health = app.health().await;
    assert_eq!(health.consumers.len(), 1, "{health}");
    assert_eq!(health.consumers[0].queue, Some(QueueName::default()));
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_failed_is_told_of_until_another_of_its_queue_runs() {
    let engine = Faulty::default();
    let forbid = |queue| *engine.faults.forbidden.lock().unwrap() = queue;
    let app = app(engine.clone());
    forbid(Some(QueueName::default()));
    within(app.consumer().run()).await.unwrap_err();
    let health = app.health().await;
    assert!(!health.is_live() && !health.is_ready(), "{health}");

    // However often one fails, and though nobody looks at its handle.
    for _ in 0..3 {
        drop(app.consumer().spawn());
        tokio::time::sleep(secs(1)).await;
    }

    let health = app.health().await;
    assert!(!health.is_live() && health.consumers.len() == 1, "{health}");

    // One of another queue consumes nothing of this one.
    forbid(None);

    let other = app.consumer().queue("other").spawn();
    turns(&other, |state| *state == ConsumerState::Running).await;
    assert!(!app.health().await.is_live());

    let again = app.consumer().spawn();
    turns(&again, |state| *state == ConsumerState::Running).await;
    let health = app.health().await;
    assert!(health.is_live() && health.is_ready(), "{health}");

    again.stop();
    other.stop();
    within(again).await.unwrap();
    within(other).await.unwrap();
    let health = app.health().await;
    assert!(health.consumers.is_empty() && health.is_live(), "{health}");
}

#[tokio::test(start_paused = true)]
async fn what_replaced_a_failed_consumer_may_have_ended_before_anyone_asks() {
    let app = app(Faulty::default());
    let run = app.consumer().run();
    tokio::time::timeout(secs(1), run).await.unwrap_err();
    tokio::task::yield_now().await;
    within(app.consumer().until_idle().run()).await.unwrap();
    let health = app.health().await;
    assert!(health.consumers.is_empty() && health.is_live(), "{health}");
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_panicked_is_told_of_though_its_handle_is_gone() {
    let engine = Faulty::default();
    engine.faults.panics.store(true, Ordering::SeqCst);
    let app = app(engine);
    app.publish(&Step { n: 1 }).await.unwrap();
    drop(app.consumer().spawn());
    tokio::time::sleep(secs(60)).await;
    let health = app.health().await;
    assert!(!health.is_live() && !health.is_ready(), "{health}");
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_stopped_as_told_is_no_failure() {
    let app = app(Faulty::default());
    within(app.consumer().until_idle().run()).await.unwrap();
    app.publish(&End::default()).await.unwrap();
    within(app.consumer().run()).await.unwrap();

    let token = CancellationToken::new();
    token.cancel();
    within(app.consumer().stop_on(token).run()).await.unwrap();

    let handle = app.consumer().spawn();
    handle.interrupt();
    within(handle).await.unwrap();

    let health = app.health().await;
    assert!(
        health.consumers.is_empty() && health.is_live() && health.is_ready(),
        "{health}"
    );
}

#[tokio::test(start_paused = true)]
async fn health_tells_what_fails_while_it_fails() {
    let engine = Faulty::default();
    let app = app(engine.clone());
    assert!(
        app.health().await.is_ready(),
        "an application without consumers"
    );

    let handle = app.consumer().spawn();
    turns(&handle, |state| *state == ConsumerState::Running).await;
    tokio::time::sleep(secs(10)).await;

    let health = app.health().await;
    assert!(health.is_ready(), "{health}");
    assert!(
        health.consumers[0].last_claim.unwrap() < secs(6),
        "{health:?}"
    );
    assert_eq!(health.consumers[0].lag, Some(Duration::ZERO));

    engine
        .faults
        .lease
        .lock()
        .unwrap()
        .extend([ErrorKind::Connection; 100]);
    app.publish(&Step { n: 1 }).await.unwrap();
    tokio::time::sleep(secs(10)).await;

    let health = app.health().await;
    assert!(health.is_live() && !health.is_ready(), "{health}");
    assert!(
        health.to_string().contains("a fault of the test"),
        "{health}"
    );
    assert!(health.consumers[0].lag.unwrap() >= secs(9), "{health}");

    engine.faults.lease.lock().unwrap().clear();
    while handle.counts().handled == 0 {
        tokio::time::sleep(secs(1)).await;
    }
    assert!(app.health().await.is_ready());

    let written = serde_json::to_value(app.health().await).unwrap();
    assert_eq!(written["engines"][0]["kind"], "memory");
    assert_eq!(written["engines"][0]["error"], serde_json::Value::Null);
    assert_eq!(written["consumers"][0]["queue"], "ezq");
    assert_eq!(written["consumers"][0]["state"], "running");
    assert_eq!(written["consumers"][0]["lag"], 0.0);
    assert_eq!(written["consumers"][0]["counts"]["handled"], 1);
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_does_not_answer_keeps_no_probe_waiting() {
    let engine = Faulty::default();
    let app = app(engine.clone());
    let handle = app.consumer().spawn();
    turns(&handle, |state| *state == ConsumerState::Running).await;
    engine.faults.mute.store(true, Ordering::SeqCst);
    let asked = tokio::time::Instant::now();
    let health = app.health().await;

    // The connect timeout, once for everything.
    assert_eq!(asked.elapsed().as_secs(), 5);
    assert!(health.is_live() && !health.is_ready(), "{health}");
    assert_eq!(
        health.engines[0].error.as_deref(),
        Some("no answer within 5s")
    );
    assert!(health.engines[0].answered_in.is_none() && health.consumers[0].lag.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_run_that_was_dropped_is_told_of_as_failed_although_another_still_runs() {
    let app = app(Faulty::default());
    let other = app.consumer().spawn();
    turns(&other, |state| *state == ConsumerState::Running).await;

    let mut run = Box::pin(app.consumer().run());
    assert!(tokio::time::timeout(secs(1), &mut run).await.is_err());
    assert!(app.health().await.is_ready());

    drop(run);
    // Its task is cancelled, and ends when it has its turn.
    tokio::task::yield_now().await;

    let health = app.health().await;
    assert!(!health.is_live() && health.consumers.len() == 2, "{health}");
    assert!(other.is_running());
}

#[test]
fn a_consumer_that_never_had_its_turn_is_told_of_as_failed() {
    let build = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };

    let runtime = build();
    let app = app(Faulty::default());
    runtime.block_on(async { drop(app.consumer().spawn()) });
    drop(runtime);
    assert!(!build().block_on(app.health()).is_live());
}
