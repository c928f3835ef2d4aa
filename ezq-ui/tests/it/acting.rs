//! What is done to one event, and what the audit trail and the examination then show.

use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use ezq::admin::EventState;
use ezq::sqlx;
use ezq::testing::TestDatabase;
use ezq_ui::{Access, Dashboard, Grant};

use crate::stage::{Answer, application, bury, dead, get, mounted, operators, post, publish, send};

fn place(answer: &Answer) -> String {
    assert_eq!(answer.status, StatusCode::SEE_OTHER, "{}", answer.text);
    answer.headers["location"].to_str().unwrap().to_owned()
}

#[ezq::test]
async fn one_event_is_cancelled_moved_retried_and_discarded(database: TestDatabase) {
    let ezq = application(&database).await;
    let mut ids = Vec::new();
    for number in 0..4 {
        ids.push(publish(&ezq, "orders", "order.paid", &number.to_string()).await);
    }
    publish(&ezq, "mails", "mail.wanted", "1").await;
    let later = "UPDATE pgmq.q_orders SET vt = now() + interval '1 hour' WHERE msg_id = 4";
    sqlx::raw_sql(later).execute(ezq.pool()).await.unwrap();
    let router = mounted(&ezq, operators());
    let event = |number: usize| format!("/ops/queues/orders/events/{}", ids[number]);

    let page = get(&router, &event(0)).await.text;
    assert!(
        page.contains("<option>mails</option>") && !page.contains("Try it now"),
        "{page}"
    );
    let cancel = post(
        &router,
        &format!("{}/cancel", event(0)),
        "id=1&reason=a+test",
    )
    .await;
    let page = get(&router, &place(&cancel)).await.text;
    assert!(
        page.contains("Cancelled: the event is a dead letter now."),
        "{page}"
    );
    assert!(page.contains("a test") && page.contains("ada"), "{page}");
    assert_eq!(dead(&ezq).await, 1);

    let moved = post(&router, &format!("{}/move", event(1)), "id=2&to=mails").await;
    let page = get(&router, &place(&moved)).await.text;
    assert!(page.contains("The event has moved."), "{page}");
    let nowhere = post(&router, &format!("{}/move", event(2)), "id=3&to=").await;
    assert_eq!(nowhere.status, StatusCode::BAD_REQUEST);
    let unknown = post(&router, &format!("{}/move", event(2)), "id=3&to=mailz").await;
    assert_eq!(unknown.status, StatusCode::NOT_FOUND);
    assert!(unknown.text.contains(">mails</a>"), "{}", unknown.text);

    let discard = format!("{}/discard", event(2));
    place(&post(&router, &discard, "id=3").await);
    // It vanished between the page and the action.
    let again = place(&post(&router, &discard, "id=3").await);
    let page = get(&router, &again).await.text;
    assert!(page.contains("There is no such event any more"), "{page}");

    assert!(get(&router, &event(3)).await.text.contains("Try it now"));
    place(&post(&router, &format!("{}/retry", event(3)), "id=4").await);
    let queues = ezq.queues();
    assert_eq!(queues.get("orders").await.unwrap().ready.value, 1);
    assert_eq!(queues.get("mails").await.unwrap().ready.value, 2);

    let letters = get(&router, "/ops/queues/orders/dead").await.text;
    let letter = letters.split("name=\"id\" value=\"").nth(1).unwrap();
    let letter = letter.split('"').next().unwrap();
    let to_mails = format!("/ops/queues/orders/dead/{letter}/move");
    place(&post(&router, &to_mails, &format!("id={letter}&to=mails")).await);
    assert_eq!(dead(&ezq).await, 0);
    assert_eq!(queues.get("mails").await.unwrap().ready.value, 3);
}

#[ezq::test]
async fn an_event_that_a_worker_has_is_left_to_it(database: TestDatabase) {
    let ezq = application(&database).await;
    let id = publish(&ezq, "orders", "order.paid", "1").await;
    let taken = "UPDATE pgmq.q_orders SET vt = now() + interval '1 hour', read_ct = 1";
    sqlx::raw_sql(taken).execute(ezq.pool()).await.unwrap();
    let router = mounted(&ezq, operators());
    let event = format!("/ops/queues/orders/events/{id}");
    let page = get(&router, &event).await.text;
    assert!(
        page.contains(">Cancel</button>") && !page.contains(">Discard</button>"),
        "{page}"
    );
    let refused = post(&router, &format!("{event}/discard"), "id=1").await;
    assert_eq!(refused.status, StatusCode::CONFLICT);

    let asked = post(&router, &format!("{event}/cancel"), "id=1").await;
    let page = get(&router, &place(&asked)).await.text;
    assert!(page.contains("was asked to cancel it"), "{page}");
}

#[ezq::test]
async fn the_audit_trail_names_who_by_the_policy_and_is_filtered(database: TestDatabase) {
    bury(&database, 60, "{}").await;
    let ezq = application(&database).await;
    let access = Access::decided(|request| {
        let user = request.headers.get("x-user");
        match user.and_then(|user| user.to_str().ok()) {
            Some(user) => Grant::Act {
                by: user.to_owned(),
            },
            None => Grant::Read,
        }
    });
    let dashboard = Dashboard::new(ezq.clone(), access);
    let router = Router::new().nest("/ops", dashboard.router());
    let act = async |user: &str, path: &str, form: &str| {
        let request = axum::http::Request::post(path)
            .header("sec-fetch-site", "same-origin")
            .header("x-user", user)
            .header("content-type", "application/x-www-form-urlencoded")
            .body(axum::body::Body::from(form.to_owned()));
        place(&send(&router, request.unwrap()).await)
    };

    let page = ezq
        .events("orders")
        .unwrap()
        .page(EventState::Dead)
        .limit(60)
        .await
        .unwrap();
    let letters = page.events.iter().map(|event| match &event.state {
        ezq::admin::CopyState::Dead { letter, .. } => letter.to_string(),
        other => panic!("{other:?}"),
    });
    let letters: Vec<String> = letters.collect();
    let form: Vec<String> = letters
        .iter()
        .take(59)
        .map(|id| format!("id={id}"))
        .collect();
    act(
        "<b>grace",
        "/ops/queues/orders/dead/selected/discard",
        &form.join("&"),
    )
    .await;
    act("ada", "/ops/queues/orders/pause", "reason=<100%25>+'ä'").await;
    let last = format!("last={}&reason=again", letters[59]);
    let begun = act("ada", "/ops/queues/orders/all/dead/redrive", &last).await;
    let ended = async {
        while !get(&router, &begun).await.text.contains("tag ended") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), ended)
        .await
        .unwrap();

    let page = get(&router, "/ops/audit").await.text;
    assert!(page.contains("&#60;100%&#62; &#39;ä&#39;"), "{page}");
    assert!(page.contains("<code>end_operation</code>") && page.contains("dead letters: all"));
    let older = page
        .split("href=\"")
        .find(|part| part.contains("rel=\"next\""));
    let older = older
        .unwrap()
        .split('"')
        .next()
        .unwrap()
        .replace("&#38;", "&");
    let page = get(&router, &older).await.text;
    assert!(
        page.contains("&#60;b&#62;grace") && !page.contains("rel=\"next\""),
        "{page}"
    );

    let of_ada = get(&router, "/ops/audit?by=ada&queue=orders").await.text;
    assert!(
        of_ada.contains("<code>pause</code>") && !of_ada.contains("grace"),
        "{of_ada}"
    );
    let pauses = get(&router, "/ops/audit?action=pause").await.text;
    assert_eq!(pauses.matches("<code>pause</code>").count(), 1, "{pauses}");
    assert!(!pauses.contains("<code>redrive</code>"), "{pauses}");
    let none = get(&router, "/ops/audit?by=nobody").await.text;
    assert!(none.contains("No entry fits the filter."), "{none}");
    let since = get(&router, "/ops/audit?since=1h&by=ada").await.text;
    assert!(
        since.contains("<code>pause</code>") && !since.contains("grace"),
        "{since}"
    );
    let since = get(&router, "/ops/audit?since=2999-01-01T00:00:00Z")
        .await
        .text;
    assert!(since.contains("No entry fits the filter."), "{since}");
    let wrong = get(&router, "/ops/audit?since=soon").await;
    assert_eq!(wrong.status, StatusCode::BAD_REQUEST);
    let wrong = get(&router, "/ops/audit?action=undo").await;
    assert_eq!(wrong.status, StatusCode::BAD_REQUEST);
}

#[ezq::test]
async fn the_health_shows_what_an_examination_finds_and_the_sql_that_mends_it(
    database: TestDatabase,
) {
    let ezq = application(&database).await;
    publish(&ezq, "orders", "order.paid", "1").await;
    // What nothing cleans any more is a finding.
    let broken = "ALTER TABLE pgmq.q_orders SET (autovacuum_enabled = false)";
    sqlx::raw_sql(broken).execute(ezq.pool()).await.unwrap();
    let router = mounted(&ezq, operators());
    let examined = async {
        loop {
            let page = get(&router, "/ops/health").await.text;
            if page.contains("checks found nothing") {
                return page;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let page = tokio::time::timeout(Duration::from_secs(60), examined)
        .await
        .unwrap();
    assert!(page.contains("This mends it:"), "{page}");
    assert!(page.contains("Examined "), "{page}");
    place(&post(&router, "/ops/health/examine", "").await);
}
