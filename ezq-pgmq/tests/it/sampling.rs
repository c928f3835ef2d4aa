//! What is sampled for all processes: who does it, and the oldest snapshot.

use std::time::Duration;

use ezq_core::engine::{Engine, Sampler};
use ezq_pgmq::PgmqEngine;
use sqlx::{Connection as _, PgConnection};

use crate::support::*;

/// Ends the session that holds the lock.
const CUT: &str = "SELECT pg_terminate_backend(pid) FROM pg_locks
                   WHERE locktype = 'advisory' AND objid = x'657a7106'::int
                     AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";

async fn elect(engine: &PgmqEngine) -> Option<Box<dyn Sampler>> {
    engine.overview().unwrap().elect_sampler().await.unwrap()
}

#[tokio::test]
async fn who_lost_the_connection_samples_no_more_and_another_process_does() {
    let url = fresh_database().await;
    let engine = engine_at(&url).await;
    let other = engine_at(&url).await;
    let mut own = PgConnection::connect(&url).await.unwrap();

    let mut first = elect(&engine).await.unwrap();
    assert!(elect(&other).await.is_none());
    first.confirm().await.unwrap();

    run(&mut own, CUT).await;
    let mut second = loop {
        // The server takes a moment to end the session.
        if let Some(second) = elect(&other).await {
            break second;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    first.confirm().await.unwrap_err();
    second.confirm().await.unwrap();
    assert!(elect(&engine).await.is_none());
}

#[tokio::test]
async fn a_snapshot_that_is_held_is_told_with_its_age() {
    let url = fresh_database().await;
    let engine = engine_at(&url).await;
    let overview = engine.overview().unwrap();
    let mut own = PgConnection::connect(&url).await.unwrap();
    let mut holder = PgConnection::connect(&url).await.unwrap();
    run(
        &mut holder,
        "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1",
    )
    .await;
    run(&mut own, "SELECT pg_sleep(0.2)").await;

    let age = overview.oldest_snapshot().await.unwrap().unwrap();
    assert!(age >= Duration::from_millis(200), "{age:?}");

    run(&mut holder, "ROLLBACK").await;
    let left = overview.oldest_snapshot().await.unwrap();
    assert!(left.is_none_or(|left| left < age), "{left:?}");
}
