//! Claims on queues with many delayed or dead rows: they read little, and leave nothing behind.

use std::time::Duration;

use ezq_core::engine::{Delivery, Engine as _};
use ezq_core::message::QueueName;
use ezq_pgmq::PgmqEngine;
use sqlx::Connection as _;
use sqlx::postgres::PgConnection;

use super::request;
use crate::keys_cost::reads_of;
use crate::support::*;

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "one story, told in its order")]
async fn no_statement_reads_100_000_delayed_messages() {
    let (engine, queue) = engine_and_queue().await;

    // Prepared and planned while the queue is empty, as in production.
    for _ in 0..8 {
        assert!(lease(&engine, &queue).await.is_empty());
        publish(&engine, &queue, &["1", "2", "3"]).await;

        let receipts: Vec<_> = lease(&engine, &queue)
            .await
            .into_iter()
            .map(|d| d.receipt)
            .collect();
        engine.extend(&queue, &receipts, TTL).await.unwrap();

        let settles = [ack(), retry(Duration::ZERO), dead()];
        engine
            .settle(&queue, receipts.into_iter().zip(settles).collect())
            .await
            .unwrap();

        let again = lease_one(&engine, &queue).await.receipt;
        engine.settle(&queue, vec![(again, ack())]).await.unwrap();
    }

    let sql = format!(
        "INSERT INTO pgmq.q_{queue} (vt, message)
         SELECT now() + interval '1 hour', '{{}}' FROM generate_series(1, 100000);
         INSERT INTO pgmq.q_{queue} (vt, message) SELECT now(), '1' FROM generate_series(1, 10)"
    );
    let mut own = connection().await;
    run(&mut own, &sql).await;

    let scans = format!(
        "SELECT (SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'q_{queue}')
              + (SELECT idx_tup_read FROM pg_stat_user_indexes WHERE relname = 'q_{queue}'
                 AND indexrelname LIKE '%vt_idx')
              + (SELECT idx_tup_read FROM pg_stat_user_indexes WHERE relname = 'q_{queue}'
                 AND indexrelname LIKE '%pkey')"
    );

    let settle = "SELECT pg_stat_clear_snapshot()::text";
    let _: String = scalar(&mut own, settle).await;
    let before: i64 = scalar(&mut own, &scans).await;
    let deliveries = lease(&engine, &queue).await;
    assert_eq!(deliveries.len(), 10);

    let receipts: Vec<_> = deliveries.into_iter().map(|d| d.receipt).collect();
    engine.extend(&queue, &receipts, TTL).await.unwrap();

    let settles = (0..10).map(|n| {
        if n < 4 {
            ack()
        } else if n < 8 {
            retry(TTL)
        } else {
            dead()
        }
    });

    let outcomes = engine
        .settle(&queue, receipts.into_iter().zip(settles).collect())
        .await
        .unwrap();
    assert!(
        outcomes
            .iter()
            .all(|o| matches!(o, ezq_core::engine::SettleOutcome::Done))
    );

    // A backend reports its statistics at the latest when it ends.
    engine.close().await;
    let mut last = before;

    for _ in 0..100 {
        let _: String = scalar(&mut own, settle).await;
        last = scalar(&mut own, &scans).await;
        if last > before {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    assert!(
        last > before && last - before < 5_000,
        "{} rows or scans",
        last - before
    );
}

/// The numbers of a claim of at most so many messages.
async fn claim(engine: &PgmqEngine, queue: &QueueName, max: usize) -> Vec<String> {
    let leased = engine.lease(request(queue, max)).await.unwrap();
    leased
        .deliveries
        .into_iter()
        .map(|delivery| delivery.body)
        .collect()
}

/// A queue with 1,000 messages behind 400,000 deleted ones, which cannot be vacuumed while the
/// second connection is open. Some claims of one message have walked past these, and the next ones
/// resume where the last one ended.
async fn bloated() -> (PgmqEngine, QueueName, [PgConnection; 2]) {
    let (engine, queue) = engine_and_queue().await;

    // So that statements are planned as for a short queue.
    for _ in 0..8 {
        publish(&engine, &queue, &["1"]).await;
        acknowledge_all(&engine, &queue).await;
    }

    let mut own = connection().await;
    let mut other = connection().await;
    run(
        &mut other,
        "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pgmq.meta",
    )
    .await;

    let sql = format!(
        "INSERT INTO pgmq.q_{queue} (vt, message)
         SELECT now() - interval '1 hour', '0' FROM generate_series(1, 400000);
         DELETE FROM pgmq.q_{queue};
         INSERT INTO pgmq.q_{queue} (vt, message)
         SELECT now() - interval '30 min' + n * interval '1 us', to_jsonb(n)
         FROM generate_series(1, 1000) n"
    );
    run(&mut own, &sql).await;
    assert_eq!(claim(&engine, &queue, 1).await, ["1"]);

    put_before(&mut own, &queue).await;
    assert_eq!(
        claim(&engine, &queue, 1).await,
        ["0"],
        "one look that took long proves nothing"
    );

    for body in ["2", "3", "4"] {
        assert_eq!(claim(&engine, &queue, 1).await, [body]);
    }
    (engine, queue, [own, other])
}

/// Stores something that is due before all others.
async fn put_before(own: &mut PgConnection, queue: &QueueName) {
    let sql = format!(
        "INSERT INTO pgmq.q_{queue} (vt, message) VALUES (now() - interval '2 hours', '0')"
    );
    run(own, &sql).await;
}

#[tokio::test]
async fn claims_that_go_on_leave_nothing_behind() {
    let (engine, queue, [mut own, _open]) = bloated().await;

    // A message before the cursor is found before a queue counts as empty.
    put_before(&mut own, &queue).await;
    assert_eq!(
        claim(&engine, &queue, 1).await,
        ["5"],
        "it goes on where the last one ended"
    );

    let mut got = Vec::new();
    loop {
        let leased = engine.lease(request(&queue, 995)).await.unwrap();
        if leased.deliveries.is_empty() && !leased.is_partial {
            break;
        }
        let pause = leased.next_due.filter(|_| leased.is_partial);
        tokio::time::sleep(pause.unwrap_or_default()).await;
        got.extend(leased.deliveries);
    }

    assert_eq!(got.len(), 996);
    assert!(
        got.iter().any(|delivery| delivery.body == "0"),
        "it was left behind"
    );

    // A released message comes before those behind it.
    let release = |delivery: Delivery| (delivery.receipt, ezq_core::engine::Settle::Release);
    engine
        .settle(&queue, got.into_iter().map(release).collect())
        .await
        .unwrap();
    assert_eq!(claim(&engine, &queue, 1).await, ["0"]);
    assert_eq!(claim(&engine, &queue, 1).await, ["6"]);

    let seven = engine.lease(request(&queue, 1)).await.unwrap().deliveries;
    let place = seven[0].position();
    assert_eq!(claim(&engine, &queue, 1).await, ["8"]);

    engine
        .settle(&queue, seven.into_iter().map(release).collect())
        .await
        .unwrap();
    assert_eq!(claim(&engine, &queue, 1).await, ["7"]);

    // A message before the position is found as well.
    assert_eq!(claim(&engine, &queue, 1).await, ["9"]);
    put_before(&mut own, &queue).await;

    let before = request(&queue, 5).before(place);
    assert_eq!(engine.lease(before).await.unwrap().deliveries.len(), 1);
    assert_eq!(claim(&engine, &queue, 1).await, ["10"]);

    // A message before the cursor does not wait for the end of a backlog.
    put_before(&mut own, &queue).await;
    let mut others = 0;
    while claim(&engine, &queue, 1).await != ["0"] {
        others += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!((1..900).contains(&others), "it came after {others}");
}

#[tokio::test]
async fn claims_do_not_walk_past_what_a_snapshot_keeps_each_time() {
    let (engine, queue, _connections) = bloated().await;
    let more = format!(
        "INSERT INTO pgmq.q_{queue} (vt, message) SELECT now(), '1' FROM generate_series(1, 5000)"
    );
    let url = server().await.url();
    let (read, claimed) = reads_of(&url, engine, &queue, 40, &more).await;
    assert_eq!(claimed, 4000);
    // Of 40 claims at most a few start at the front.
    assert!(read < 10 * 400_000, "{read} rows read to claim {claimed}");
}

#[tokio::test]
async fn a_claim_that_waits_for_another_queues_does_not_count_as_slow() {
    let (engine, queue) = engine_and_queue().await;
    let (_, other) = engine_and_queue().await;
    let mut own = connection().await;
    let sql = format!(
        "INSERT INTO pgmq.q_{queue} (vt, message) SELECT now(), '1' FROM generate_series(1, 100)"
    );
    run(&mut own, &sql).await;
    assert_eq!(claim(&engine, &other, 1).await.len(), 0);
    assert_eq!(claim(&engine, &queue, 1).await, ["1"]);

    for _ in 0..2 {
        run(
            &mut own,
            &format!("BEGIN; LOCK TABLE pgmq.q_{other} IN ACCESS EXCLUSIVE MODE"),
        )
        .await;

        let neighbour = tokio::spawn({
            let engine = engine.clone();
            let other = other.clone();
            // It may give up before the lock is released.
            async move { engine.lease(request(&other, 1)).await.map(|_| ()) }
        });

        let waits = format!(
            "SELECT EXISTS (SELECT FROM pg_locks
                            WHERE NOT granted AND relation = 'pgmq.q_{other}'::regclass)"
        );
        while !scalar::<bool>(&mut own, &waits).await {}

        // It first waits for its turn, until that takes too long.
        assert_eq!(claim(&engine, &queue, 1).await, ["1"]);
        run(&mut own, "ROLLBACK").await;
        let _ = neighbour.await.unwrap();
    }

    put_before(&mut own, &queue).await;
    assert_eq!(claim(&engine, &queue, 1).await, ["0"]);
}

#[tokio::test]
async fn a_start_of_the_server_that_lies_ahead_keeps_nothing_back() {
    let url = fresh_database().await;
    engine_at(&url).await.close().await;

    // As if the server had started while its clock was two hours ahead, and the clock was set back.
    let mut own = PgConnection::connect(&url).await.unwrap();
    let ahead = "ALTER FUNCTION pg_catalog.pg_postmaster_start_time() RENAME TO real_start;
                 CREATE FUNCTION pg_catalog.pg_postmaster_start_time() RETURNS timestamptz
                   LANGUAGE sql STABLE AS $$SELECT real_start() + interval '2 hours'$$";
    run(&mut own, ahead).await;

    let engine = engine_at(&url).await;
    let queue = unique("q");
    engine.ensure_queue(&queue).await.unwrap();
    publish(&engine, &queue, &["1"]).await;

    let first = lease_one(&engine, &queue).await;
    let expire = format!("UPDATE pgmq.q_{queue} SET vt = now() - interval '3 hours'");
    run(&mut own, &expire).await;

    let again = lease_one(&engine, &queue).await;
    assert_eq!((first.deliveries, again.deliveries), (1, 2));
}
