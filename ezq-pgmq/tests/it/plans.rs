//! Statements on a queue's table find rows by key, even if the server cached their plans while the
//! table was empty and vacuumed.

use std::time::Duration;

use ezq_core::engine::{DeadLetters as _, Due, Engine, Finished, SettleOutcome};
use ezq_core::message::{
    HandlerMark, HandlerName, HandlerState, MessageId, Progress, QueueName, Retention,
};
use ezq_pgmq::PgmqEngine;
use sqlx::Connection as _;
use sqlx::postgres::PgConnection;

use crate::support::*;

/// After so many calls the server uses one plan for all parameters.
const UNTIL_KEPT: usize = 12;
const ROWS: usize = 100_000;

/// An idle session reports its statistics after so long at the latest (a constant of the server's).
const REPORTED: Duration = Duration::from_secs(11);

/// A database in which nobody else reads; a history, for example, scans all queues.
async fn alone() -> (String, PgConnection, QueueName) {
    let url = fresh_database().await;
    let own = PgConnection::connect(&url).await.unwrap();
    (url, own, unique("q"))
}

/// How often a table was scanned, including one scan by the test.
async fn scans(connection: &mut PgConnection, table: &str) -> i64 {
    let count =
        format!("SELECT coalesce(seq_scan, 0) FROM pg_stat_user_tables WHERE relname = '{table}'");
    let before: i64 = scalar(connection, &count).await;

    tokio::time::sleep(REPORTED).await;
    run(
        connection,
        &format!("SELECT count(message) FROM pgmq.{table}"),
    )
    .await;
    run(connection, "SELECT pg_stat_force_next_flush()").await;

    loop {
        let now: i64 = scalar(connection, &count).await;
        if now > before {
            return now;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn vacuum(connection: &mut PgConnection, queue: &QueueName) {
    for table in [
        format!("q_{queue}"),
        format!("q_{queue}_dlq"),
        format!("a_{queue}"),
    ] {
        run(
            connection,
            &format!("ALTER TABLE pgmq.{table} SET (autovacuum_enabled = off)"),
        )
        .await;
        run(connection, &format!("VACUUM ANALYZE pgmq.{table}")).await;
    }
}

/// A backlog that is due later than now, as a burst leaves it.
async fn fill(connection: &mut PgConnection, queue: &QueueName) {
    for table in [format!("q_{queue}"), format!("q_{queue}_dlq")] {
        let rows = format!(
            "INSERT INTO pgmq.{table} (vt, message)
             SELECT now() + interval '1 hour', '{{\"n\": 1}}' FROM generate_series(1, {ROWS})"
        );
        run(connection, &rows).await;
    }
}

async fn transaction(engine: &PgmqEngine, queue: &QueueName, mark: Option<Progress>) {
    publish(engine, queue, &["1"]).await;

    let receipt = lease_one(engine, queue).await.receipt;
    let unit = engine.begin(queue, None).await.unwrap();
    let is_marked = mark.is_some();
    let finished = vec![Finished::new(receipt.clone()).mark(mark)];
    let outcome = unit.finish(finished, Vec::new()).await.unwrap();
    assert!(matches!(outcome, SettleOutcome::Done), "{outcome:?}");

    if is_marked {
        engine.settle(queue, vec![(receipt, ack())]).await.unwrap();
    }
}

fn mark() -> Progress {
    let state = HandlerState::Done;
    let mark = HandlerMark::new(state).attempts(1);
    Progress::from_iter([(HandlerName::from("a"), mark)])
}

#[tokio::test]
async fn a_transaction_planned_on_an_empty_queue_finds_its_message_by_key() {
    for retention in [Retention::Delete, Retention::ARCHIVE] {
        let (url, mut own, queue) = alone().await;
        let engine = archiving_at(&url, &queue, retention).await;
        let table = format!("q_{queue}");
        vacuum(&mut own, &queue).await;

        for n in 0..UNTIL_KEPT {
            transaction(&engine, &queue, None).await;
            transaction(&engine, &queue, Some(mark())).await;
            if n == 2 {
                vacuum(&mut own, &queue).await;
            }
        }

        fill(&mut own, &queue).await;
        let before = scans(&mut own, &table).await;
        for _ in 0..50 {
            transaction(&engine, &queue, None).await;
            transaction(&engine, &queue, Some(mark())).await;
        }

        // A slow statement is planned anew at once, on each connection in use; one scan is the
        // test's own.
        let scanned = scans(&mut own, &table).await - before - 1;
        assert!(
            scanned <= 4,
            "{retention:?}: {scanned} scans in 100 transactions"
        );
    }
}

#[tokio::test]
async fn what_the_engine_itself_planned_on_an_empty_queue_finds_rows_by_key() {
    let (url, mut own, queue) = alone().await;
    let engine = engine_at(&url).await;
    engine.ensure_queue(&queue).await.unwrap();
    vacuum(&mut own, &queue).await;

    for n in 0..UNTIL_KEPT {
        everything(&engine, &queue).await;
        if n == 2 {
            vacuum(&mut own, &queue).await;
        }
    }

    fill(&mut own, &queue).await;
    let tables = [format!("q_{queue}"), format!("q_{queue}_dlq")];
    let before = [
        scans(&mut own, &tables[0]).await,
        scans(&mut own, &tables[1]).await,
    ];

    for _ in 0..UNTIL_KEPT {
        everything(&engine, &queue).await;
    }

    for (table, before) in tables.iter().zip(before) {
        assert_eq!(
            scans(&mut own, table).await - before - 1,
            0,
            "scans of {table}"
        );
    }
}

/// Each call that names messages.
async fn everything(engine: &PgmqEngine, queue: &QueueName) {
    publish(engine, queue, &["1", "2", "3"]).await;
    let mut receipts: Vec<_> = lease(engine, queue)
        .await
        .into_iter()
        .map(|delivery| delivery.receipt)
        .collect();
    assert_eq!(receipts.len(), 3);

    engine.extend(queue, &receipts, TTL).await.unwrap();
    engine
        .settle(queue, vec![(receipts.remove(0), ack())])
        .await
        .unwrap();
    engine
        .settle(queue, vec![(receipts.remove(0), retry(Duration::ZERO))])
        .await
        .unwrap();
    engine
        .settle(queue, vec![(receipts.remove(0), dead())])
        .await
        .unwrap();
    engine.lag(queue).await.unwrap();

    let again = lease_one(engine, queue).await;
    engine
        .settle(queue, vec![(again.receipt, dead())])
        .await
        .unwrap();

    let letters = engine.list(queue, None, 1).await.unwrap();
    let mut ids: Vec<MessageId> = letters.into_iter().map(|letter| letter.id).collect();
    let last = engine.list(queue, ids.last(), 1).await.unwrap();
    ids.extend(last.into_iter().map(|letter| letter.id));
    assert!(engine.find(queue, &ids[0]).await.unwrap().is_some());
    assert_eq!(engine.redrive(queue, &ids[..1]).await.unwrap(), &ids[..1]);
    assert_eq!(engine.discard(queue, &ids[1..]).await.unwrap(), &ids[1..]);

    let redriven = lease_one(engine, queue).await;
    engine
        .settle(queue, vec![(redriven.receipt, ack())])
        .await
        .unwrap();

    let later = message(queue, "4").due(Due::After(TTL));
    let id = stored(engine.publish(vec![later]).await.unwrap().remove(0));
    assert!(
        engine
            .reschedule(queue, &id, Due::After(TTL))
            .await
            .unwrap()
    );
    assert!(engine.cancel(queue, &id).await.unwrap());
}
