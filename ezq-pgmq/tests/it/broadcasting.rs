//! Broadcasts and subscriptions in the database: rights, an absent or dropped schema, unusual
//! names.

use ezq_core::ErrorKind;
use ezq_core::engine::{BroadcastMessage, Broadcasts, Dedupe, Engine, PublishOutcome};
use ezq_core::event::Pattern;
use ezq_core::message::QueueName;
use ezq_core::message::headers::Headers;
use ezq_pgmq::{PgmqConfig, PgmqEngine};
use sqlx::{Connection as _, PgConnection};
use std::time::Duration;
use tokio::task::JoinSet;

use crate::support::*;

fn event(n: i32) -> BroadcastMessage {
    BroadcastMessage::new("order.created".to_owned(), n.to_string(), Headers::new())
}

fn keyed_event(n: i32, key: &str) -> BroadcastMessage {
    let dedupe = Dedupe::new(key, Duration::from_secs(3600), n.to_string()).unwrap();
    event(n).dedupe(dedupe)
}

async fn subscribe(engine: &PgmqEngine, queue: &QueueName, pattern: &str) {
    engine.ensure_queue(queue).await.unwrap();
    engine
        .subscribe("shop", queue, &[Pattern::new(pattern).unwrap()])
        .await
        .unwrap();
}

async fn database() -> (String, PgConnection) {
    let url = fresh_database().await;
    let own = PgConnection::connect(&url).await.unwrap();
    (url, own)
}

#[tokio::test]
async fn a_change_of_the_schema_that_waits_for_a_transaction_holds_up_no_broadcast() {
    let (url, mut own) = database().await;
    let queue = unique("q");
    let old = engine_at(&url).await;
    subscribe(&old, &queue, "order.*").await;

    // As if the last migration was still to come.
    run(
        &mut own,
        "DELETE FROM ezq.migrations WHERE name = 'queue names'",
    )
    .await;

    let mut tx = own.begin().await.unwrap();
    old.broadcast_in(&mut tx, event(1)).await.unwrap();

    let new = engine_at(&url).await;
    let other = queue.clone();
    let pattern = Pattern::new("#").unwrap();
    let changes = tokio::spawn(async move { new.subscribe("app", &other, &[pattern]).await });
    let mut watch = PgConnection::connect(&url).await.unwrap();
    let waits =
        "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock'
                                AND relation = 'ezq.subscriptions'::regclass)";

    while !scalar::<bool>(&mut watch, waits).await {
        assert!(!changes.is_finished(), "it waits for nobody");
        tokio::task::yield_now().await;
    }

    let broadcast = tokio::time::timeout(Duration::from_secs(5), old.broadcast(event(2)));
    broadcast.await.expect("it is held up").unwrap();
    tx.commit().await.unwrap();
    changes.await.unwrap().unwrap();
}

/// Subscriptions and broadcasts in an empty database.
pub(crate) async fn broadcasts(url: &str) {
    let engine = engine_at(url).await;
    let one = unique("q");
    let two = unique("q");
    subscribe(&engine, &one, "order.*").await;
    subscribe(&engine, &one, "order.created").await;
    subscribe(&engine, &two, "#").await;

    for (_, outcome) in engine.broadcast(event(1)).await.unwrap() {
        stored(outcome);
    }

    for _ in 0..2 {
        let copies = engine.broadcast(keyed_event(2, "a")).await.unwrap();
        assert_eq!(copies.len(), 2);
    }

    for queue in [&one, &two] {
        let mut bodies: Vec<_> = lease(&engine, queue)
            .await
            .into_iter()
            .map(|d| d.body)
            .collect();
        bodies.sort();
        assert_eq!(bodies, ["1", "2"]);
    }
}

#[tokio::test]
async fn nothing_is_made_where_it_is_not_to_be_and_the_error_says_what_to_run() {
    let (url, mut own) = database().await;
    let queue = unique("q");
    engine_at(&url).await.ensure_queue(&queue).await.unwrap();

    let config = PgmqConfig::url(&url).unwrap().manage_schema(false);
    let engine = PgmqEngine::connect(config).await.unwrap();
    let error = engine.broadcast(event(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SchemaMissing);
    // Without the table nobody is subscribed.
    assert!(engine.subscriptions().await.unwrap().is_empty());

    let mut tx = own.begin().await.unwrap();
    let error = engine.broadcast_in(&mut tx, event(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SchemaMissing);

    // Nothing was sent: the caller's transaction can go on.
    engine
        .publish_in(&mut tx, vec![message(&queue, "5")])
        .await
        .unwrap();

    tx.commit().await.unwrap();
    run(&mut own, error.to_string().split_once('\n').unwrap().1).await;
    subscribe(&engine, &queue, "#").await;
    assert_eq!(engine.broadcast(event(2)).await.unwrap().len(), 1);

    // Dedupe keys are in a table of another part.
    let error = engine.broadcast(keyed_event(3, "a")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SchemaMissing);
}

#[tokio::test]
async fn a_role_that_may_not_write_into_one_of_the_queues_stores_no_copy() {
    let (url, mut own) = database().await;
    let admin = engine_at(&url).await;
    let one = unique("q");
    let two = unique("q");
    subscribe(&admin, &one, "#").await;
    subscribe(&admin, &two, "#").await;

    let role = unique("role");
    let sql = ezq_pgmq::setup_sql([&one], Some(role.as_str())).unwrap();
    run(&mut own, &format!("CREATE ROLE {role} LOGIN")).await;
    run(
        &mut own,
        &sql.replace("create extension if not exists pgmq;", ""),
    )
    .await;

    let engine = engine_at(&url.replace("postgres@", &format!("{role}@"))).await;
    let error = engine.broadcast(event(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Permission, "{error:?}");
    assert_eq!(admin.stats(&one).await.unwrap().ready, 0);

    // The printed script is enough for the queues that it names.
    engine
        .unsubscribe("shop", &[(two, Pattern::new("#").unwrap())])
        .await
        .unwrap();
    assert_eq!(
        engine.broadcast(keyed_event(1, "a")).await.unwrap().len(),
        1
    );
    assert_eq!(lease_one(&engine, &one).await.body, "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn ten_who_need_it_at_once_make_one() {
    let (url, mut own) = database().await;
    let queue = unique("q");
    engine_at(&url).await.ensure_queue(&queue).await.unwrap();
    let mut subscribers = JoinSet::new();

    for _ in 0..10 {
        let engine = engine_at(&url).await;
        let queue = queue.clone();
        subscribers.spawn(async move {
            engine
                .subscribe("shop", &queue, &[Pattern::new("#").unwrap()])
                .await
                .unwrap()
        });
    }

    assert_eq!(subscribers.join_all().await.into_iter().sum::<u64>(), 1);
    let versions = "SELECT array_agg(version) FROM ezq.migrations";
    assert_eq!(scalar::<Vec<i32>>(&mut own, versions).await, [3, 7, 8, 10]);
}

#[tokio::test]
async fn a_schema_that_was_dropped_is_made_again() {
    let (url, mut own) = database().await;
    let engine = engine_at(&url).await;
    let queue = unique("q");
    subscribe(&engine, &queue, "#").await;
    run(&mut own, "DROP SCHEMA ezq CASCADE").await;

    // Nobody is subscribed any more.
    assert!(engine.broadcast(event(1)).await.unwrap().is_empty());
    run(&mut own, "DROP SCHEMA ezq CASCADE").await;
    assert!(engine.subscriptions().await.unwrap().is_empty());

    let mut tx = own.begin().await.unwrap();
    let error = engine.broadcast_in(&mut tx, event(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient);

    tx.rollback().await.unwrap();
    subscribe(&engine, &queue, "#").await;
    let copies = engine.broadcast_in(&mut own, event(2)).await.unwrap();
    assert!(matches!(copies[..], [(_, PublishOutcome::Stored(_))]));
}

#[tokio::test]
async fn a_queue_that_was_created_with_capital_letters_gets_its_copy() {
    let (url, mut own) = database().await;
    let engine = engine_at(&url).await;
    engine.ready().await.unwrap();
    run(&mut own, "SELECT pgmq.create('MyOrders')").await;
    subscribe(&engine, &QueueName::new("myorders").unwrap(), "order.*").await;
    assert_eq!(engine.broadcast(event(7)).await.unwrap().len(), 1);
    let read = "SELECT count(*) FROM pgmq.read('MyOrders', 30, 10) WHERE message = '7'";
    assert_eq!(scalar::<i64>(&mut own, read).await, 1);
}

#[tokio::test]
async fn another_client_subscribes_and_broadcasts_by_sql() {
    let (url, mut own) = database().await;
    let engine = engine_at(&url).await;
    let queue = unique("q");
    engine.ensure_queue(&queue).await.unwrap();
    engine.ready().await.unwrap();

    let insert = |queue: &str, pattern: &str| {
        format!(
            "INSERT INTO ezq.subscriptions (app, queue, pattern) VALUES ('py', '{queue}', '{pattern}')"
        )
    };
    run(&mut own, &insert(queue.as_str(), "order.#")).await;

    let bad = [
        ("MyOrders", "a"),
        ("q", "a*"),
        ("q", ""),
        ("q\"; x", "a"),
        ("q", "a\n"),
        ("q", "\u{85}"),
    ];

    for (queue, pattern) in bad {
        let refused = sqlx::raw_sql(sqlx::AssertSqlSafe(insert(queue, pattern)));
        refused.execute(&mut own).await.unwrap_err();
    }

    let sql =
        "SELECT count(message_id) FROM ezq.broadcast('order.paid', '{\"_type\": \"OrderPaid\"}')";
    assert_eq!(scalar::<i64>(&mut own, sql).await, 1);
    assert!(lease_one(&engine, &queue).await.body.contains("OrderPaid"));
}

/// The queues that got a copy, and those that did not.
fn told(copies: Vec<(QueueName, PublishOutcome)>) -> (Vec<QueueName>, Vec<QueueName>) {
    let (stored, missing): (Vec<_>, Vec<_>) = copies
        .into_iter()
        .partition(|(_, outcome)| matches!(outcome, PublishOutcome::Stored(_)));
    let names = |copies: Vec<(QueueName, PublishOutcome)>| {
        copies.into_iter().map(|(queue, _)| queue).collect()
    };
    (names(stored), names(missing))
}

#[tokio::test]
async fn what_changes_between_two_broadcasts_counts_for_the_second() {
    let (url, mut own) = database().await;
    let engine = engine_at(&url).await;
    let mut queues = [unique("q"), unique("q"), unique("q")];
    queues.sort();
    let [first, second, third] = queues;
    for queue in [&first, &second, &third] {
        engine.ensure_queue(queue).await.unwrap();
    }
    engine.ready().await.unwrap();
    let add = |queue: &QueueName, pattern: &str| {
        format!(
            "INSERT INTO ezq.subscriptions (app, queue, pattern) VALUES ('py', '{queue}', '{pattern}')"
        )
    };
    run(&mut own, &add(&first, "order.#")).await;

    // Twice each: the second time by a statement that names the queues.
    for _ in 0..2 {
        let copies = engine.broadcast(event(1)).await.unwrap();
        assert_eq!(told(copies), (vec![first.clone()], vec![]));
    }
    run(&mut own, &add(&second, "order.created")).await;
    run(&mut own, &add(&third, "#")).await;
    for _ in 0..2 {
        let copies = engine.broadcast(event(2)).await.unwrap();
        let all = vec![first.clone(), second.clone(), third.clone()];
        assert_eq!(told(copies), (all, vec![]));
    }

    let remove = format!("DELETE FROM ezq.subscriptions WHERE queue = '{first}'");
    run(&mut own, &remove).await;
    for _ in 0..2 {
        let copies = engine.broadcast(event(3)).await.unwrap();
        assert_eq!(told(copies), (vec![second.clone(), third.clone()], vec![]));
    }
    run(&mut own, &format!("SELECT pgmq.drop_queue('{second}')")).await;
    for _ in 0..2 {
        let copies = engine.broadcast(event(4)).await.unwrap();
        assert_eq!(told(copies), (vec![third.clone()], vec![second.clone()]));
    }
    run(&mut own, "DELETE FROM ezq.subscriptions").await;
    for _ in 0..2 {
        assert!(engine.broadcast(event(5)).await.unwrap().is_empty());
    }

    let left = [(&first, 4), (&third, 6)];
    for (queue, count) in left {
        assert_eq!(lease(&engine, queue).await.len(), count);
    }
}

#[tokio::test]
async fn a_copy_that_a_trigger_refuses_is_told() {
    let (url, mut own) = database().await;
    let engine = engine_at(&url).await;
    let mut queues = [unique("q"), unique("q")];
    queues.sort();
    let [first, second] = queues;
    subscribe(&engine, &first, "#").await;
    subscribe(&engine, &second, "#").await;
    assert_eq!(engine.broadcast(event(1)).await.unwrap().len(), 2);

    let refuse = format!(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
         CREATE TRIGGER refuse BEFORE INSERT ON pgmq.q_{first} FOR EACH ROW EXECUTE FUNCTION refuse()"
    );
    run(&mut own, &refuse).await;
    for _ in 0..2 {
        let copies = engine.broadcast(event(2)).await.unwrap();
        assert_eq!(told(copies), (vec![second.clone()], vec![first.clone()]));
    }
}

#[tokio::test]
async fn a_subscriber_that_waits_is_woken() {
    let (url, _) = database().await;
    let publisher = engine_at(&url).await;
    let subscriber = engine_at(&url).await;
    let queue = unique("q");
    subscribe(&subscriber, &queue, "#").await;

    let mut woken = subscriber.wakeups(&queue).await.unwrap().unwrap();
    woken.mark_unchanged();
    publisher.broadcast(event(1)).await.unwrap();
    tokio::time::timeout(TTL, woken.changed())
        .await
        .unwrap()
        .unwrap();
    woken.mark_unchanged();

    let mut own = PgConnection::connect(&url).await.unwrap();
    publisher.broadcast_in(&mut own, event(2)).await.unwrap();
    tokio::time::timeout(TTL, woken.changed())
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn broadcasts_and_publishes_of_the_same_keys_never_deadlock() {
    let (url, _) = database().await;
    let engine = engine_at(&url).await;
    let queues = [unique("q"), unique("q"), unique("q")];
    for queue in &queues {
        subscribe(&engine, queue, "#").await;
    }
    let mut publishers = JoinSet::new();

    for turn in 0..4 {
        let engine = engine.clone();
        let queues = queues.clone();

        publishers.spawn(async move {
            for n in 0..25 {
                let key = format!("k{n}");
                let mut connection = engine.pool().acquire().await.unwrap();
                let mut tx = connection.begin().await.unwrap();

                if turn % 2 == 0 {
                    engine
                        .broadcast_in(&mut tx, keyed_event(n, &key))
                        .await
                        .unwrap();
                } else {
                    let all = queues
                        .iter()
                        .rev()
                        .map(|queue| keyed(queue, "1", &key))
                        .collect();
                    engine.publish_in(&mut tx, all).await.unwrap();
                }

                tx.commit().await.unwrap();
            }
        });
    }

    publishers.join_all().await;
    for queue in &queues {
        assert_eq!(engine.stats(queue).await.unwrap().ready, 25);
    }
}

#[tokio::test]
async fn a_copy_with_a_key_is_known_by_number_and_time() {
    let (url, mut own) = database().await;
    let engine = engine_at(&url).await;
    let queue = unique("q");
    subscribe(&engine, &queue, "#").await;

    let id = stored(
        engine
            .broadcast(keyed_event(1, "a"))
            .await
            .unwrap()
            .remove(0)
            .1,
    );

    let told = |outcome: PublishOutcome| match outcome {
        PublishOutcome::Duplicate(Some(original)) => original.message_id,
        other => panic!("no duplicate: {other:?}"),
    };

    let again = engine
        .broadcast(keyed_event(2, "a"))
        .await
        .unwrap()
        .remove(0)
        .1;
    assert_eq!(told(again), id);

    let again = engine
        .publish(vec![keyed(&queue, "3", "a")])
        .await
        .unwrap()
        .remove(0);
    assert_eq!(told(again), id);

    let listed = format!("SELECT enqueued_at FROM pgmq.q_{queue}");
    let stored_at: chrono::DateTime<chrono::Utc> = scalar(&mut own, &listed).await;
    assert_eq!(id.stored_at(), Some(stored_at));

    // After a fail-over to a lagging replica, the number belongs to another message.
    assert_eq!(
        lose_newest(&mut own, queue.as_str()).await.as_deref(),
        Some("1")
    );

    let [other] = &publish(&engine, &queue, &["4"]).await[..] else {
        panic!("one")
    };
    assert_eq!(other.as_number(), id.as_number());
    assert!(!engine.cancel(&queue, &id).await.unwrap());
    assert!(engine.cancel(&queue, other).await.unwrap());

    // So does the number in a key's row: its own message was another one.
    lose_newest(&mut own, queue.as_str()).await;

    let again = engine
        .broadcast(keyed_event(5, "a"))
        .await
        .unwrap()
        .remove(0)
        .1;
    assert_eq!(told(again), id);
    assert_eq!(engine.stats(&queue).await.unwrap().ready, 0);
}
