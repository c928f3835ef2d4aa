//! The indexes that claims by key need: when they are built, and what goes on without them.

use std::time::Duration;

use ezq_core::message::QueueName;
use ezq_pgmq::{PgmqConfig, PgmqEngine};
use tokio::time::timeout;

use super::{bodies, publish_keyed, settle, take};
use crate::support::*;

pub(super) async fn indexes(queue: &QueueName) -> i64 {
    let sql = format!(
        "SELECT count(*) FROM pg_indexes WHERE tablename = 'q_{queue}' AND indexname LIKE '%_ezq_%'"
    );
    scalar(&mut connection().await, &sql).await
}

#[tokio::test]
async fn publishing_with_a_key_indexes_the_queue_and_without_does_not() {
    let (engine, queue) = engine_and_queue().await;
    publish(&engine, &queue, &["1"]).await;
    assert_eq!(indexes(&queue).await, 0);
    publish_keyed(&engine, &queue, &[("a", "2")]).await;
    assert_eq!(indexes(&queue).await, 3);
}

#[tokio::test]
async fn keys_of_another_client_are_kept_from_the_first_and_then_indexed() {
    let (engine, queue) = engine_and_queue().await;
    assert!(lease(&engine, &queue).await.is_empty());

    let sql = format!(
        "SELECT pgmq.send_batch('{queue}', ARRAY['1', '2', '3', '4']::jsonb[],
           ARRAY['{{\"x-pgmq-group\": \"a\"}}', '{{\"x-pgmq-group\": \"a\"}}', NULL,
                 '{{\"x-pgmq-group\": \"b\"}}']::jsonb[])"
    );
    run(&mut connection().await, &sql).await;

    let mut first = lease(&engine, &queue).await;
    first.sort_by_key(|d| d.body.clone());
    assert_eq!(bodies(&first), ["1", "3", "4"]);
    assert_eq!(indexes(&queue).await, 3);
    assert!(lease(&engine, &queue).await.is_empty());

    settle(&engine, &queue, first, &ack()).await;
    assert_eq!(bodies(&lease(&engine, &queue).await), ["2"]);
}

#[tokio::test]
async fn keys_are_kept_without_indexes_where_the_schema_is_not_ezqs() {
    let (owner, queue) = engine_and_queue().await;
    let config = PgmqConfig::url(&server().await.url())
        .unwrap()
        .manage_schema(false);
    let engine = PgmqEngine::connect(config).await.unwrap();
    publish_keyed(
        &engine,
        &queue,
        &[("a", "1"), ("b", "2"), ("a", "3"), ("b", "4")],
    )
    .await;

    let first = lease(&engine, &queue).await;
    assert_eq!(bodies(&first), ["1", "2"]);
    assert!(lease(&engine, &queue).await.is_empty() && lease(&owner, &queue).await.is_empty());

    settle(&engine, &queue, first, &retry(Duration::ZERO)).await;
    assert_eq!(bodies(&take(&engine, &queue, 1).await), ["1"]);
    assert_eq!(indexes(&queue).await, 0);

    // What the log says to run.
    run(
        &mut connection().await,
        &ezq_pgmq::ordering_sql([&queue]).unwrap(),
    )
    .await;
    assert_eq!(indexes(&queue).await, 3);

    let second = take(&engine, &queue, 10).await;
    assert_eq!(bodies(&second), ["2"]);
    settle(&engine, &queue, second, &ack()).await;
    assert_eq!(bodies(&take(&engine, &queue, 10).await), ["4"]);
}

/// Stores so many messages of one key, and others behind them.
async fn hot_key_ahead(queue: &QueueName, count: usize, others: &str) {
    let sql = format!(
        "INSERT INTO pgmq.q_{queue} (vt, message, headers)
         SELECT now() + n * interval '1 us' - interval '10 min', to_jsonb(n),
                '{{\"x-pgmq-group\": \"hot\"}}'
         FROM generate_series(1, {count}) n;
         INSERT INTO pgmq.q_{queue} (vt, message, headers) {others};
         ANALYZE pgmq.q_{queue}"
    );
    run(&mut connection().await, &sql).await;
}

async fn unmanaged() -> (PgmqEngine, QueueName) {
    let (_, queue) = engine_and_queue().await;
    let config = PgmqConfig::url(&server().await.url())
        .unwrap()
        .manage_schema(false);
    (PgmqEngine::connect(config).await.unwrap(), queue)
}

#[tokio::test]
async fn a_hot_key_ahead_is_claimed_without_the_indexes_and_so_is_what_follows_it() {
    let (engine, queue) = unmanaged().await;
    let others = "SELECT now() - interval '1 min', '\"other\"', '{\"x-pgmq-group\": \"cold\"}'";
    hot_key_ahead(&queue, 150_000, others).await;

    let mut claimed = Vec::new();
    let all = async {
        // While the first message of the hot key is leased, no other of the key is claimed.
        while claimed.len() < 2 {
            claimed.extend(take(&engine, &queue, 100).await);
        }
        assert_eq!(bodies(&claimed), ["1", "\"other\""]);

        settle(&engine, &queue, std::mem::take(&mut claimed), &ack()).await;
        for n in 2..5 {
            let next = take(&engine, &queue, 100).await;
            assert_eq!(bodies(&next), [n.to_string()]);
            settle(&engine, &queue, next, &ack()).await;
        }
    };

    timeout(Duration::from_secs(120), all)
        .await
        .expect("it is claimed");
}

/// How many builds are under way.
const BUILDS: &str = "SELECT count(*) FROM pg_stat_activity
     WHERE query ILIKE 'create index concurrently%' AND pid <> pg_backend_pid()";

#[tokio::test]
async fn a_large_queue_is_indexed_beside_what_goes_on() {
    let (engine, queue) = engine_and_queue().await;
    let plain = "SELECT now(), to_jsonb(repeat('x', 100)), NULL FROM generate_series(1, 100000)";
    hot_key_ahead(&queue, 1000, plain).await;

    // A transaction that is older than the build delays the build, and nobody else.
    let mut holder = connection().await;
    run(
        &mut holder,
        &format!("BEGIN; DELETE FROM pgmq.q_{queue} WHERE msg_id = 5"),
    )
    .await;

    let publishing = publish_keyed(&engine, &queue, &[("a", "1")]);
    timeout(Duration::from_secs(20), publishing)
        .await
        .expect("it waits for no index");

    let mut own = connection().await;
    let builds = async { while scalar::<i64>(&mut own, BUILDS).await == 0 {} };
    timeout(Duration::from_secs(60), builds)
        .await
        .expect("a build has begun");
    publish(&engine, &queue, &["2"]).await;
    assert!(!take(&engine, &queue, 10).await.is_empty());

    run(&mut holder, "ROLLBACK").await;
    until_indexed(&queue).await;
    assert!(!take(&engine, &queue, 10).await.is_empty());
}

/// Waits until the three indexes exist and are valid.
async fn until_indexed(queue: &QueueName) {
    let sql = format!(
        "SELECT count(*) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
         WHERE i.indrelid = 'pgmq.q_{queue}'::regclass AND indisvalid AND relname LIKE '%_ezq_%'"
    );

    let mut own = connection().await;
    let all = async { while scalar::<i64>(&mut own, &sql).await < 3 {} };
    timeout(Duration::from_secs(120), all)
        .await
        .expect("the indexes stand");
}

/// Leaves what an interrupted build leaves.
async fn break_an_index(queue: &QueueName) {
    let sql = format!(
        "CREATE INDEX q_{queue}_ezq_keys ON pgmq.q_{queue} (msg_id);
         UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'pgmq.q_{queue}_ezq_keys'::regclass"
    );
    run(&mut connection().await, &sql).await;
}

#[tokio::test]
async fn an_index_that_was_left_half_built_is_built_anew() {
    let (engine, small) = engine_and_queue().await;
    break_an_index(&small).await;
    publish_keyed(&engine, &small, &[("a", "1")]).await;
    until_indexed(&small).await;

    let (engine, large) = engine_and_queue().await;
    let plain = "SELECT now(), to_jsonb(repeat('x', 100)), NULL FROM generate_series(1, 100000)";
    hot_key_ahead(&large, 1, plain).await;
    break_an_index(&large).await;
    publish_keyed(&engine, &large, &[("a", "1")]).await;
    until_indexed(&large).await;
}
