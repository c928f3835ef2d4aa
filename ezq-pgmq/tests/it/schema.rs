//! ezq's own tables are created when they are needed, once, and not where they must not be.

use ezq_core::ErrorKind;
use ezq_core::engine::{Engine, PublishOutcome, Settle, SettleOutcome};
use ezq_core::message::QueueName;
use ezq_pgmq::{PgmqConfig, PgmqEngine};
use sqlx::postgres::PgPoolOptions;
use sqlx::{Connection as _, PgConnection};
use tokio::task::JoinSet;

use crate::support::*;

const VERSIONS: &str = "SELECT array_agg(version ORDER BY version) FROM ezq.migrations";

/// A database with PGMQ and a queue, and without the schema.
async fn database() -> (String, QueueName, PgConnection) {
    let url = fresh_database().await;
    let queue = unique("q");
    engine_at(&url).await.ensure_queue(&queue).await.unwrap();
    let own = PgConnection::connect(&url).await.unwrap();
    (url, queue, own)
}

async fn stands(own: &mut PgConnection) -> bool {
    scalar(own, "SELECT to_regnamespace('ezq') IS NOT NULL").await
}

#[tokio::test]
async fn the_schema_comes_with_the_first_key_and_not_before() {
    let (url, queue, mut own) = database().await;
    // Created on a connection of the engine's own: the pool's only one is taken.
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .connect(&url)
        .await
        .unwrap();

    let engine = PgmqEngine::connect(PgmqConfig::pool(pool.clone()))
        .await
        .unwrap();
    publish(&engine, &queue, &["1"]).await;
    assert!(!stands(&mut own).await);

    let mut tx = pool.begin().await.unwrap();
    let outcomes = engine
        .publish_in(&mut tx, vec![keyed(&queue, "2", "a")])
        .await
        .unwrap();
    assert!(matches!(outcomes[..], [PublishOutcome::Stored(_)]));
    assert!(stands(&mut own).await);

    tx.rollback().await.unwrap();
    assert_eq!(scalar::<Vec<i32>>(&mut own, VERSIONS).await, [1]);
    let foreign = "SELECT to_regclass('_sqlx_migrations') IS NULL";
    assert!(scalar::<bool>(&mut own, foreign).await);

    let left = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'
                AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    assert_eq!(scalar::<i64>(&mut own, left).await, 0);
}

#[tokio::test]
async fn what_only_looks_makes_no_table() {
    let (url, _, mut own) = database().await;

    for manages in [true, false] {
        let config = PgmqConfig::url(&url).unwrap().manage_schema(manages);
        let engine = PgmqEngine::connect(config).await.unwrap();

        let broadcasts = engine.broadcasts().unwrap();
        assert!(broadcasts.subscriptions().await.unwrap().is_empty());
        assert!(broadcasts.parties("order.paid").await.unwrap().is_empty());
        assert!(broadcasts.parties_of("shop").await.unwrap().is_empty());
        let kept = engine.schedules().unwrap().look(&[]).await.unwrap();
        assert!(kept.rows.is_empty());
        let consumers = engine.presence().unwrap().consumers().await.unwrap();
        assert!(consumers.is_empty());
        assert!(engine.replays().list().await.unwrap().is_empty());
        assert!(!engine.replays().remove("again").await.unwrap());
        assert!(!stands(&mut own).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn ten_who_need_it_at_once_make_one() {
    let (url, queue, mut own) = database().await;
    let mut engines = Vec::new();
    for _ in 0..10 {
        engines.push(engine_at(&url).await);
    }

    let mut publishers = JoinSet::new();
    for engine in engines {
        let queue = queue.clone();
        publishers.spawn(async move { engine.publish(vec![keyed(&queue, "1", "a")]).await });
    }

    let outcomes = publishers
        .join_all()
        .await
        .into_iter()
        .flat_map(Result::unwrap);

    let count = outcomes
        .filter(|outcome| matches!(outcome, PublishOutcome::Stored(_)))
        .count();
    assert_eq!(count, 1);
    assert_eq!(scalar::<Vec<i32>>(&mut own, VERSIONS).await, [1]);
}

#[tokio::test]
async fn where_it_is_not_to_be_made_the_error_says_what_to_run() {
    let (url, queue, mut own) = database().await;
    let config = || PgmqConfig::url(&url).unwrap().manage_schema(false);
    let engine = PgmqEngine::connect(config()).await.unwrap();
    let error = engine
        .publish(vec![keyed(&queue, "1", "a")])
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SchemaMissing);
    assert!(!stands(&mut own).await);

    // A message without a key is stored all the same.
    let batch = vec![
        keyed(&queue, "1", "a"),
        message(&queue, "2"),
        keyed(&queue, "3", "b"),
    ];

    let outcomes = engine.publish(batch).await.unwrap();
    assert!(matches!(
        outcomes[..],
        [
            PublishOutcome::Failed(_),
            PublishOutcome::Stored(_),
            PublishOutcome::Failed(_)
        ]
    ));

    let mut tx = own.begin().await.unwrap();
    let error = engine
        .publish_in(&mut tx, vec![keyed(&queue, "4", "a")])
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SchemaMissing);

    // Nothing was sent: the caller's transaction can go on.
    engine
        .publish_in(&mut tx, vec![message(&queue, "5")])
        .await
        .unwrap();
    tx.commit().await.unwrap();

    // Only the settlement whose event has a key fails.
    let deliveries = lease(&engine, &queue).await;
    let with_key = Settle::Ack {
        outgoing: vec![keyed(&queue, "6", "a")],
    };
    let settles = deliveries
        .into_iter()
        .map(|d| d.receipt)
        .zip([with_key, ack()]);

    let outcomes = engine.settle(&queue, settles.collect()).await.unwrap();
    let [
        SettleOutcome::Failed { error: refused, .. },
        SettleOutcome::Done,
    ] = &outcomes[..]
    else {
        panic!("{outcomes:?}");
    };
    assert_eq!(refused.kind(), ErrorKind::SchemaMissing);

    let text = error.to_string();
    run(&mut own, text.split_once('\n').unwrap().1).await;
    stored(
        engine
            .publish(vec![keyed(&queue, "6", "a")])
            .await
            .unwrap()
            .remove(0),
    );
}

#[tokio::test]
async fn a_role_that_may_not_make_it_or_not_use_it_is_told_what_to_run() {
    let (url, queue, mut own) = database().await;
    let role = unique("role");
    run(&mut own, &format!("CREATE ROLE {role} LOGIN")).await;

    let grants = format!(
        "GRANT USAGE ON SCHEMA pgmq TO {role}; GRANT ALL ON pgmq.q_{queue} TO {role};
         GRANT USAGE ON SEQUENCE pgmq.q_{queue}_msg_id_seq TO {role}"
    );
    run(&mut own, &grants).await;
    let engine = engine_at(&url.replace("postgres@", &format!("{role}@"))).await;

    for made in [false, true] {
        if made {
            let admin = engine_at(&url).await;
            stored(
                admin
                    .publish(vec![keyed(&queue, "1", "b")])
                    .await
                    .unwrap()
                    .remove(0),
            );
        }

        let error = engine
            .publish(vec![keyed(&queue, "1", "a")])
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SchemaMissing, "{error:?}");
        assert!(std::error::Error::source(&error).is_some());

        if made {
            run(&mut own, error.to_string().split_once('\n').unwrap().1).await;
        }
    }

    stored(
        engine
            .publish(vec![keyed(&queue, "1", "a")])
            .await
            .unwrap()
            .remove(0),
    );
}

#[tokio::test]
async fn a_newer_schema_is_left_as_it_is() {
    let (url, queue, mut own) = database().await;
    stored(
        engine_at(&url)
            .await
            .publish(vec![keyed(&queue, "1", "a")])
            .await
            .unwrap()
            .remove(0),
    );

    let newer = "INSERT INTO ezq.migrations (version, name) VALUES (1000, 'of the future');
                 ALTER TABLE ezq.dedupe ADD COLUMN future text DEFAULT 'x';
                 CREATE TABLE ezq.future (n int)";
    run(&mut own, newer).await;

    let engine = engine_at(&url).await;
    let again = engine.publish(vec![keyed(&queue, "2", "a")]).await.unwrap();
    assert!(matches!(again[..], [PublishOutcome::Duplicate(Some(_))]));

    stored(
        engine
            .publish(vec![keyed(&queue, "3", "b")])
            .await
            .unwrap()
            .remove(0),
    );
    assert_eq!(scalar::<Vec<i32>>(&mut own, VERSIONS).await, [1, 1000]);
    assert!(scalar::<bool>(&mut own, "SELECT to_regclass('ezq.future') IS NOT NULL").await);
}

#[tokio::test]
async fn a_schema_that_was_dropped_is_made_again() {
    let (url, queue, mut own) = database().await;
    let engine = engine_at(&url).await;
    let target = unique("target");
    engine.ensure_queue(&target).await.unwrap();

    let publish_keyed = async || engine.publish(vec![keyed(&target, "1", "a")]).await;
    stored(publish_keyed().await.unwrap().remove(0));
    run(&mut own, "DROP SCHEMA ezq CASCADE").await;
    stored(publish_keyed().await.unwrap().remove(0));

    run(&mut own, "DROP SCHEMA ezq CASCADE").await;
    publish(&engine, &queue, &["1"]).await;

    let receipt = lease_one(&engine, &queue).await.receipt;
    let settle = async || {
        let with_key = Settle::Ack {
            outgoing: vec![keyed(&target, "2", "a")],
        };
        engine
            .settle(&queue, vec![(receipt.clone(), with_key)])
            .await
    };
    assert!(matches!(settle().await.unwrap()[..], [SettleOutcome::Done]));
}

#[tokio::test]
async fn a_half_made_schema_is_completed() {
    let (url, queue, mut own) = database().await;
    run(
        &mut own,
        "CREATE SCHEMA ezq; CREATE TABLE ezq.unrelated (n int)",
    )
    .await;

    let engine = engine_at(&url).await;
    stored(
        engine
            .publish(vec![keyed(&queue, "1", "a")])
            .await
            .unwrap()
            .remove(0),
    );
    assert_eq!(scalar::<Vec<i32>>(&mut own, VERSIONS).await, [1]);
}

#[tokio::test]
async fn what_setup_sql_prints_can_be_run_twice_and_leaves_nothing_to_do() {
    let (url, queue, mut own) = database().await;
    let sql = ezq_pgmq::setup_sql(Vec::<QueueName>::new(), None)
        .unwrap()
        .replace("create extension if not exists pgmq;", "");
    run(&mut own, &sql).await;
    run(&mut own, &sql).await;

    let config = PgmqConfig::url(&url).unwrap().manage_schema(false);
    let engine = PgmqEngine::connect(config).await.unwrap();
    stored(
        engine
            .publish(vec![keyed(&queue, "1", "a")])
            .await
            .unwrap()
            .remove(0),
    );
}

#[tokio::test]
async fn a_setup_that_is_run_again_makes_what_is_missing_and_replaces_nothing_newer() {
    let (_, queue, mut own) = database().await;
    let setup = ezq_pgmq::setup_sql([&queue], None).unwrap();
    let setup = setup.replace("create extension if not exists pgmq;", "");
    run(&mut own, &setup).await;

    run(
        &mut own,
        "CREATE OR REPLACE FUNCTION ezq.recipients(event_type text) RETURNS SETOF text
           LANGUAGE sql AS $$ SELECT 'newer' $$;
         DROP TABLE ezq.trail",
    )
    .await;
    run(&mut own, &setup).await;

    let recipients = "SELECT array_agg(r) FROM ezq.recipients('a') r";
    assert_eq!(scalar::<Vec<String>>(&mut own, recipients).await, ["newer"]);
    assert!(scalar::<bool>(&mut own, "SELECT to_regclass('ezq.trail') IS NOT NULL").await);
}
