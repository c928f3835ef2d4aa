//! Parameters of handlers that a test makes, and moved time in the kit.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use ezq_core::ErrorKind;
use ezq_core::chrono::Utc;
use ezq_core::handler::{Batch, Context, Handler, HandlerError};
use ezq_core::message::{MessageId, ReasonKind};
use ezq_core::testing::{self, TestApp};

use crate::fixtures::{Mail, Step};

#[tokio::test]
async fn a_context_says_what_the_test_said() {
    let context = testing::context(&Step { n: 7 })
        .attempt(3)
        .queue("jobs")
        .handler("step")
        .header("tenant", "north")
        .message_id(MessageId::Number(9))
        .build();
    assert_eq!((context.attempt(), context.deliveries()), (3, 3));
    assert_eq!(context.queue().as_str(), "jobs");
    assert_eq!(context.handler().as_str(), "step");
    assert_eq!(context.headers().text("tenant"), Some("north"));
    assert_eq!(context.message_id(), &MessageId::Number(9));
    assert_eq!(context.event_type(), "step");
    assert_eq!(context.envelope().data(), Some(r#"{"n":7}"#));
    assert!(!context.is_lease_expired() && context.deadline().is_none());
    assert!(!context.cancellation().is_cancelled());

    let envelope = context.envelope().clone();
    let same = testing::context_of(envelope).deliveries(5).build();
    assert_eq!(same.event_id(), context.event_id());
    assert_eq!((same.attempt(), same.deliveries()), (1, 5));
}

#[tokio::test]
#[should_panic(expected = "no context can be made")]
async fn a_context_of_a_wrong_queue_fails_the_test() {
    drop(testing::context(&Step { n: 7 }).queue("no queue!").build());
}

#[tokio::test]
async fn a_batch_and_a_tick_are_made_for_a_handler() {
    async fn sum(batch: Batch<Step>) -> u32 {
        batch.events().map(|step| step.n).sum()
    }
    assert_eq!(sum(testing::batch([Step { n: 1 }, Step { n: 2 }])).await, 3);

    let second = testing::context(&Step { n: 4 }).attempt(2).build();
    let batch = testing::batch_of([(Step { n: 4 }, second)]);
    assert_eq!(batch[0].context.attempt(), 2);

    let now = Utc::now();
    let tick = testing::tick("weekly", now);
    assert_eq!(
        (tick.schedule.as_str(), tick.due, tick.previous),
        ("weekly", now, None)
    );
}

#[tokio::test]
async fn a_drain_runs_retries_in_moved_time_and_leaves_what_is_scheduled() {
    let attempts = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&attempts);
    let flaky = Handler::on("flaky", move |_: Step, context: Context| {
        let counted = Arc::clone(&counted);
        async move {
            counted.fetch_add(1, Ordering::Relaxed);
            match context.attempt() {
                1 | 2 => Err(HandlerError::from("not yet")),
                _ => Ok(Mail {}),
            }
        }
    });
    let mail = Handler::on("mail", |_: Mail| async {
        Err::<(), _>("the post is closed")
    });
    let app = TestApp::new(|app| {
        let hour = ezq_core::handler::Backoff::constant(Duration::from_secs(3600));
        app.configure(|config| config.retry.backoff = hour)
            .register(flaky)
            .register(mail.queue("mail"))
    })
    .unwrap();
    app.publish(&Step { n: 1 }).await.unwrap();
    app.publish(&Step { n: 2 })
        .after(Duration::from_secs(60))
        .await
        .unwrap();

    // The clock is not paused: a pause of an hour would be one.
    let report = app.drain().await.unwrap();
    assert_eq!(attempts.load(Ordering::Relaxed), 3);
    assert_eq!(report.queues.len(), 2);
    let letter = app.assert_dead_lettered::<Mail>();
    assert_eq!(letter.reason.unwrap().kind, ReasonKind::MaxAttempts);
    let (waiting, due) = app.assert_scheduled::<Step>();
    assert!(waiting.n == 2 && due > Utc::now());
}

#[tokio::test]
async fn a_drain_without_an_end_is_an_error() {
    let snoozes = |_: Step| async { Err::<(), _>(HandlerError::snooze(Duration::from_secs(1))) };
    let app = TestApp::new(|app| app.register(Handler::on("snoozes", snoozes))).unwrap();
    app.publish(&Step { n: 1 }).await.unwrap();
    let error = app.drain().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    assert!(error.to_string().contains("snoozes for ever"), "{error}");
}

#[tokio::test]
async fn a_handler_that_publishes_what_it_handles_is_an_error_of_drain() {
    let echoes = |step: Step| async move { Step { n: step.n + 1 } };
    let app = TestApp::new(|app| app.register(Handler::on("echoes", echoes))).unwrap();
    // Many at once, so that the limit is soon met.
    for n in 0..500 {
        app.publish(&Step { n }).await.unwrap();
    }

    for error in [
        app.drain().await.unwrap_err(),
        app.drain_queue("ezq").await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Configuration);
        let text = error.to_string();
        assert!(text.contains("publishes what it handles"), "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_that_is_dropped_leaves_no_consumer_behind() {
    let handled = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&handled);
    let slow = Handler::on("slow", move |_: Step| {
        let counted = Arc::clone(&counted);
        async move {
            tokio::time::sleep(Duration::from_secs(2)).await;
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    let app = TestApp::new(|app| app.configure(|c| c.concurrency = 1).register(slow)).unwrap();
    for n in 0..100 {
        app.publish(&Step { n }).await.unwrap();
    }

    let dropped = tokio::time::timeout(Duration::from_secs(3), app.drain()).await;
    assert!(dropped.is_err());
    tokio::time::sleep(Duration::from_secs(30)).await;
    let once = handled.load(Ordering::Relaxed);
    assert!(once <= 2, "only what ran is finished: {once}");
}

#[tokio::test(start_paused = true)]
async fn each_assertion_fails_with_what_there_is() {
    let app = TestApp::new(|app| app).unwrap();
    app.publish(&Step { n: 1 }).await.unwrap();
    app.assert_no_dead_letters();
    app.assert_not_published::<Mail>();

    let fails = |assertion: &dyn Fn()| {
        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(assertion)).unwrap_err();
        panic.downcast_ref::<String>().cloned().unwrap_or_default()
    };
    assert!(fails(&|| drop(app.assert_published::<Mail>())).contains(r#"only ["step"]"#));
    assert!(fails(&|| app.assert_not_published::<Step>()).contains("1 of `step`"));
    assert!(fails(&|| drop(app.assert_scheduled::<Step>())).contains("1 were published"));
    assert!(fails(&|| drop(app.assert_dead_lettered::<Step>())).contains("only []"));

    let stored = app.engine().all_published();
    app.fail("ezq", &stored[0].id, "a test").await.unwrap();
    assert!(fails(&|| app.assert_no_dead_letters()).contains("`step`: a test"));
}
