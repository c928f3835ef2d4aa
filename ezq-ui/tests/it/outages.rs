//! A database that is away, or of which a queue is locked: a page shows a banner and the last good
//! figures, and never hangs.

use std::time::{Duration, Instant};

use axum::Router;
use axum::http::StatusCode;
use ezq::testing::TestDatabase;
use ezq::{Ezq, sqlx};
use ezq_ui::Dashboard;

use crate::counting::Counting;
use crate::stage::{Answer, application, bury, get, operators, post, publish};

/// The banner of a page whose figures are old.
const BANNER: &str = "These figures could not be read:";

/// A page, which comes within the time that a page may take.
async fn in_time(router: &Router, path: &str) -> Answer {
    let began = Instant::now();
    let page = get(router, path).await;
    let took = began.elapsed();
    assert!(took < Duration::from_secs(6), "{path}: {took:?}");
    page
}

/// Asks for a page until it is as wanted.
async fn until(router: &Router, path: &str, is_wanted: impl Fn(&str) -> bool) -> String {
    let asked = async {
        loop {
            let page = in_time(router, path).await;
            assert_eq!(page.status, StatusCode::OK, "{path}: {}", page.text);
            if is_wanted(&page.text) {
                return page.text;
            }
        }
    };
    let limit = Duration::from_secs(40);
    let found = tokio::time::timeout(limit, asked).await;
    found.unwrap_or_else(|_| panic!("{path} does not show what is wanted"))
}

#[ezq::test]
async fn a_queue_that_cannot_be_read_hides_no_other(database: TestDatabase) {
    let ezq = application(&database).await;
    publish(&ezq, "orders", "order.paid", "1").await;
    publish(&ezq, "mails", "mail.wanted", "1").await;
    let every = Duration::from_millis(100);
    let dashboard = Dashboard::new(ezq.clone(), operators()).refresh(every);
    let router = Router::new().nest("/ops", dashboard.router());
    assert!(get(&router, "/ops").await.text.contains("orders"));

    // Whoever wants to read the queue waits for this lock.
    let other = application(&database).await;
    let mut holder = other.pool().begin().await.unwrap();
    sqlx::raw_sql("LOCK TABLE pgmq.q_orders IN ACCESS EXCLUSIVE MODE")
        .execute(&mut *holder)
        .await
        .unwrap();
    let page = until(&router, "/ops", |page| {
        page.contains("tag gone\">unreadable")
    })
    .await;
    assert!(page.contains("orders cannot be read"), "{page}");
    assert!(page.contains("Nobody consumes mails"), "{page}");
    assert!(!page.contains(BANNER), "{page}");
    let queue = in_time(&router, "/ops/queues/orders").await;
    assert!(
        queue.text.contains("This queue cannot be read"),
        "{}",
        queue.text
    );

    // What is new in another queue is seen all the same.
    publish(&ezq, "mails", "mail.wanted", "2").await;
    until(&router, "/ops", |page| page.contains("2 ready, the oldest")).await;
    let list = in_time(&router, "/ops/queues/orders/messages").await;
    assert!(list.status.is_server_error(), "{}", list.status);
    assert!(
        list.text.contains("No answer from the database"),
        "{}",
        list.text
    );

    holder.rollback().await.unwrap();
    until(&router, "/ops", |page| !page.contains("unreadable")).await;
}

#[ezq::test]
async fn a_database_that_does_not_answer_keeps_no_page_waiting(database: TestDatabase) {
    bury(&database, 3, "{}").await;
    let (proxy, url) = Counting::before(&database.url(), "stalled");
    let builder = Ezq::builder().without_discovered_handlers();
    let ezq = builder.database_url(&url).connect().await.unwrap();
    let every = Duration::from_millis(100);
    let dashboard = Dashboard::new(ezq.clone(), operators()).refresh(every);
    let router = Router::new().nest("/ops", dashboard.router());
    let shown = "orders has dead letters";
    until(&router, "/ops", |page| {
        page.contains(shown) && !page.contains(BANNER)
    })
    .await;

    proxy.stall(true);
    let page = until(&router, "/ops", |page| page.contains(BANNER)).await;
    assert!(
        page.contains(shown) && page.contains("The figures are of"),
        "{page}"
    );
    // A page that nobody has opened before has no figures, and comes in time as well.
    in_time(&router, "/ops/schedules").await;
    let list = in_time(&router, "/ops/queues/orders/messages").await;
    assert!(list.status.is_server_error(), "{}", list.status);

    proxy.stall(false);
    until(&router, "/ops", |page| {
        page.contains(shown) && !page.contains(BANNER)
    })
    .await;
}

#[ezq::test]
async fn a_database_that_is_away_leaves_every_screen_its_last_figures(database: TestDatabase) {
    bury(&database, 3, "{}").await;
    let (proxy, url) = Counting::before(&database.url(), "away");
    let builder = Ezq::builder().without_discovered_handlers();
    let ezq = builder.database_url(&url).connect().await.unwrap();
    let every = Duration::from_millis(100);
    let dashboard = Dashboard::new(ezq.clone(), operators()).refresh(every);
    let router = Router::new().nest("/ops", dashboard.router());
    post(&router, "/ops/queues/orders/pause", "reason=a+move").await;
    let screens = [
        ("/ops", "orders has dead letters"),
        ("/ops/queues/orders", "Paused by ada"),
        ("/ops/queues/orders/errors", "no such &#60;account&#62;"),
        ("/ops/audit", "<code>pause</code>"),
        ("/ops/operations", "Nothing was done to many events"),
        ("/ops/health", "Engines"),
    ];
    for (path, shown) in screens {
        until(&router, path, |page| {
            page.contains(shown) && !page.contains(BANNER)
        })
        .await;
    }

    proxy.cut();
    for (path, shown) in screens {
        // The health has its own words for an engine that does not answer.
        let is_told = |page: &str| page.contains(BANNER) || page.contains("not ready");
        let page = until(&router, path, is_told).await;
        assert!(page.contains(shown), "{path}: {page}");
    }
    for path in [
        "/ops/queues/orders/messages",
        "/ops/queues/orders/all/dead/redrive",
        "/ops/audit?by=ada",
        "/ops/operations/none",
    ] {
        let page = in_time(&router, path).await;
        assert!(page.status.is_server_error(), "{path}: {}", page.status);
        assert!(page.text.contains("No answer from the database"), "{path}");
    }
}
