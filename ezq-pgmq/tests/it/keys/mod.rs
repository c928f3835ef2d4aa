//! Ordering keys in Postgres: indexes, plans, and claims that do not see each other.

mod indexes;

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use ezq_core::engine::{Delivery, Due, Engine as _, LeaseRequest, Outgoing, Settle};
use ezq_core::message::QueueName;
use ezq_core::message::headers::KEY;
use ezq_pgmq::PgmqEngine;
use tokio::time::timeout;

use self::indexes::indexes;
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
