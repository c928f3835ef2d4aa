//! Options and events at the ends of their ranges, and user code that panics where one might forget
//! that it is user code: none of it may stop a consumer or leave an event stuck.

mod concurrency;
mod panics;

use std::sync::atomic::Ordering;
use std::time::Duration;

use ezq_core::admin::DeadLetterFilter;
use ezq_core::app::App;
use ezq_core::codec::{self, Body, Codec, CodecError, Origin, WireFormat};
use ezq_core::config::{Config, UnknownTypes};
use ezq_core::consumer::StopReason;
use ezq_core::engine::{Engine as _, Outgoing};
use ezq_core::event::{AttributeValue, Envelope, Event, VERSION_ATTRIBUTE};
use ezq_core::handler::{Backoff, FailedAttempt, Handler, HandlerError};
use ezq_core::memory::MemoryEngine;
use ezq_core::message::headers::Headers;
use ezq_core::message::{
    ERROR_TEXT_LIMIT, HandlerMark, HandlerName, HandlerState, Progress, QueueName, Reason,
    ReasonKind,
};
use ezq_core::{ErrorKind, chrono};

use self::panics::Unspeakable;
use crate::faulty::Faulty;
use crate::fixtures::Step;

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
    assert_eq!(within(consumer).await.unwrap().counts.handled, 1);
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
    consumer.await.unwrap();
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

/// A codec that reads nothing, and writes no `Lone`. Its errors panic when they are written.
struct Mute;

impl Codec for Mute {
    fn name(&self) -> &str {
        "mute"
    }

    fn encode(&self, event: &Envelope, _: &mut Headers) -> Result<Body<'static>, CodecError> {
        if event.event_type() == Lone::TYPE {
            return Err(Box::new(Unspeakable));
        }
        // No plain form, so that no other codec reads it.
        let plain = codec::encode(event, WireFormat::CloudEvents)?;
        Ok(Body::json(format!("[{plain}]")))
    }

    fn decode(&self, _: Body<'_>, _: Origin<'_>) -> Result<Envelope, CodecError> {
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
    let error = HandlerError::retry("no");
    for random in [1.0, f64::NAN] {
        let failed = FailedAttempt::new(1, &error, random);
        assert_eq!(longest.delay(&failed), Duration::MAX);
    }
}
