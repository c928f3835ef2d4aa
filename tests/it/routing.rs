//! Where events go whose publisher names no queue, and which handlers take what they have no type for.

use ezq::event::Pattern;
use ezq::memory::MemoryEngine;
use ezq::prelude::*;
use ezq::testing::TestApp;
use ezq::{App, AppBuilder, Envelope, ErrorKind, Handler, QueueName};
use serde::{Deserialize, Serialize};

use crate::database::{server, unique};
use crate::kit::{Log, soon};

#[derive(Debug, Event, Serialize, Deserialize)]
#[event(type = "order.created", queue = "attribute")]
struct Created {
    id: i64,
}

#[derive(Debug, Event, Serialize, Deserialize)]
#[event(type = "order.export", queue = "attribute")]
struct Export {
    id: i64,
}

#[derive(Debug, Event, Serialize, Deserialize)]
#[event(type = "user.created", queue = "attribute")]
struct UserCreated {
    id: i64,
}

#[derive(Debug, Event, Serialize, Deserialize)]
#[event(type = "user.deleted")]
struct UserDeleted {
    id: i64,
}

fn name(text: &str) -> QueueName {
    QueueName::new(text).unwrap()
}

fn routed(app: AppBuilder) -> AppBuilder {
    let by_function = |event_type: &str| event_type.ends_with("export").then(|| name("function"));
    app.event_queue(by_function).configure(|config| {
        let orders = Pattern::new("order.*").unwrap();
        let second = Pattern::new("order.created").unwrap();
        config.event_routes = vec![(orders, name("configured")), (second, name("second"))];
    })
}

async fn create(app: &TestApp, queues: &[&str]) {
    for queue in queues.iter().copied().map(name) {
        ezq::engine::Engine::ensure_queue(app.engine(), &queue)
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn the_call_wins_over_function_configuration_and_attribute() {
    let returns = Handler::on("returns", |event: UserDeleted| async move {
        (Created { id: event.id }, UserCreated { id: event.id })
    });
    let app = TestApp::new(|app| routed(app).register(returns)).unwrap();
    create(
        &app,
        &["ezq", "attribute", "configured", "function", "call"],
    )
    .await;

    let queue = async |publish: ezq::publish::Publish| publish.await.unwrap().queue.to_string();
    assert_eq!(
        queue(app.publish(&Export { id: 1 }).queue("call")).await,
        "call"
    );
    assert_eq!(queue(app.publish(&Export { id: 1 })).await, "function");
    assert_eq!(queue(app.publish(&Created { id: 1 })).await, "configured");
    assert_eq!(
        queue(app.publish(&UserCreated { id: 1 })).await,
        "attribute"
    );
    assert_eq!(queue(app.publish(&UserDeleted { id: 1 })).await, "ezq");

    let envelope = Envelope::builder("order.paid", "shop").build().unwrap();
    assert_eq!(queue(app.publish_envelope(envelope)).await, "configured");
    let stored = app.publish_all(&[Export { id: 2 }]).await.unwrap();
    assert_eq!(stored[0].queue, name("function"));

    // What a handler returns is routed alike.
    app.engine().forget_published();
    app.drain().await.unwrap();
    assert_eq!(app.engine().published(&name("configured")).len(), 1);
    assert_eq!(app.engine().published(&name("attribute")).len(), 1);
}

#[tokio::test]
async fn control_events_are_routed_by_nothing() {
    let app = TestApp::new(|app| app.event_queue(|_| Some(name("elsewhere")))).unwrap();
    assert_eq!(
        app.publish(&End::default()).await.unwrap().queue,
        name("ezq")
    );
    assert_eq!(
        app.publish(&Interrupt::default()).await.unwrap().queue,
        name("ezq")
    );
}

#[tokio::test]
async fn a_route_that_panics_is_an_error_of_that_publish() {
    let app = TestApp::new(|app| app.event_queue(|_| -> Option<QueueName> { panic!("no idea") }))
        .unwrap();
    let error = app.publish(&Created { id: 1 }).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Panicked);
    assert!(error.to_string().contains("no idea"), "{error}");

    // Whoever names a queue does not ask.
    app.publish(&Created { id: 1 })
        .queue("attribute")
        .await
        .unwrap();
}

fn seen(log: &Log<String>, handler: &'static str) -> impl Fn(AnyEvent) -> Seen + Clone + use<> {
    let log = log.clone();
    move |event| {
        log.push(format!("{handler} {}", event.event_type()));
        std::future::ready(())
    }
}

type Seen = std::future::Ready<()>;

#[tokio::test]
async fn a_handler_takes_the_types_that_its_pattern_means() {
    let log: Log<String> = Log::new();
    let typed = log.clone();
    let created = move |_: Created| {
        typed.push("typed order.created".to_owned());
        std::future::ready(())
    };

    let app = TestApp::new(|app| {
        app.register(Handler::on("orders", seen(&log, "orders")).pattern("order.*"))
            .register(
                Handler::on("both", seen(&log, "both"))
                    .pattern("*.paid")
                    .pattern("user.#"),
            )
            .register(Handler::on("created", created))
            .configure(|config| config.unknown_types = ezq::config::UnknownTypes::DeadLetter)
    });
    let app = app.unwrap();

    for event_type in [
        "order.created",
        "order.paid",
        "user",
        "order.line.added",
        "ezq.unknown",
    ] {
        let envelope = Envelope::builder(event_type, "shop")
            .json(r#"{"id":1}"#)
            .unwrap();
        app.publish_envelope(envelope.build().unwrap())
            .queue("ezq")
            .await
            .unwrap();
    }

    // Nobody takes two of them.
    let error = app.drain().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoHandler, "{error}");
    for event_type in ["`order.line.added`", "`ezq.unknown`"] {
        assert!(error.to_string().contains(event_type), "{error}");
    }

    let expected = [
        "both order.paid",
        "both user",
        "orders order.created",
        "orders order.paid",
        "typed order.created",
    ];
    assert_eq!(log.sorted(), expected);
    assert_eq!(app.stats(&name("ezq")).await.unwrap().dead, 2);
}

#[on_event(
    pattern = "shop.order.*",
    pattern = "shop.user.#",
    queue = "it_routing_audit"
)]
async fn audit(_: AnyEvent) {}

#[tokio::test]
async fn a_consumer_subscribes_to_the_patterns_of_its_handlers() {
    let database = unique("routing");
    let mut admin = crate::database::connection(&server().await.url()).await;
    crate::database::run(&mut admin, &format!("CREATE DATABASE {database}")).await;

    let url = server().await.database_url(database.as_str());
    let ezq = Ezq::builder()
        .database_url(url)
        .without_discovered_handlers();
    let ezq = ezq.app("audit").handler::<audit>().connect().await.unwrap();

    let run = || {
        ezq.consumer()
            .queue("it_routing_audit")
            .subscribe()
            .until_idle()
            .run()
    };
    soon(run()).await.unwrap();

    let standing = ezq.subscriptions().unwrap().list().await.unwrap();
    let patterns: Vec<&str> = standing.iter().map(|one| one.pattern.as_str()).collect();
    assert_eq!(patterns, ["shop.order.*", "shop.user.#"]);

    // Handlers without a queue of their own are not asked by its consumer, nor it by theirs.
    soon(
        ezq.consumer()
            .queue("it_routing_other")
            .subscribe()
            .until_idle()
            .run(),
    )
    .await
    .unwrap();
    assert_eq!(ezq.subscriptions().unwrap().list().await.unwrap().len(), 2);

    // An event of another application, known by its name alone.
    let event = Envelope::builder("shop.user.name.changed", "crm")
        .build()
        .unwrap();
    let sent = ezq.broadcast_envelope(event).await.unwrap();
    assert_eq!(sent.copies.len(), 1);
    assert_eq!(soon(run()).await.unwrap().counts.handled, 1);
}

#[test]
fn a_pattern_that_makes_no_sense_fails_when_the_application_is_built() {
    let typed = Handler::on("typed", |_: Created| async {}).pattern("order.*");
    let bad = Handler::on("bad", |_: AnyEvent| async {}).pattern("order*");
    for (handler, kind) in [
        (typed, ErrorKind::Configuration),
        (bad, ErrorKind::InvalidPattern),
    ] {
        let app = App::builder()
            .without_discovered_handlers()
            .register(handler);
        assert_eq!(app.build(MemoryEngine::new()).unwrap_err().kind(), kind);
    }
}
