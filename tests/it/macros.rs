//! What the macros' expansions do when they run.

use ezq::__private::{Discovered, EventDescriptor, HandlerDefinition, inventory};
use ezq::Handler;
use ezq::consumer::StopReason;
use ezq::handler::FailedAttempt;
use ezq::prelude::*;
use ezq::testing::TestApp;
use serde::{Deserialize, Serialize};

#[derive(Debug, PartialEq, Event, Serialize, Deserialize)]
#[event(
    type = "order.placed",
    version = 2,
    queue = "orders",
    key = "customer.id"
)]
#[event(alias = "OrderPlaced")]
struct OrderPlaced {
    customer: Customer,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Customer {
    id: i64,
}

#[derive(Debug, PartialEq, Event, Serialize, Deserialize)]
#[event(key = account)]
struct Moved {
    account: Option<String>,
}

#[derive(Debug, PartialEq, Event, Serialize, Deserialize)]
struct Seen(String);

#[derive(EventSet)]
enum Either {
    Moved(Moved),
    Ordered(OrderPlaced),
}

#[on_event(order = 3)]
async fn see(event: Either, State(prefix): State<&'static str>, context: Context) -> Seen {
    let what = match event {
        Either::Moved(Moved { account }) => account.unwrap_or_default(),
        Either::Ordered(OrderPlaced { customer }) => customer.id.to_string(),
    };
    Seen(format!("{prefix} {what} {}", context.attempt()))
}

#[on_event(name = "pinned", retry(max_attempts = 1))]
async fn refuse(_event: Moved) -> Result<(), HandlerError> {
    Err(HandlerError::retry("no"))
}

fn moved(account: &str) -> Moved {
    Moved {
        account: Some(account.to_owned()),
    }
}

#[test]
fn an_event_is_described_by_its_attributes() {
    let descriptor = EventDescriptor::of::<OrderPlaced>();
    assert_eq!(descriptor.type_name, "order.placed");
    assert_eq!(descriptor.version, 2);
    assert_eq!(descriptor.aliases, ["OrderPlaced"]);
    assert_eq!(<OrderPlaced as ezq::Event>::QUEUE, Some("orders"));
    assert_eq!(EventDescriptor::of::<Moved>().type_name, "Moved");
}

#[test]
fn a_key_comes_from_its_field_and_may_be_absent() {
    let order = OrderPlaced {
        customer: Customer { id: 7 },
    };
    assert_eq!(ezq::Event::key(&order).as_deref(), Some("7"));
    assert_eq!(ezq::Event::key(&moved("a")).as_deref(), Some("a"));
    assert_eq!(ezq::Event::key(&Moved { account: None }), None);
    assert_eq!(ezq::Event::key(&Seen(String::new())), None);
}

#[test]
fn a_handler_is_named_by_its_path_unless_pinned() {
    let name = |handler: Handler| handler.name().to_string();
    assert_eq!(name(see::definition()), concat!(module_path!(), "::see"));
    assert_eq!(name(refuse::definition()), "pinned");
}

#[test]
fn handlers_are_found_at_link_time() {
    let names: Vec<_> = inventory::iter::<Discovered>
        .into_iter()
        .map(|discovered| (discovered.0)().name().to_string())
        .collect();
    for name in [concat!(module_path!(), "::see"), "pinned"] {
        assert!(
            names.iter().any(|found| found == name),
            "{name} is not in {names:?}"
        );
    }
}

#[test]
fn a_missing_state_is_an_error_at_start() {
    let error = TestApp::new(|builder| builder.handler::<see>()).expect_err("no state");
    assert!(error.to_string().contains("state"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_handler_takes_its_event_and_extractors_and_publishes_what_it_returns() {
    let app = TestApp::new(|builder| builder.handler::<see>().state("saw")).expect("an app");
    app.publish(&moved("a")).await.expect("published");
    let report = app.drain().await.expect("drained");
    assert_eq!(
        app.assert_published::<Seen>(),
        Seen("saw a 1".to_owned()),
        "{report}"
    );
}

#[tokio::test(start_paused = true)]
async fn the_retry_settings_reach_the_consumer() {
    let app = TestApp::new(|builder| builder.handler::<refuse>()).expect("an app");
    app.publish(&moved("a")).await.expect("published");
    let queue = app.config().queue.clone();
    let report = app.drain_queue(queue).await.expect("drained");
    assert_eq!(
        (report.reason, report.counts.dead_lettered),
        (StopReason::Idle, 1),
        "{report}"
    );
}

fn by_the_error(failed: &FailedAttempt<'_>) -> std::time::Duration {
    let error = failed.error.to_string();
    assert!(!error.contains("careless"), "a pause that panics");
    let secs = if error.contains("slow down") { 600 } else { 1 };
    std::time::Duration::from_secs(secs * u64::from(failed.number))
}

#[on_event(retry(max_attempts = 3, backoff = by_the_error))]
async fn throttled(event: Moved) -> Result<(), String> {
    Err(format!("slow down {:?}", event.account))
}

#[on_event(retry(initial = "2m", max = "1d", jitter = "none"))]
async fn outbox(_: Moved) -> Result<(), &'static str> {
    Err("no")
}

/// After how many seconds an event comes again, up to a number of times.
async fn pauses(app: &TestApp, times: usize) -> Vec<u64> {
    let begun = tokio::time::Instant::now();
    let mut retried = 0;
    let mut seen = vec![];

    while seen.len() < times {
        let report = app.drain_queue(app.config().queue.clone()).await.unwrap();
        retried += report.counts.retried;
        if report.counts.retried + report.counts.dead_lettered > 0 {
            seen.push(begun.elapsed().as_secs());
        }
        tokio::time::advance(std::time::Duration::from_secs(1)).await;
    }

    assert!(retried > 0);
    seen
}

#[tokio::test(start_paused = true)]
async fn a_pause_of_ones_own_is_decided_by_attempt_and_error() {
    let app = TestApp::new(|builder| builder.handler::<throttled>()).unwrap();
    app.publish(&moved("a")).await.unwrap();
    assert_eq!(pauses(&app, 3).await, [0, 600, 1800]);
}

#[tokio::test(start_paused = true)]
async fn a_pause_of_ones_own_that_panics_loses_nothing() {
    let app = TestApp::new(|builder| builder.handler::<throttled>()).unwrap();
    app.publish(&moved("careless")).await.unwrap();
    let report = app.drain_queue(app.config().queue.clone()).await.unwrap();
    assert_eq!(report.counts.retried, 1, "{report}");
}

#[tokio::test(start_paused = true)]
async fn minutes_double() {
    let app = TestApp::new(|builder| builder.handler::<outbox>()).unwrap();
    app.publish(&moved("a")).await.unwrap();
    assert_eq!(pauses(&app, 4).await, [0, 120, 360, 840]);
}
