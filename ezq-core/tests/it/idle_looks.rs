//! Idle consumers whose engine tells several at once that there is nothing.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ezq_core::app::App;
use ezq_core::consumer::ConsumerHandle;
use ezq_core::engine::Looked;
use ezq_core::handler::Handler;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use crate::faulty::Faulty;
use crate::fixtures::Step;

const NOTHING: Looked = Looked::Nothing { next_due: None };

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn read(count: &AtomicUsize) -> usize {
    count.load(Ordering::SeqCst)
}

/// An engine whose looks have an answer, or none.
fn looking(answer: Option<Looked>) -> Faulty {
    let engine = Faulty::default();
    engine
        .faults
        .shared
        .are_offered
        .store(true, Ordering::SeqCst);
    *engine.faults.shared.answer.lock().unwrap() = answer;
    engine
}

/// An application whose handler tells when it began.
fn app(engine: &Faulty) -> (App, mpsc::UnboundedReceiver<Instant>) {
    let (began, begins) = mpsc::unbounded_channel();
    let handler = Handler::on("step", move |_: Step| {
        began.send(Instant::now()).unwrap();
        std::future::ready(())
    });
    let app = App::builder()
        .without_discovered_handlers()
        .register(handler)
        .build(engine.clone())
        .unwrap();
    (app, begins)
}

/// A consumer that has been idle for long.
async fn idle(app: &App) -> ConsumerHandle {
    let consumer = app.consumer().spawn();
    sleep(secs(60)).await;
    consumer
}

#[tokio::test(start_paused = true)]
async fn an_idle_consumer_claims_no_more_while_looks_find_nothing() {
    let engine = looking(Some(NOTHING));
    let (app, _) = app(&engine);
    let _consumer = idle(&app).await;

    let fetches = read(&engine.faults.fetches);
    let asked = read(&engine.faults.shared.asked);
    sleep(secs(100)).await;
    assert_eq!(read(&engine.faults.fetches), fetches);

    // One in 4 to 5 s, as often as it would claim.
    let asked = read(&engine.faults.shared.asked) - asked;
    assert!((19..=26).contains(&asked), "{asked}");
    let longest = *engine.faults.shared.longest.lock().unwrap();
    // A fifth of the time between two, whole milliseconds later or earlier.
    assert!((990..=1010).contains(&longest.as_millis()), "{longest:?}");
}

#[tokio::test(start_paused = true)]
async fn a_consumer_claims_what_a_look_may_have_found() {
    let engine = looking(Some(Looked::Perhaps));
    let (app, _) = app(&engine);
    let _consumer = idle(&app).await;

    let fetches = read(&engine.faults.fetches);
    let asked = read(&engine.faults.shared.asked);
    sleep(secs(100)).await;
    let asked = read(&engine.faults.shared.asked) - asked;
    let fetches = read(&engine.faults.fetches) - fetches;
    assert!((19..=26).contains(&asked), "{asked}");
    assert!(fetches.abs_diff(asked) <= 1, "{fetches} of {asked}");
}

#[tokio::test(start_paused = true)]
async fn looks_that_are_never_answered_put_off_claims_for_a_moment_only() {
    let engine = looking(None);
    let (app, _) = app(&engine);
    let _consumer = idle(&app).await;

    let fetches = read(&engine.faults.fetches);
    sleep(secs(100)).await;
    let fetches = read(&engine.faults.fetches) - fetches;
    assert!((13..=17).contains(&fetches), "{fetches}");
}

#[tokio::test(start_paused = true)]
async fn a_wakeup_does_not_wait_for_a_look() {
    let engine = looking(None);
    let (app, mut begins) = app(&engine);
    let _consumer = idle(&app).await;

    for _ in 0..20 {
        // At any time of a look that is under way.
        sleep(Duration::from_millis(350)).await;
        let published = Instant::now();
        app.publish(&Step { n: 0 }).await.unwrap();
        let began = begins.recv().await.unwrap();
        assert!(began - published < Duration::from_millis(50));
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_does_not_wait_for_a_look() {
    let engine = looking(None);
    let (app, _) = app(&engine);
    let consumer = idle(&app).await;

    let asked = read(&engine.faults.shared.asked);
    while read(&engine.faults.shared.asked) == asked {
        sleep(Duration::from_millis(10)).await;
    }
    let stopped = Instant::now();
    consumer.stop();
    timeout(secs(600), consumer).await.unwrap().unwrap();
    assert!(stopped.elapsed() < Duration::from_millis(50));
}

#[tokio::test(start_paused = true)]
async fn what_falls_due_is_claimed_on_time() {
    let engine = looking(Some(Looked::Nothing {
        next_due: Some(Duration::from_millis(1500)),
    }));
    let (app, _) = app(&engine);
    let _consumer = idle(&app).await;

    // Each look is followed by a claim, which finds nothing and knows of nothing.
    let fetches = read(&engine.faults.fetches);
    let asked = read(&engine.faults.shared.asked);
    sleep(secs(100)).await;
    let fetches = read(&engine.faults.fetches) - fetches;
    let asked = read(&engine.faults.shared.asked) - asked;
    assert!(fetches.abs_diff(asked) <= 1, "{fetches} of {asked}");
}

#[tokio::test(start_paused = true)]
async fn a_run_until_the_queue_is_idle_looks_never() {
    let engine = looking(Some(NOTHING));
    let (app, mut begins) = app(&engine);
    app.publish(&Step { n: 0 }).after(secs(20)).await.unwrap();
    app.publish(&Step { n: 1 }).await.unwrap();
    app.consumer().until_idle().run().await.unwrap();
    assert!(begins.recv().await.is_some());
    assert_eq!(read(&engine.faults.shared.asked), 0);
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_is_not_woken_asks_for_wakeups_again() {
    let engine = looking(Some(NOTHING));
    engine.faults.deaf.store(1, Ordering::SeqCst);
    let (app, mut begins) = app(&engine);
    let _consumer = idle(&app).await;
    assert_eq!(read(&engine.faults.deaf), 0);

    let published = Instant::now();
    app.publish(&Step { n: 0 }).await.unwrap();
    let began = begins.recv().await.unwrap();
    assert!(began - published < Duration::from_millis(50));
}
