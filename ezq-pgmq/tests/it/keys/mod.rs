//! Ordering keys in Postgres: indexes, plans, and claims that do not see each other.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use ezq_core::engine::{Delivery, Due, Engine, LeaseRequest, Outgoing, Settle};
use ezq_core::message::QueueName;
use ezq_core::message::headers::KEY;
use ezq_pgmq::{PgmqConfig, PgmqEngine};
use tokio::time::timeout;

use crate::support::*;

pub(crate) fn keyed(queue: &QueueName, key: &str, body: &str) -> Outgoing {
    let mut message = message(queue, body);
    message.headers.insert(KEY, key);
    message
}

pub(crate) async fn publish_keyed(
    engine: &PgmqEngine,
    queue: &QueueName,
    messages: &[(&str, &str)],
) {
    let messages = messages.iter().map(|(key, body)| keyed(queue, key, body));
    engine.publish(messages.collect()).await.unwrap();
}

pub(crate) async fn take(engine: &PgmqEngine, queue: &QueueName, max: usize) -> Vec<Delivery> {
    let request = LeaseRequest::new(queue.clone(), max, TTL).keys(max);
    engine.lease(request).await.unwrap().deliveries
}

fn bodies(deliveries: &[Delivery]) -> Vec<&str> {
    deliveries.iter().map(|d| d.body.as_str()).collect()
}

pub(crate) async fn settle(
    engine: &PgmqEngine,
    queue: &QueueName,
    deliveries: Vec<Delivery>,
    how: &Settle,
) {
    let all = deliveries
        .into_iter()
        .map(|d| (d.receipt, how.clone()))
        .collect();
    for outcome in engine.settle(queue, all).await.unwrap() {
        assert!(
            matches!(outcome, ezq_core::engine::SettleOutcome::Done),
            "{outcome:?}"
        );
    }
}

async fn indexes(queue: &QueueName) -> i64 {
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
        &ezq_pgmq::ordering_sql(std::slice::from_ref(&queue)),
    )
    .await;
    assert_eq!(indexes(&queue).await, 3);

    let second = take(&engine, &queue, 10).await;
    assert_eq!(bodies(&second), ["2"]);
    settle(&engine, &queue, second, &ack()).await;
    assert_eq!(bodies(&take(&engine, &queue, 10).await), ["4"]);
}

#[tokio::test]
async fn a_key_may_be_of_any_length_and_shape() {
    let (engine, queue) = engine_and_queue().await;
    let long = "k".repeat(100_000);
    let keys = ["", "ä", "'; drop table x", &long];
    for key in keys {
        publish_keyed(&engine, &queue, &[(key, "1"), (key, "2")]).await;
    }

    let sql = format!("SELECT pgmq.send('{queue}', '5'::jsonb, '{{\"x-pgmq-group\": 7}}'::jsonb)");
    run(&mut connection().await, &sql).await;

    let first = take(&engine, &queue, 5).await;
    let seen: BTreeSet<_> = first
        .iter()
        .map(|d| d.key().unwrap().into_owned())
        .collect();
    assert_eq!(seen.len(), 5);
    assert!(keys.iter().all(|key| seen.contains(*key)) && seen.contains("7"));
    assert!(take(&engine, &queue, 5).await.is_empty());
}

#[tokio::test]
async fn messages_with_and_without_keys_share_the_room() {
    let (engine, queue) = engine_and_queue().await;
    let keys: Vec<String> = (0..500).map(|n| n.to_string()).collect();
    let plain: Vec<&str> = vec!["0"; 500];
    publish(&engine, &queue, &plain).await;
    let pairs: Vec<(&str, &str)> = keys.iter().map(|key| (key.as_str(), "1")).collect();
    publish_keyed(&engine, &queue, &pairs).await;

    for max in [1, 10, 1, 10, 10] {
        let mut seen = BTreeSet::new();
        for _ in 0..3 {
            let deliveries = take(&engine, &queue, max).await;
            assert!(!deliveries.is_empty() && deliveries.len() <= max);
            seen.extend(deliveries.into_iter().map(|d| d.body));
        }
        assert_eq!(seen.len(), 2, "with room for {max}: {seen:?}");
    }
}

#[tokio::test]
async fn a_hot_key_that_is_worked_off_quickly_keeps_no_other_waiting() {
    let (engine, queue) = engine_and_queue().await;
    publish_keyed(&engine, &queue, &[("first", "0")]).await;

    let sql = format!(
        "INSERT INTO pgmq.q_{queue} (vt, message, headers)
         SELECT now(), '1', '{{\"x-pgmq-group\": \"hot\"}}' FROM generate_series(1, 5000);
         INSERT INTO pgmq.q_{queue} (vt, message, headers)
         SELECT now(), '1', jsonb_build_object('x-pgmq-group', 'k' || n)
         FROM generate_series(1, 200) n"
    );
    run(&mut connection().await, &sql).await;

    let mut keys = BTreeSet::new();
    for _ in 0..12 {
        let deliveries = take(&engine, &queue, 40).await;
        keys.extend(deliveries.iter().map(|d| d.key().unwrap().into_owned()));
        settle(&engine, &queue, deliveries, &ack()).await;
    }
    assert_eq!(keys.len(), 202);
}

#[tokio::test]
async fn every_message_comes_out_once_whatever_else_stands_before_it() {
    let (engine, queue) = engine_and_queue().await;
    let sql = format!(
        "INSERT INTO pgmq.q_{queue} (vt, message, headers)
         SELECT clock_timestamp(), to_jsonb(n), CASE
           WHEN n <= 1500 THEN '{{\"x-pgmq-group\": \"hot\"}}'::jsonb
           WHEN n % 3 = 0 THEN NULL
           ELSE jsonb_build_object('x-pgmq-group', 'k' || n % 1700) END
         FROM generate_series(1, 6000) n ORDER BY n"
    );

    publish_keyed(&engine, &queue, &[("first", "0")]).await;
    run(&mut connection().await, &sql).await;
    let mut seen: HashMap<Option<String>, Vec<i64>> = HashMap::new();

    loop {
        let deliveries = take(&engine, &queue, 100).await;
        if deliveries.is_empty() {
            break;
        }

        for delivery in &deliveries {
            let key = delivery.key().map(|key| key.into_owned());
            seen.entry(key)
                .or_default()
                .push(delivery.body.parse().unwrap());
        }
        settle(&engine, &queue, deliveries, &ack()).await;
    }

    assert_eq!(seen.values().map(Vec::len).sum::<usize>(), 6001);
    seen.remove(&None);
    assert!(seen.values().all(|numbers| numbers.is_sorted()));
}

#[tokio::test]
async fn tells_when_the_next_message_that_can_be_claimed_falls_due() {
    let (engine, queue) = engine_and_queue().await;
    let late = |key: &str, ms| keyed(&queue, key, "1").due(Due::After(Duration::from_millis(ms)));
    let first = vec![
        late("a", 60_000),
        keyed(&queue, "a", "2"),
        late("a", 1000),
        late("b", 40_000),
    ];
    engine.publish(first).await.unwrap();

    let request = LeaseRequest::new(queue.clone(), 10, TTL).keys(10);
    let leased = engine.lease(request.clone()).await.unwrap();
    assert!(leased.deliveries.is_empty());

    let next = leased.next_due.unwrap();
    assert!(
        next > Duration::from_secs(30) && next <= Duration::from_secs(40),
        "{next:?}"
    );

    engine.publish(vec![late("c", 20_000)]).await.unwrap();
    let next = engine.lease(request).await.unwrap().next_due.unwrap();
    assert!(
        next > Duration::from_secs(10) && next <= Duration::from_secs(20),
        "{next:?}"
    );
}

#[tokio::test]
async fn an_earlier_message_that_is_committed_late_waits_for_what_is_leased() {
    // An open transaction keeps the queue from being indexed, unless that was done before.
    for indexed in [false, true] {
        let (engine, queue) = engine_and_queue().await;
        if indexed {
            publish_keyed(&engine, &queue, &[("z", "0")]).await;
            let other = take(&engine, &queue, 1).await;
            settle(&engine, &queue, other, &ack()).await;
        }

        let mut late = connection().await;
        run(&mut late, "BEGIN").await;
        engine
            .publish_in(&mut late, vec![keyed(&queue, "a", "1")])
            .await
            .unwrap();
        publish_keyed(&engine, &queue, &[("a", "2"), ("a", "3")]).await;
        assert_eq!(indexes(&queue).await > 0, indexed);

        let second = take(&engine, &queue, 1).await;
        assert_eq!(bodies(&second), ["2"]);
        run(&mut late, "COMMIT").await;
        assert!(take(&engine, &queue, 10).await.is_empty());

        settle(&engine, &queue, second, &ack()).await;
        let first = take(&engine, &queue, 1).await;
        assert_eq!((bodies(&first), first[0].deliveries), (vec!["1"], 1));
    }
}

#[tokio::test]
async fn a_run_ends_before_a_message_that_another_has() {
    let (engine, queue) = engine_and_queue().await;
    let all: Vec<(&str, &str)> = ["1", "2", "3", "4", "5"]
        .into_iter()
        .map(|n| ("a", n))
        .collect();
    publish_keyed(&engine, &queue, &all).await;

    let mut other = connection().await;
    let lock = format!("BEGIN; SELECT FROM pgmq.q_{queue} WHERE message = '3' FOR UPDATE");
    run(&mut other, &lock).await;

    let run = take(&engine, &queue, 20).await;
    assert_eq!(bodies(&run), ["1", "2"]);
    settle(&engine, &queue, run, &ack()).await;
    assert!(take(&engine, &queue, 20).await.is_empty());
}

#[tokio::test]
async fn two_claims_of_one_key_that_could_not_see_each_other_do_not_both_hold_it() {
    let (engine, queue) = engine_and_queue().await;
    let other = engine_at(&server().await.url()).await;
    publish_keyed(&engine, &queue, &[("warm", "0")]).await;
    let warm = take(&engine, &queue, 1).await;
    settle(&engine, &queue, warm, &ack()).await;

    // The second one's claim is under way until the lock is free.
    let mut own = connection().await;
    let sql = format!(
        "CREATE FUNCTION wait_{queue}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
           IF new.message = '2' THEN PERFORM pg_advisory_xact_lock(hashtext('{queue}')); END IF;
           RETURN new; END $$;
         CREATE TRIGGER wait BEFORE UPDATE ON pgmq.q_{queue}
           FOR EACH ROW EXECUTE FUNCTION wait_{queue}();
         SELECT pg_advisory_lock(hashtext('{queue}'))"
    );
    run(&mut own, &sql).await;

    let mut late = connection().await;
    run(&mut late, "BEGIN").await;
    engine
        .publish_in(&mut late, vec![keyed(&queue, "a", "1")])
        .await
        .unwrap();
    publish_keyed(&engine, &queue, &[("a", "2")]).await;

    let slow = engine.clone();
    let of = queue.clone();
    let slow = tokio::spawn(async move { take(&slow, &of, 1).await });
    let waits = format!(
        "SELECT count(*) > 0 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
           AND objid::bigint = hashtext('{queue}')::bigint & 4294967295"
    );

    while !scalar::<bool>(&mut own, &waits).await {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    run(&mut late, "COMMIT").await;
    let first = take(&other, &queue, 1).await;
    assert_eq!(bodies(&first), ["1"]);

    run(
        &mut own,
        &format!("SELECT pg_advisory_unlock(hashtext('{queue}'))"),
    )
    .await;

    let second = timeout(Duration::from_secs(20), slow)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(bodies(&second), [] as [&str; 0], "both hold the key");
    settle(&other, &queue, first, &ack()).await;

    // It was released, not lost.
    let second = take(&other, &queue, 1).await;
    assert_eq!(
        (bodies(&second), second[0].unsettled_deliveries()),
        (vec!["2"], 1)
    );
}

#[tokio::test]
async fn the_lock_of_a_key_orders_transactions() {
    let (engine, queue) = engine_and_queue().await;
    let mut one = connection().await;
    let mut two = connection().await;
    run(&mut one, "BEGIN").await;
    run(&mut two, "BEGIN").await;
    engine.lock_key(&mut one, &queue, "a").await.unwrap();
    engine.lock_key(&mut two, &queue, "b").await.unwrap();

    let second = async {
        engine.lock_key(&mut two, &queue, "a").await.unwrap();
        engine
            .publish_in(&mut two, vec![keyed(&queue, "a", "2")])
            .await
            .unwrap();
        run(&mut two, "COMMIT").await;
    };

    let first = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        engine
            .publish_in(&mut one, vec![keyed(&queue, "a", "1")])
            .await
            .unwrap();
        run(&mut one, "COMMIT").await;
    };
    tokio::join!(second, first);

    let all = take(&engine, &queue, 8).await;
    assert_eq!(bodies(&all), ["1"]);
    assert_eq!(bodies(&take(&engine, &queue, 8).await), [] as [&str; 0]);

    settle(&engine, &queue, all, &ack()).await;
    assert_eq!(bodies(&take(&engine, &queue, 8).await), ["2"]);
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
