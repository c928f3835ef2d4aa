//! The oldest PGMQ that ezq supports, and one before `last_read_at` that was upgraded past it.
//!
//! No release has PGMQ 1.5.1 as SQL for a server without the extension. The upgrade scripts from
//! 1.4.0 on define every function anew, so they rebuild it from the tables and types of 1.4.0.

use std::path::Path;
use std::time::Duration;

use ezq_core::engine::{
    Advance, CopyState, DeadLetters as _, Engine, ExtendOutcome, Fired, Firing, PublishOutcome,
    Registration, ScheduleStore, Settle, SettleOutcome,
};
use ezq_core::message::{QueueName, Retention};
use sqlx::{Connection as _, PgConnection};

use crate::support::*;

/// What existed before the first script: only what later ones do not define.
const BEFORE: &str = "
    CREATE SCHEMA pgmq;
    CREATE TABLE pgmq.meta (
      queue_name varchar UNIQUE NOT NULL, is_partitioned boolean NOT NULL,
      is_unlogged boolean NOT NULL, created_at timestamptz DEFAULT now() NOT NULL);
    CREATE TYPE pgmq.message_record AS (
      msg_id bigint, read_ct integer, enqueued_at timestamptz, vt timestamptz, message jsonb);
    CREATE TYPE pgmq.queue_record AS (
      queue_name varchar, is_partitioned boolean, is_unlogged boolean, created_at timestamptz);
    CREATE FUNCTION pgmq.validate_queue_name(queue_name text) RETURNS void
      LANGUAGE plpgsql AS 'BEGIN END';
    -- Tables of an extension that is not there need not be added to it.
    CREATE FUNCTION pgmq._belongs_to_pgmq(table_name text) RETURNS boolean
      LANGUAGE sql AS 'SELECT true';
    CREATE FUNCTION pgmq.list_queues() RETURNS SETOF pgmq.queue_record
      LANGUAGE sql AS 'SELECT queue_name, is_partitioned, is_unlogged, created_at FROM pgmq.meta';
    CREATE TYPE pgmq.metrics_result AS (
      queue_name text, queue_length bigint, newest_msg_age_sec int, oldest_msg_age_sec int,
      total_messages bigint, scrape_time timestamptz);";

const TO_1_5_1: [&str; 7] = [
    "1.4.0--1.4.1",
    "1.4.1--1.4.2",
    "1.4.2--1.4.3",
    "1.4.3--1.4.4",
    "1.4.4--1.4.5",
    "1.4.5--1.5.0",
    "1.5.0--1.5.1",
];

async fn apply(connection: &mut PgConnection, steps: &[&str]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("pgmq/upgrades");
    for step in steps {
        let file = folder.join(format!("pgmq--{step}.sql"));
        run(connection, &std::fs::read_to_string(file).unwrap()).await;
    }
}

/// A database with PGMQ 1.5.1.
async fn oldest() -> (String, PgConnection) {
    let url = fresh_database().await;
    let mut own = PgConnection::connect(&url).await.unwrap();
    // As CREATE EXTENSION does: functions refer to others that come later.
    run(&mut own, "SET check_function_bodies = off").await;
    run(&mut own, BEFORE).await;
    apply(&mut own, &TO_1_5_1).await;
    (url, own)
}

async fn lives_a_whole_life(url: &str) {
    let engine = engine_at(url).await;
    let queue = unique("old");
    engine.ensure_queue(&queue).await.unwrap();
    publish(&engine, &queue, &["1", "2", "3", "4"]).await;

    let deliveries = lease(&engine, &queue).await;
    let receipts: Vec<_> = deliveries.iter().map(|d| d.receipt.clone()).collect();
    let extended = engine.extend(&queue, &receipts, TTL).await.unwrap();
    assert!(
        extended
            .iter()
            .all(|outcome| *outcome == ExtendOutcome::Extended)
    );

    let settles = [ack(), retry(Duration::ZERO), dead(), Settle::Release];
    let outcomes = engine
        .settle(&queue, receipts.into_iter().zip(settles).collect())
        .await;
    for outcome in outcomes.unwrap() {
        assert!(matches!(outcome, SettleOutcome::Done), "{outcome:?}");
    }

    let letters = engine.list(&queue, None, 10).await.unwrap();
    engine
        .redrive(&queue, &[letters[0].id.clone()])
        .await
        .unwrap();
    let stats = engine.stats(&queue).await.unwrap();
    assert_eq!((stats.ready, stats.dead), (3, 0));

    // Before 1.10 no column says when a message was leased: a fresh server's grace applies.
    let began = std::time::Instant::now();
    let mut bodies = Vec::new();

    while bodies.len() < 3 {
        assert!(began.elapsed() < Duration::from_secs(30), "{bodies:?}");
        let leased = lease_for(&engine, &queue, Duration::from_secs(4)).await;
        bodies.extend(leased.into_iter().map(|d| d.body));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    bodies.sort();
    assert_eq!(bodies, ["2", "3", "4"]);

    stored(
        engine
            .publish(vec![keyed(&queue, "5", "a")])
            .await
            .unwrap()
            .remove(0),
    );

    let again = engine.publish(vec![keyed(&queue, "6", "a")]).await.unwrap();
    assert!(
        matches!(again[..], [PublishOutcome::Duplicate(Some(_))]),
        "{again:?}"
    );
    assert_eq!(lease_one(&engine, &queue).await.body, "5");

    let next_at = chrono::DateTime::UNIX_EPOCH;
    let new = Registration::new("a", "a", "d", next_at);
    assert!(engine.register(new, None).await.unwrap());

    let tick = Advance::new("d", next_at, chrono::Utc::now()).due(next_at);
    let firing = Firing::new("a").tick(tick).message(message(&queue, "7"));
    assert!(matches!(
        engine.fire(firing).await.unwrap(),
        Fired::Done(Some(_))
    ));
    assert_eq!(lease_one(&engine, &queue).await.body, "7");
}

/// Archives an event, sweeps it, and reads its history.
async fn archives(url: &str, own: &mut PgConnection, queue: &QueueName) {
    let hour = Duration::from_secs(3600);
    let engine = archiving_at(url, queue, Retention::archive_for(hour)).await;
    let body = r#"{"specversion":"1.0","id":"e","source":"/s","type":"t"}"#;
    publish(&engine, queue, &[body]).await;
    assert_eq!(acknowledge_all(&engine, queue).await, 1);

    let history = engine.history("e", Some(queue)).await.unwrap();
    assert!(
        matches!(history.copies[0].state, CopyState::Archived { .. }),
        "{history}"
    );

    run(
        own,
        &format!("UPDATE pgmq.a_{queue} SET archived_at = now() - interval '2 h'"),
    )
    .await;
    assert_eq!(engine.sweep().await.unwrap(), 1);
}

#[tokio::test]
async fn archives_on_the_oldest_and_while_it_is_upgraded() {
    let (url, mut own) = oldest().await;
    let queue = unique("old");
    archives(&url, &mut own, &queue).await;

    // What the upgrade to 1.10 does, one table after the other.
    for table in ["q", "a"] {
        let sql = format!("ALTER TABLE pgmq.{table}_{queue} ADD COLUMN last_read_at timestamptz");
        run(&mut own, &sql).await;
        archives(&url, &mut own, &queue).await;
    }
}

#[tokio::test]
async fn a_whole_life_on_the_oldest() {
    let (url, mut own) = oldest().await;
    lives_a_whole_life(&url).await;
    crate::broadcasting::broadcasts(&url).await;
    crate::capture::captures(&url).await;
    crate::replay::replays(&url).await;
    crate::trail::trails(&url).await;

    let sql = "SELECT count(*) FROM pg_attribute a JOIN pg_class c ON c.oid = attrelid
               WHERE relname LIKE 'q_old%' AND relkind = 'r' AND attname = 'last_read_at'";
    assert_eq!(scalar::<i64>(&mut own, sql).await, 0);
}

#[tokio::test]
async fn a_queue_whose_last_read_at_came_later_and_stands_last() {
    let (url, mut own) = oldest().await;
    let engine = engine_at(&url).await;
    let queue = unique("q");
    engine.ensure_queue(&queue).await.unwrap();
    publish(&engine, &queue, &["1", "2"]).await;

    assert_eq!(
        lease_for(&engine, &queue, Duration::from_millis(1))
            .await
            .len(),
        2
    );

    // What the upgrade to 1.10 does to a queue that an engine has already looked up.
    let sql = format!("ALTER TABLE pgmq.q_{queue} ADD COLUMN last_read_at timestamptz");
    run(&mut own, &sql).await;
    publish(&engine, &queue, &["3"]).await;

    let deliveries = lease(&engine, &queue).await;
    assert!(deliveries.iter().any(|delivery| delivery.body == "3"));
    let fresh = engine_at(&url).await;
    publish(&fresh, &queue, &["4"]).await;

    let delivery = lease(&fresh, &queue)
        .await
        .into_iter()
        .find(|d| d.body == "4")
        .unwrap();
    let sql = format!("SELECT last_read_at IS NOT NULL FROM pgmq.q_{queue} WHERE message = '4'");
    assert!(scalar::<bool>(&mut own, &sql).await);

    let outcomes = fresh
        .settle(&queue, vec![(delivery.receipt, dead())])
        .await
        .unwrap();
    assert!(matches!(outcomes[..], [SettleOutcome::Done]));
}

#[tokio::test]
async fn a_whole_life_on_the_newest() {
    let url = fresh_database().await;
    lives_a_whole_life(&url).await;
    crate::broadcasting::broadcasts(&url).await;
    crate::capture::captures(&url).await;
    crate::replay::replays(&url).await;
    crate::trail::trails(&url).await;
}
