//! Backoffs of a user's own: what they are asked, when, and what becomes of what they answer.

use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ezq_core::app::{App, Module};
use ezq_core::config::{Config, UnknownTypes};
use ezq_core::event::Envelope;
use ezq_core::handler::{
    Backoff, Batch, FailedAttempt, Handler, HandlerError, HandlerOptions, RetryPolicy,
};
use ezq_core::memory::MemoryEngine;
use ezq_core::{Error, ErrorKind};
use tokio::time::{Instant, sleep};
use tracing::Level;

use crate::faulty::Faulty;
use crate::fixtures::Step;
use crate::logs::Logs;

/// What a handler returns. Its text does not say what its fields do.
#[derive(Debug)]
struct Closed {
    hours: u32,
}

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the bank is closed")
    }
}

impl std::error::Error for Closed {}

fn closed() -> HandlerError {
    Closed { hours: 3 }.into()
}

/// The attempts that a backoff was asked about. Of a typed error it keeps a field, of others the text.
type Asked = Arc<Mutex<Vec<(u32, String)>>>;

fn asked(pause: Duration) -> (Backoff, Asked) {
    let asked = Asked::default();
    let seen = Arc::clone(&asked);
    let backoff = Backoff::custom(move |failed: &FailedAttempt<'_>| {
        assert!((0.0..1.0).contains(&failed.random));
        let source = failed.error.source();
        let what = match (
            source.downcast_ref::<Closed>(),
            source.downcast_ref::<Error>(),
        ) {
            (Some(closed), _) => format!("closed for {} h", closed.hours),
            (_, Some(error)) => format!("{:?}", error.kind()),
            _ => failed.error.to_string(),
        };
        seen.lock().unwrap().push((failed.number, what));
        pause
    });
    (backoff, asked)
}

fn is(asked: &Asked, expected: &[(u32, &str)]) -> bool {
    let asked = asked.lock().unwrap();
    let asked = asked.iter().map(|(number, what)| (*number, &**what));
    asked.eq(expected.iter().copied())
}

/// When a handler ran, in seconds from the start of its test.
type Runs = Arc<Mutex<Vec<u64>>>;

fn failing(error: fn() -> HandlerError) -> (Handler, Runs) {
    let runs = Runs::default();
    let seen = Arc::clone(&runs);
    let begun = Instant::now();
    let handler = Handler::on("fails", move |_: Step| {
        seen.lock().unwrap().push(begun.elapsed().as_secs());
        async move { Err::<(), _>(error()) }
    });
    (handler, runs)
}

fn app(module: Module, configure: impl FnOnce(&mut Config)) -> App {
    let builder = App::builder().without_discovered_handlers().module(module);
    builder
        .configure(configure)
        .build(MemoryEngine::new())
        .unwrap()
}

/// Lets a consumer handle what is there for so many seconds.
async fn handle(app: &App, seconds: u64) {
    let consumer = app.consumer().spawn();
    sleep(Duration::from_secs(seconds)).await;
    consumer.stop();
}

/// Lets a handler of one event fail for so many seconds.
async fn fail(handler: Handler, seconds: u64) {
    let app = app(Module::new().register(handler), |_| {});
    app.publish(&Step { n: 1 }).await.unwrap();
    handle(&app, seconds).await;
}

#[tokio::test(start_paused = true)]
async fn a_custom_backoff_is_asked_with_the_typed_error_of_each_attempt_that_is_not_the_last() {
    let pause = Duration::from_secs(100);
    let (backoff, asked) = asked(pause);
    let (handler, runs) = failing(closed);
    fail(handler.max_attempts(3).backoff(backoff), 1000).await;

    assert!(
        is(&asked, &[(1, "closed for 3 h"), (2, "closed for 3 h")]),
        "{asked:?}"
    );
    let runs = runs.lock().unwrap();
    assert_eq!(runs.len(), 3, "{runs:?}");
    // A poll may come a second late.
    let pauses = runs.windows(2).map(|pair| pair[1] - pair[0]);
    assert!(
        pauses.clone().all(|pause| (100..=102).contains(&pause)),
        "{runs:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_custom_backoff_is_asked_wherever_a_policy_is_set() {
    type Set = fn(Handler, Backoff) -> App;
    let sets: [(&str, Set); 4] = [
        ("handler", |handler, backoff| {
            app(Module::new().register(handler.backoff(backoff)), |_| {})
        }),
        ("module", |handler, backoff| {
            app(Module::new().register(handler).backoff(backoff), |_| {})
        }),
        ("handlers of the configuration", |handler, backoff| {
            app(Module::new().register(handler), |config| {
                let options = HandlerOptions::default().backoff(backoff);
                config.handlers.insert("fails".into(), options);
            })
        }),
        ("policy of the application", |handler, backoff| {
            app(Module::new().register(handler), |config| {
                config.retry = RetryPolicy::new(2, backoff);
            })
        }),
    ];

    for (place, set) in sets {
        let (backoff, asked) = asked(Duration::from_secs(3600));
        let app = set(failing(closed).0, backoff);
        app.publish(&Step { n: 1 }).await.unwrap();
        handle(&app, 10).await;
        assert!(is(&asked, &[(1, "closed for 3 h")]), "{place}: {asked:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_custom_backoff_is_not_asked_where_it_does_not_decide() {
    let errors: [fn() -> HandlerError; 5] = [
        || HandlerError::fatal("no such order"),
        || HandlerError::discard("of no use"),
        || HandlerError::retry_after(Duration::from_secs(5), "busy"),
        || HandlerError::snooze(Duration::from_secs(5)),
        || HandlerError::retry("the only attempt"),
    ];
    for error in errors {
        let (backoff, asked) = asked(Duration::ZERO);
        let (handler, runs) = failing(error);
        let max_attempts = if error().pause().is_some() { 3 } else { 1 };
        fail(handler.max_attempts(max_attempts).backoff(backoff), 30).await;

        assert!(!runs.lock().unwrap().is_empty());
        assert!(is(&asked, &[]), "{:?}: {asked:?}", error());
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_panic_or_a_timeout_a_custom_backoff_sees_the_text() {
    let panics = Handler::on("panics", |step: Step| async move {
        assert_ne!(step.n, 1, "boom")
    });
    let hangs = Handler::on("hangs", |_: Step| std::future::pending::<()>());
    let hangs = hangs.timeout(Some(Duration::from_secs(5)));

    for (handler, text) in [(panics, "boom"), (hangs, "timed out after 5s")] {
        let (backoff, asked) = asked(Duration::from_secs(3600));
        fail(handler.backoff(backoff), 30).await;
        let asked = asked.lock().unwrap();
        assert_eq!(asked.len(), 1);
        assert!(asked[0].1.contains(text), "{asked:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn each_event_of_a_batch_has_its_own_error() {
    let (backoff, asked) = asked(Duration::from_secs(3600));
    let handler = Handler::on_batch("fails", |batch: Batch<Step>| async move {
        let results = batch.iter().map(|step| match step.event.n {
            0 => Ok(()),
            hours => Err(Closed { hours }),
        });
        results.collect::<Vec<_>>()
    });

    let app = app(Module::new().register(handler.backoff(backoff)), |_| {});
    app.publish_all(&[Step { n: 0 }, Step { n: 7 }, Step { n: 8 }])
        .await
        .unwrap();
    handle(&app, 30).await;
    asked.lock().unwrap().sort();
    assert!(
        is(&asked, &[(1, "closed for 7 h"), (1, "closed for 8 h")]),
        "{asked:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_custom_backoff_that_panics_is_logged_and_the_default_one_decides() {
    let (logs, _guard) = Logs::begin();
    let (handler, runs) = failing(closed);
    let backoff = Backoff::custom(|failed| panic!("no pause after {}", failed.number));
    fail(handler.max_attempts(2).backoff(backoff), 60).await;

    let runs = runs.lock().unwrap();
    assert_eq!(runs.len(), 2, "{runs:?}");
    // The default pause after the first attempt is a second at most.
    assert!(runs[1] - runs[0] <= 3, "{runs:?}");
    assert_eq!(logs.count(Level::WARN, "a custom backoff panicked"), 1);
    assert_eq!(logs.count(Level::WARN, "of=fails"), 1);
    assert_eq!(logs.count(Level::WARN, "no pause after 1"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_pause_of_a_custom_backoff_that_no_calendar_holds_is_kept_as_far_as_it_goes() {
    let handler = failing(closed)
        .0
        .backoff(Backoff::custom(|_| Duration::MAX));
    let app = app(Module::new().register(handler), |_| {});
    let published = app.publish(&Step { n: 1 }).await.unwrap();
    handle(&app, 30).await;
    assert_eq!(app.stats(&published.queue).await.unwrap().in_progress, 1);
}

#[tokio::test(start_paused = true)]
async fn a_custom_backoff_decides_about_events_that_nobody_takes() {
    let (backoff, asked) = asked(Duration::from_secs(1));
    let app = app(Module::new(), |config| {
        config.unknown_types = UnknownTypes::Retry(RetryPolicy::new(3, backoff));
    });
    let envelope = Envelope::builder("unheard", "test").build().unwrap();
    app.publish_envelope(envelope).await.unwrap();
    handle(&app, 60).await;

    let why = "no handler here takes `unheard`";
    assert!(is(&asked, &[(1, why), (2, why)]), "{asked:?}");
}

#[tokio::test(start_paused = true)]
async fn a_custom_backoff_of_a_consumer_sees_why_it_failed() {
    let (backoff, asked) = asked(Duration::from_secs(3600));
    let engine = Faulty::default();
    engine.faults.panics.store(true, Ordering::SeqCst);
    let handler = Handler::on("quick", |_: Step| async {});
    let app = App::builder()
        .without_discovered_handlers()
        .register(handler);
    let app = app.build(engine).unwrap();
    app.publish(&Step { n: 1 }).await.unwrap();

    let consumer = app.consumer().restart(backoff).spawn();
    sleep(Duration::from_secs(60)).await;
    consumer.stop();
    let kind = format!("{:?}", ErrorKind::Panicked);
    assert!(is(&asked, &[(1, &kind)]), "{asked:?}");
}
