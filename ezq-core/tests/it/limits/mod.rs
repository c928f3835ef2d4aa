//! Options and events at the ends of their ranges, and user code that panics where one might forget
//! that it is user code: none of it may stop a consumer or leave an event stuck.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use ezq_core::admin::DeadLetterFilter;
use ezq_core::app::{App, AppBuilder};
use ezq_core::codec::{Codec, CodecError, Origin, WireFormat};
use ezq_core::config::{Config, UnknownTypes};
use ezq_core::consumer::StopReason;
use ezq_core::engine::{Engine, LeaseRequest, Outgoing};
use ezq_core::event::{AttributeValue, Envelope, Event, VERSION_ATTRIBUTE};
use ezq_core::handler::{Backoff, Batch, Handler, HandlerError};
use ezq_core::memory::MemoryEngine;
use ezq_core::message::headers::Headers;
use ezq_core::message::{
    ERROR_TEXT_LIMIT, HandlerMark, HandlerName, HandlerState, Progress, QueueName, Reason,
    ReasonKind,
};
use ezq_core::{ErrorKind, chrono};
use tracing::Level;

use crate::faulty::Faulty;
use crate::fixtures::Step;
use crate::logs::Logs;

fn app(handler: Handler, configure: impl FnOnce(&mut Config)) -> (App, Faulty) {
    let engine = Faulty::default();
    let builder = App::builder()
        .without_discovered_handlers()
        .register(handler);
    (
        builder.configure(configure).build(engine.clone()).unwrap(),
        engine,
    )
}

fn quick() -> Handler {
    Handler::on("quick", |_: Step| async {})
}

/// An event that only one handler takes.
#[derive(serde::Serialize, serde::Deserialize)]
struct Lone {}

impl Event for Lone {
    const TYPE: &'static str = "lone";
}

async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(600), what)
        .await
        .expect("it is stuck")
}

async fn the_dead_letter(app: &App) -> Reason {
    let queue = QueueName::default();
    let letters = app
        .dead_letters(&queue)
        .unwrap()
        .list(&DeadLetterFilter::all(), 10)
        .await
        .unwrap();
    assert_eq!(letters.len(), 1);

    letters[0].reason.clone().unwrap()
}

#[tokio::test(start_paused = true)]
async fn takes_every_option_at_its_largest() {
    let handler = quick().timeout(Some(Duration::MAX));
    let (app, _) = app(handler, |config| {
        config.concurrency = usize::MAX;
        config.settle_batch = usize::MAX;
        config.settle_max_age = Duration::MAX;
        config.lease = Duration::MAX;
        config.handler_timeout = Some(Duration::MAX);
        config.poll_min = Some(Duration::MAX);
        config.poll_max = Some(Duration::MAX);
        config.grace = Some(Duration::MAX);
        config.retry.backoff = Backoff::constant(Duration::MAX);
        config.max_deliveries = u32::MAX;
    });
    app.publish(&Step { n: 0 }).await.unwrap();

    let consumer = app.consumer().spawn();
    tokio::time::sleep(Duration::from_secs(1)).await;
    consumer.stop();
    assert_eq!(within(consumer.wait()).await.unwrap().counts.handled, 1);
}

#[tokio::test(start_paused = true)]
async fn takes_every_option_at_its_smallest() {
    let (app, _) = app(quick(), |config| {
        config.concurrency = 1;
        config.settle_batch = 1;
        config.settle_max_age = Duration::ZERO;
        config.lease = Duration::from_secs(1);
        config.handler_timeout = Some(Duration::ZERO);
        config.poll_min = Some(Duration::from_millis(1));
        config.poll_max = Some(Duration::from_millis(1));
        config.grace = Some(Duration::ZERO);
        config.retry.max_attempts = 1;
        config.max_deliveries = 1;
    });

    app.publish_all(&[Step { n: 0 }, Step { n: 1 }, Step { n: 2 }])
        .await
        .unwrap();

    let report = within(app.consumer().until_idle().run()).await.unwrap();
    assert_eq!(report.counts.handled, 3);
}

#[test]
fn refuses_to_look_without_a_pause() {
    for set in [
        (|config| config.poll_min = Some(Duration::ZERO)) as fn(&mut Config),
        |config| config.poll_max = Some(Duration::ZERO),
    ] {
        let mut config = Config::default();
        set(&mut config);
        assert_eq!(
            config.validate().unwrap_err().kind(),
            ErrorKind::Configuration
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_longest_pause_alone_takes_effect() {
    let (app, engine) = app(quick(), |config| {
        config.poll_max = Some(Duration::from_millis(100))
    });

    let consumer = app.consumer().spawn();
    tokio::time::sleep(Duration::from_secs(10)).await;
    let fetches = engine.faults.fetches.load(Ordering::SeqCst);
    assert!((95..=140).contains(&fetches), "{fetches}");

    consumer.stop();
    consumer.wait().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_end_with_the_longest_timeout_stops_its_consumer() {
    let (app, engine) = app(quick(), |_| {});
    let queue = QueueName::default();
    engine.ensure_queue(&queue).await.unwrap();
    let body = r#"{"_type": "EZQEndEvent", "timeout": 1e19}"#.to_owned();
    let end = Outgoing::new(queue, body, Headers::new());
    engine.publish(vec![end]).await.unwrap();
    let report = within(app.consumer().run()).await.unwrap();
    assert_eq!(report.reason, StopReason::End);
}

#[tokio::test(start_paused = true)]
async fn the_longest_pauses_are_remembered_with_their_attempt() {
    let handler = Handler::on("later", |step: Step| async move {
        Err::<(), _>(match step.n {
            0 => HandlerError::snooze(Duration::MAX),
            _ => HandlerError::retry_after(Duration::MAX, "no"),
        })
    });

    let (app, engine) = app(handler, |_| {});
    for n in [0, 1] {
        let step = app.publish(&Step { n });
        step.after(Duration::from_secs(1)).await.unwrap();
    }

    app.publish(&Step { n: 2 })
        .after(Duration::MAX)
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;

    let report = within(app.consumer().until_idle().run()).await.unwrap();
    assert_eq!(report.counts.retried, 2);
    let stats = engine.memory.stats(&QueueName::default()).await.unwrap();
    assert_eq!((stats.in_progress, stats.scheduled), (2, 1));
}

#[test]
fn a_mark_of_the_longest_pause_is_read_back() {
    let due = Some(chrono::DateTime::<chrono::Utc>::MAX_UTC);
    let state = HandlerState::Retry;
    let mark = HandlerMark::new(state).attempts(u32::MAX).due(due);
    let progress = Progress::from_iter([(HandlerName::from("a: \"b\"'"), mark)]);
    let mut headers = Headers::new();
    headers.merge(&progress);
    assert_eq!(Progress::from_headers(&headers), progress);
}

#[tokio::test(start_paused = true)]
async fn attempts_that_another_client_made_up_do_not_overflow() {
    let handler = Handler::on("fails", |_: Step| async { Err::<(), _>("no") });
    let (app, _) = app(handler, |_| {});
    let prepared = app.publish(&Step { n: 0 }).prepare().unwrap();
    let mut message = prepared.outgoing;
    let mark = serde_json::json!({"state": "retry", "attempts": u32::MAX});
    message.headers.insert("ezq-h:fails", mark);

    app.engine(&message.queue)
        .ensure_queue(&message.queue)
        .await
        .unwrap();
    app.engine(&message.queue.clone())
        .publish(vec![message])
        .await
        .unwrap();
    within(app.consumer().until_idle().run()).await.unwrap();
    assert_eq!(the_dead_letter(&app).await.kind, ReasonKind::MaxAttempts);
}

#[derive(Debug)]
struct Unspeakable;

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
    within(consumer.wait()).await.unwrap();

    let reason = the_dead_letter(&app).await;
    assert_eq!((reason.kind, reason.attempts), (ReasonKind::MaxAttempts, 2));
    assert!(
        reason.error.contains("panicked: no words"),
        "{}",
        reason.error
    );
}

/// A codec that reads nothing, and writes no `Lone`. Its errors panic when they are written.
struct Mute;

impl Codec for Mute {
    fn name(&self) -> &str {
        "mute"
    }

    fn encode(&self, event: &Envelope, headers: &mut Headers) -> Result<String, CodecError> {
        if event.event_type() == Lone::TYPE {
            return Err(Box::new(Unspeakable));
        }
        // No plain form, so that no other codec reads it.
        Ok(format!(
            "[{}]",
            WireFormat::CloudEvents.encode(event, headers)?
        ))
    }

    fn decode(&self, _: &str, _: Origin<'_>) -> Result<Envelope, CodecError> {
        Err(Box::new(Unspeakable))
    }
}

fn with_mute(event_type: &str, handler: Handler) -> App {
    App::builder()
        .without_discovered_handlers()
        .codec(Mute)
        .event_codec(event_type, "mute")
        .register(handler)
        .build(MemoryEngine::new())
        .unwrap()
}

fn assert_undelivered(reason: &Reason, kind: ReasonKind) {
    assert_eq!(reason.kind, kind);
    assert!(
        reason.error.contains("panicked: no words"),
        "{}",
        reason.error
    );
}

#[tokio::test(start_paused = true)]
async fn an_error_of_a_codec_that_panics_when_it_is_written_is_a_dead_letter() {
    let app = with_mute(Step::TYPE, quick());
    app.publish(&Step { n: 0 }).await.unwrap();

    within(app.consumer().until_idle().run()).await.unwrap();

    assert_undelivered(&the_dead_letter(&app).await, ReasonKind::Undecodable);
}

#[tokio::test(start_paused = true)]
async fn a_returned_event_whose_error_panics_when_it_is_written_is_a_dead_letter() {
    let returns = Handler::on("returns", |_: Step| async { Lone {} });
    let app = with_mute(Lone::TYPE, returns);
    app.publish(&Step { n: 0 }).await.unwrap();

    within(app.consumer().until_idle().run()).await.unwrap();

    assert_undelivered(&the_dead_letter(&app).await, ReasonKind::Fatal);
}

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

        let counts = within(consumer.wait()).await.unwrap().counts;
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

        let counts = within(consumer.wait()).await.unwrap().counts;
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
    assert_eq!(within(consumer.wait()).await.unwrap().counts.cancelled, 1);
    assert_eq!(later.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn the_reason_of_an_unknown_type_is_bounded_like_every_error() {
    let (app, _) = app(quick(), |config| {
        config.unknown_types = UnknownTypes::DeadLetter
    });
    let envelope = Envelope::builder("x".repeat(100_000), "test")
        .build()
        .unwrap();
    app.publish_envelope(envelope).await.unwrap();
    within(app.consumer().until_idle().run()).await.unwrap();
    assert!(the_dead_letter(&app).await.error.len() <= ERROR_TEXT_LIMIT);
}

#[tokio::test]
async fn an_envelope_whose_version_is_none_is_refused_when_it_is_published() {
    let (app, _) = app(quick(), |_| {});
    let published = |version| {
        let envelope = Envelope::builder(Step::TYPE, "test")
            .json(r#"{"n": 1}"#)
            .unwrap();
        let envelope = envelope
            .extension(VERSION_ATTRIBUTE, version)
            .build()
            .unwrap();
        app.publish_envelope(envelope).into_future()
    };

    let whole = [AttributeValue::Integer(0), AttributeValue::Integer(-1)];
    let others = [
        AttributeValue::Text("1.5".to_owned()),
        AttributeValue::Boolean(true),
    ];

    for version in whole.into_iter().chain(others) {
        let error = published(version.clone())
            .await
            .expect_err(&format!("{version:?}"));
        assert_eq!(error.kind(), ErrorKind::InvalidEvent, "{version:?}");
        assert!(
            error.to_string().contains("a whole number from 1 on"),
            "{error}"
        );
    }

    for version in [
        AttributeValue::Integer(1),
        AttributeValue::Text("2".to_owned()),
    ] {
        published(version).await.unwrap();
    }
}

#[test]
fn a_name_that_no_store_can_keep_is_refused_at_build() {
    for name in ["", "a\0b", "a\nb"] {
        let handler = Handler::on(name, |_: Step| async {});
        let app = App::builder()
            .without_discovered_handlers()
            .register(handler);
        let error = app.build(MemoryEngine::new()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration, "{name:?}");
    }
}

#[test]
fn the_longest_backoff_is_no_overflow() {
    let longest = Backoff::exponential(Duration::MAX, Duration::MAX);
    assert_eq!(longest.delay(1, "", 1.0), Duration::MAX);
    assert_eq!(longest.delay(1, "", f64::NAN), Duration::MAX);
}

#[tokio::test(start_paused = true)]
async fn a_handler_runs_no_more_often_at_once_than_it_says_across_consumers() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    let running = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));

    let handler = {
        let running = Arc::clone(&running);
        let most = Arc::clone(&most);

        Handler::on("careful", move |_: Step| {
            let running = Arc::clone(&running);
            let most = Arc::clone(&most);
            async move {
                let now = running.fetch_add(1, Ordering::SeqCst) + 1;
                most.fetch_max(now, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_secs(20)).await;
                running.fetch_sub(1, Ordering::SeqCst);
            }
        })
        .concurrency(2)
    };

    let app = App::builder()
        .without_discovered_handlers()
        .register(handler);
    let app = app.build(MemoryEngine::new()).unwrap();
    let steps: Vec<Step> = (0..12).map(|n| Step { n }).collect();
    app.publish_all(&steps).await.unwrap();

    // Each waits longer for its turn than it may run.
    let consumers = [0, 1].map(|_| app.consumer().concurrency(4).until_idle().spawn());
    let mut handled = 0;
    for consumer in consumers {
        handled += consumer.wait().await.unwrap().counts.handled;
    }
    assert_eq!((handled, most.load(Ordering::SeqCst)), (12, 2));
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_its_turn_goes_back_when_it_is_interrupted() {
    let handler = Handler::on("stuck", |_: Step| std::future::pending::<()>()).concurrency(1);
    let app = App::builder()
        .without_discovered_handlers()
        .register(handler);
    let app = app.build(MemoryEngine::new()).unwrap();
    app.publish_all(&[Step { n: 0 }, Step { n: 1 }])
        .await
        .unwrap();

    let consumer = app.consumer().spawn();
    tokio::time::sleep(Duration::from_millis(50)).await;
    consumer.interrupt();
    assert_eq!(consumer.wait().await.unwrap().counts.cancelled, 2);
    assert_eq!(app.stats(&QueueName::default()).await.unwrap().ready, 2);
}

#[test]
fn a_limit_of_nothing_is_refused() {
    let handler = Handler::on("none", |_: Step| async {}).concurrency(0);
    let app = App::builder()
        .without_discovered_handlers()
        .register(handler);
    assert_eq!(
        app.build(MemoryEngine::new()).unwrap_err().kind(),
        ErrorKind::Configuration
    );
}

/// Counts how many run at once.
#[derive(Clone, Default)]
struct AtOnce(Arc<AtomicUsize>, Arc<AtomicUsize>);

impl AtOnce {
    /// Runs for a while.
    async fn run(self) {
        let Self(running, most) = self;
        most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_secs(20)).await;
        running.fetch_sub(1, Ordering::SeqCst);
    }

    fn most(&self) -> usize {
        self.1.load(Ordering::SeqCst)
    }
}

/// As many batch handlers of one type, and handlers beside them.
fn app_with_batches(count: usize, wait: Duration, others: Vec<Handler>) -> App {
    let names = (0..count).map(|n| format!("batches-{n}"));
    let batches = names.map(|name| {
        let handler = Handler::on_batch(&name, |_: Batch<Step>| async {});
        handler.batch_size(50).batch_wait(wait)
    });

    let builder = App::builder().without_discovered_handlers();
    let handlers = batches.chain(others);
    handlers
        .fold(builder, AppBuilder::register)
        .build(MemoryEngine::new())
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn an_event_keeps_its_place_while_one_handler_runs_and_others_wait_for_batches() {
    for batches in [1, 2] {
        let slow = AtOnce::default();
        let runs = slow.clone();
        let handler = Handler::on("slow", move |_: Step| runs.clone().run());
        let app = app_with_batches(batches, Duration::from_secs(60), vec![handler]);
        app.publish_all(&(0..12).map(|n| Step { n }).collect::<Vec<_>>())
            .await
            .unwrap();

        let report = app.consumer().concurrency(3).until_idle().run();
        let report = within(report).await.unwrap();
        assert_eq!((report.counts.handled, slow.most()), (12, 3), "{batches}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_that_waits_for_two_batches_makes_room_for_one_other() {
    for batches in [1, 2] {
        let slow = AtOnce::default();
        let runs = slow.clone();
        let handler = Handler::on("slow", move |_: Lone| runs.clone().run());
        let app = app_with_batches(batches, Duration::from_secs(600), vec![handler]);
        app.publish_all(&(0..6).map(|n| Step { n }).collect::<Vec<_>>())
            .await
            .unwrap();
        app.publish_all(&(0..12).map(|_| Lone {}).collect::<Vec<_>>())
            .await
            .unwrap();

        let report = app.consumer().concurrency(3).until_idle().run();
        let report = tokio::time::timeout(Duration::from_secs(3600), report)
            .await
            .unwrap();
        assert_eq!(
            (report.unwrap().counts.handled, slow.most()),
            (18, 3),
            "{batches}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_gathers_more_than_the_concurrency_beside_handlers_that_are_done() {
    let (given, mut sizes) = tokio::sync::mpsc::unbounded_channel();
    let gathers = Handler::on_batch("gathers", move |batch: Batch<Step>| {
        given.send(batch.len()).unwrap();
        async {}
    });

    let soon = Handler::on("soon", |_: Step| tokio::time::sleep(Duration::from_secs(1)));
    let others = vec![
        gathers.batch_size(12).batch_wait(Duration::from_secs(500)),
        soon,
    ];
    let app = app_with_batches(0, Duration::ZERO, others);
    app.publish_all(&(0..12).map(|n| Step { n }).collect::<Vec<_>>())
        .await
        .unwrap();

    let report = within(app.consumer().concurrency(3).until_idle().run())
        .await
        .unwrap();
    assert_eq!((report.counts.handled, sizes.recv().await), (12, Some(12)));
    assert!(report.elapsed < Duration::from_secs(10), "{report}");
}
