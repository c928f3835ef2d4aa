//! Consumers are woken, in this process and in others, and across a broken connection.

use std::time::Duration;

use ezq_core::Engine;
use ezq_pgmq::{PgmqConfig, PgmqEngine};
use sqlx::Connection as _;
use tokio::time::timeout;

use crate::support::*;

const PATIENCE: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_publish_wakes_another_process() {
    let (engine, queue) = engine_and_queue().await;
    let other = engine_at(&server().await.url()).await;
    let mut wakeups = other.wakeups(&queue).await.unwrap().unwrap();
    wakeups.mark_unchanged();
    publish(&engine, &queue, &["1"]).await;
    timeout(PATIENCE, wakeups.changed()).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_commit_wakes_and_a_rollback_does_not() {
    let (engine, queue) = engine_and_queue().await;
    let other = engine_at(&server().await.url()).await;
    let mut wakeups = other.wakeups(&queue).await.unwrap().unwrap();
    let mut own = connection().await;
    let mut tx = own.begin().await.unwrap();
    engine.publish_in(&mut tx, vec![message(&queue, "1")]).await.unwrap();
    tx.rollback().await.unwrap();
    // A second one comes after the window of the first.
    tokio::time::sleep(Duration::from_millis(60)).await;
    assert!(!wakeups.has_changed().unwrap());
    let mut tx = own.begin().await.unwrap();
    engine.publish_in(&mut tx, vec![message(&queue, "2")]).await.unwrap();
    tx.commit().await.unwrap();
    timeout(PATIENCE, wakeups.changed()).await.unwrap().unwrap();
}

#[tokio::test]
async fn many_publishes_send_few_notifications() {
    let (engine, queue) = engine_and_queue().await;
    let mut listener = sqlx::postgres::PgListener::connect(&server().await.url()).await.unwrap();
    listener.listen("ezq_wake").await.unwrap();
    let began = tokio::time::Instant::now();
    for _ in 0..100 {
        publish(&engine, &queue, &["1"]).await;
    }
    engine.close().await;
    let windows = began.elapsed().as_millis() / 5 + 2;
    let mut heard: u128 = 0;
    // Its own notification comes after all of the engine's.
    run(&mut connection().await, &format!("NOTIFY ezq_wake, 'last {queue}'")).await;
    loop {
        let notification = timeout(PATIENCE, listener.recv()).await.unwrap().unwrap();
        if notification.payload() == format!("last {queue}") {
            break;
        }
        heard += u128::from(notification.payload() == queue.as_str());
    }
    assert!((1..=windows).contains(&heard), "{heard} in {windows} windows");
}

#[tokio::test]
async fn a_listener_that_was_cut_off_wakes_everyone_when_it_is_back() {
    let name = unique("listener");
    let config = PgmqConfig::url(&server().await.url()).unwrap();
    let engine = PgmqEngine::connect(config.application_name(name.as_str())).await.unwrap();
    let mut wakeups = engine.wakeups(&name).await.unwrap().unwrap();
    let sql = format!(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
         WHERE application_name = '{name}' AND query LIKE 'LISTEN%'"
    );
    assert_eq!(scalar::<i64>(&mut connection().await, &sql).await, 1);
    timeout(PATIENCE, wakeups.changed()).await.unwrap().unwrap();
}
