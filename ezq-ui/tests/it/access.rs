//! Who may look and act, and what every answer carries.

use axum::body::Body;
use axum::http::{Request, StatusCode};
use ezq::admin::EventState;
use ezq::testing::TestDatabase;
use ezq::{Event, Ezq, sqlx};
use ezq_ui::{Access, Grant};
use serde::{Deserialize, Serialize};

use crate::stage::{application, bury, dead, get, mounted, operators, post, publish, send};

#[derive(Event, Serialize, Deserialize)]
#[event(type = "sweep.due", queue = "sweeps")]
struct Sweep {}

const PAGES: [&str; 17] = [
    "/ops",
    "/ops/queues",
    "/ops/queues/orders",
    "/ops/queues/orders/messages",
    "/ops/queues/orders/dead",
    "/ops/queues/orders/errors",
    "/ops/queues/orders/all/dead/redrive",
    "/ops/queues/orders/all/ready/move",
    "/ops/operations",
    "/ops/audit",
    "/ops/schedules",
    "/ops/consumers",
    "/ops/subscriptions",
    "/ops/catalogue",
    "/ops/replays",
    "/ops/captures",
    "/ops/health",
];

const ACTIONS: [(&str, &str); 17] = [
    ("/ops/queues/orders/pause", "reason=x"),
    ("/ops/queues/orders/resume", ""),
    ("/ops/queues/orders/events/x/retry", "id=1"),
    ("/ops/queues/orders/events/x/cancel", "id=1"),
    ("/ops/queues/orders/events/x/move", "id=1&to=mails"),
    ("/ops/queues/orders/events/x/discard", "id=1"),
    ("/ops/queues/orders/dead/1/move", "id=1&to=mails"),
    ("/ops/health/examine", ""),
    ("/ops/queues/orders/dead/selected/redrive", "id=1"),
    ("/ops/queues/orders/dead/selected/discard", "id=1"),
    ("/ops/queues/orders/all/dead/redrive", "last=99"),
    ("/ops/queues/orders/all/dead/discard", "last=99"),
    ("/ops/queues/orders/all/ready/move", "last=99&to=mails"),
    ("/ops/operations/x/stop", ""),
    ("/ops/operations/x/resume", ""),
    ("/ops/schedules/sweep/pause", ""),
    ("/ops/schedules/sweep/run", ""),
];

#[ezq::test]
async fn one_who_may_only_look_is_refused_every_action(database: TestDatabase) {
    bury(&database, 1, "{}").await;
    let ezq = application(&database).await;
    let router = mounted(&ezq, Access::read_only());
    for page in PAGES {
        assert_eq!(get(&router, page).await.status, StatusCode::OK, "{page}");
    }
    for (action, form) in ACTIONS {
        let answer = post(&router, action, form).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{action}");
    }
    assert_eq!(dead(&ezq).await, 1);

    let page = get(&router, "/ops/queues/orders").await.text;
    assert!(page.contains("<button disabled>Pause the queue</button>"));
}

/// The application as a role that may read everything, and may do what `grants` says.
async fn reader(database: &TestDatabase, owner: &Ezq, name: &str, grants: &str) -> Ezq {
    let role = format!("{name}_{}", std::process::id());
    let grants = grants.replace("ROLE", &role);
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!(
        "CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA pgmq, ezq TO {role};
         GRANT SELECT ON ALL TABLES IN SCHEMA pgmq, ezq TO {role}; {grants}"
    )))
    .execute(owner.pool())
    .await
    .unwrap();

    let url = database.url();
    let (start, rest) = url.split_once("://").unwrap();
    let (_, place) = rest.split_once('@').unwrap();
    let builder = Ezq::builder().without_discovered_handlers();
    let reader = builder
        .database_url(format!("{start}://{role}@{place}"))
        .manage_schema(false);
    reader.connect().await.unwrap()
}

#[ezq::test]
async fn a_role_that_may_only_read_sees_everything_and_is_refused_every_action(
    database: TestDatabase,
) {
    bury(&database, 1, "{}").await;
    let owner = application(&database).await;
    publish(&owner, "orders", "order.paid", "1").await;
    // Makes the tables of operations.
    let events = owner.events("orders").unwrap();
    let started = events.all(EventState::Dead).discard().start().await;
    let id = started.unwrap().id;
    owner.operations().stop(&id).await.unwrap();
    let reader = reader(&database, &owner, "reader", "").await;
    // The policy lets them act, and the database does not.
    let router = mounted(&reader, operators());
    for page in PAGES {
        let answer = get(&router, page).await;
        assert_eq!(answer.status, StatusCode::OK, "{page}: {}", answer.text);
        assert!(!answer.text.contains("could not be read:"), "{page}");
        let grey = acting_buttons(&answer.text);
        let is_grey = grey.iter().all(|button| button.contains(" disabled"));
        assert!(is_grey, "{page}: {grey:?}");
        let why = "the role of this dashboard may look at the database and change nothing";
        assert!(answer.text.contains(why), "{page}: {}", answer.text);
    }
    for (action, form) in [
        ("/ops/queues/orders/pause", "reason=x"),
        ("/ops/queues/orders/events/x/discard", "id=1"),
        ("/ops/queues/orders/events/x/cancel", "id=1"),
        ("/ops/queues/orders/dead/selected/discard", "id=1"),
        ("/ops/queues/orders/all/dead/discard", "last=99"),
        (&format!("/ops/operations/{id}/stop"), ""),
    ] {
        let answer = post(&router, action, form).await;
        assert_eq!(
            answer.status,
            StatusCode::FORBIDDEN,
            "{action}: {}",
            answer.text
        );
    }
    assert_eq!(dead(&owner).await, 1);
}

#[ezq::test]
async fn buttons_are_grey_on_the_events_of_a_queue_that_the_role_may_not_change(
    database: TestDatabase,
) {
    bury(&database, 1, "{}").await;
    let owner = application(&database).await;
    let event = publish(&owner, "orders", "order.paid", "1").await;
    let mail = publish(&owner, "mails", "mail.wanted", "1").await;
    owner
        .queues()
        .pause_handler("orders", "mail")
        .await
        .unwrap();
    let grants = "GRANT INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA ezq TO ROLE;
                  GRANT INSERT, UPDATE, DELETE ON pgmq.q_mails TO ROLE";
    let router = reader(&database, &owner, "steerer", grants).await;
    let router = mounted(&router, operators());

    for (path, is_grey) in [
        (format!("/ops/queues/orders/events/{event}"), true),
        ("/ops/queues/orders/dead".to_owned(), true),
        ("/ops/queues/orders/all/dead/redrive".to_owned(), true),
        // A pause changes no event.
        ("/ops/queues/orders".to_owned(), false),
        (format!("/ops/queues/mails/events/{mail}"), false),
    ] {
        let page = get(&router, &path).await.text;
        let buttons = acting_buttons(&page);
        assert!(!buttons.is_empty(), "{path}: {page}");
        for button in buttons {
            assert_eq!(button.contains(" disabled"), is_grey, "{path}: {button}");
        }
    }
    let pause = post(&router, "/ops/queues/orders/pause", "reason=x").await;
    assert_eq!(pause.status, StatusCode::SEE_OTHER, "{}", pause.text);
}

#[ezq::test]
async fn one_without_access_sees_nothing(database: TestDatabase) {
    let ezq = application(&database).await;
    let router = mounted(&ezq, Access::forbidden());
    let malformed = [
        "/ops/nowhere",
        "/ops/queues/%FF",
        "/ops/queues/orders/messages?state=a&state=b",
    ];
    for page in PAGES.into_iter().chain(malformed) {
        let answer = get(&router, page).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{page}");
    }
    for (action, form) in ACTIONS {
        let answer = post(&router, action, form).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{action}");
    }
}

#[ezq::test]
async fn the_policy_decides_each_request(database: TestDatabase) {
    let ezq = application(&database).await;
    let access = Access::decided(|request| match request.headers.get("x-user") {
        Some(_) => Grant::Read,
        None => Grant::Forbidden,
    });
    let router = mounted(&ezq, access);
    assert_eq!(get(&router, "/ops").await.status, StatusCode::FORBIDDEN);
    let request = Request::get("/ops").header("x-user", "ada");
    let answer = send(&router, request.body(Body::empty()).unwrap()).await;
    assert_eq!(answer.status, StatusCode::OK);
}

#[ezq::test]
async fn a_write_that_another_site_sends_does_nothing(database: TestDatabase) {
    bury(&database, 1, "{}").await;
    let ezq = application(&database).await;
    let router = mounted(&ezq, operators());
    let path = "/ops/queues/orders/all/dead/discard?last=99";
    for (name, value) in [
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
        ("origin", "https://evil.example"),
        ("x-nothing", "at all"),
    ] {
        let request = Request::post(path)
            .header("host", "ops.example")
            .header(name, value)
            .header("content-type", "application/x-www-form-urlencoded");
        let answer = send(&router, request.body(Body::empty()).unwrap()).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{name}: {value}");
    }
    assert_eq!(dead(&ezq).await, 1);
}

#[ezq::test]
async fn every_answer_has_its_headers(database: TestDatabase) {
    let ezq = application(&database).await;
    let router = mounted(&ezq, operators());
    for path in [
        "/ops",
        "/ops/nowhere",
        "/ops/queues/missing",
        "/ops/assets/none",
    ] {
        let headers = get(&router, path).await.headers;
        let policy = headers["content-security-policy"].to_str().unwrap();
        assert!(policy.contains("script-src 'self';"), "{path}: {policy}");
        assert!(policy.contains("frame-ancestors 'none'") && !policy.contains("unsafe"));
        assert_eq!(headers["x-content-type-options"], "nosniff");
        assert_eq!(headers["referrer-policy"], "same-origin");
        assert_eq!(headers["cache-control"], "no-store");
    }

    let page = get(&router, "/ops").await.text;
    let asset = page
        .split("href=\"")
        .find(|part| part.contains(".css"))
        .unwrap();
    let asset = asset.split('"').next().unwrap();
    assert!(asset.starts_with("/ops/assets/ezq."));
    let answer = get(&router, asset).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert!(
        answer.headers["cache-control"]
            .to_str()
            .unwrap()
            .contains("immutable")
    );
    // Nothing inline, which the policy would block.
    assert!(!page.contains(" style=") && !page.contains("<script>") && !page.contains(" onclick="));
}

/// The buttons of forms that change something, as they stand in a page.
fn acting_buttons(page: &str) -> Vec<&str> {
    let forms = page.split("<form method=\"post\"").skip(1);
    let forms = forms.filter_map(|form| form.split("</form>").next());
    forms
        .flat_map(|form| form.split("<button").skip(1))
        .filter_map(|button| button.split('>').next())
        .collect()
}

#[ezq::test]
async fn every_button_that_acts_is_grey_for_one_who_may_only_look(database: TestDatabase) {
    bury(&database, 2, "{}").await;
    let hourly = ezq::schedule::Schedule::every(std::time::Duration::from_secs(3600));
    let builder = database.builder().without_discovered_handlers();
    let ezq = builder.schedule("sweep", hourly, &Sweep {});
    let ezq = ezq.connect().await.unwrap();
    ezq.schedules().unwrap().resume("sweep").await.unwrap();
    let event = publish(&ezq, "orders", "order.paid", "1").await;
    let dead = ezq.events("orders").unwrap().all(EventState::Dead);
    let running = dead.discard().start().await.unwrap().id;
    let dead = ezq.events("orders").unwrap().all(EventState::Dead);
    let stopped = dead.redrive().start().await.unwrap().id;
    ezq.operations().stop(&stopped).await.unwrap();
    ezq.queues().pause_handler("orders", "mail").await.unwrap();

    let viewer = mounted(&ezq, Access::read_only());
    let operator = mounted(&ezq, operators());
    let more = [
        format!("/ops/queues/orders/events/{event}"),
        "/ops/queues/orders/dead/1".to_owned(),
        format!("/ops/operations/{running}"),
        format!("/ops/operations/{stopped}"),
    ];
    let mut with_buttons = 0;
    for path in PAGES.into_iter().chain(more.iter().map(String::as_str)) {
        let page = get(&viewer, path).await;
        assert_eq!(page.status, StatusCode::OK, "{path}");
        for button in acting_buttons(&page.text) {
            assert!(button.contains(" disabled"), "{path}: <button{button}>");
        }
        // The same page lets others act.
        let page = get(&operator, path).await.text;
        let buttons = acting_buttons(&page);
        let is_grey = buttons.iter().any(|button| button.contains(" disabled"));
        assert!(!is_grey, "{path}: {buttons:?}");
        with_buttons += usize::from(!buttons.is_empty());
    }
    assert!(with_buttons >= 9, "{with_buttons} pages have actions");
}

#[ezq::test]
async fn a_mistyped_queue_is_answered_with_the_one_that_was_meant(database: TestDatabase) {
    bury(&database, 1, "{}").await;
    let ezq = application(&database).await;
    publish(&ezq, "mails", "mail.wanted", "1").await;
    let router = mounted(&ezq, operators());
    for path in PAGES.into_iter().filter(|path| path.contains("/queues/")) {
        let wrong = path.replace("orders", "ordres");
        let answer = get(&router, &wrong).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{wrong}");
        assert!(
            answer.text.contains("/queues/orders\">orders</a>"),
            "{wrong}: {}",
            answer.text
        );
    }
    for (path, form) in ACTIONS
        .into_iter()
        .filter(|(path, _)| path.contains("/queues/"))
    {
        let wrong = path.replace("orders", "ordres");
        let answer = post(&router, &wrong, form).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{wrong}");
        assert!(
            answer.text.contains("/queues/orders\">orders</a>"),
            "{wrong}: {}",
            answer.text
        );
    }
}
