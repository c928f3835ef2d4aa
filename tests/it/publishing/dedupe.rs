//! Dedupe keys: a second publish within the window stores nothing.

use std::time::Duration;

use ezq::prelude::*;
use ezq::{ErrorKind, sqlx};

use super::connect;
use crate::kit::{Numbered, app, drain, held, queue};

pub(super) const PAUSE: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn an_event_with_a_known_key_is_a_duplicate_of_the_first() {
    let queue = queue();
    let (ezq, work) = connect(&queue).await;
    let publish = |n| ezq.publish(&Numbered { n }).dedupe_key("order-7");
    let first = publish(1).await.unwrap();
    assert!(!first.is_duplicate);

    let second = publish(2).await.unwrap();
    assert!(second.is_duplicate);
    assert_eq!(
        (second.id.clone(), second.event_id.clone()),
        (first.id.clone(), first.event_id.clone())
    );
    assert_eq!(drain(&ezq).await.counts.handled, 1);
    assert_eq!(publish(3).await.unwrap(), second);

    // Another queue, another key, no key.
    let elsewhere = crate::kit::queue();
    assert!(!publish(4).queue(&elsewhere).await.unwrap().is_duplicate);

    let other = ezq
        .publish(&Numbered { n: 5 })
        .dedupe_key("order-8")
        .await
        .unwrap();
    assert!(!other.is_duplicate && other.event_id != first.event_id);

    ezq.publish(&Numbered { n: 6 }).await.unwrap();
    drain(&ezq).await;
    assert_eq!(work.handled.sorted(), [1, 5, 6]);
}

#[tokio::test]
async fn a_key_is_free_after_the_window_of_the_publish_or_of_the_application() {
    let queue = queue();
    let minute = Duration::from_secs(60);
    let builder = app(&queue).configure(|config| config.dedupe_window = minute);
    let ezq = builder.connect().await.unwrap();
    ezq.publish(&Numbered { n: 1 })
        .dedupe_key("a")
        .await
        .unwrap();

    ezq.publish(&Numbered { n: 1 })
        .dedupe_key("b")
        .dedupe_window(2 * minute)
        .await
        .unwrap();

    let sql = "SELECT array_agg(extract(epoch FROM free_at - taken_at)::int ORDER BY key)
               FROM ezq.dedupe WHERE queue = $1";
    let windows: Vec<i32> = sqlx::query_scalar(sql)
        .bind(queue.as_str())
        .fetch_one(ezq.pool())
        .await
        .unwrap();
    assert_eq!(windows, [60, 120]);

    for wrong in [
        ezq.publish(&Numbered { n: 1 }).dedupe_key(""),
        ezq.publish(&Numbered { n: 1 }).dedupe_key("a".repeat(256)),
        ezq.publish(&Numbered { n: 1 }).dedupe_key("a\0"),
        ezq.publish(&Numbered { n: 1 })
            .dedupe_key("a")
            .dedupe_window(Duration::ZERO),
        ezq.publish(&Numbered { n: 1 }).dedupe_window(minute),
    ] {
        assert_eq!(wrong.await.unwrap_err().kind(), ErrorKind::InvalidEvent);
    }
}

#[tokio::test]
async fn a_key_in_a_transaction_is_taken_when_that_commits() {
    let queue = queue();
    let (ezq, _) = connect(&queue).await;
    let publish = || ezq.publish(&Numbered { n: 1 }).dedupe_key("a");
    let mut tx = ezq.pool().begin().await.unwrap();
    assert!(!publish().within(&mut tx).await.unwrap().is_duplicate);

    tx.rollback().await.unwrap();
    let mut tx = ezq.pool().begin().await.unwrap();
    let first = publish().within(&mut tx).await.unwrap();
    let again = publish().within(&mut tx).await.unwrap();
    assert!(again.is_duplicate);
    assert_eq!(
        (again.id.clone(), again.event_id.clone()),
        (first.id.clone(), first.event_id.clone())
    );

    tx.commit().await.unwrap();
    assert_eq!(publish().await.unwrap(), again);
    assert_eq!(held(&ezq, &queue).await, [1, 0, 0, 0]);
}

#[tokio::test]
async fn keys_work_again_after_their_queue_and_their_schema_were_dropped() {
    let name = crate::database::unique("dropped");
    let server = crate::database::server().await;
    let mut admin = crate::database::connection(&server.url()).await;
    crate::database::run(&mut admin, &format!("CREATE DATABASE {name}")).await;

    let ezq = crate::database::app(&server.database_url(name.as_str()), []).await;
    let publish = || ezq.publish(&Numbered { n: 1 }).dedupe_key("a");
    for drop in ["SELECT pgmq.drop_queue('ezq')", "DROP SCHEMA ezq CASCADE"] {
        assert!(!publish().await.unwrap().is_duplicate);
        assert!(publish().await.unwrap().is_duplicate);
        sqlx::raw_sql(drop).execute(ezq.pool()).await.unwrap();
    }
    assert!(!publish().await.unwrap().is_duplicate);
}
