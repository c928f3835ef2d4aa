//! Handlers whose events go elsewhere are told when the application is built.

use ezq::memory::MemoryEngine;
use ezq::prelude::*;
use ezq::testing::TestApp;
use ezq::{App, AppBuilder, ErrorKind, Handler};
use serde::{Deserialize, Serialize};
use tracing::Level;

use crate::tracing::Capture;

#[derive(Event, Serialize, Deserialize)]
#[event(type = "reach.paid")]
struct Paid {}

#[derive(Event, Serialize, Deserialize)]
#[event(type = "reach.receipt_due")]
struct ReceiptDue {}

#[derive(Event, Serialize, Deserialize)]
#[event(type = "reach.placed", queue = "placed")]
struct Placed {}

#[on_event(name = "reach.book")]
async fn book(_: Paid) -> Result<Vec<ReceiptDue>, std::io::Error> {
    Ok(vec![ReceiptDue {}])
}

#[on_schedule("@daily", name = "reach.daily")]
async fn daily() {}

// Not by the macro: what this binary's other tests discover must not meet them.
fn print() -> Handler {
    Handler::on_batch("reach.print", |_: Batch<ReceiptDue>| async {}).queue("receipts")
}

fn mail() -> Handler {
    Handler::on("reach.mail", |_: Placed| async {}).queue("ezq")
}

fn build(handlers: impl FnOnce(AppBuilder) -> AppBuilder) -> ezq::Result<App> {
    // What a machine's environment says of queues is not what this is about.
    let builder = App::builder()
        .without_discovered_handlers()
        .configure(|config| {
            config.queue = ezq::QueueName::default();
            config.subscribe = false;
        });
    handlers(builder).build(MemoryEngine::new())
}

fn refused(handlers: impl FnOnce(AppBuilder) -> AppBuilder) -> String {
    let error = build(handlers).expect_err("events would be lost");
    assert_eq!(error.kind(), ErrorKind::UnreachableHandler, "{error}");
    error.to_string()
}

#[test]
fn a_schedule_whose_queue_another_handler_has_to_itself_is_refused() {
    let said = refused(|app| app.handler::<daily>().register(mail()));
    assert!(
        said.contains("`reach.daily`") && said.contains("`ezq`"),
        "{said}"
    );
    assert!(
        said.contains("`reach.mail`") && said.contains("queue = \"...\""),
        "{said}"
    );
    build(|app| app.handler::<daily>()).unwrap();
}

#[test]
fn a_scheduled_event_whose_handler_reads_another_queue_is_refused() {
    let every = || Schedule::every("30s");
    let said = refused(|app| {
        app.register(print())
            .schedule("due", every(), &ReceiptDue {})
    });
    assert!(
        said.contains("`receipts`") && said.contains("`reach.print`"),
        "{said}"
    );

    let to = every().queue("receipts");
    build(|app| app.register(print()).schedule("due", to, &ReceiptDue {})).unwrap();
}

#[test]
fn an_event_that_a_handler_returns_to_where_nobody_takes_it_is_refused() {
    let said = refused(|app| app.handler::<book>().register(print()));
    for part in [
        "`reach.book`",
        "`reach.receipt_due`",
        "`ezq`",
        "`reach.print`",
        "`receipts`",
    ] {
        assert!(said.contains(part), "{part} is not in: {said}");
    }
    assert!(said.contains("#[event(queue = \"receipts\")]"), "{said}");

    let closure = Handler::on("book", |_: Paid| async { (ReceiptDue {}, Some(Placed {})) });
    refused(|app| app.register(closure).register(print()));

    let batch = Handler::on_batch("book", |batch: Batch<Paid>| async move {
        batch
            .events()
            .map(|_| Ok(ReceiptDue {}))
            .collect::<Vec<Result<_, std::io::Error>>>()
    });
    refused(|app| app.register(batch).register(print()));

    let routed = |event_type: &str| {
        (event_type == "reach.receipt_due").then(|| ezq::QueueName::new("receipts").unwrap())
    };
    build(|app| app.handler::<book>().register(print()).event_queue(routed)).unwrap();

    // Another handler takes it where it goes.
    let here = Handler::on("here", |_: ReceiptDue| async {});
    build(|app| app.handler::<book>().register(print()).register(here)).unwrap();
}

#[test]
fn a_type_that_is_published_to_where_nobody_takes_it_is_a_warning() {
    let warned = |handlers: fn(AppBuilder) -> AppBuilder| {
        let (capture, _guard) = Capture::begin();
        build(handlers).unwrap();
        let lines = capture.at(Level::WARN);
        lines
            .iter()
            .map(|line| line.field("message").to_owned())
            .collect::<Vec<String>>()
    };

    let lines = warned(|app| app.register(print()));
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(
        lines[0].contains("`reach.print`") && lines[0].contains("`ezq`"),
        "{lines:?}"
    );
    // Its own queue is another one.
    assert_eq!(warned(|app| app.register(mail())).len(), 1);

    // It is meant to get copies of what is broadcast.
    assert!(
        warned(|app| app
            .register(print())
            .configure(|config| config.subscribe = true))
        .is_empty()
    );
    assert!(warned(|app| app.handler::<book>().handler::<daily>()).is_empty());
}

#[derive(EventSet)]
enum Either {
    ReceiptDue(ReceiptDue),
    Paid(Paid),
}

#[tokio::test]
async fn each_handler_that_gets_nothing_is_named_in_one_warning() {
    type Make = fn() -> Handler;
    let both = || Handler::on("reach.both", |_: Either| async {}).queue("receipts");
    let place = || Handler::on("reach.place", |_: Placed| async {});
    let keep = || Handler::on("reach.keep", |_: Paid| async {}).queue("placed");
    let cases: [(&[Make], &[&str]); 3] = [
        (&[both], &["reach.both"]),
        (&[place, keep], &["reach.place", "reach.keep"]),
        (
            &[both, place, keep],
            &["reach.both", "reach.place", "reach.keep"],
        ),
    ];

    for (handlers, names) in cases {
        let (capture, _guard) = Capture::begin();
        let register = |app, handler: &Make| AppBuilder::register(app, handler());
        let app = build(|app| handlers.iter().fold(app, register)).unwrap();
        app.consumer().until_idle().run().await.unwrap();

        let lines = capture.at(Level::WARN);
        for name in names {
            let naming = lines
                .iter()
                .filter(|line| format!("{line:?}").contains(name));
            assert_eq!(naming.count(), 1, "{name}: {lines:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_schedule_whose_queue_no_consumer_reads_is_a_warning() {
    let (capture, _guard) = Capture::begin();
    let schedule = Schedule::every("1h").queue("elsewhere");
    let app = TestApp::new(|app| app.schedule("hourly", schedule, &Paid {})).unwrap();

    let said = |capture: &Capture| {
        let lines = capture.at(Level::WARN);
        lines
            .iter()
            .filter(|line| line.field("message").contains("no consumer"))
            .count()
    };

    let consumer = app.consumer().spawn();
    tokio::time::sleep(std::time::Duration::from_secs(300)).await;
    assert_eq!(said(&capture), 1);

    consumer.stop();
    consumer.await.unwrap();

    let (capture, _guard) = Capture::begin();
    let consumers = [
        app.consumer().spawn(),
        app.consumer().queue("elsewhere").spawn(),
    ];
    tokio::time::sleep(std::time::Duration::from_secs(300)).await;
    assert_eq!(said(&capture), 0);
    drop(consumers);
}
