//! What the pages show, and what their forms do.

use std::borrow::Cow;

use axum::Router;
use axum::http::StatusCode;
use ezq::testing::TestDatabase;
use ezq_ui::{Access, Dashboard};

use crate::stage::{application, bury, dead, get, mounted, operators, post, publish};

#[ezq::test]
async fn an_empty_database_says_what_to_do_next(database: TestDatabase) {
    let ezq = application(&database).await;
    let router = mounted(&ezq, operators());
    for (path, said) in [
        ("/ops", "Nothing needs attention."),
        ("/ops/queues", "There are no queues yet."),
        ("/ops/dead", "There are no dead letters."),
        ("/ops/operations", "Nothing was done to many events"),
        ("/ops/audit", "Nobody has done anything yet."),
        ("/ops/schedules", "There are no schedules."),
        ("/ops/consumers", "Start an application with handlers"),
        ("/ops/subscriptions", "ezq subscription add"),
        ("/ops/catalogue", "No handler is known."),
        ("/ops/replays", "ezq replay start"),
        ("/ops/captures", "No table is captured."),
        ("/ops/health", ">ready<"),
    ] {
        let answer = get(&router, path).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}");
        assert!(answer.text.contains(said), "{path}: {}", answer.text);
        assert!(!answer.text.contains("could not be read:"), "{path}");
    }
}

#[ezq::test]
async fn what_others_wrote_is_never_markup(database: TestDatabase) {
    let nasty = "<script>alert('x')</script> % ä";
    let data = format!(r#"{{"id":9007199254740993123,"text":"{nasty}"}}"#);
    bury(&database, 1, &data).await;
    let ezq = application(&database).await;
    let id = publish(&ezq, "orders", nasty, &data).await;
    ezq.queues()
        .pause("orders")
        .by(nasty)
        .reason(nasty)
        .await
        .unwrap();
    let router = mounted(&ezq, operators());

    let event = format!("/ops/queues/orders/events/{id}");
    let paths = [
        "/ops",
        "/ops/queues/orders",
        "/ops/queues/orders/messages",
        &event,
    ];
    for path in paths {
        let page = get(&router, path).await;
        assert_eq!(page.status, StatusCode::OK, "{path}: {}", page.text);
        assert!(
            page.text.contains("&#60;script&#62;"),
            "{path}: {}",
            page.text
        );
        assert!(!page.text.contains("<script>"), "{path}");
    }
    let page = get(&router, &event).await.text;
    assert!(page.contains("9007199254740993123"), "{page}");
    let json = get(&router, &format!("{event}?format=json")).await;
    assert_eq!(json.headers["content-type"], "application/json");
    assert!(
        json.text.contains(r#""id": 9007199254740993123"#),
        "{}",
        json.text
    );

    let letters = get(&router, "/ops/queues/orders/dead").await.text;
    assert!(
        letters.contains("no such &#60;account&#62; of 100% &#39;ada&#39;"),
        "{letters}"
    );
}

#[ezq::test]
async fn a_megabyte_is_shown_in_part_and_copied_whole(database: TestDatabase) {
    let ezq = application(&database).await;
    let data = format!("\"{}\"", "<".repeat(1024 * 1024 - 500));
    let id = publish(&ezq, "orders", "order.paid", &data).await;
    let router = mounted(&ezq, operators());
    let event = format!("/ops/queues/orders/events/{id}");
    let page = get(&router, &event).await.text;
    assert!(page.contains("This is the begin of 1048078 bytes."));
    assert!(page.len() < 500_000, "{}", page.len());
    let json = get(&router, &format!("{event}?format=json")).await.text;
    assert!(json.contains(&data));
}

#[ezq::test]
async fn payloads_are_redacted_and_hidden_as_the_owner_says(database: TestDatabase) {
    let ezq = application(&database).await;
    let id = publish(&ezq, "orders", "card.charged", r#"{"card":"4111"}"#).await;
    let dashboard = Dashboard::new(ezq.clone(), operators())
        .redact(|payload| Cow::Owned(payload.data.replace("4111", "****")))
        .hide(|payload| payload.event_type == Some("card.charged"));
    let router = Router::new().nest("/ops", dashboard.router());

    let event = format!("/ops/queues/orders/events/{id}");
    let page = get(&router, &event).await.text;
    assert!(
        page.contains("Hidden, as the owner") && !page.contains("****"),
        "{page}"
    );
    for query in ["?show=data", "?format=json&show=data"] {
        let shown = get(&router, &format!("{event}{query}")).await.text;
        assert!(shown.contains("****") && !shown.contains("4111"), "{shown}");
    }
    let json = get(&router, &format!("{event}?format=json")).await.text;
    assert!(
        !json.contains("****") && !json.contains("\"data\""),
        "{json}"
    );
    let shown = get(&router, &format!("{event}?show=data")).await.text;
    assert!(
        shown.contains("format=json&#38;show=data\">Copy as JSON"),
        "{shown}"
    );
}

#[ezq::test]
async fn a_mistyped_queue_suggests_the_nearest(database: TestDatabase) {
    let ezq = application(&database).await;
    publish(&ezq, "shop/eu.orders", "order.paid", "1").await;
    let router = mounted(&ezq, operators());
    let answer = get(&router, "/ops/queues/shop%2Feu.ordres").await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    let link = r#"<a href="/ops/queues/shop%2Feu.orders">shop/eu.orders</a>"#;
    assert!(answer.text.contains(link), "{}", answer.text);
    assert_eq!(
        get(&router, "/ops/queues/shop%2Feu.orders").await.status,
        StatusCode::OK
    );
    let wrong = get(&router, "/ops/queues/%3Cb%3E").await;
    assert_eq!(wrong.status, StatusCode::BAD_REQUEST);
    assert!(!wrong.text.contains("<b>&"), "{}", wrong.text);
}

#[ezq::test]
async fn a_pause_names_who_and_why_and_ends(database: TestDatabase) {
    let ezq = application(&database).await;
    publish(&ezq, "orders", "order.paid", "1").await;
    let router = mounted(&ezq, operators());
    let answer = post(&router, "/ops/queues/orders/pause", "reason=a+move").await;
    assert_eq!(answer.status, StatusCode::SEE_OTHER);
    let place = answer.headers["location"].to_str().unwrap();
    let page = get(&router, place).await.text;
    assert!(
        page.contains("Paused by ada") && page.contains("a move"),
        "{page}"
    );

    post(&router, "/ops/queues/orders/resume", "").await;
    assert!(ezq.queues().pauses().await.unwrap().is_empty());
    let audit = ezq.audit().list().await.unwrap().entries;
    assert!(audit.iter().all(|entry| entry.signature.by == "ada"));
    let handler = post(&router, "/ops/queues/orders/pause", "handler=mail").await;
    assert_eq!(handler.status, StatusCode::SEE_OTHER);
    let pauses = ezq.queues().pauses().await.unwrap();
    assert_eq!(pauses[0].target.handler.as_ref().unwrap().as_str(), "mail");
}

#[ezq::test]
async fn dead_letters_are_redriven_by_id(database: TestDatabase) {
    bury(&database, 120, "{}").await;
    let ezq = application(&database).await;
    let router = mounted(&ezq, operators());
    let first = get(&router, "/ops/queues/orders/dead").await.text;
    let letter = first.split("name=\"id\" value=\"").nth(1).unwrap();
    let letter = letter.split('"').next().unwrap();
    let next = first
        .split("href=\"")
        .find(|part| part.contains("rel=\"next\""))
        .unwrap();
    let next = next.split('"').next().unwrap().replace("&#38;", "&");
    let second = get(&router, &next).await.text;
    assert!(second.contains("First page") && !second.contains(&format!("Select {letter}\"")));

    let form = format!("id={letter}");
    let done = post(&router, "/ops/queues/orders/dead/selected/redrive", &form).await;
    let place = done.headers["location"].to_str().unwrap();
    assert!(
        get(&router, place)
            .await
            .text
            .contains("1 dead letter redriven.")
    );
    assert_eq!(dead(&ezq).await, 119);
    // Whoever acts on it again meanwhile does nothing twice.
    let again = post(&router, "/ops/queues/orders/dead/selected/redrive", &form).await;
    assert!(
        again.headers["location"]
            .to_str()
            .unwrap()
            .ends_with("count=0")
    );
    let gone = get(&router, &format!("/ops/queues/orders/dead/{letter}")).await;
    assert_eq!(gone.status, StatusCode::NOT_FOUND);
}

#[ezq::test]
async fn filters_stand_in_the_address(database: TestDatabase) {
    let ezq = application(&database).await;
    publish(&ezq, "orders", "order.paid", "1").await;
    publish(&ezq, "orders", "order.sent", "2").await;
    let router = mounted(&ezq, Access::read_only());
    let path = "/ops/queues/orders/messages";
    let page = get(&router, &format!("{path}?type=order.paid")).await.text;
    assert!(page.contains("<td>order.paid</td>") && !page.contains("<td>order.sent</td>"));
    let none = get(&router, &format!("{path}?type=order.paid&key=7"))
        .await
        .text;
    assert!(none.contains("No event fits the filter."));
    let wrong = get(&router, &format!("{path}?since=yesterday")).await;
    assert_eq!(wrong.status, StatusCode::BAD_REQUEST);
    let place = get(&router, &format!("{path}?after=nowhere")).await;
    assert_eq!(place.status, StatusCode::BAD_REQUEST);
}

#[ezq::test]
async fn equal_errors_are_one_row_that_leads_to_their_events(database: TestDatabase) {
    let ezq = application(&database).await;
    let router = mounted(&ezq, operators());
    publish(&ezq, "orders", "order.paid", "{}").await;
    let none = get(&router, "/ops/queues/orders/errors").await;
    assert!(none.text.contains("There are no errors"), "{}", none.text);

    bury(&database, 3, "{}").await;
    // The first one still shows what it has read a moment ago.
    let router = mounted(&ezq, operators());
    let page = get(&router, "/ops/queues/orders/errors").await;
    assert_eq!(page.status, StatusCode::OK);
    let error = "no such &#60;account&#62; of #% #";
    assert_eq!(page.text.matches(error).count(), 1, "{}", page.text);

    let (_, rest) = page
        .text
        .split_once("href=\"/ops/queues/orders/dead?")
        .unwrap();
    let (query, rest) = rest.split_once('"').unwrap();
    // The one that was published first died with them.
    assert!(rest.starts_with(">4<"), "{rest}");
    let (_, redrive) = rest
        .split_once("href=\"/ops/queues/orders/all/dead/redrive?")
        .unwrap();
    let redrive = redrive.split('"').next().unwrap().replace("&#38;", "&");
    let preview = get(
        &router,
        &format!("/ops/queues/orders/all/dead/redrive?{redrive}"),
    )
    .await;
    assert!(
        preview.text.contains("<b>4 dead letters</b>"),
        "{}",
        preview.text
    );
    let query = query.replace("&#38;", "&");
    let letters = get(&router, &format!("/ops/queues/orders/dead?{query}")).await;
    assert_eq!(
        letters.text.matches("of 100%").count(),
        4,
        "{}",
        letters.text
    );
}
