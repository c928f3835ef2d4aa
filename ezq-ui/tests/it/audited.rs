//! What an operator does by the dashboard leaves an entry in the audit trail: each route that takes a POST
//! is in the list here, and is called. A new route that is not fails the test.

use std::collections::BTreeSet;
use std::time::Duration;

use axum::http::StatusCode;
use ezq::Event;
use ezq::admin::EventState;
use ezq::schedule::Schedule;
use ezq::sqlx;
use ezq::testing::TestDatabase;
use serde::{Deserialize, Serialize};

use crate::stage::{bury, get, mounted, operators, post, publish};

#[derive(Event, Serialize, Deserialize)]
#[event(type = "report.due", queue = "reports")]
struct ReportDue {}

/// The route, a request to it with its form, and what is recorded. In an order in which each finds what it
/// acts on; `{event}` stands for the id of the first event, `{operation}` for an operation that has begun.
const ACTS: [(&str, &str, &str, &str); 19] = [
    (
        "/queues/{queue}/pause",
        "/queues/orders/pause",
        "reason=x",
        "pause",
    ),
    (
        "/queues/{queue}/pause",
        "/queues/orders/pause",
        "handler=mail",
        "pause",
    ),
    (
        "/queues/{queue}/resume",
        "/queues/orders/resume",
        "",
        "resume",
    ),
    (
        "/queues/{queue}/events/{id}/{action}",
        "/queues/orders/events/x/retry",
        "id=4",
        "retry_now",
    ),
    (
        "/queues/{queue}/events/{id}/{action}",
        "/queues/orders/events/x/cancel",
        "id=4",
        "cancel",
    ),
    (
        "/queues/{queue}/events/{id}/{action}",
        "/queues/orders/events/x/move",
        "id=5&to=mails",
        "move",
    ),
    (
        "/queues/{queue}/events/{id}/{action}",
        "/queues/orders/events/x/discard",
        "id=6",
        "discard",
    ),
    (
        "/queues/{queue}/dead/{id}/move",
        "/queues/orders/dead/1/move",
        "id=1&to=mails",
        "move",
    ),
    (
        "/queues/{queue}/dead/selected/{action}",
        "/queues/orders/dead/selected/redrive",
        "id=2",
        "redrive",
    ),
    (
        "/queues/{queue}/dead/selected/{action}",
        "/queues/orders/dead/selected/discard",
        "id=3",
        "discard",
    ),
    (
        "/queues/{queue}/all/{state}/{action}",
        "/queues/orders/all/dead/redrive",
        "last=99",
        "redrive",
    ),
    (
        "/queues/{queue}/all/{state}/{action}",
        "/queues/orders/all/dead/discard",
        "last=99",
        "discard",
    ),
    (
        "/queues/{queue}/all/{state}/{action}",
        "/queues/orders/all/ready/move",
        "last=99&to=mails",
        "move",
    ),
    (
        "/operations/{id}/{action}",
        "/operations/{operation}/stop",
        "",
        "stop_operation",
    ),
    (
        "/operations/{id}/{action}",
        "/operations/{operation}/resume",
        "",
        "resume_operation",
    ),
    (
        "/schedules/{name}/{action}",
        "/schedules/sweep/pause",
        "",
        "pause",
    ),
    (
        "/schedules/{name}/{action}",
        "/schedules/sweep/resume",
        "",
        "resume",
    ),
    (
        "/schedules/{name}/{action}",
        "/schedules/sweep/run",
        "",
        "run_schedule",
    ),
    // The examination changes nothing.
    ("/health/examine", "/health/examine", "", ""),
];

#[ezq::test]
async fn every_route_that_acts_is_recorded(database: TestDatabase) {
    bury(&database, 3, "{}").await;
    let hourly = Schedule::every(Duration::from_secs(3600));
    let builder = database.builder().without_discovered_handlers();
    let ezq = builder.schedule("sweep", hourly, &ReportDue {});
    let ezq = ezq.connect().await.unwrap();
    for number in 4..10 {
        publish(&ezq, "orders", "order.paid", &number.to_string()).await;
    }
    publish(&ezq, "mails", "mail.wanted", "1").await;
    let later = "UPDATE pgmq.q_orders SET vt = now() + interval '1 hour' WHERE msg_id = 4";
    sqlx::raw_sql(later).execute(ezq.pool()).await.unwrap();
    let begun = ezq.events("mails").unwrap().all(EventState::Dead).discard();
    let begun = begun.start().await.unwrap().id;
    let router = mounted(&ezq, operators());

    let mut before = entries(&ezq).await.len();
    for (_, path, form, action) in ACTS {
        let path = format!("/ops{}", path.replace("{operation}", &begun));
        let answer = post(&router, &path, form).await;
        assert_eq!(
            answer.status,
            StatusCode::SEE_OTHER,
            "{path}: {}",
            answer.text
        );
        // An operation goes on after the answer.
        let recorded = async {
            loop {
                let now = entries(&ezq).await;
                let newest = &now[..now.len() - before];
                if action.is_empty() || newest.contains(&action) {
                    break now.len();
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let recorded = tokio::time::timeout(Duration::from_secs(20), recorded).await;
        before = recorded.unwrap_or_else(|_| panic!("{path} leaves no entry"));
    }

    // Each has its words on the page.
    let page = get(&router, "/ops/audit?action=run_schedule").await.text;
    assert!(page.contains("the schedule sweep"), "{page}");
}

#[test]
fn every_route_that_takes_a_post_is_in_the_list() {
    let source = include_str!("../../src/dashboard.rs");
    let known: BTreeSet<&str> = ACTS.into_iter().map(|(route, ..)| route).collect();
    let mut found = BTreeSet::new();
    for route in source.split(".route(").skip(1) {
        let path = route.split('"').nth(1).unwrap();
        let handlers = route.split_once(',').unwrap().1;
        if handlers.contains("post(") {
            found.insert(path);
        }
    }
    assert_eq!(found, known);
}

/// What ada did, newest first.
async fn entries(ezq: &ezq::Ezq) -> Vec<&'static str> {
    let trail = ezq.audit().list().limit(1000).await.unwrap().entries;
    let of_ada = trail.iter().filter(|entry| entry.signature.by == "ada");
    of_ada.map(|entry| entry.action.name()).collect()
}
