//! Partitioned queues: where events are, how they are claimed, and what another number of partitions
//! leaves as it was.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ezq_core::ErrorKind;
use ezq_core::engine::{
    Delivery, Due, Engine as _, ExtendOutcome, LeaseRequest, PublishOutcome, Settle, SettleOutcome,
};
use ezq_core::message::QueueName;
use ezq_pgmq::{PartitionOutcome, PgmqConfig, PgmqEngine};
use sqlx::Connection as _;

use crate::keys::{keyed, publish_keyed, take};
use crate::support::*;

/// An engine that declares partitions, and a queue that has them.
async fn partitioned(count: u32) -> (PgmqEngine, QueueName) {
    let queue = unique("parted");
    let config = PgmqConfig::url(&server().await.url()).unwrap();
    let engine = PgmqEngine::connect(config.partitions(&queue, count))
        .await
        .unwrap();
    engine.ensure_queue(&queue).await.unwrap();
    (engine, queue)
}

async fn change(engine: &PgmqEngine, queue: &QueueName, count: u32) -> u64 {
    match engine.partition_queue(queue, count).await.unwrap() {
        PartitionOutcome::Partitioned { moved, .. } => moved,
        other => panic!("{other:?}"),
    }
}

async fn count(engine: &PgmqEngine, queue: &QueueName) -> u32 {
    engine.partitions(queue).await.unwrap().unwrap().count
}

/// Each row of a queue as JSON text, but for what `without` removes from it.
async fn rows(queue: &QueueName, without: &str) -> Vec<String> {
    let sql = format!(
        "SELECT array_agg((to_jsonb(q) {without})::text ORDER BY msg_id) FROM pgmq.q_{queue} q"
    );
    scalar(&mut connection().await, &sql).await
}

/// The numbers from 0 to 99 under ten keys, each key's in their order.
async fn publish_hundred(engine: &PgmqEngine, queue: &QueueName) {
    let messages = (0..100).map(|n| keyed(queue, &format!("k{}", n % 10), &n.to_string()));
    engine.publish(messages.collect()).await.unwrap();
}

/// Handles all that a queue holds, a few at a time; the bodies by key, in the order of handling.
async fn work_off(engine: &PgmqEngine, queue: &QueueName) -> BTreeMap<String, Vec<u32>> {
    let mut handled = BTreeMap::<String, Vec<u32>>::new();
    loop {
        let deliveries = take(engine, queue, 7).await;
        if deliveries.is_empty() {
            return handled;
        }
        let mut settlements = Vec::new();
        for delivery in deliveries {
            let key = delivery.key().unwrap().into_owned();
            handled
                .entry(key)
                .or_default()
                .push(delivery.body.parse().unwrap());
            settlements.push((delivery.receipt, ack()));
        }
        for outcome in engine.settle(queue, settlements).await.unwrap() {
            assert!(matches!(outcome, SettleOutcome::Done), "{outcome:?}");
        }
    }
}

#[track_caller]
fn assert_complete_and_in_order(handled: &BTreeMap<String, Vec<u32>>) {
    let total: usize = handled.values().map(Vec::len).sum();
    assert_eq!(total, 100, "{handled:?}");
    for (key, numbers) in handled {
        assert!(numbers.is_sorted(), "{key}: {numbers:?}");
    }
}

#[tokio::test]
async fn a_declared_queue_spreads_its_events_and_keeps_each_key_in_one_partition() {
    let (engine, queue) = partitioned(4).await;
    assert_eq!(count(&engine, &queue).await, 4);
    publish_hundred(&engine, &queue).await;
    publish(&engine, &queue, &["0"; 100]).await;

    let mut connection = connection().await;
    let split: i64 = scalar(
        &mut connection,
        &format!(
            "SELECT count(*) FROM (
               SELECT FROM pgmq.q_{queue} WHERE headers ? 'x-pgmq-group'
               GROUP BY headers ->> 'x-pgmq-group' HAVING count(DISTINCT tableoid) > 1) split"
        ),
    )
    .await;
    assert_eq!(split, 0, "keys in more than one partition");
    let used: i64 = scalar(
        &mut connection,
        &format!("SELECT count(DISTINCT tableoid) FROM pgmq.q_{queue} WHERE headers IS NULL"),
    )
    .await;
    assert_eq!(used, 4, "partitions that have events without a key");
}

#[tokio::test]
async fn all_partitions_are_worked_off_and_each_key_in_its_order() {
    let (engine, queue) = partitioned(8).await;
    publish_hundred(&engine, &queue).await;
    assert_complete_and_in_order(&work_off(&engine, &queue).await);
}

#[tokio::test]
async fn two_workers_never_have_messages_of_one_key_at_once() {
    let (engine, queue) = partitioned(4).await;
    let other = engine_at(&server().await.url()).await;
    publish_hundred(&engine, &queue).await;

    let mut held: Vec<(usize, Delivery)> = Vec::new();
    for _ in 0..20 {
        for (worker, engine) in [&engine, &other].into_iter().enumerate() {
            let deliveries = take(engine, &queue, 3).await;
            held.extend(deliveries.into_iter().map(|delivery| (worker, delivery)));
        }
    }
    let mut owners = BTreeMap::<String, BTreeSet<usize>>::new();
    for (worker, delivery) in &held {
        let key = delivery.key().unwrap().into_owned();
        owners.entry(key).or_default().insert(*worker);
    }
    assert_eq!(owners.len(), 10, "{owners:?}");
    assert!(
        owners.values().all(|workers| workers.len() == 1),
        "{owners:?}"
    );
}

#[tokio::test]
async fn another_number_of_partitions_leaves_every_event_as_it_was() {
    let (engine, queue) = engine_and_queue().await;
    publish_hundred(&engine, &queue).await;
    let later = message(&queue, "\"later\"").due(Due::After(Duration::from_secs(3600)));
    engine.publish(vec![later]).await.unwrap();
    // What is retried has marks and a count of returns, and is moved as it is.
    let tried = take(&engine, &queue, 5).await;
    let tried = tried.into_iter().map(|one| (one.receipt, retry(TTL)));
    engine.settle(&queue, tried.collect()).await.unwrap();

    let before = rows(&queue, "").await;
    for (number, moved) in [(4, 101), (6, 101), (1, 101), (3, 101)] {
        assert_eq!(change(&engine, &queue, number).await, moved);
        assert_eq!(count(&engine, &queue).await, number);
        assert_eq!(rows(&queue, "").await, before, "with {number} partitions");
    }

    let next = publish(&engine, &queue, &["0"]).await.remove(0);
    assert_eq!(next.as_number(), Some(102), "numbers go on");
}

#[tokio::test]
async fn what_is_leased_is_settled_as_if_nothing_had_happened() {
    for numbers in [&[4_u32][..], &[4, 8], &[4, 1], &[4, 8, 1, 2]] {
        let (engine, queue) = engine_and_queue().await;
        publish(&engine, &queue, &["1", "2", "3", "4", "5"]).await;
        let mut deliveries = lease(&engine, &queue).await;
        assert_eq!(deliveries.len(), 5);
        for number in numbers {
            change(&engine, &queue, *number).await;
        }

        let receipts: Vec<_> = deliveries.iter().map(|one| one.receipt.clone()).collect();
        let extended = engine.extend(&queue, &receipts, TTL).await.unwrap();
        assert_eq!(extended, [ExtendOutcome::Extended; 5], "{numbers:?}");
        assert!(lease(&engine, &queue).await.is_empty());

        let ways = [ack(), retry(Duration::ZERO), Settle::Release, dead(), ack()];
        let settlements = deliveries.drain(..).map(|one| one.receipt).zip(ways);
        for outcome in engine.settle(&queue, settlements.collect()).await.unwrap() {
            assert!(
                matches!(outcome, SettleOutcome::Done),
                "{numbers:?}: {outcome:?}"
            );
        }
        let again = lease(&engine, &queue).await;
        let bodies: BTreeSet<_> = again.iter().map(|one| one.body.as_str()).collect();
        assert_eq!(bodies, BTreeSet::from(["2", "3"]), "{numbers:?}");

        // What was settled once, or delivered again, is fenced as ever.
        let late = receipts.into_iter().map(|receipt| (receipt, ack()));
        for outcome in engine.settle(&queue, late.collect()).await.unwrap() {
            assert!(matches!(outcome, SettleOutcome::LeaseLost), "{outcome:?}");
        }
    }
}

#[tokio::test]
async fn a_queue_that_is_partitioned_while_it_is_worked_off_keeps_its_order() {
    let (engine, queue) = engine_and_queue().await;
    let operator = engine_at(&server().await.url()).await;
    publish_hundred(&engine, &queue).await;

    let mut handled = BTreeMap::<String, Vec<u32>>::new();
    let mut numbers = [1_u32, 4, 2, 8, 1, 3].into_iter().cycle();
    loop {
        // The worker's process does not know of the change: it has its own idea of the partitions.
        let deliveries = take(&engine, &queue, 4).await;
        let _ = operator
            .partition_queue(&queue, numbers.next().unwrap())
            .await
            .unwrap();
        if deliveries.is_empty() {
            break;
        }
        let mut settlements = Vec::new();
        for delivery in deliveries {
            let key = delivery.key().unwrap().into_owned();
            let numbers = handled.entry(key).or_default();
            numbers.push(delivery.body.parse().unwrap());
            settlements.push((delivery.receipt, ack()));
        }
        for outcome in engine.settle(&queue, settlements).await.unwrap() {
            assert!(matches!(outcome, SettleOutcome::Done), "{outcome:?}");
        }
    }
    assert_complete_and_in_order(&handled);
}

#[tokio::test]
async fn a_dedupe_key_holds_in_all_partitions_and_across_a_change() {
    let (engine, queue) = partitioned(4).await;
    let keyed_twice = |ordering: &str| {
        let mut message = crate::support::keyed(&queue, "1", "once");
        message.headers.insert("x-pgmq-group", ordering);
        message
    };
    let first = engine.publish(vec![keyed_twice("a")]).await.unwrap();
    assert!(matches!(first[0], PublishOutcome::Stored(_)));
    let mut again = engine
        .publish(vec![keyed_twice("b"), keyed_twice("c")])
        .await
        .unwrap();
    change(&engine, &queue, 2).await;
    again.extend(engine.publish(vec![keyed_twice("d")]).await.unwrap());
    for outcome in again {
        assert!(
            matches!(outcome, PublishOutcome::Duplicate(_)),
            "{outcome:?}"
        );
    }
}

#[tokio::test]
async fn other_clients_of_pgmq_use_a_partitioned_queue_as_any() {
    let (engine, queue) = partitioned(4).await;
    let mut connection = connection().await;
    let sql = format!(
        "SELECT pgmq.send('{queue}', jsonb_build_object('n', n), jsonb_build_object('x-pgmq-group', n::text))
         FROM generate_series(1, 20) n"
    );
    run(&mut connection, &sql).await;
    // It exists, and is left as it is.
    run(&mut connection, &format!("SELECT pgmq.create('{queue}')")).await;
    assert_eq!(count(&engine, &queue).await, 4);

    let length: i64 = scalar(
        &mut connection,
        &format!("SELECT total_messages FROM pgmq.metrics('{queue}')"),
    )
    .await;
    assert_eq!(length, 20);
    let read: Vec<i64> = scalar(
        &mut connection,
        &format!("SELECT array_agg(msg_id) FROM pgmq.read('{queue}', 30, 5)"),
    )
    .await;
    assert_eq!(read.len(), 5);
    let deleted: bool = scalar(
        &mut connection,
        &format!("SELECT pgmq.delete('{queue}', {}::bigint)", read[0]),
    )
    .await;
    let archived: bool = scalar(
        &mut connection,
        &format!("SELECT pgmq.archive('{queue}', {}::bigint)", read[1]),
    )
    .await;
    assert!(deleted && archived);
    assert_eq!(lease(&engine, &queue).await.len(), 15);

    run(
        &mut connection,
        &format!("SELECT pgmq.drop_queue('{queue}')"),
    )
    .await;
    let left: i64 = scalar(
        &mut connection,
        &format!("SELECT count(*) FROM pg_class WHERE starts_with(relname::text, 'q_{queue}-')"),
    )
    .await;
    assert_eq!(left, 0, "its partitions are gone with it");
}

#[tokio::test]
async fn a_number_that_is_none_too_many_events_and_no_queue_change_nothing() {
    let (engine, queue) = engine_and_queue().await;
    publish(&engine, &queue, &["1", "2", "3"]).await;
    for number in [0, 17] {
        let error = engine.partition_queue(&queue, number).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
    }
    let many = engine.partition_queue(&queue, 4).at_most(2).await.unwrap();
    assert_eq!(many, PartitionOutcome::TooManyEvents);
    let same = engine.partition_queue(&queue, 1).await.unwrap();
    assert_eq!(same, PartitionOutcome::Unchanged);
    let absent = engine.partition_queue(&unique("absent"), 4).await.unwrap();
    assert_eq!(absent, PartitionOutcome::NotFound);
    assert_eq!(engine.partitions(&unique("absent")).await.unwrap(), None);
    assert_eq!(count(&engine, &queue).await, 1);

    let wrong = PgmqConfig::url(&server().await.url())
        .unwrap()
        .partitions(&queue, 0);
    let error = PgmqEngine::connect(wrong).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
}

#[tokio::test]
async fn a_transaction_that_uses_the_queue_is_waited_for() {
    let (engine, queue) = engine_and_queue().await;
    let mut connection = connection().await;
    let mut tx = connection.begin().await.unwrap();
    engine
        .publish_in(&mut tx, vec![message(&queue, "1")])
        .await
        .unwrap();

    let request = engine.partition_queue(&queue, 4);
    let error = request
        .patience(Duration::from_millis(100))
        .await
        .unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    assert_eq!(count(&engine, &queue).await, 1);

    let (outcome, ()) = tokio::join!(engine.partition_queue(&queue, 4), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        tx.commit().await.unwrap();
    });
    let expected = PartitionOutcome::Partitioned {
        before: 1,
        moved: 1,
    };
    assert_eq!(outcome.unwrap(), expected);
    assert_eq!(lease_one(&engine, &queue).await.body, "1");
}

#[tokio::test]
async fn columns_indexes_and_rights_stay() {
    let (engine, queue) = engine_and_queue().await;
    let mut connection = connection().await;
    let role = format!("role_{queue}");
    run(
        &mut connection,
        &format!(
            "CREATE ROLE {role};
             GRANT USAGE ON SCHEMA pgmq TO {role};
             GRANT SELECT, INSERT, UPDATE, DELETE ON pgmq.q_{queue} TO {role};
             ALTER TABLE pgmq.q_{queue} ADD COLUMN note text DEFAULT 'none';
             ALTER TABLE pgmq.q_{queue} SET (fillfactor = 70);
             CREATE INDEX noted_{queue} ON pgmq.q_{queue} (note) WHERE note <> 'none'"
        ),
    )
    .await;

    let described = format!(
        "SELECT format('%s %s %s %s', c.relowner::regrole, c.relacl::text,
           (SELECT array_agg(attname || ' ' || attnotnull ORDER BY attnum) FROM pg_attribute
            WHERE attrelid = c.oid AND attnum > 0),
           (SELECT array_agg(replace(pg_get_indexdef(indexrelid), ' ON ONLY ', ' ON ') ORDER BY indexrelid::regclass::text)
            FROM pg_index WHERE indrelid = c.oid AND NOT indisprimary
              AND indexrelid::regclass::text NOT LIKE '%_ezq_%'))
         FROM pg_class c WHERE oid = 'pgmq.q_{queue}'::regclass"
    );
    let before: String = scalar(&mut connection, &described).await;
    change(&engine, &queue, 3).await;
    assert_eq!(scalar::<String>(&mut connection, &described).await, before);
    let filled: i64 = scalar(
        &mut connection,
        &format!(
            "SELECT count(*) FROM pg_inherits JOIN pg_class c ON c.oid = inhrelid
             WHERE inhparent = 'pgmq.q_{queue}'::regclass AND c.reloptions = ARRAY['fillfactor=70']
               AND has_table_privilege('{role}', c.oid, 'UPDATE')"
        ),
    )
    .await;
    assert_eq!(filled, 3);

    // An identity column needs no right on its sequence, a default does.
    run(
        &mut connection,
        &format!("SET ROLE {role}; SELECT pgmq.send('{queue}', '1'); RESET ROLE"),
    )
    .await;
    change(&engine, &queue, 1).await;
    assert_eq!(scalar::<String>(&mut connection, &described).await, before);
    run(
        &mut connection,
        &format!("DROP OWNED BY {role}; DROP ROLE {role}"),
    )
    .await;
}

#[tokio::test]
async fn a_role_without_rights_on_the_partitions_claims_from_the_whole_queue() {
    let (engine, queue) = partitioned(4).await;
    let mut connection = connection().await;
    let role = format!("late_{queue}");
    run(
        &mut connection,
        &format!(
            "CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA pgmq TO {role};
             GRANT SELECT, INSERT, UPDATE, DELETE ON pgmq.q_{queue} TO {role}"
        ),
    )
    .await;
    publish_hundred(&engine, &queue).await;

    let url = server()
        .await
        .url()
        .replacen("postgres@", &format!("{role}@"), 1);
    let config = PgmqConfig::url(&url).unwrap().manage_schema(false);
    let late = PgmqEngine::connect(config).await.unwrap();
    assert_complete_and_in_order(&work_off(&late, &queue).await);
    late.close().await;
    run(
        &mut connection,
        &format!("DROP OWNED BY {role}; DROP ROLE {role}"),
    )
    .await;
}

#[tokio::test]
async fn a_name_that_needs_quotes_is_partitioned_as_any() {
    let engine = engine().await;
    let queue = QueueName::new(&format!("Shop.{}-@/x", unique("parted"))).unwrap();
    engine.ensure_queue(&queue).await.unwrap();
    publish_keyed(&engine, &queue, &[("a", "1"), ("a", "2"), ("b", "3")]).await;
    change(&engine, &queue, 5).await;
    change(&engine, &queue, 2).await;
    let request = LeaseRequest::new(queue.clone(), 10, TTL).keys(10);
    assert_eq!(engine.lease(request).await.unwrap().deliveries.len(), 3);
    change(&engine, &queue, 1).await;

    let longest = QueueName::new(&"l".repeat(47)).unwrap();
    engine.ensure_queue(&longest).await.unwrap();
    change(&engine, &longest, 16).await;
    publish(&engine, &longest, &["1"]).await;
    change(&engine, &longest, 1).await;
    assert_eq!(lease_one(&engine, &longest).await.body, "1");
}

/// Postgres ends one of two statements that lock the same rows in two orders, after a second. So a settlement that
/// waits for a row holds none behind it, whatever partition that is in.
#[tokio::test]
async fn an_acknowledgement_locks_rows_of_several_partitions_in_the_order_of_their_ids() {
    let (engine, queue) = partitioned(4).await;
    publish(&engine, &queue, &["0"; 60]).await;
    let mut receipts = Vec::new();
    while receipts.len() < 60 {
        let leased = lease(&engine, &queue).await;
        assert!(!leased.is_empty(), "{} leased", receipts.len());
        receipts.extend(leased.into_iter().map(|one| one.receipt));
    }

    // The last partition is passed over last by a statement that has no order.
    let table = format!("pgmq.q_{queue}");
    let first_of_last = format!(
        "SELECT msg_id FROM {table} ORDER BY tableoid::regclass::text DESC, msg_id LIMIT 1"
    );
    let last_of_first = format!(
        "SELECT msg_id FROM {table} ORDER BY tableoid::regclass::text, msg_id DESC LIMIT 1"
    );
    let mut test = connection().await;
    let low: i64 = scalar(&mut test, &first_of_last).await;
    let high: i64 = scalar(&mut test, &last_of_first).await;
    assert!(low < high);

    let mut holder = test.begin().await.unwrap();
    let lock = |id| format!("SELECT msg_id FROM {table} WHERE msg_id = {id} FOR UPDATE NOWAIT");
    scalar::<i64>(&mut holder, &lock(low)).await;
    let settling = engine.settle(
        &queue,
        receipts.into_iter().map(|one| (one, ack())).collect(),
    );
    let looking = async {
        tokio::time::sleep(Duration::from_millis(400)).await;
        scalar::<i64>(&mut holder, &lock(high)).await;
        holder.rollback().await.unwrap();
    };
    let (outcomes, ()) = tokio::join!(settling, looking);
    let outcomes = outcomes.unwrap().into_iter();
    let done = outcomes.filter(|outcome| matches!(outcome, SettleOutcome::Done));
    assert_eq!(done.count(), 60);
}

/// An acknowledgement, and one that gives back, of the same messages at once.
#[tokio::test]
async fn settlements_that_meet_in_several_partitions_succeed_once_each() {
    let (engine, queue) = partitioned(4).await;
    let other = engine_at(&server().await.url()).await;
    for round in 0..5 {
        publish(&engine, &queue, &["0"; 60]).await;
        let mut receipts = Vec::new();
        while receipts.len() < 60 {
            let leased = lease(&engine, &queue).await;
            assert!(!leased.is_empty(), "{} leased", receipts.len());
            receipts.extend(leased.into_iter().map(|one| one.receipt));
        }

        let all = |settle: Settle| {
            let receipts = receipts.iter().rev().cloned();
            receipts
                .map(|receipt| (receipt, settle.clone()))
                .collect::<Vec<_>>()
        };
        let (acknowledged, returned) = tokio::join!(
            engine.settle(&queue, all(ack())),
            other.settle(&queue, all(retry(TTL)))
        );
        let outcomes = acknowledged.unwrap().into_iter().chain(returned.unwrap());
        let done = outcomes.filter(|outcome| matches!(outcome, SettleOutcome::Done));
        assert_eq!(done.count(), 60, "in round {round}");
    }
}
