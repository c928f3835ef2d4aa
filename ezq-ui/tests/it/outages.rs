//! A database that is away or slow: a page shows a banner and the last good figures, and never hangs.

use std::time::{Duration, Instant};

use axum::Router;
use axum::http::StatusCode;
use ezq::sqlx;
use ezq::testing::TestDatabase;
use ezq_ui::Dashboard;

use crate::stage::{application, get, operators, publish};

#[ezq::test]
async fn a_slow_database_shows_a_banner_and_the_last_figures(database: TestDatabase) {
    let ezq = application(&database).await;
    publish(&ezq, "orders", "order.paid", "1").await;
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

    let banner = async {
        loop {
            let began = Instant::now();
            let page = get(&router, "/ops").await;
            assert!(
                began.elapsed() < Duration::from_secs(5),
                "{:?}",
                began.elapsed()
            );
            assert_eq!(page.status, StatusCode::OK);
            assert!(
                page.text.contains("/ops/queues/orders\">orders"),
                "{}",
                page.text
            );
            if page.text.contains("The database does not answer:") {
                assert!(page.text.contains("The figures are of"));
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), banner)
        .await
        .unwrap();
    let list = get(&router, "/ops/queues/orders/messages").await;
    assert!(list.status.is_server_error(), "{}", list.status);
    assert!(
        list.text.contains("No answer from the database"),
        "{}",
        list.text
    );

    holder.rollback().await.unwrap();
    let mended = async {
        while get(&router, "/ops")
            .await
            .text
            .contains("The database does not answer:")
        {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), mended)
        .await
        .unwrap();
}
