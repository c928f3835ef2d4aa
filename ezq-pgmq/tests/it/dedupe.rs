//! Of several messages with one key only one is stored, whoever publishes them and however that
//! ends.

use std::time::Duration;

use ezq_core::ErrorKind;
use ezq_core::engine::{Dedupe, Engine, Original, Outgoing, PublishOutcome, Settle};
use ezq_core::message::{MessageId, QueueName};
use ezq_pgmq::{PgmqConfig, PgmqEngine};
use sqlx::postgres::PgPoolOptions;
use sqlx::{Connection as _, Executor as _};
use tokio::task::JoinSet;

use crate::support::*;

async fn publish_one(engine: &PgmqEngine, message: Outgoing) -> PublishOutcome {
    engine.publish(vec![message]).await.unwrap().remove(0)
}

fn duplicate(outcome: PublishOutcome) -> (MessageId, String) {
    match outcome {
        PublishOutcome::Duplicate(Some(Original {
            message_id,
            event_id,
            ..
        })) => (message_id, event_id),
        other => panic!("no duplicate: {other:?}"),
    }
}

#[tokio::test]
async fn a_window_ends_by_the_databases_clock() {
    let (engine, queue) = engine_and_queue().await;
    let first = stored(publish_one(&engine, keyed(&queue, "1", "a")).await);
    let seen = duplicate(publish_one(&engine, keyed(&queue, "2", "a")).await);
    assert_eq!(seen, (first.clone(), "1".to_owned()));

    let seconds: f64 = scalar(
        &mut connection().await,
        &format!(
            "SELECT extract(epoch FROM free_at - clock_timestamp())::float8
             FROM ezq.dedupe WHERE queue = '{queue}'"
        ),
    )
    .await;
    assert!((3540.0..=3600.0).contains(&seconds), "free in {seconds} s");

    let past = format!(
        "UPDATE ezq.dedupe SET free_at = clock_timestamp() - interval '1 us' WHERE queue = '{queue}'"
    );
    run(&mut connection().await, &past).await;

    let third = stored(publish_one(&engine, keyed(&queue, "3", "a")).await);
    assert_ne!(third, first);
    let seen = duplicate(publish_one(&engine, keyed(&queue, "4", "a")).await);
    assert_eq!(seen, (third, "3".to_owned()));

    let bodies: Vec<_> = lease(&engine, &queue)
        .await
        .into_iter()
        .map(|d| d.body)
        .collect();
    assert_eq!(bodies, ["1", "3"]);
}

#[tokio::test]
async fn any_window_and_any_text_is_a_key() {
    let (engine, queue) = engine_and_queue().await;
    let key = "ä'\"\\;--😀 ".repeat(10);

    for (body, window) in [("1", Duration::MAX), ("2", Duration::from_nanos(1))] {
        let dedupe = Some(Dedupe::new(format!("{key}{body}"), window, "e").unwrap());
        let message = || message(&queue, body).dedupe(dedupe.clone());
        stored(publish_one(&engine, message()).await);

        let again = publish_one(&engine, message()).await;
        assert_eq!(
            matches!(again, PublishOutcome::Duplicate(_)),
            body == "1",
            "{again:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn eight_publishers_of_one_key_store_one_message() {
    let (engine, queue) = engine_and_queue().await;
    for round in 0..10 {
        let mut publishers = JoinSet::new();
        for n in 0..8 {
            let engine = engine.clone();
            let queue = queue.clone();
            publishers.spawn(async move {
                publish_one(&engine, keyed(&queue, &n.to_string(), &round.to_string())).await
            });
        }

        let outcomes = publishers.join_all().await;
        let of = |o: &PublishOutcome| matches!(o, PublishOutcome::Stored(_));
        let (first, others): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(of);
        assert_eq!((first.len(), others.len()), (1, 7), "round {round}");

        let delivery = lease_one(&engine, &queue).await;
        let wanted = (delivery.receipt.message_id().clone(), delivery.body);
        for other in others {
            assert_eq!(duplicate(other), wanted);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn publishers_whose_pool_isolates_more_are_tried_again() {
    let url = fresh_database().await;
    let queue = QueueName::new("orders").unwrap();
    engine_at(&url).await.ensure_queue(&queue).await.unwrap();

    let isolate = "SET default_transaction_isolation = 'repeatable read'";
    let pool = PgPoolOptions::new()
        .max_connections(8)
        .after_connect(move |connection, _| {
            Box::pin(async move { connection.execute(isolate).await.map(drop) })
        });

    let pool = pool.connect(&url).await.unwrap();
    let engine = PgmqEngine::connect(PgmqConfig::pool(pool.clone()))
        .await
        .unwrap();
    stored(publish_one(&engine, keyed(&queue, "1", "0")).await);

    for round in 1..=10 {
        // Holds the key until the others wait for it: then they get a conflict.
        let mut own = sqlx::PgConnection::connect(&url).await.unwrap();
        let mut tx = own.begin().await.unwrap();
        let message = || keyed(&queue, "1", &round.to_string());
        engine.publish_in(&mut tx, vec![message()]).await.unwrap();

        let mut publishers = JoinSet::new();
        for _ in 0..4 {
            let engine = engine.clone();
            let message = message();
            publishers.spawn(async move { publish_one(&engine, message).await });
        }

        let waiting = "SELECT count(*) FROM pg_stat_activity
                       WHERE datname = current_database() AND wait_event_type = 'Lock'";
        let mut observer = sqlx::PgConnection::connect(&url).await.unwrap();
        while scalar::<i64>(&mut observer, waiting).await < 4 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }

        tx.commit().await.unwrap();
        for outcome in publishers.join_all().await {
            duplicate(outcome);
        }
    }
}

#[tokio::test]
async fn a_key_of_an_open_transaction_is_waited_for() {
    let (engine, queue) = engine_and_queue().await;
    let mut own = connection().await;

    for commits in [false, true] {
        let key = format!("{commits}");
        let mut tx = own.begin().await.unwrap();
        let inside = engine
            .publish_in(&mut tx, vec![keyed(&queue, "1", &key)])
            .await
            .unwrap();
        let inside = stored(inside.into_iter().next().unwrap());

        // In the same transaction it is a duplicate at once.
        let again = engine
            .publish_in(&mut tx, vec![keyed(&queue, "2", &key)])
            .await
            .unwrap();
        assert_eq!(
            duplicate(again.into_iter().next().unwrap()),
            (inside.clone(), "1".into())
        );

        let waiting = {
            let engine = engine.clone();
            let message = keyed(&queue, "3", &key);
            tokio::spawn(async move { publish_one(&engine, message).await })
        };

        let question = format!(
            "SELECT count(*) FROM pg_stat_activity
             WHERE wait_event_type = 'Lock' AND query LIKE '%''pgmq.q_{queue}''::regclass%'"
        );

        let mut observer = connection().await;
        while scalar::<i64>(&mut observer, &question).await == 0 {
            assert!(!waiting.is_finished(), "it did not wait");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }

        if commits {
            tx.commit().await.unwrap();
            assert_eq!(duplicate(waiting.await.unwrap()), (inside, "1".to_owned()));
        } else {
            tx.rollback().await.unwrap();
            stored(waiting.await.unwrap());
        }

        let bodies: Vec<_> = lease(&engine, &queue)
            .await
            .into_iter()
            .map(|d| d.body)
            .collect();
        assert_eq!(bodies, [if commits { "1" } else { "3" }]);
    }
}

#[tokio::test]
async fn a_roll_back_forgets_the_key() {
    let (engine, queue) = engine_and_queue().await;
    let mut own = connection().await;
    let mut tx = own.begin().await.unwrap();

    let batch = vec![
        keyed(&queue, "1", "a"),
        message(&queue, "2"),
        keyed(&queue, "3", "a"),
    ];

    let outcomes = engine.publish_in(&mut tx, batch.clone()).await.unwrap();
    assert!(matches!(
        outcomes[..],
        [
            PublishOutcome::Stored(_),
            PublishOutcome::Stored(_),
            PublishOutcome::Duplicate(Some(_))
        ]
    ));

    tx.rollback().await.unwrap();
    let mut tx = own.begin().await.unwrap();
    let outcomes = engine.publish_in(&mut tx, batch).await.unwrap();
    assert!(
        matches!(outcomes[0], PublishOutcome::Stored(_)),
        "{outcomes:?}"
    );

    tx.commit().await.unwrap();
    let bodies: Vec<_> = lease(&engine, &queue)
        .await
        .into_iter()
        .map(|d| d.body)
        .collect();
    assert_eq!(bodies, ["1", "2"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn transactions_that_publish_the_same_keys_in_any_order_never_deadlock() {
    let (engine, one) = engine_and_queue().await;
    let other = unique("q");
    engine.ensure_queue(&other).await.unwrap();

    for round in 0..15 {
        let mut publishers = JoinSet::new();

        for turn in 0..4 {
            let engine = engine.clone();
            let queues = [one.clone(), other.clone()];

            publishers.spawn(async move {
                let pair = |n: usize| {
                    queues
                        .clone()
                        .map(|q| keyed(&q, "1", &format!("{round}-{n}")))
                };

                let mut batch: Vec<_> = (0..40).flat_map(pair).collect();
                if turn % 2 == 0 {
                    batch.reverse();
                }

                let mut own = connection().await;
                let mut tx = own.begin().await.unwrap();
                // A deadlock would be the error here.
                let outcomes = engine.publish_in(&mut tx, batch).await.unwrap();

                tx.commit().await.unwrap();
                outcomes
                    .into_iter()
                    .filter(|o| matches!(o, PublishOutcome::Stored(_)))
                    .count()
            });
        }

        assert_eq!(publishers.join_all().await.into_iter().sum::<usize>(), 80);
    }
}

#[tokio::test]
async fn what_the_database_refuses_takes_no_key() {
    let (engine, queue) = engine_and_queue().await;
    // The text is not checked before it is sent.
    let batch = vec![
        message(&queue, "1"),
        keyed(&queue, "{", "a"),
        keyed(&queue, "2", "b"),
        keyed(&queue, "3", "a"),
    ];

    let outcomes = engine.publish(batch).await.unwrap();
    let PublishOutcome::Failed(refused) = &outcomes[1] else {
        panic!("{outcomes:?}")
    };
    assert_eq!(refused.kind(), ErrorKind::InvalidEvent);

    let stored = |o: &PublishOutcome| matches!(o, PublishOutcome::Stored(_));
    assert!(
        [0, 2, 3].iter().all(|n| stored(&outcomes[*n])),
        "{outcomes:?}"
    );
    assert_eq!(
        duplicate(publish_one(&engine, keyed(&queue, "4", "a")).await).1,
        "3"
    );
}

#[tokio::test]
async fn a_queue_that_is_created_again_knows_no_keys() {
    let (engine, queue) = engine_and_queue().await;
    stored(publish_one(&engine, keyed(&queue, "1", "a")).await);
    run(
        &mut connection().await,
        &format!("SELECT pgmq.drop_queue('{queue}')"),
    )
    .await;

    let error = engine
        .publish(vec![keyed(&queue, "2", "a")])
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::QueueMissing);

    engine.ensure_queue(&queue).await.unwrap();
    stored(publish_one(&engine, keyed(&queue, "3", "a")).await);
    assert_eq!(
        duplicate(publish_one(&engine, keyed(&queue, "4", "a")).await).1,
        "3"
    );
}

#[tokio::test]
async fn a_table_that_was_dropped_alone_leaves_no_keys_either() {
    let (engine, queue) = engine_and_queue().await;
    let other = unique("q");
    engine.ensure_queue(&other).await.unwrap();

    let fill = format!(
        "INSERT INTO ezq.dedupe (queue, key, queue_table, message_id, event_id, taken_at, free_at)
         SELECT '{queue}', 'k' || n, 0, n, '', now(), now() + interval '1 h'
         FROM generate_series(1, 25000) n"
    );

    stored(publish_one(&engine, keyed(&other, "1", "a")).await);
    run(&mut connection().await, &fill).await;
    duplicate(publish_one(&engine, keyed(&queue, "1", "k25000")).await);
    run(
        &mut connection().await,
        &format!("DROP TABLE pgmq.q_{queue}"),
    )
    .await;

    // A missing archive or queue of dead letters frees no keys.
    let missing = format!("SELECT pgmq.drop_queue('{}')", other.dead_letters());
    run(&mut connection().await, &missing).await;

    let fresh = crate::support::engine().await;
    for queue in [&queue, &other] {
        fresh.ensure_queue(queue).await.unwrap();
    }

    stored(publish_one(&engine, keyed(&queue, "2", "k25000")).await);
    duplicate(publish_one(&engine, keyed(&other, "2", "a")).await);
    let left = format!("SELECT count(*) FROM ezq.dedupe WHERE queue = '{queue}'");
    assert_eq!(scalar::<i64>(&mut connection().await, &left).await, 1);
}

#[tokio::test]
async fn a_role_that_may_free_no_keys_creates_its_queue_all_the_same() {
    let url = fresh_database().await;
    let queue = unique("q");
    let admin = engine_at(&url).await;
    admin.ensure_queue(&queue).await.unwrap();
    stored(publish_one(&admin, keyed(&queue, "1", "a")).await);

    let mut own = sqlx::PgConnection::connect(&url).await.unwrap();
    let role = unique("role");
    let grants = format!(
        "CREATE ROLE {role} LOGIN; GRANT ALL ON SCHEMA pgmq TO {role};
         GRANT ALL ON ALL TABLES IN SCHEMA pgmq TO {role}"
    );
    run(&mut own, &grants).await;

    let engine = engine_at(&url.replace("postgres@", &format!("{role}@"))).await;
    engine.ensure_queue(&unique("q")).await.unwrap();
}

#[tokio::test]
async fn a_duplicate_that_leaves_with_a_settlement_is_left_out() {
    let (engine, queue) = engine_and_queue().await;
    let target = unique("q");
    engine.ensure_queue(&target).await.unwrap();
    publish(&engine, &queue, &["1", "2"]).await;
    let outgoing = || vec![keyed(&target, "9", "a"), message(&target, "8")];

    for delivery in lease(&engine, &queue).await {
        let settle = Settle::Ack {
            outgoing: outgoing(),
        };

        let outcomes = engine
            .settle(&queue, vec![(delivery.receipt, settle)])
            .await
            .unwrap();
        assert!(
            matches!(outcomes[..], [ezq_core::engine::SettleOutcome::Done]),
            "{outcomes:?}"
        );
    }

    let bodies: Vec<_> = lease(&engine, &target)
        .await
        .into_iter()
        .map(|d| d.body)
        .collect();
    assert_eq!(bodies, ["9", "8", "8"]);
}

#[tokio::test]
async fn keys_that_ended_are_swept_and_others_stay() {
    let url = fresh_database().await;
    let engine = engine_at(&url).await;
    let queue = QueueName::new("orders").unwrap();
    engine.ensure_queue(&queue).await.unwrap();

    // The first publish with a key creates the table; a new engine has not swept yet.
    stored(publish_one(&engine, keyed(&queue, "1", "held")).await);
    engine.close().await;

    let mut own = sqlx::PgConnection::connect(&url).await.unwrap();
    let fill = "INSERT INTO ezq.dedupe
                  (queue, key, queue_table, message_id, event_id, taken_at, free_at)
                SELECT 'orders', 'k' || n, 0, n, '', now() - interval '2 h', now() - interval '1 h'
                FROM generate_series(1, 2500) n";
    run(&mut own, fill).await;

    let engine = engine_at(&url).await;
    duplicate(publish_one(&engine, keyed(&queue, "2", "held")).await);
    let began = std::time::Instant::now();
    while scalar::<i64>(&mut own, "SELECT count(*) FROM ezq.dedupe").await > 1 {
        assert!(began.elapsed() < Duration::from_secs(30), "nobody swept");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    assert_eq!(
        scalar::<String>(&mut own, "SELECT key FROM ezq.dedupe").await,
        "held"
    );

    // Not with every publish.
    run(&mut own, fill).await;
    stored(publish_one(&engine, keyed(&queue, "3", "new")).await);
    engine.close().await;
    assert_eq!(
        scalar::<i64>(&mut own, "SELECT count(*) FROM ezq.dedupe").await,
        2502
    );
}
