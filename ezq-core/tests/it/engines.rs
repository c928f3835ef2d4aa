use ezq_core::app::App;
use ezq_core::consumer::StopReason;
use ezq_core::engine::{Capabilities, Engine};
use ezq_core::event::{End, Event, Interrupt};
use ezq_core::handler::{Call, Extract, Handler, HandlerError, Provided};
use ezq_core::memory::MemoryEngine;
use ezq_core::message::QueueName;
use ezq_core::testing::TestApp;
use ezq_core::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use crate::faulty::Faulty;

#[derive(Debug, Serialize, Deserialize)]
struct Paid {
    order: u32,
}

impl Event for Paid {
    const TYPE: &'static str = "paid";
}

#[derive(Debug, Serialize, Deserialize)]
struct Audited {
    order: u32,
}

impl Event for Audited {
    const TYPE: &'static str = "audited";
    const QUEUE: Option<&'static str> = Some("audit");
}

#[tokio::test]
async fn a_queue_is_kept_by_the_engine_it_is_routed_to() {
    let other = MemoryEngine::new();
    let audit = QueueName::new("audit").unwrap();
    let app = TestApp::new(|builder| {
        builder
            .register(Handler::on("pay", |event: Paid| async move {
                Audited { order: event.order }
            }))
            .named_engine("archive", other.clone())
            .queue_engine(&audit, "archive")
    })
    .unwrap();
    app.publish(&Paid { order: 7 }).await.unwrap();
    app.drain().await.unwrap();

    // What a handler returned goes to its own queue's engine, and to no other.
    assert_eq!(other.published(&audit).len(), 1);
    app.assert_not_published::<Audited>();
    app.health_check().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_a_handler_of_a_control_event_returns_goes_to_its_own_engine() {
    let own = Faulty::default();
    let other = MemoryEngine::new();
    let audit = QueueName::new("audit").unwrap();

    for control in [false, true] {
        let last = |order| move |_: End| async move { Audited { order } };
        let interrupted = |order| move |_: Interrupt| async move { Audited { order } };
        let app = App::builder()
            .without_discovered_handlers()
            .register(Handler::on("ended", last(1)))
            .register(Handler::on("interrupted", interrupted(2)))
            .named_engine("archive", other.clone())
            .queue_engine(&audit, "archive")
            .build(own.clone())
            .unwrap();

        if control {
            app.publish(&Interrupt::default()).await.unwrap();
        } else {
            app.publish(&End::default()).await.unwrap();
        }
        app.consumer().run().await.unwrap();
    }

    assert_eq!(other.published(&audit).len(), 2);
    assert!(own.memory.published(&audit).is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_end_is_done_although_another_engine_refuses_its_handlers_events() {
    let own = Faulty::default();
    let other = Faulty::default();
    *other.faults.publish.lock().unwrap() = Some(ErrorKind::Permission);

    let app = App::builder()
        .without_discovered_handlers()
        .register(Handler::on("ended", |_: End| async {
            (Audited { order: 1 }, Paid { order: 2 })
        }))
        .named_engine("archive", other.clone())
        .queue_engine(QueueName::new("audit").unwrap(), "archive")
        .build(own.clone())
        .unwrap();
    app.publish(&End::default()).await.unwrap();

    let report = app.consumer().run().await.unwrap();
    assert_eq!(report.reason, StopReason::End);
    let left = own.memory.stats(&QueueName::default()).await.unwrap();
    assert_eq!(left.ready, 1, "the event for its own engine alone");
}

#[test]
fn a_route_to_an_unknown_engine_is_refused_at_build() {
    let audit = QueueName::new("audit").unwrap();
    let error = TestApp::new(|builder| builder.queue_engine(&audit, "archive")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
}

struct NeedsTransactions;

impl Extract for NeedsTransactions {
    fn check(provided: &Provided<'_>) -> Result<()> {
        if provided.capabilities.transactions {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Unsupported,
            "the engine has no transactions",
        ))
    }

    async fn extract(_: &Call) -> Result<Self, HandlerError> {
        Ok(Self)
    }
}

#[test]
fn an_application_that_asks_an_engine_for_what_it_cannot_do_fails_at_build() {
    let handler = Handler::on("pay", |_: Paid, _: NeedsTransactions| async {});
    let error = TestApp::new(|builder| builder.register(handler)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("`pay`"), "{error}");
}

#[tokio::test]
async fn an_event_that_its_engine_cannot_delay_or_deduplicate_is_refused_and_not_stored() {
    let capabilities = Some(Capabilities::new("plain"));
    let engine = Faulty {
        capabilities,
        ..Faulty::default()
    };
    let app = App::builder()
        .without_discovered_handlers()
        .build(engine.clone())
        .unwrap();
    let event = Paid { order: 7 };
    let minute = std::time::Duration::from_secs(60);

    for publish in [
        app.publish(&event).dedupe_key("7"),
        app.publish(&event).after(minute),
    ] {
        let error = publish.await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("`plain`"), "{error}");
    }

    assert!(engine.memory.all_published().is_empty());
    app.publish(&event).await.unwrap();
}

#[tokio::test]
async fn health_tells_engines_of_one_kind_apart() {
    let app = TestApp::new(|builder| {
        let builder = builder.named_engine("cache", MemoryEngine::new());
        builder.named_engine("audit", MemoryEngine::new())
    });

    let health = app.unwrap().health().await;
    let named: Vec<_> = health
        .engines
        .iter()
        .map(|one| (one.name.as_deref(), one.kind))
        .collect();
    assert_eq!(
        named,
        [
            (None, "memory"),
            (Some("audit"), "memory"),
            (Some("cache"), "memory")
        ]
    );

    assert!(
        health
            .to_string()
            .contains("the engine `cache` (memory) answers"),
        "{health}"
    );
}
