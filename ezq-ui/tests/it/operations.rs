//! Acting on all events that match, as operations that outlive the page, its browser and its process.

use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use ezq::admin::{EventFilter, EventState, OperationStatus};
use ezq::testing::TestDatabase;
use ezq::{Ezq, sqlx};

use crate::stage::{Answer, application, bury, dead, get, mounted, operators, post, publish};

const DISCARD: &str = "/ops/queues/orders/all/dead/discard";

/// The value of a hidden field of a page.
fn field(page: &str, name: &str) -> String {
    let start = format!("name=\"{name}\" value=\"");
    let value = page
        .split(&start)
        .nth(1)
        .unwrap_or_else(|| panic!("{page}"));
    value.split('"').next().unwrap().to_owned()
}

fn place(answer: &Answer) -> String {
    assert_eq!(answer.status, StatusCode::SEE_OTHER, "{}", answer.text);
    answer.headers["location"].to_str().unwrap().to_owned()
}

/// Waits for a page of an operation that has these words.
async fn shows(router: &Router, path: &str, words: &str) -> String {
    let shown = async {
        loop {
            let page = get(router, path).await.text;
            if page.contains(words) {
                return page;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let limit = Duration::from_secs(30);
    let in_time = tokio::time::timeout(limit, shown).await;
    in_time.unwrap_or_else(|_| panic!("{path} does not show {words}"))
}

/// Makes copies of the dead letters of `orders`, so that there are so many more.
async fn copy(ezq: &Ezq, count: i64) {
    sqlx::query(
        "INSERT INTO pgmq.q_orders_dlq (vt, message, headers)
         SELECT vt, message, headers FROM (SELECT * FROM pgmq.q_orders_dlq LIMIT 1) d,
                generate_series(1, $1)",
    )
    .bind(count)
    .execute(ezq.pool())
    .await
    .unwrap();
}

#[ezq::test]
async fn what_a_preview_has_shown_is_what_is_changed(database: TestDatabase) {
    bury(&database, 20, "{}").await;
    let ezq = application(&database).await;
    let router = mounted(&ezq, operators());
    let none = get(&router, &format!("{DISCARD}?type=other")).await.text;
    assert!(
        none.contains("Nothing of orders fits: type other"),
        "{none}"
    );
    let preview = get(&router, &format!("{DISCARD}?type=order.paid&since=1h"))
        .await
        .text;
    assert!(preview.contains("<b>20 dead letters</b>"), "{preview}");
    // The time is exact from here on.
    assert!(field(&preview, "since").ends_with('Z'), "{preview}");

    // What dies after the preview was not in it. Without a preview nothing is done.
    bury(&database, 1, "{}").await;
    let blind = post(&router, DISCARD, "type=order.paid").await;
    assert_eq!(blind.status, StatusCode::BAD_REQUEST);
    assert_eq!(dead(&ezq).await, 21);

    let form = format!(
        "type=order.paid&last={}&reason=test+orders",
        field(&preview, "last")
    );
    let begun = place(&post(&router, DISCARD, &form).await);
    let page = shows(&router, &begun, "tag ended").await;
    assert!(
        page.contains("20 of 20") && page.contains("test orders"),
        "{page}"
    );
    assert_eq!(dead(&ezq).await, 1);
    let audit = ezq.audit().list().await.unwrap().entries;
    assert!(audit.iter().all(|entry| entry.signature.by == "ada"));
    assert_eq!(audit.last().unwrap().count, Some(20));

    let list = get(&router, "/ops/operations").await.text;
    assert!(list.contains("Discard dead letters of orders"), "{list}");
    let letters = get(&router, "/ops/queues/orders/dead").await.text;
    assert!(letters.contains("20 of 20"), "{letters}");
}

#[ezq::test]
async fn events_in_every_state_but_leased_are_acted_on(database: TestDatabase) {
    let ezq = application(&database).await;
    for _ in 0..3 {
        publish(&ezq, "orders", "order.paid", "1").await;
    }
    publish(&ezq, "mails", "mail.wanted", "1").await;
    sqlx::raw_sql(
        "UPDATE pgmq.q_orders SET vt = now() + interval '1 hour' WHERE msg_id = 2;
         UPDATE pgmq.q_orders SET vt = now() + interval '1 hour', read_ct = 1,
           headers = headers || '{\"ezq-returned\": 1}' WHERE msg_id = 3",
    )
    .execute(ezq.pool())
    .await
    .unwrap();
    let router = mounted(&ezq, operators());
    let list = get(&router, "/ops/queues/orders/messages?state=ready")
        .await
        .text;
    assert!(
        list.contains("all/ready/move") && !list.contains("all/ready/retry"),
        "{list}"
    );
    let leased = get(&router, "/ops/queues/orders/messages?state=leased")
        .await
        .text;
    assert!(!leased.contains("/all/leased/"), "{leased}");
    for wrong in [
        "leased/discard",
        "ready/redrive",
        "dead/retry",
        "ready/purge",
    ] {
        let answer = get(&router, &format!("/ops/queues/orders/all/{wrong}")).await;
        assert!(answer.status.is_client_error(), "{wrong}");
    }

    let move_them = "/ops/queues/orders/all/ready/move";
    let preview = get(&router, move_them).await.text;
    assert!(preview.contains("<option>mails</option>"), "{preview}");
    let last = field(&preview, "last");
    let mistyped = post(&router, move_them, &format!("last={last}&to=mail")).await;
    assert_eq!(mistyped.status, StatusCode::NOT_FOUND);
    let begun = place(&post(&router, move_them, &format!("last={last}&to=mails")).await);
    shows(&router, &begun, "1 of 1").await;

    let retry = "/ops/queues/orders/all/scheduled/retry";
    let last = field(&get(&router, retry).await.text, "last");
    let begun = place(&post(&router, retry, &format!("last={last}")).await);
    shows(&router, &begun, "tag ended").await;
    let queues = ezq.queues();
    assert_eq!(queues.get("mails").await.unwrap().ready.value, 2);
    assert_eq!(queues.get("orders").await.unwrap().scheduled.value, 0);
}

#[ezq::test]
async fn an_operation_whose_process_died_goes_on_from_another_dashboard(database: TestDatabase) {
    bury(&database, 1, "{}").await;
    let ezq = application(&database).await;
    copy(&ezq, 349).await;
    // One that was started and took a step; then its process was gone for a while.
    let events = ezq.events("orders").unwrap();
    let bulk = events.all(EventState::Dead).filter(EventFilter::all());
    let id = bulk.redrive().by("grace").start().await.unwrap().id;
    ezq.operations().step(&id).await.unwrap();
    sqlx::raw_sql("UPDATE ezq.operations SET moved_at = now() - interval '1 minute'")
        .execute(ezq.pool())
        .await
        .unwrap();

    let router = mounted(&ezq, operators());
    let path = format!("/ops/operations/{id}");
    let page = get(&router, &path).await.text;
    assert!(
        page.contains("tag stalled") && page.contains("100 of 350"),
        "{page}"
    );
    // Two operators at once: each event is moved once all the same.
    let other = mounted(&application(&database).await, operators());
    let resume = format!("{path}/resume");
    let (one, two) = tokio::join!(post(&router, &resume, ""), post(&other, &resume, ""));
    place(&one);
    place(&two);
    shows(&router, &path, "tag ended").await;
    shows(&other, &path, "tag ended").await;
    let ended = ezq.operations().get(&id).await.unwrap();
    assert_eq!((ended.done, ended.skipped, ended.failed), (350, 0, 0));
    assert_eq!(dead(&ezq).await, 0);
    assert_eq!(ezq.queues().get("orders").await.unwrap().ready.value, 350);
}

#[ezq::test]
async fn an_operation_is_stopped_and_resumed(database: TestDatabase) {
    bury(&database, 3, "{}").await;
    let ezq = application(&database).await;
    let events = ezq.events("orders").unwrap();
    let started = events.all(EventState::Dead).discard().start().await;
    let id = started.unwrap().id;
    let router = mounted(&ezq, operators());
    let path = format!("/ops/operations/{id}");
    let stopped = place(&post(&router, &format!("{path}/stop"), "").await);
    let page = get(&router, &stopped).await.text;
    assert!(
        page.contains("tag stopped") && page.contains("It stops"),
        "{page}"
    );
    assert_eq!(dead(&ezq).await, 3);

    place(&post(&router, &format!("{path}/resume"), "").await);
    shows(&router, &path, "tag ended").await;
    assert_eq!(dead(&ezq).await, 0);
    let ended = ezq.operations().get(&id).await.unwrap();
    assert_eq!(ended.status, OperationStatus::Ended);
    let missing = post(&router, "/ops/operations/nothing/resume", "").await;
    assert_eq!(missing.status, StatusCode::NOT_FOUND);
}

#[ezq::test]
async fn what_vanished_after_the_preview_is_no_failure(database: TestDatabase) {
    bury(&database, 5, "{}").await;
    let ezq = application(&database).await;
    let router = mounted(&ezq, operators());
    let last = field(&get(&router, DISCARD).await.text, "last");
    let letters = ezq.dead_letters("orders").unwrap();
    let all = ezq::admin::DeadLetterFilter::all();
    letters.discard(all).await.unwrap();

    let begun = place(&post(&router, DISCARD, &format!("last={last}")).await);
    let page = shows(&router, &begun, "tag ended").await;
    assert!(page.contains("0 of 0"), "{page}");
}

#[ezq::test]
async fn a_filter_with_signs_of_html_sql_and_addresses_means_what_it_says(database: TestDatabase) {
    bury(&database, 3, "{}").await;
    let ezq = application(&database).await;
    let router = mounted(&ezq, operators());
    for none in ["%25", "%3Caccount%3E+of+1%25", "_", "ä'--"] {
        let path = format!("/ops/queues/orders/all/dead/redrive?type={none}&error={none}");
        let page = get(&router, &path).await;
        assert_eq!(page.status, StatusCode::OK, "{none}");
        assert!(page.text.contains("Nothing of orders fits"), "{none}");
    }

    let error = "error=%3Caccount%3E+of+100%25+%27ada%27";
    let preview = get(&router, &format!("{DISCARD}?{error}")).await.text;
    assert!(preview.contains("<b>3 dead letters</b>"), "{preview}");
    let shown = "error &#60;account&#62; of 100% &#39;ada&#39;";
    assert!(preview.contains(shown), "{preview}");
    let form = format!("{error}&last={}", field(&preview, "last"));
    let begun = place(&post(&router, DISCARD, &form).await);
    let page = shows(&router, &begun, "tag ended").await;
    assert!(page.contains(shown) && page.contains("3 of 3"), "{page}");
    let audit = get(&router, "/ops/audit").await.text;
    assert!(audit.contains(shown), "{audit}");
}

#[ezq::test]
async fn an_operation_goes_on_once_the_database_lets_it(database: TestDatabase) {
    bury(&database, 3, "{}").await;
    let ezq = application(&database).await;
    let events = ezq.events("orders").unwrap();
    let started = events.all(EventState::Dead).discard().start().await;
    let id = started.unwrap().id;

    // Every step waits for this lock until its limit.
    let other = application(&database).await;
    let mut holder = other.pool().begin().await.unwrap();
    sqlx::raw_sql("LOCK TABLE pgmq.q_orders_dlq IN ACCESS EXCLUSIVE MODE")
        .execute(&mut *holder)
        .await
        .unwrap();
    let router = mounted(&ezq, operators());
    let path = format!("/ops/operations/{id}");
    place(&post(&router, &format!("{path}/resume"), "").await);
    let page = shows(&router, &path, "It is tried again:").await;
    assert!(page.contains("tag running"), "{page}");

    holder.rollback().await.unwrap();
    let page = shows(&router, &path, "tag ended").await;
    assert!(page.contains("3 of 3"), "{page}");
    assert!(!page.contains("It is tried again:"), "{page}");
    assert_eq!(dead(&ezq).await, 0);
}
