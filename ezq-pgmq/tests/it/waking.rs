//! Consumers are woken, in this process and in others, also across a broken connection.

use std::time::Duration;

use ezq_core::engine::{BroadcastMessage, Broadcasts as _, Engine};
use ezq_core::event::Pattern;
use ezq_core::message::QueueName;
use ezq_core::message::headers::Headers;
use ezq_pgmq::embedded::EmbeddedPostgres;
use ezq_pgmq::{PgmqConfig, PgmqEngine};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::support::*;

const PATIENCE: Duration = Duration::from_secs(30);

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
    engine
        .publish_in(&mut tx, vec![message(&queue, "1")])
        .await
        .unwrap();
    tx.rollback().await.unwrap();

    // A roll-back is noticed before the next queue is announced.
    let last = unique("q");
    engine.ensure_queue(&last).await.unwrap();

    let mut told = other.wakeups(&last).await.unwrap().unwrap();
    let mut tx = own.begin().await.unwrap();
    engine
        .publish_in(&mut tx, vec![message(&last, "1")])
        .await
        .unwrap();

    tx.commit().await.unwrap();
    timeout(PATIENCE, told.changed()).await.unwrap().unwrap();
    assert!(!wakeups.has_changed().unwrap());

    let mut tx = own.begin().await.unwrap();
    engine
        .publish_in(&mut tx, vec![message(&queue, "2")])
        .await
        .unwrap();
    tx.commit().await.unwrap();
    timeout(PATIENCE, wakeups.changed()).await.unwrap().unwrap();
}

#[tokio::test]
async fn many_publishes_send_few_notifications() {
    let (engine, queue) = engine_and_queue().await;
    let mut listener = sqlx::postgres::PgListener::connect(&server().await.url())
        .await
        .unwrap();
    listener.listen("ezq_wake").await.unwrap();

    let began = tokio::time::Instant::now();
    for _ in 0..100 {
        publish(&engine, &queue, &["1"]).await;
    }

    engine.close().await;
    let windows = began.elapsed().as_millis() / 5 + 2;
    let mut heard: u128 = 0;

    // The test's own notification comes after all of the engine's.
    run(
        &mut connection().await,
        &format!("NOTIFY ezq_wake, 'last {queue}'"),
    )
    .await;

    loop {
        let notification = timeout(PATIENCE, listener.recv()).await.unwrap().unwrap();
        if notification.payload() == format!("last {queue}") {
            break;
        }
        heard += u128::from(notification.payload() == queue.as_str());
    }

    assert!(
        (1..=windows).contains(&heard),
        "{heard} in {windows} windows"
    );
}

#[tokio::test]
async fn a_listener_that_was_cut_off_wakes_everyone_when_it_is_back() {
    let name = unique("listener");
    let config = PgmqConfig::url(&server().await.url()).unwrap();
    let engine = PgmqEngine::connect(config.application_name(name.as_str()))
        .await
        .unwrap();
    let mut wakeups = engine.wakeups(&name).await.unwrap().unwrap();
    wakeups.mark_unchanged();

    let sql = format!(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = '{name}'"
    );
    assert!(scalar::<i64>(&mut connection().await, &sql).await > 0);
    timeout(PATIENCE, wakeups.changed()).await.unwrap().unwrap();
}

/// The key of the advisory locks of sessions that poll, without the oid of the queue's table.
const LOOKING: i64 = 0x65_7a_71_03;

/// Waits until so many sessions poll a queue for captured changes. Returns their process ids.
async fn looking(own: &mut PgConnection, queue: &QueueName, count: usize) -> Vec<i32> {
    let sql = format!(
        "SELECT coalesce(array_agg(pid), '{{}}') FROM pg_locks
         WHERE locktype = 'advisory' AND classid = {LOOKING} AND granted
           AND objid = 'pgmq.q_{queue}'::regclass::oid"
    );

    let found = async {
        loop {
            let found: Vec<i32> = scalar(own, &sql).await;
            if found.len() == count {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, found).await.unwrap()
}

/// A wake-up other than the one with which polling begins.
async fn quiet(wakeups: &mut watch::Receiver<u64>) {
    while timeout(Duration::from_millis(300), wakeups.changed())
        .await
        .is_ok()
    {}
    wakeups.mark_unchanged();
}

#[tokio::test]
async fn what_ezq_adds_to_a_transaction_lets_it_be_prepared_and_wakes_once_that_is_committed() {
    let builder = EmbeddedPostgres::builder().setting("max_prepared_transactions", "10");
    let server = builder.start().await.unwrap();
    let engine = engine_at(&server.url()).await;
    let other = engine_at(&server.url()).await;
    let mut own = PgConnection::connect(&server.url()).await.unwrap();

    // The capture comes first: the end of any transaction beside it wakes whoever polls.
    let names = ["captured", "published", "subscribed"];
    let [captured, published, subscribed] = names.map(|name| QueueName::new(name).unwrap());
    for queue in [&captured, &published, &subscribed] {
        engine.ensure_queue(queue).await.unwrap();
    }

    engine
        .subscribe("app", &subscribed, &[Pattern::new("a.b").unwrap()])
        .await
        .unwrap();
    run(&mut own, "CREATE TABLE t (id int)").await;
    engine.capture("t", &captured).await.unwrap();

    let mut wakeups = Vec::new();
    for queue in [&captured, &published, &subscribed] {
        wakeups.push(other.wakeups(queue).await.unwrap().unwrap());
    }
    looking(&mut own, &captured, 1).await;

    run(&mut own, "BEGIN").await;
    engine
        .publish_in(&mut own, vec![message(&published, "1")])
        .await
        .unwrap();
    run(&mut own, "PREPARE TRANSACTION 'published'; BEGIN").await;

    let copy = BroadcastMessage::new("a.b".to_owned(), "1".to_owned(), Headers::new());
    engine.broadcast_in(&mut own, copy).await.unwrap();
    run(
        &mut own,
        "PREPARE TRANSACTION 'subscribed'; BEGIN; INSERT INTO t VALUES (1)",
    )
    .await;
    run(&mut own, "PREPARE TRANSACTION 'captured'").await;

    for wakeups in &mut wakeups {
        quiet(wakeups).await;
    }

    for (name, wakeups) in names.iter().zip(&mut wakeups) {
        assert!(!wakeups.has_changed().unwrap(), "{name}");
        run(&mut own, &format!("COMMIT PREPARED '{name}'")).await;
        timeout(PATIENCE, wakeups.changed())
            .await
            .expect(name)
            .unwrap();
    }
}

#[tokio::test]
async fn every_captured_commit_wakes_also_where_a_later_one_was_faster() {
    let (engine, queue) = engine_and_queue().await;
    let mut own = connection().await;
    run(&mut own, &format!("CREATE TABLE {queue} (id int)")).await;
    engine.capture(queue.as_str(), &queue).await.unwrap();

    let other = engine_at(&server().await.url()).await;
    let mut wakeups = other.wakeups(&queue).await.unwrap().unwrap();
    looking(&mut own, &queue, 1).await;

    let insert = format!("INSERT INTO {queue} VALUES (1)");
    let mut slow = connection().await;
    run(&mut slow, &format!("BEGIN; {insert}")).await;
    quiet(&mut wakeups).await;
    run(&mut own, &insert).await;
    timeout(PATIENCE, wakeups.changed()).await.unwrap().unwrap();
    quiet(&mut wakeups).await;
    run(&mut slow, "COMMIT").await;
    timeout(PATIENCE, wakeups.changed()).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_captured_change_is_seen_within_100_ms() {
    let (engine, queue) = engine_and_queue().await;
    let mut own = connection().await;
    run(&mut own, &format!("CREATE TABLE {queue} (id int)")).await;
    engine.capture(queue.as_str(), &queue).await.unwrap();

    let one = engine_at(&server().await.url()).await;
    let other = engine_at(&server().await.url()).await;
    let mut told = [
        one.wakeups(&queue).await.unwrap().unwrap(),
        other.wakeups(&queue).await.unwrap().unwrap(),
    ];
    looking(&mut own, &queue, 1).await;

    // The machine may be busy: the quickest of several counts.
    let mut quickest = [Duration::MAX; 2];

    for _ in 0..10 {
        for wakeups in &mut told {
            quiet(wakeups).await;
        }

        let began = std::time::Instant::now();
        run(&mut own, &format!("INSERT INTO {queue} VALUES (1)")).await;
        for (wakeups, quickest) in told.iter_mut().zip(&mut quickest) {
            timeout(PATIENCE, wakeups.changed()).await.unwrap().unwrap();
            *quickest = began.elapsed().min(*quickest);
        }
    }

    assert!(
        quickest.iter().all(|took| took.as_millis() < 100),
        "{quickest:?}"
    );
}

#[tokio::test]
async fn one_process_looks_for_all_and_another_takes_over_when_it_is_gone() {
    let (engine, queue) = engine_and_queue().await;
    let mut own = connection().await;
    run(&mut own, &format!("CREATE TABLE {queue} (id int)")).await;

    // Earlier listeners hear of the capture as well.
    let mut processes = Vec::new();
    for _ in 0..3 {
        let process = engine_at(&server().await.url()).await;
        let wakeups = process.wakeups(&queue).await.unwrap().unwrap();
        processes.push((process, wakeups));
    }

    engine.capture(queue.as_str(), &queue).await.unwrap();
    let first = looking(&mut own, &queue, 1).await[0];
    run(&mut own, &format!("SELECT pg_terminate_backend({first})")).await;

    let second = async {
        while looking(&mut own, &queue, 1).await[0] == first {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, second).await.unwrap();

    for (_, wakeups) in &mut processes {
        quiet(wakeups).await;
    }

    run(&mut own, &format!("INSERT INTO {queue} VALUES (1)")).await;
    for (_, wakeups) in &mut processes {
        timeout(PATIENCE, wakeups.changed()).await.unwrap().unwrap();
    }

    // Nothing is left to poll for.
    engine.captures().remove(queue.as_str()).await.unwrap();
    looking(&mut own, &queue, 0).await;
}

#[tokio::test]
async fn who_is_subscribed_to_what_a_capture_broadcasts_is_woken_by_it() {
    let url = fresh_database().await;
    let engine = engine_at(&url).await;
    let mut own = PgConnection::connect(&url).await.unwrap();
    run(&mut own, "CREATE TABLE users (id int)").await;

    let queue = unique("q");
    engine.ensure_queue(&queue).await.unwrap();
    engine.capture("users", &queue).broadcast().await.unwrap();

    let mut wakeups = engine.wakeups(&queue).await.unwrap().unwrap();
    engine
        .subscribe("a", &queue, &[Pattern::new("users.created").unwrap()])
        .await
        .unwrap();
    looking(&mut own, &queue, 1).await;
    quiet(&mut wakeups).await;
    run(&mut own, "INSERT INTO users VALUES (1)").await;
    timeout(PATIENCE, wakeups.changed()).await.unwrap().unwrap();
}

/// A session's last statement, and its time.
async fn activity(own: &mut PgConnection, name: &QueueName) -> (String, bool) {
    let sql = format!(
        "SELECT query, state_change < clock_timestamp() - interval '500 ms' FROM pg_stat_activity
         WHERE application_name = '{name}' AND (query LIKE '%pg_proc%' OR query LIKE '%snapshot%')"
    );
    sqlx::query_as(AssertSqlSafe(sql))
        .fetch_one(own)
        .await
        .unwrap()
}

#[tokio::test]
async fn where_nothing_is_captured_nobody_looks() {
    let name = unique("listener");
    let url = fresh_database().await;
    let config = PgmqConfig::url(&url)
        .unwrap()
        .application_name(name.as_str());
    let engine = PgmqEngine::connect(config).await.unwrap();
    let mut own = PgConnection::connect(&url).await.unwrap();
    let mut wakeups = engine.wakeups(&name).await.unwrap().unwrap();
    quiet(&mut wakeups).await;

    let rests = async {
        loop {
            let (query, is_at_rest) = activity(&mut own, &name).await;
            assert!(!query.contains("snapshot"), "{query}");
            if is_at_rest {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, rests).await.unwrap();
}

#[tokio::test]
async fn what_others_send_wakes_where_pgmq_notifies_or_the_sender_does() {
    let (engine, queue) = engine_and_queue().await;
    let mut own = connection().await;
    let mut wakeups = engine.wakeups(&queue).await.unwrap().unwrap();
    quiet(&mut wakeups).await;

    // The contract for clients that send by SQL.
    let send = format!("SELECT pgmq.send('{queue}', '1'::jsonb)");
    run(
        &mut own,
        &format!("BEGIN; {send}; SELECT pg_notify('ezq_wake', '{queue}'); COMMIT"),
    )
    .await;
    timeout(PATIENCE, wakeups.changed()).await.unwrap().unwrap();
    quiet(&mut wakeups).await;

    // PGMQ's own channel, which may be enabled at any time.
    run(
        &mut own,
        &format!("SELECT pgmq.enable_notify_insert('{queue}', 0)"),
    )
    .await;
    run(&mut own, &send).await;
    timeout(PATIENCE, wakeups.changed()).await.unwrap().unwrap();
}
