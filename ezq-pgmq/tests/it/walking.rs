//! Claiming behind a place, as a consumer does that passes over messages for busy handlers.

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::{DateTime, Utc};
use ezq_core::engine::{Delivery, Engine, LeaseRequest, Position, Settle};
use ezq_core::message::headers::KEY;
use ezq_core::message::{MessageId, QueueName};
use ezq_pgmq::PgmqEngine;
use sqlx::postgres::PgConnection;

use crate::support::*;

/// After so many calls the server uses one plan for all parameters.
const UNTIL_KEPT: usize = 12;
const ROWS: i64 = 50_000;
const CLAIMS: i64 = 10;

async fn lease_after(engine: &PgmqEngine, queue: &QueueName, after: Position) -> Vec<Delivery> {
    let queue = queue.clone();
    let after = Some(after);
    let request = LeaseRequest::new(queue, 100, TTL).keys(100).after(after);
    engine.lease(request).await.unwrap().deliveries
}

async fn give_back(engine: &PgmqEngine, queue: &QueueName, deliveries: Vec<Delivery>) {
    let back = deliveries
        .into_iter()
        .map(|delivery| (delivery.receipt, Settle::Release));
    engine.settle(queue, back.collect()).await.unwrap();
}

/// How many rows and index entries were read for a queue, without those of the test's own scan.
async fn reads(connection: &mut PgConnection, queue: &QueueName) -> i64 {
    let sql = format!(
        "SELECT (SELECT coalesce(seq_tup_read, 0) FROM pg_stat_user_tables WHERE relname = 'q_{queue}')
              + (SELECT coalesce(sum(idx_tup_read), 0)::bigint FROM pg_stat_user_indexes
                 WHERE relname = 'q_{queue}')"
    );
    let _: String = scalar(connection, "SELECT pg_stat_clear_snapshot()::text").await;
    scalar(connection, &sql).await
}

#[tokio::test]
async fn a_claim_after_a_place_reads_nothing_that_stands_before_it() {
    for is_keyed in [false, true] {
        let (engine, queue) = engine_and_queue().await;
        if is_keyed {
            let mut first = message(&queue, "0");
            first.headers.insert(KEY, "first");
            engine.publish(vec![first]).await.unwrap();
            acknowledge_all(&engine, &queue).await;
        }

        // Prepared and planned while the queue is empty, as in production.
        for _ in 0..UNTIL_KEPT {
            assert!(
                lease_after(&engine, &queue, Position::FIRST)
                    .await
                    .is_empty()
            );
        }

        let mut own = connection().await;
        let headers = if is_keyed {
            "jsonb_build_object('x-pgmq-group', n::text)"
        } else {
            "NULL"
        };

        let rows = format!(
            "INSERT INTO pgmq.q_{queue} (vt, message, headers)
             SELECT now() - interval '1 hour' + n * interval '1 ms', to_jsonb(n), {headers}
             FROM generate_series(1, {ROWS}) n"
        );
        run(&mut own, &rows).await;

        let place = |n: i64| format!("SELECT vt FROM pgmq.q_{queue} WHERE message = to_jsonb({n})");
        let due: DateTime<Utc> = scalar(&mut own, &place(ROWS / 2)).await;
        let id = format!(
            "SELECT msg_id FROM pgmq.q_{queue} WHERE message = to_jsonb({})",
            ROWS / 2
        );
        let message_id = MessageId::Number(scalar(&mut own, &id).await);
        run(&mut own, "SELECT pg_stat_force_next_flush()").await;
        let before = reads(&mut own, &queue).await;

        let mut after = Position::new(due, message_id);
        let mut seen = Vec::new();

        for _ in 0..CLAIMS {
            let passed = lease_after(&engine, &queue, after.clone()).await;
            after = passed.last().unwrap().position();
            seen.extend(
                passed
                    .iter()
                    .map(|delivery| delivery.body.parse::<i64>().unwrap()),
            );
            give_back(&engine, &queue, passed).await;
        }

        let wanted: Vec<i64> = (ROWS / 2 + 1..=ROWS / 2 + 100 * CLAIMS).collect();
        assert_eq!(seen, wanted);

        // A session reports its statistics when it ends, at the latest.
        engine.close().await;
        let mut read = 0;

        for _ in 0..100 {
            read = reads(&mut own, &queue).await - before;
            if read > 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }

        // With keys, a claim reads a thousand messages, and for each its key.
        assert!(
            read > 0 && read < CLAIMS * 10_000,
            "{read} in {CLAIMS} claims, keyed: {is_keyed}"
        );
    }
}

/// Also where many share one due time.
#[tokio::test]
async fn every_message_is_passed_once_whatever_its_time() {
    let (engine, queue) = engine_and_queue().await;
    let rows = format!(
        "INSERT INTO pgmq.q_{queue} (vt, message)
         SELECT vt, to_jsonb(row_number() OVER ())
         FROM unnest(ARRAY['1969-07-20', '2001-01-01', now()]::timestamptz[]) vt,
              generate_series(1, 150)"
    );
    run(&mut connection().await, &rows).await;

    for _ in 0..2 {
        let mut seen = walk(&engine, &queue).await;
        seen.sort_unstable();
        assert_eq!(seen, (1..=450).collect::<Vec<_>>());
    }
}

/// No place has that time: what is released stands a little later.
#[tokio::test]
async fn what_is_due_before_all_times_is_passed_as_well() {
    let (engine, queue) = engine_and_queue().await;
    let rows = format!(
        "INSERT INTO pgmq.q_{queue} (vt, message)
         SELECT '-infinity', to_jsonb(n) FROM generate_series(1, 250) n"
    );
    run(&mut connection().await, &rows).await;

    let mut seen = BTreeSet::new();
    for _ in 0..3 {
        seen.extend(walk(&engine, &queue).await);
    }
    assert_eq!(seen, (1..=250).collect());
}

/// Goes through a queue and releases all of it.
async fn walk(engine: &PgmqEngine, queue: &QueueName) -> Vec<i64> {
    let mut after = Position::FIRST;
    let mut seen = Vec::new();

    loop {
        let passed = lease_after(engine, queue, after.clone()).await;
        let Some(last) = passed.last() else {
            return seen;
        };
        after = last.position();

        seen.extend(
            passed
                .iter()
                .map(|delivery| delivery.body.parse::<i64>().unwrap()),
        );
        assert!(seen.len() <= 1000, "it passes the same again");
        give_back(engine, queue, passed).await;
    }
}
