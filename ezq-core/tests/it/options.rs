//! Every option takes effect, or is refused.

use ezq_core::admin::DeadLetterFilter;
use ezq_core::app::App;
use ezq_core::config::Config;
use ezq_core::consumer::StopReason;
use ezq_core::event::Event;
use ezq_core::handler::{Batch, Handler, HandlerOptions};
use ezq_core::memory::MemoryEngine;
use ezq_core::message::QueueName;
use ezq_core::message::headers::Headers;
use ezq_core::publish::{Publish, Publisher};
use ezq_core::{ErrorKind, Result};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

#[derive(Debug, Serialize, Deserialize)]
struct Step {}

impl Event for Step {
    const TYPE: &'static str = "step";
}

#[derive(Debug, Serialize, Deserialize)]
struct Next {}

impl Event for Next {
    const TYPE: &'static str = "next";
    const QUEUE: Option<&'static str> = Some("next");
}

fn build(handler: Handler, change: impl FnOnce(&mut Config)) -> Result<App> {
    let app = App::builder()
        .without_discovered_handlers()
        .register(handler);
    app.configure(change).build(MemoryEngine::new())
}

fn plain() -> Handler {
    Handler::on("plain", |_: Step| async {})
}

fn batch() -> Handler {
    Handler::on_batch("batch", |_: Batch<Step>| async {})
}

/// The headers of what a handler publishes while it handles an event with headers of its own.
async fn published_by_a_handler(
    options: impl Fn(Publish) -> Publish + Clone + Send + Sync + 'static,
) -> Headers {
    let handler = Handler::on("publishes", move |_: Step, publisher: Publisher| {
        let publish = options(publisher.publish(&Next {}));
        async move { publish.await.map(|_| ()) }
    });
    let engine = MemoryEngine::new();
    let app = App::builder()
        .without_discovered_handlers()
        .register(handler);

    let app = app.build(engine.clone()).unwrap();
    let cause = app.publish(&Step {}).correlation_id("flow-1");
    cause
        .header("traceparent", "trace-1")
        .header("tracestate", "state-1")
        .await
        .unwrap();

    app.consumer().until_idle().run().await.unwrap();
    let next = QueueName::new("next").unwrap();
    let mut messages = engine.published(&next);
    assert_eq!(messages.len(), 1);
    messages.remove(0).message.headers
}

#[tokio::test(start_paused = true)]
async fn what_a_handler_publishes_names_its_cause_unless_it_says_another() {
    let headers = published_by_a_handler(|publish| publish).await;
    assert_eq!(headers.text("correlation-id"), Some("flow-1"));
    assert_eq!(headers.text("traceparent"), Some("trace-1"));
    assert_eq!(headers.text("tracestate"), Some("state-1"));
    assert!(headers.text("causation-id").is_some());

    let said = |publish: Publish| {
        let publish = publish
            .header("traceparent", "trace-2")
            .header("causation-id", "cause-2");
        publish.header("correlation-id", "flow-2")
    };

    let headers = published_by_a_handler(said).await;
    assert_eq!(headers.text("correlation-id"), Some("flow-2"));
    assert_eq!(headers.text("causation-id"), Some("cause-2"));
    assert_eq!(headers.text("traceparent"), Some("trace-2"));
    assert_eq!(
        headers.text("tracestate"),
        None,
        "a state belongs to its parent"
    );

    let headers = published_by_a_handler(|publish| publish.correlation_id("flow-3")).await;
    assert_eq!(headers.text("correlation-id"), Some("flow-3"));
}

#[tokio::test]
async fn options_of_an_event_that_mean_nothing_are_refused() {
    let app = build(plain(), |_| {}).unwrap();
    let refused = [
        app.publish(&Step {}).max_attempts(0),
        app.publish(&Step {}).dedupe_window(Duration::from_secs(1)),
    ];
    for publish in refused {
        assert_eq!(publish.await.unwrap_err().kind(), ErrorKind::InvalidEvent);
    }

    for reserved in ["x-pgmq-group", "ce-id", "ezq-returned"] {
        let refused = app.publish(&Step {}).header(reserved, 7).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ReservedHeader, "{reserved}");
    }

    let inline = app
        .dispatch_inline(app.publish(&Step {}).max_attempts(2))
        .await;
    assert_eq!(inline.unwrap_err().kind(), ErrorKind::InvalidEvent);
}

#[test]
fn options_of_a_handler_that_mean_nothing_are_refused() {
    let wait = Duration::from_secs(1);
    let handlers = [
        plain().batch_size(10),
        plain().batch_wait(wait),
        plain().max_attempts(0),
        plain().concurrency(0),
        batch().batch_size(0),
    ];
    for handler in handlers {
        let text = format!("{handler:?}");
        let error = build(handler, |_| {}).expect_err(&text);
        assert_eq!(error.kind(), ErrorKind::Configuration, "{text}");
    }

    let options = HandlerOptions::default;
    let configured = [
        ("plain", options().batch_size(10)),
        ("plain", options().batch_wait(wait)),
        ("plain", options().batch_size(0)),
        ("plain", options().max_attempts(0)),
        ("plain", options().concurrency(0)),
        ("nobody", options()),
    ];
    for (name, options) in configured {
        let set = |config: &mut Config| {
            config.handlers.insert(name.into(), options.clone());
        };
        let error = build(plain(), set).expect_err(name);
        assert_eq!(error.kind(), ErrorKind::Configuration, "{options:?}");
    }
}

#[tokio::test]
async fn a_rate_of_nothing_is_refused() {
    let app = build(plain(), |_| {}).unwrap();
    let queue = app.config().queue.clone();
    let letters = app.dead_letters(&queue).unwrap();

    for action in [
        letters.redrive(DeadLetterFilter::all()),
        letters.discard(DeadLetterFilter::all()),
    ] {
        assert_eq!(
            action.rate(0).await.unwrap_err().kind(),
            ErrorKind::Configuration
        );
    }
}

#[tokio::test(start_paused = true)]
async fn each_token_that_a_consumer_was_given_stops_it() {
    for fires in [0, 1, 2] {
        let app = build(plain(), |_| {}).unwrap();
        let tokens = [(); 3].map(|()| CancellationToken::new());
        let mut consumer = app.consumer();
        for token in &tokens {
            consumer = consumer.stop_on(token.clone());
        }

        let handle = consumer.spawn();
        tokens[fires].cancel();

        let ended = tokio::time::timeout(Duration::from_secs(60), handle).await;
        assert_eq!(
            ended.expect("it hears no token").unwrap().reason,
            StopReason::Token
        );
    }
}
