//! Pauses: a paused queue costs no claims and can still be stopped, and a paused handler's events wait.

mod handlers;
mod stops;

use std::sync::atomic::Ordering;
use std::time::Duration;

use ezq_core::ErrorKind;
use ezq_core::app::App;
use ezq_core::consumer::{ConsumerHandle, ConsumerState, StopReason};
use ezq_core::engine::Engine;
use ezq_core::handler::Handler;
use ezq_core::message::QueueName;
use tokio::sync::mpsc;

use crate::faulty::Faulty;
use crate::fixtures::Step;

/// No numbers.
const NOTHING: [u32; 0] = [];

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(secs(7200), what)
        .await
        .expect("it is stuck")
}

fn app(engine: impl Engine, handlers: impl IntoIterator<Item = Handler>) -> App {
    let builder = App::builder().without_discovered_handlers();
    let builder = handlers
        .into_iter()
        .fold(builder, |app, one| app.register(one));
    builder.build(engine).unwrap()
}

/// A handler that tells what it is called for.
fn telling(name: &'static str) -> (Handler, mpsc::UnboundedReceiver<u32>) {
    slow(name, Duration::ZERO)
}

/// The same; each run takes so long.
fn slow(name: &'static str, takes: Duration) -> (Handler, mpsc::UnboundedReceiver<u32>) {
    let (tell, told) = mpsc::unbounded_channel();
    let handler = Handler::on(name, move |step: Step| {
        let tell = tell.clone();
        async move {
            tell.send(step.n).unwrap();
            tokio::time::sleep(takes).await;
        }
    });
    (handler.timeout(None), told)
}

async fn publish(app: &App, numbers: impl IntoIterator<Item = u32>) {
    let steps: Vec<Step> = numbers.into_iter().map(|n| Step { n }).collect();
    app.publish_all(&steps).await.unwrap();
}

/// What was told so far.
fn all(told: &mut mpsc::UnboundedReceiver<u32>) -> Vec<u32> {
    std::iter::from_fn(|| told.try_recv().ok()).collect()
}

async fn running(handle: &ConsumerHandle) {
    let mut states = handle.states();
    let running = states.wait_for(|state| *state == ConsumerState::Running);
    within(running).await.unwrap();
}

async fn ready(app: &App) -> u64 {
    app.stats(&QueueName::default()).await.unwrap().ready
}

async fn pause(app: &App) {
    assert!(app.queues().pause("ezq").await.unwrap());
    tokio::time::sleep(secs(1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_paused_queue_costs_no_claims_and_what_runs_goes_on() {
    let engine = Faulty::default();
    let (steps, mut told) = slow("steps", secs(60));
    let app = app(engine.clone(), [steps]);
    publish(&app, [1]).await;
    let handle = app.consumer().concurrency(1).spawn();
    assert_eq!(within(told.recv()).await, Some(1));

    pause(&app).await;
    let claims = engine.faults.fetches.load(Ordering::SeqCst);
    publish(&app, 2..30).await;
    tokio::time::sleep(secs(600)).await;

    assert_eq!(engine.faults.fetches.load(Ordering::SeqCst), claims);
    assert_eq!(handle.counts().handled, 1, "what ran goes on to its end");
    assert!(
        told.try_recv().is_err(),
        "something began while the queue was paused"
    );
    assert_eq!(ready(&app).await, 28);
    let health = handle.health().await;
    assert!(health.is_ready() && health.is_paused, "{health}");
    assert_eq!(health.lag, Some(Duration::ZERO));

    assert!(app.queues().resume("ezq").await.unwrap());
    assert_eq!(within(told.recv()).await, Some(2));
    assert!(!handle.health().await.is_paused);
    handle.interrupt();
    within(handle).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_waits_in_a_consumer_goes_back_when_its_queue_is_paused() {
    let (limited, mut told) = slow("limited", secs(60));
    let app = app(Faulty::default(), [limited.concurrency(1)]);
    publish(&app, 0..50).await;
    let handle = app.consumer().concurrency(4).spawn();
    assert_eq!(within(told.recv()).await, Some(0));

    pause(&app).await;
    tokio::time::sleep(secs(100)).await;
    assert_eq!(
        all(&mut told),
        NOTHING,
        "what waited for its handler's limit began"
    );
    assert_eq!(ready(&app).await, 49);
    assert_eq!(handle.counts().handled, 1);

    handle.stop();
    let report = within(handle).await.unwrap();
    assert_eq!(report.counts.lost, 0, "{report}");
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_was_under_way_begins_nothing() {
    let engine = Faulty::default();
    let (steps, mut told) = telling("steps");
    let app = app(engine.clone(), [steps]);
    let handle = app.consumer().spawn();
    running(&handle).await;

    // It reaches the store after the pause did.
    engine.faults.way.store(5_000, Ordering::SeqCst);
    publish(&app, [1, 2]).await;
    tokio::time::sleep(secs(1)).await;
    pause(&app).await;
    tokio::time::sleep(secs(30)).await;

    assert_eq!(all(&mut told), NOTHING);
    assert_eq!(ready(&app).await, 2);
    assert_eq!(handle.counts().returned, 2, "the claim brought nothing");
    handle.stop();
    within(handle).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_begins_later_knows_of_the_pause() {
    let engine = Faulty::default();
    let (steps, mut told) = telling("steps");
    let app = app(engine.clone(), [steps]);
    publish(&app, [1]).await;
    pause(&app).await;

    let handle = app.consumer().spawn();
    running(&handle).await;
    tokio::time::sleep(secs(100)).await;
    assert_eq!(engine.faults.fetches.load(Ordering::SeqCst), 0);
    assert_eq!(all(&mut told), NOTHING);

    app.queues().resume("ezq").await.unwrap();
    assert_eq!(within(told.recv()).await, Some(1));
    handle.stop();
    within(handle).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn other_queues_are_not_paused() {
    let (steps, mut told) = telling("steps");
    let app = app(Faulty::default(), [steps]);
    publish(&app, [1]).await;
    app.publish(&Step { n: 2 }).queue("other").await.unwrap();
    pause(&app).await;

    let report = app
        .consumer()
        .queue("other")
        .until_idle()
        .run()
        .await
        .unwrap();
    assert_eq!((report.reason, all(&mut told)), (StopReason::Idle, vec![2]));
}

#[tokio::test(start_paused = true)]
async fn a_pause_says_who_paused_why_and_when() {
    let engine = Faulty::default();
    let app = app(engine.clone(), [telling("steps").0]);
    engine.ensure_queue(&QueueName::default()).await.unwrap();
    let queues = app.queues();

    assert!(
        queues
            .pause("ezq")
            .by("Ada")
            .reason("a move")
            .await
            .unwrap()
    );
    assert!(
        !queues.pause("ezq").by("Bob").await.unwrap(),
        "it is paused already"
    );
    assert!(queues.pause_handler("ezq", "steps").await.unwrap());

    let pauses = queues.pauses().await.unwrap();
    let named: Vec<_> = pauses
        .iter()
        .map(|pause| {
            (
                pause.target.to_string(),
                pause.by.clone(),
                pause.reason.clone(),
            )
        })
        .collect();
    let own = app.config().app.clone();
    assert_eq!(
        named,
        [
            (
                "the queue `ezq`".to_owned(),
                "Ada".to_owned(),
                Some("a move".to_owned())
            ),
            (
                "the handler `steps` of the queue `ezq`".to_owned(),
                own,
                None
            ),
        ]
    );
    assert!(
        pauses
            .iter()
            .all(|pause| pause.since <= engine.memory.now())
    );

    assert!(queues.resume("ezq").await.unwrap());
    assert!(!queues.resume("ezq").await.unwrap());
    assert!(queues.resume_handler("ezq", "steps").await.unwrap());
    assert!(!queues.resume_handler("ezq", "steps").await.unwrap());
    assert!(queues.pauses().await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_paused_is_refused() {
    let engine = Faulty::default();
    let (steps, mut told) = telling("steps");
    let app = app(engine.clone(), [steps]);
    let queues = app.queues();
    let kind = |refused: ezq_core::Result<bool>| refused.unwrap_err().kind();

    assert_eq!(
        kind(queues.pause("Not a name").await),
        ErrorKind::InvalidQueueName
    );
    assert_eq!(kind(queues.pause("missing").await), ErrorKind::QueueMissing);
    assert_eq!(
        kind(queues.pause_handler("ezq", "").await),
        ErrorKind::Configuration
    );

    engine.faults.unpausable.store(true, Ordering::SeqCst);
    assert_eq!(kind(queues.pause("ezq").await), ErrorKind::Unsupported);
    assert_eq!(kind(queues.resume("ezq").await), ErrorKind::Unsupported);
    assert_eq!(
        kind(queues.resume_handler("ezq", "steps").await),
        ErrorKind::Unsupported
    );
    assert!(queues.pauses().await.unwrap().is_empty());

    // Its consumers run as ever.
    publish(&app, [1]).await;
    let report = app.consumer().until_idle().run().await.unwrap();
    assert_eq!((report.counts.handled, all(&mut told)), (1, vec![1]));
}
