//! Claims by ordering key: how much they read, and how they spread over the keys.

use std::collections::BTreeMap;
use std::time::Duration;

use ezq_core::engine::{Engine, LeaseRequest};
use ezq_core::message::QueueName;
use ezq_pgmq::PgmqEngine;
use sqlx::Connection as _;
use sqlx::postgres::PgConnection;

use crate::keys::*;
use crate::support::*;

/// An engine and its queue in a database of their own. Elsewhere it would look for the leases of other tests'
/// engines that are gone, which reads what is leased.
async fn alone() -> (String, PgmqEngine, QueueName) {
    let url = fresh_database().await;
    let engine = engine_at(&url).await;
    let queue = unique("q");
    engine.ensure_queue(&queue).await.unwrap();
    (url, engine, queue)
}

/// How many rows and index entries of a queue's table were read, by the statistics, once the
/// backends that read them have ended.
async fn read(own: &mut PgConnection, queue: &QueueName) -> i64 {
    let _: String = scalar(own, "SELECT pg_stat_clear_snapshot()::text").await;
    let sql = format!(
        "SELECT seq_tup_read + (SELECT sum(idx_tup_read)::bigint FROM pg_stat_user_indexes
                                WHERE relname = 'q_{queue}')
         FROM pg_stat_user_tables WHERE relname = 'q_{queue}'"
    );
    scalar(own, &sql).await
}

/// Claims and settles until every statement is prepared and planned, while the queue is short, as
/// in production.
async fn warm(engine: &PgmqEngine, queue: &QueueName) {
    for _ in 0..8 {
        publish_keyed(engine, queue, &[("a", "1"), ("a", "2"), ("b", "3")]).await;
        publish(engine, queue, &["4"]).await;
        for _ in 0..4 {
            let deliveries = take(engine, queue, 100).await;
            settle(engine, queue, deliveries, &ack()).await;
        }
    }
    assert!(take(engine, queue, 100).await.is_empty());
}

/// How much some claims read, each of which reads something.
pub(crate) async fn reads_of(
    url: &str,
    engine: PgmqEngine,
    queue: &QueueName,
    claims: usize,
    sql: &str,
) -> (i64, usize) {
    let work = async |engine: &PgmqEngine| {
        let mut claimed = 0;
        for _ in 0..claims {
            claimed += take(engine, queue, 100).await.len();
        }
        claimed
    };
    reads_by(url, engine, queue, sql, work).await
}

/// How much an engine's work reads, which is something, and its result.
pub(crate) async fn reads_by<T>(
    url: &str,
    engine: PgmqEngine,
    queue: &QueueName,
    sql: &str,
    work: impl AsyncFnOnce(&PgmqEngine) -> T,
) -> (i64, T) {
    let mut own = PgConnection::connect(url).await.unwrap();
    run(&mut own, sql).await;
    run(&mut own, "SELECT pg_stat_force_next_flush()").await;

    let before = read(&mut own, queue).await;
    let done = work(&engine).await;
    engine.close().await;

    let mut last = read(&mut own, queue).await;
    for _ in 0..200 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let now = read(&mut own, queue).await;
        if now > before && now == last {
            break;
        }
        last = now;
    }

    assert!(last > before);
    (last - before, done)
}

#[tokio::test]
async fn no_claim_reads_100_000_messages_of_a_hot_key() {
    let (url, engine, queue) = alone().await;
    warm(&engine, &queue).await;

    let sql = format!(
        "INSERT INTO pgmq.q_{queue} (vt, message, headers)
         SELECT now(), '1', '{{\"x-pgmq-group\": \"hot\"}}' FROM generate_series(1, 100000);
         INSERT INTO pgmq.q_{queue} (vt, message, headers)
         SELECT now(), '1', jsonb_build_object('x-pgmq-group', 'k' || n)
         FROM generate_series(1, 1000) n;
         INSERT INTO pgmq.q_{queue} (vt, message) SELECT now(), '1' FROM generate_series(1, 100)"
    );

    let (read, claimed) = reads_of(&url, engine, &queue, 10, &sql).await;
    assert!(claimed > 500, "{claimed} claimed");
    assert!(read < 40_000, "{read} rows read to claim {claimed}");
}

#[tokio::test]
async fn no_claim_reads_all_of_100_000_keys() {
    let (url, engine, queue) = alone().await;
    warm(&engine, &queue).await;

    let sql = format!(
        "INSERT INTO pgmq.q_{queue} (vt, message, headers)
         SELECT now(), '1', jsonb_build_object('x-pgmq-group', 'k' || n)
         FROM generate_series(1, 100000) n"
    );

    let (read, claimed) = reads_of(&url, engine, &queue, 10, &sql).await;
    assert_eq!(claimed, 1000);
    assert!(read < 40_000, "{read} rows read to claim {claimed}");
}

#[tokio::test]
async fn keys_that_are_leased_or_delayed_cost_an_idle_claim_nothing() {
    let (url, engine, queue) = alone().await;
    warm(&engine, &queue).await;

    let sql = format!(
        "INSERT INTO pgmq.q_{queue} (vt, read_ct, message, headers)
         SELECT now() + interval '1 hour', n % 2, '1',
                jsonb_build_object('x-pgmq-group', 'k' || n)
         FROM generate_series(1, 100000) n;
         INSERT INTO pgmq.q_{queue} (vt, message, headers)
         SELECT now(), '1', jsonb_build_object('x-pgmq-group', 'k' || n)
         FROM generate_series(1, 100) n"
    );

    let (read, claimed) = reads_of(&url, engine, &queue, 10, &sql).await;
    assert_eq!(claimed, 0);
    assert!(read < 40_000, "{read} rows read to claim nothing");
}

#[tokio::test]
async fn leases_of_others_cost_a_claim_nothing_whatever_the_statistics_say() {
    let (url, engine, queue) = alone().await;
    warm(&engine, &queue).await;

    // Analysed while nothing was leased.
    let due = format!(
        "INSERT INTO pgmq.q_{queue} (vt, message, headers)
         SELECT now(), '1', jsonb_build_object('x-pgmq-group', 'k' || n)
         FROM generate_series(1, 10000) n;
         ANALYZE pgmq.q_{queue};
         ALTER TABLE pgmq.q_{queue} SET (autovacuum_enabled = false);
         INSERT INTO pgmq.q_{queue} (vt, read_ct, message, headers)
         SELECT now() + interval '1 hour', 1, '1', jsonb_build_object('x-pgmq-group', 'l' || n)
         FROM generate_series(1, 20000) n"
    );

    let (read, claimed) = reads_of(&url, engine, &queue, 10, &due).await;
    assert_eq!(claimed, 1000);
    assert!(read < 40_000, "{read} rows read to claim {claimed}");
}

#[tokio::test]
async fn a_claim_takes_runs_of_as_many_keys_as_are_of_use() {
    let (_, engine, queue) = alone().await;
    warm(&engine, &queue).await;

    let keys: Vec<String> = (0..10).map(|key| key.to_string()).collect();
    for _ in 0..10 {
        let pairs: Vec<(&str, &str)> = keys.iter().map(|key| (key.as_str(), "1")).collect();
        publish_keyed(&engine, &queue, &pairs).await;
    }
    let ask = |keys| LeaseRequest::new(queue.clone(), 20, TTL).keys(keys);

    for expected in [4, 6] {
        let leased = engine.lease(ask(expected)).await.unwrap().deliveries;
        let mut runs: BTreeMap<String, Vec<_>> = BTreeMap::new();
        for delivery in &leased {
            let run = runs
                .entry(delivery.key().unwrap().into_owned())
                .or_default();
            run.push(delivery.receipt.message_id().as_number().unwrap());
        }

        assert_eq!((leased.len(), runs.len()), (20, expected));
        for (key, run) in runs {
            assert!(
                run.is_sorted() && run.len() <= 20 / expected + 1,
                "{key}: {run:?}"
            );
            assert!(
                run.windows(2).all(|pair| pair[1] - pair[0] == 10),
                "{key}: {run:?}"
            );
        }
    }

    assert!(
        engine.lease(ask(20)).await.unwrap().deliveries.is_empty(),
        "every key is held"
    );
}

#[tokio::test]
async fn a_list_of_blocked_keys_reads_nothing_of_100_000_free_ones() {
    for analyze in ["", "ANALYZE"] {
        let (url, engine, queue) = alone().await;
        warm(&engine, &queue).await;

        let table = format!("pgmq.q_{queue}");
        let analyze = if analyze.is_empty() {
            String::new()
        } else {
            format!("{analyze} {table}")
        };

        let sql = format!(
            "ALTER TABLE {table} SET (autovacuum_enabled = false);
             INSERT INTO {table} (vt, read_ct, message, headers)
             SELECT now(), n % 2, '1', jsonb_build_object('x-pgmq-group', 'free' || n % 50000)
             FROM generate_series(1, 100000) n;
             INSERT INTO {table} (vt, read_ct, message, headers)
             SELECT now() + interval '1 hour', n % 2, '1',
                    jsonb_build_object('x-pgmq-group', 'blocked' || n)
             FROM generate_series(1, 100) n;
             INSERT INTO {table} (vt, message, headers)
             SELECT now(), '1', jsonb_build_object('x-pgmq-group', 'blocked' || n)
             FROM generate_series(1, 100) n;
             {analyze}"
        );

        let list = async |engine: &PgmqEngine| engine.blocked_keys(&queue, 1000).await.unwrap();
        let (read, blocked) = reads_by(&url, engine, &queue, &sql, list).await;
        assert_eq!(blocked.len(), 100, "{analyze}");

        // Which rows ANALYZE samples is chance, and moves the plan: 2,442 were read once.
        assert!(
            read < 5_000,
            "{read} rows read to find {} {analyze}",
            blocked.len()
        );
    }
}
