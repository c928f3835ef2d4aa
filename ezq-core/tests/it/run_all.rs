//! One consumer for each queue of a program, and handles that are awaited by reference.

use std::sync::Arc;
use std::time::Duration;

use ezq_core::ErrorKind;
use ezq_core::consumer::StopReason;
use ezq_core::event::End;
use ezq_core::handler::{AnyEvent, Handler};
use ezq_core::memory::MemoryEngine;
use ezq_core::schedule::Schedule;
use ezq_core::testing::TestApp;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::fixtures::{Mail, Step};

fn steps() -> Handler {
    Handler::on("steps", |_: Step| async {})
}

/// Takes an event that has a queue of its own, from wherever it is.
fn mail() -> Handler {
    Handler::on("mail", |_: Mail| async {})
}

#[tokio::test(start_paused = true)]
async fn it_consumes_the_queues_of_the_application_its_handlers_and_their_events() {
    let audit = Handler::on("audit", |_: AnyEvent| async {}).queue("audit");
    let app = TestApp::new(|app| {
        app.queue("steps")
            .register(steps())
            .register(mail())
            .register(audit)
    })
    .unwrap();
    let queues: Vec<String> = app
        .consumed_queues()
        .iter()
        .map(|queue| queue.as_str().to_owned())
        .collect();
    assert_eq!(queues, ["audit", "mail", "steps"]);

    app.publish_many()
        .add(&Step { n: 1 })
        .add(&Mail {})
        .add(app.publish(&Step { n: 2 }).queue("audit"))
        .await
        .unwrap();
    let report = app.consumer().until_idle().run_all().await.unwrap();
    assert_eq!(report.counts.handled, 3);
    for (queue, report) in &report.queues {
        assert_eq!(report.counts.handled, 1, "{queue}");
        assert_eq!(report.reason, StopReason::Idle);
    }
}

#[tokio::test(start_paused = true)]
async fn an_end_stops_one_queue_and_a_token_the_rest() {
    let app = TestApp::new(|app| app.queue("steps").register(steps()).register(mail())).unwrap();
    let (one, two) = (CancellationToken::new(), CancellationToken::new());
    let consumer = app.consumer().stop_on(one.clone()).stop_on(two.clone());
    let mut handle = consumer.spawn_all().unwrap();

    app.publish(&End::default()).queue("mail").await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(handle.is_running(), "the other queue is consumed");

    // The first token still counts, although another was given after it.
    one.cancel();
    let report = handle.wait().await.unwrap();
    let reason = |queue: &str| {
        let (_, report) = report
            .queues
            .iter()
            .find(|(name, _)| name.as_str() == queue)
            .unwrap();
        report.reason
    };
    assert_eq!(reason("mail"), StopReason::End);
    assert_eq!(reason("steps"), StopReason::Token);
    drop(two);
}

#[tokio::test(start_paused = true)]
async fn a_handle_of_all_stops_all() {
    let app = TestApp::new(|app| app.queue("steps").register(steps()).register(mail())).unwrap();
    let handle = app.consumer().spawn_all().unwrap();
    assert_eq!(handle.queues().count(), 2);
    app.publish(&Step { n: 1 }).await.unwrap();
    while handle.counts().handled == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    handle.stop();
    let report = handle.await.unwrap();
    assert!(
        report
            .queues
            .values()
            .all(|one| one.reason == StopReason::Handle)
    );
    assert_eq!(report.counts.handled, 1);
    assert!(
        report.to_string().starts_with("2 queues, stopped after"),
        "{report}"
    );
}

#[tokio::test(start_paused = true)]
async fn one_that_fails_stops_the_others_and_is_named() {
    let app = TestApp::new(|app| app.queue("steps").register(steps()).register(mail())).unwrap();
    // Refused when each consumer starts.
    let failed = app.consumer().concurrency(0).run_all().await.unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::Configuration);
    assert!(failed.to_string().contains("queue `"), "{failed}");
}

#[tokio::test(start_paused = true)]
async fn a_handle_is_awaited_by_reference_and_asked_again() {
    let working = Arc::new(Notify::new());
    let began = Arc::clone(&working);
    let slow = Handler::on("slow", move |_: Step| {
        let began = Arc::clone(&began);
        async move {
            began.notify_one();
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
    });
    let app = TestApp::new(|app| app.register(slow)).unwrap();
    app.publish(&Step { n: 1 }).await.unwrap();

    let mut handle = app.consumer().spawn();
    tokio::select! {
        _ = &mut handle => panic!("nothing stopped it"),
        () = working.notified() => handle.stop(),
    }
    // A wait that is given up loses nothing.
    let short = tokio::time::timeout(Duration::from_secs(1), handle.wait()).await;
    assert!(short.is_err());

    let first = handle.wait().await.unwrap();
    assert_eq!(
        (first.reason, first.counts.handled),
        (StopReason::Handle, 1)
    );
    assert_eq!(handle.wait().await.unwrap(), first);
    assert_eq!(handle.await.unwrap(), first);
}

#[tokio::test(start_paused = true)]
async fn a_handle_tells_a_failure_as_often_as_it_is_asked() {
    let app = TestApp::new(|app| app).unwrap();
    let mut handle = app.consumer().concurrency(0).spawn();
    for _ in 0..2 {
        let kind = handle.wait().await.unwrap_err().kind();
        assert_eq!(kind, ErrorKind::Configuration);
    }
}

#[tokio::test(start_paused = true)]
async fn queues_that_are_filled_and_consumed_nowhere_are_an_error_that_names_them() {
    let daily = Schedule::every("1d").queue("reports");
    let app = TestApp::new(|app| {
        app.queue("steps")
            .register(steps())
            .schedule("daily", daily, &Mail {})
            .named_engine("other", MemoryEngine::new())
            .queue_engine("elsewhere", "other")
    })
    .unwrap();
    let consumer = || app.consumer().until_idle();

    let refused = consumer().run_all().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Configuration);
    let text = refused.to_string();
    assert!(text.contains("`elsewhere`, `reports`"), "{text}");

    let partly = consumer().consumed_elsewhere("reports");
    let text = partly.spawn_all().unwrap_err().to_string();
    assert!(text.contains(": `elsewhere`."), "{text}");

    let declared = consumer().consumed_elsewhere("reports");
    let declared = declared.consumed_elsewhere("elsewhere");
    declared.run_all().await.unwrap();

    let misnamed = consumer().consumed_elsewhere("no queue!");
    let kind = misnamed.run_all().await.unwrap_err().kind();
    assert_eq!(kind, ErrorKind::InvalidQueueName);
}

#[tokio::test(start_paused = true)]
async fn an_application_whose_handlers_have_queues_to_themselves_leaves_its_own_alone() {
    let app = TestApp::new(|app| app.queue("steps").register(mail().queue("mail"))).unwrap();
    let queues = app.consumed_queues();
    assert_eq!(
        queues
            .iter()
            .map(|queue| queue.as_str())
            .collect::<Vec<_>>(),
        ["mail"]
    );

    let none = TestApp::new(|app| app.queue("steps")).unwrap();
    assert_eq!(
        none.consumed_queues().len(),
        1,
        "without handlers it is its own"
    );
}

#[tokio::test(start_paused = true)]
async fn a_broadcast_comes_once_to_a_handler_of_several_queues() {
    let app = TestApp::new(|app| app.queue("steps").register(steps()).register(mail())).unwrap();
    let handle = app.consumer().subscribe().spawn_all().unwrap();
    while app
        .subscriptions()
        .unwrap()
        .list()
        .await
        .unwrap()
        .is_empty()
    {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let sent = app.broadcast(&Mail {}).await.unwrap();
    assert_eq!(sent.copies.len(), 1, "{sent:?}");
    handle.stop();
    handle.await.unwrap();
}

#[test]
fn outside_of_a_runtime_nothing_is_spawned() {
    let app = TestApp::new(|app| app.register(steps())).unwrap();
    let all = app.consumer().spawn_all().unwrap_err();
    assert_eq!(all.kind(), ErrorKind::NoRuntime, "{all}");

    let one = app.consumer().spawn();
    assert!(!one.is_running());

    let mut ended = std::pin::pin!(one);
    let waker = std::task::Waker::noop();
    let polled = ended
        .as_mut()
        .poll(&mut std::task::Context::from_waker(waker));
    let std::task::Poll::Ready(Err(error)) = polled else {
        panic!("it waits")
    };
    assert_eq!(error.kind(), ErrorKind::NoRuntime, "{error}");
}
