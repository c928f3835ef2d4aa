//! What each screen shows of a shop at work.

use axum::Router;
use ezq::admin::EventState;
use ezq::sqlx;
use ezq::testing::TestDatabase;

use crate::shop::Shop;
use crate::stage::{get, mounted, operators};

/// A page, which has all these texts.
async fn shows(router: &Router, path: &str, texts: &[&str]) -> String {
    let page = get(router, path).await.text;
    for text in texts {
        assert!(page.contains(text), "{path} has no {text}: {page}");
    }
    page
}

#[ezq::test]
async fn every_screen_shows_what_it_is_about(database: TestDatabase) {
    let shop = Shop::open(&database).await;
    let router = mounted(&shop.ezq, operators());
    let process = std::process::id().to_string();

    for (path, texts) in [
        // What needs attention, the line of five minutes, and who fails.
        (
            "/ops",
            &["invoices", "<svg", "charge", "the bank gave no answer"][..],
        ),
        ("/ops/queues/payments", &["charge", "demo-shop", &process]),
        (
            "/ops/schedules",
            &["carts.sweep", "Every 15s", "reports.sales", "Every 20s"],
        ),
        (
            "/ops/consumers",
            &["demo-shop", "charge", &process, "running"],
        ),
        (
            "/ops/subscriptions?type=order.paid",
            &["shipping", "Because of", "<code>order.paid</code>"],
        ),
        (
            "/ops/subscriptions?type=nobody.wants",
            &["No queue gets a broadcast event of the type"],
        ),
        (
            "/ops/catalogue",
            &["payment.wanted", "charge", "demo-shop", "Who gets it?"],
        ),
        ("/ops/replays", &["reserve anew", "orders", ">done<"]),
        (
            "/ops/captures",
            &["public.customers", "orders", "id, name", ">captured<"],
        ),
    ] {
        shows(&router, path, texts).await;
    }
    let captured = shows(&router, "/ops/captures", &[]).await;
    assert!(!captured.contains("password"), "{captured}");
    shop.close().await;
}

#[ezq::test]
async fn the_timeline_of_an_event_tells_of_its_attempts_with_their_errors(database: TestDatabase) {
    let shop = Shop::open(&database).await;
    let router = mounted(&shop.ezq, operators());
    let (_, dead) = shop
        .screens
        .iter()
        .find(|(name, _)| *name == "dead-letter")
        .unwrap();
    let published = "<b>Published</b>";
    shows(
        &router,
        dead,
        &["Timeline", published, "the card has expired", "charge"],
    )
    .await;

    // One that waits for its next attempt. The worker is gone, so it stays as it is.
    let ezq = shop.ezq.clone();
    let waits =
        "SELECT message ->> 'id' FROM pgmq.q_payments WHERE headers ? 'ezq-h:charge' LIMIT 1";
    let found: Option<String> = sqlx::query_scalar(waits)
        .fetch_optional(ezq.pool())
        .await
        .unwrap();
    let id = found.expect("the bank has not answered some of them");
    let path = format!("/ops/queues/payments/events/{id}");
    shows(
        &router,
        &path,
        &[
            published,
            "the bank gave no answer",
            "charge: attempt 1 failed",
        ],
    )
    .await;
    let retrying = ezq.events("payments").unwrap().page(EventState::Retrying);
    assert!(!retrying.await.unwrap().events.is_empty());
    shop.close().await;
}
