//! Claims while dead rows cannot be removed, since another session holds a snapshot.

use std::time::{Duration, Instant};

use ezq_core::engine::{Engine as _, LeaseRequest, Leased, SettleOutcome};
use ezq_core::message::QueueName;
use ezq_pgmq::PgmqEngine;
use sqlx::postgres::PgConnection;

use crate::keys_cost::reads_by;
use crate::support::*;

/// So many that a scan of all of them is slow on a fast machine as well.
const DEAD: i64 = 800_000;

/// A session that holds a snapshot, so that what it sees of the queue, which is deleted, stays in the
/// index. All of it was due a minute ago.
async fn hold_dead_rows(queue: &QueueName) -> PgConnection {
    let mut own = connection().await;
    let fill = format!(
        "INSERT INTO pgmq.q_{queue} (vt, message)
         SELECT now() - interval '1 minute', '1' FROM generate_series(1, {DEAD})"
    );
    run(&mut own, &fill).await;

    let mut holder = connection().await;
    run(&mut holder, "BEGIN ISOLATION LEVEL REPEATABLE READ").await;
    let _: i64 = scalar(&mut holder, "SELECT count(*) FROM pgmq.meta").await;
    run(&mut own, &format!("DELETE FROM pgmq.q_{queue}")).await;
    holder
}

async fn ask(engine: &PgmqEngine, queue: &QueueName) -> Leased {
    let request = LeaseRequest::new(queue.clone(), 100, Duration::from_secs(30));
    engine.lease(request).await.unwrap()
}

/// Claims until the engine starts at a cursor: a few slow claims in a row show it that it should.
async fn reach_the_cursor(engine: &PgmqEngine, queue: &QueueName) {
    for _ in 0..100 {
        if ask(engine, queue).await.is_partial {
            return;
        }
    }
    panic!("each claim looked through {DEAD} dead rows");
}

async fn store(queue: &QueueName, age: &str) {
    let mut own = connection().await;
    let insert = format!(
        "INSERT INTO pgmq.q_{queue} (vt, message) VALUES (clock_timestamp() - interval '{age}', '1')"
    );
    run(&mut own, &insert).await;
}

#[tokio::test]
async fn claims_of_a_few_messages_do_not_read_all_dead_rows() {
    let (engine, queue) = engine_and_queue().await;
    publish(&engine, &queue, &["1"]).await;
    assert_eq!(acknowledge_all(&engine, &queue).await, 1);
    let _holder = hold_dead_rows(&queue).await;

    let url = server().await.url();
    let (read, claimed) = reads_by(&url, engine, &queue, "SELECT", async |engine| {
        let mut claimed = 0;
        for _ in 0..100 {
            publish(engine, &queue, &["1", "2"]).await;
            claimed += acknowledge_all(engine, &queue).await;
        }
        claimed
    })
    .await;
    assert_eq!(claimed, 200);
    // A claim that finds nothing looks twice.
    assert!(read < 20 * DEAD, "{read} rows read");
}

#[tokio::test]
async fn what_became_visible_late_is_found_before_the_cursor() {
    let (engine, queue) = engine_and_queue().await;
    let _holder = hold_dead_rows(&queue).await;
    for age in ["5 seconds", "2 minutes"] {
        reach_the_cursor(&engine, &queue).await;
        store(&queue, age).await;

        let begun = Instant::now();
        loop {
            let leased = ask(&engine, &queue).await;
            if let Some(found) = leased.deliveries.first() {
                assert_eq!(found.body, "1");
                break;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "{age} old");
            tokio::time::sleep(leased.next_due.unwrap_or_default()).await;
        }
    }
}

#[tokio::test]
async fn a_claim_that_must_miss_nothing_starts_at_the_front() {
    let (engine, queue) = engine_and_queue().await;
    let _holder = hold_dead_rows(&queue).await;
    reach_the_cursor(&engine, &queue).await;
    store(&queue, "2 minutes").await;
    store(&queue, "0 seconds").await;

    let newest = lease(&engine, &queue).await.pop().unwrap();
    let request = LeaseRequest::new(queue.clone(), 100, Duration::from_secs(30));
    let leased = engine
        .lease(request.clone().before(newest.position()))
        .await
        .unwrap();
    assert_eq!(leased.deliveries.len(), 1);
    assert!(!leased.is_partial);

    // As of a consumer that runs until its queue is idle.
    reach_the_cursor(&engine, &queue).await;
    store(&queue, "2 minutes").await;
    let request = request.exhaustive();
    assert_eq!(
        engine
            .lease(request.clone())
            .await
            .unwrap()
            .deliveries
            .len(),
        1
    );
    reach_the_cursor(&engine, &queue).await;
    assert!(!engine.lease(request).await.unwrap().is_partial);
}

#[tokio::test]
async fn counting_a_large_queue_again_and_again_reads_it_a_few_times() {
    let (engine, queue) = engine_and_queue().await;
    let _holder = hold_dead_rows(&queue).await;
    let url = server().await.url();
    let (read, ()) = reads_by(&url, engine, &queue, "SELECT", async |engine| {
        for _ in 0..200 {
            assert_eq!(engine.stats(&queue).await.unwrap().ready, 0);
            assert_eq!(engine.lag(&queue).await.unwrap(), None);
        }
    })
    .await;
    assert!(read < 40 * DEAD, "{read} rows read");
}

#[tokio::test]
async fn what_was_asked_of_a_large_queue_is_told_anew_after_a_while_and_after_a_purge() {
    let (engine, queue) = engine_and_queue().await;
    let _holder = hold_dead_rows(&queue).await;
    assert_eq!(engine.stats(&queue).await.unwrap().ready, 0);
    publish(&engine, &queue, &["1"]).await;

    let begun = Instant::now();
    while engine.stats(&queue).await.unwrap().ready == 0
        || engine.lag(&queue).await.unwrap().is_none()
    {
        assert!(begun.elapsed() < Duration::from_secs(60));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(engine.purge(&queue).await.unwrap(), 1);
    assert_eq!(engine.stats(&queue).await.unwrap().ready, 0);
    assert_eq!(engine.lag(&queue).await.unwrap(), None);
}

/// Claims one message in a transaction, and commits.
async fn take_one(engine: &PgmqEngine, queue: &QueueName) -> usize {
    let mut unit = engine.begin(queue, None).await.unwrap();
    let claimed = unit.claim(100).await.unwrap().len();
    let settled = unit.finish(Vec::new(), Vec::new()).await.unwrap();
    assert!(matches!(settled, SettleOutcome::Done), "{settled:?}");
    claimed
}

#[tokio::test]
async fn claims_in_transactions_do_not_read_all_dead_rows() {
    let (engine, queue) = engine_and_queue().await;
    let _holder = hold_dead_rows(&queue).await;
    let url = server().await.url();
    let (read, claimed) = reads_by(&url, engine, &queue, "SELECT", async |engine| {
        let mut claimed = 0;
        for _ in 0..50 {
            publish(engine, &queue, &["1"]).await;
            claimed += take_one(engine, &queue).await;
        }
        claimed
    })
    .await;
    assert_eq!(claimed, 50);
    assert!(read < 15 * DEAD, "{read} rows read");
}

#[tokio::test]
async fn what_a_transaction_claimed_is_found_at_once_when_it_is_rolled_back() {
    let (engine, queue) = engine_and_queue().await;
    let _holder = hold_dead_rows(&queue).await;
    reach_the_cursor(&engine, &queue).await;
    publish(&engine, &queue, &["1"]).await;
    let old = format!("UPDATE pgmq.q_{queue} SET vt = clock_timestamp() - interval '30 seconds'");
    run(&mut connection().await, &old).await;

    // A claim from the front finds it, and leaves a cursor behind it.
    let mut unit = loop {
        let mut unit = engine.begin(&queue, None).await.unwrap();
        if unit.claim(100).await.unwrap().len() == 1 {
            break unit;
        }
        unit.abandon().await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(unit.claim(100).await.unwrap().is_empty());
    unit.abandon().await;
    assert_eq!(lease(&engine, &queue).await.len(), 1);
}
