//! A paused handler: its events wait for it, the others' do not, and no attempt is lost.

use ezq_core::app::App;
use ezq_core::consumer::{ConsumerHandle, StopReason};
use ezq_core::engine::{Engine, EventStatus, PauseTarget};
use ezq_core::event::{End, Event};
use ezq_core::handler::{Batch, Context, Handler, HandlerError};
use ezq_core::memory::MemoryEngine;
use ezq_core::message::{HandlerName, QueueName};
use serde::{Deserialize, Serialize};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use tokio::sync::mpsc;

use super::{NOTHING, all, app, publish, ready, running, secs, slow, telling, within};
use crate::faulty::Faulty;
use crate::fixtures::Step;

async fn pause_handler(app: &App, name: &str) {
    let engine = app.engine(&QueueName::default());
    engine.ensure_queue(&QueueName::default()).await.unwrap();
    assert!(app.queues().pause_handler("ezq", name).await.unwrap());
    tokio::time::sleep(secs(1)).await;
}

async fn resume_handler(app: &App, name: &str) {
    assert!(app.queues().resume_handler("ezq", name).await.unwrap());
}

async fn stopped(handle: ConsumerHandle) -> ezq_core::consumer::Report {
    handle.stop();
    within(handle).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn the_other_handlers_of_an_event_run_and_the_paused_one_runs_once_it_is_resumed() {
    let (mail, mut mailed) = telling("mail");
    let (stock, mut stocked) = telling("stock");
    let app = app(Faulty::default(), [mail, stock]);
    pause_handler(&app, "mail").await;
    publish(&app, [1, 2]).await;
    let handle = app.consumer().spawn();

    assert_eq!(within(stocked.recv()).await, Some(1));
    assert_eq!(within(stocked.recv()).await, Some(2));
    tokio::time::sleep(secs(3600)).await;
    assert_eq!(all(&mut mailed), NOTHING);
    assert_eq!(
        all(&mut stocked),
        NOTHING,
        "a handler that is done ran again"
    );

    resume_handler(&app, "mail").await;
    let mut both = [within(mailed.recv()).await, within(mailed.recv()).await];
    both.sort_unstable();
    assert_eq!(both, [Some(1), Some(2)]);
    let report = stopped(handle).await;
    assert_eq!(report.counts.handled, 2, "{report}");
    assert_eq!(all(&mut stocked), NOTHING);
}

#[tokio::test(start_paused = true)]
async fn a_pause_costs_no_attempt_and_is_met_ever_more_rarely() {
    let attempts = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&attempts);
    let mail = Handler::on("mail", move |_: Step, context: Context| {
        seen.lock()
            .unwrap()
            .push((context.attempt(), context.deliveries()));
        async {}
    });
    let app = app(
        Faulty::default(),
        [mail, Handler::on("stock", |_: Step| async {})],
    );
    pause_handler(&app, "mail").await;
    publish(&app, [1]).await;
    let handle = app.consumer().spawn();

    tokio::time::sleep(secs(24 * 3600)).await;
    let letters = app.dead_letters(QueueName::default()).unwrap();
    let dead = letters.list(&Default::default(), 10).await.unwrap();
    assert!(dead.is_empty(), "{dead:?}");

    resume_handler(&app, "mail").await;
    tokio::time::sleep(secs(1)).await;
    let seen = attempts.lock().unwrap().clone();
    let [(attempt, deliveries)] = seen[..] else {
        panic!("it ran {} times", seen.len());
    };
    assert_eq!(attempt, 1);
    // Once an hour, and a few times before the pause was an hour old.
    assert!(deliveries <= 24 + 8, "{deliveries} deliveries in a day");
    let report = stopped(handle).await;
    assert_eq!(
        (report.counts.handled, report.counts.lost),
        (1, 0),
        "{report}"
    );
}

#[tokio::test(start_paused = true)]
async fn attempts_errors_and_the_pause_before_a_retry_outlast_the_pause() {
    let attempts = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&attempts);
    let mail = Handler::on("mail", move |_: Step, context: Context| {
        seen.lock().unwrap().push(context.attempt());
        async { Err::<(), _>(HandlerError::retry_after(secs(30), "not yet")) }
    });
    let app = app(
        MemoryEngine::new(),
        [mail, Handler::on("stock", |_: Step| async {})],
    );
    let published = app.publish(&Step { n: 1 }).await.unwrap();
    let handle = app.consumer().spawn();
    tokio::time::sleep(secs(1)).await;
    assert_eq!(*attempts.lock().unwrap(), [1]);

    pause_handler(&app, "mail").await;
    tokio::time::sleep(secs(600)).await;
    let history = app.history(&published.event_id).await.unwrap();
    assert_eq!(history.status(), Some(EventStatus::Retrying), "{history}");
    assert_eq!(history.last_error(), Some("not yet"));
    assert!(
        history
            .to_string()
            .contains("mail: waits while it is paused"),
        "{history}"
    );

    resume_handler(&app, "mail").await;
    tokio::time::sleep(secs(31)).await;
    assert_eq!(
        *attempts.lock().unwrap(),
        [1, 2, 3],
        "two of them since it was resumed"
    );
    stopped(handle).await;
}

#[tokio::test(start_paused = true)]
async fn a_queue_whose_only_handler_is_paused_costs_no_claims() {
    let engine = Faulty::default();
    let (mail, mut mailed) = telling("mail");
    let app = app(
        engine.clone(),
        [mail, Handler::on("end", |_: End| async {})],
    );
    publish(&app, 0..100).await;
    pause_handler(&app, "mail").await;
    let handle = app.consumer().spawn();
    running(&handle).await;
    tokio::time::sleep(secs(3600)).await;

    assert_eq!(engine.faults.fetches.load(Ordering::SeqCst), 0);
    assert_eq!(ready(&app).await, 100, "its events are where they were");
    assert!(handle.health().await.is_paused);
    resume_handler(&app, "mail").await;
    for _ in 0..100 {
        within(mailed.recv()).await;
    }

    pause_handler(&app, "mail").await;
    app.publish(&End::default()).await.unwrap();
    assert_eq!(within(handle).await.unwrap().reason, StopReason::End);
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_the_limit_of_a_handler_that_is_paused_is_put_aside() {
    let (mail, mut mailed) = slow("mail", secs(60));
    let (stock, mut stocked) = telling("stock");
    let app = app(Faulty::default(), [mail.concurrency(1), stock]);
    publish(&app, 0..10).await;
    let handle = app.consumer().concurrency(4).spawn();
    within(mailed.recv()).await;

    pause_handler(&app, "mail").await;
    tokio::time::sleep(secs(300)).await;
    assert_eq!(
        all(&mut mailed),
        NOTHING,
        "a run that waited began while its handler was paused"
    );
    assert_eq!(
        all(&mut stocked).len(),
        10,
        "the other handler's events waited too"
    );
    assert_eq!(handle.counts().handled, 1);

    resume_handler(&app, "mail").await;
    for _ in 1..10 {
        within(mailed.recv()).await;
    }
    handle.interrupt();
    within(handle).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn batches_of_a_paused_handler_wait() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let handler = Handler::on_batch("steps", move |batch: Batch<Step>| {
        tell.send(batch.len()).unwrap();
        async {}
    });
    let handler = handler.batch_size(10).batch_wait(secs(5));
    let (stock, mut stocked) = telling("stock");
    let app = app(Faulty::default(), [handler, stock]);
    let handle = app.consumer().concurrency(4).spawn();
    publish(&app, 0..13).await;
    assert_eq!(within(told.recv()).await, Some(10));

    // Three gather.
    pause_handler(&app, "steps").await;
    publish(&app, 13..40).await;
    tokio::time::sleep(secs(600)).await;
    assert!(
        told.try_recv().is_err(),
        "a batch began while its handler was paused"
    );
    assert_eq!(all(&mut stocked).len(), 40);

    resume_handler(&app, "steps").await;
    let mut handled = 10;
    while handled < 40 {
        handled += within(told.recv()).await.unwrap();
    }
    let report = stopped(handle).await;
    assert_eq!(
        (report.counts.handled, report.counts.lost),
        (40, 0),
        "{report}"
    );
}

#[derive(Debug, Serialize, Deserialize)]
struct Moved {
    account: u32,
    n: u32,
}

impl Event for Moved {
    const TYPE: &'static str = "moved";

    fn key(&self) -> Option<String> {
        Some(self.account.to_string())
    }
}

#[tokio::test(start_paused = true)]
async fn events_of_a_key_wait_behind_the_one_that_is_put_aside() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let moved = Handler::on("moved", move |moved: Moved| {
        tell.send((moved.account, moved.n)).unwrap();
        async {}
    });
    let (steps, mut stepped) = telling("steps");
    let app = app(Faulty::default(), [moved, steps]);
    pause_handler(&app, "moved").await;
    let handle = app.consumer().spawn();

    for n in 0..5 {
        app.publish(&Moved { account: 7, n }).await.unwrap();
    }
    publish(&app, [1]).await;
    assert_eq!(within(stepped.recv()).await, Some(1));
    tokio::time::sleep(secs(1000)).await;
    assert!(told.try_recv().is_err());

    resume_handler(&app, "moved").await;
    for n in 0..5 {
        assert_eq!(within(told.recv()).await, Some((7, n)));
    }
    stopped(handle).await;
}

/// One that has not heard yet puts events aside after whoever resumed has made the others due.
#[tokio::test(start_paused = true)]
async fn a_consumer_that_hears_of_a_resume_makes_what_is_put_aside_due() {
    let engine = Faulty::default();
    let (mail, mut mailed) = telling("mail");
    let app = app(
        engine.clone(),
        [mail, Handler::on("stock", |_: Step| async {})],
    );
    pause_handler(&app, "mail").await;
    publish(&app, [1]).await;
    let handle = app.consumer().spawn();
    tokio::time::sleep(secs(600)).await;

    // The pause ends, and nobody makes its events due.
    let target = PauseTarget::handler(QueueName::default(), HandlerName::from("mail"));
    engine
        .pauses()
        .unwrap()
        .resume(&target, "Ada")
        .await
        .unwrap();
    let began = tokio::time::Instant::now();
    assert_eq!(within(mailed.recv()).await, Some(1));
    assert!(began.elapsed() <= secs(3), "{:?}", began.elapsed());
    stopped(handle).await;
}

#[tokio::test(start_paused = true)]
async fn a_control_event_and_its_handlers_are_not_paused() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let ending = Handler::on("ending", move |_: End| {
        tell.send(()).unwrap();
        async {}
    });
    let app = app(Faulty::default(), [ending, telling("steps").0]);
    pause_handler(&app, "ending").await;
    pause_handler(&app, "steps").await;
    app.publish(&End::default()).await.unwrap();

    let report = within(app.consumer().run()).await.unwrap();
    assert_eq!(report.reason, StopReason::End);
    assert!(
        told.try_recv().is_ok(),
        "the handler of the `End` did not run"
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_put_aside_counts_as_returned_and_hooks_hear_nothing() {
    let app = app(
        Faulty::default(),
        [telling("mail").0, Handler::on("other", |_: Moved| async {})],
    );
    pause_handler(&app, "mail").await;
    let mut notices = app.notices();
    let handle = app.consumer().spawn();
    publish(&app, [1]).await;
    tokio::time::sleep(secs(30)).await;

    let counts = handle.counts();
    assert_eq!((counts.returned, counts.retried), (1, 0), "{counts}");
    let heard = std::iter::from_fn(|| notices.try_recv());
    let kinds: Vec<String> = heard.map(|notice| format!("{:?}", notice.kind)).collect();
    assert!(
        kinds.iter().all(|kind| kind.starts_with("Publish")),
        "{kinds:?}"
    );
    stopped(handle).await;
}
