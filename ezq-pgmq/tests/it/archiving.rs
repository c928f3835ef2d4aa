//! Acknowledged messages move to PGMQ's own archive unchanged, whatever is already there.

use ezq_core::ErrorKind;
use ezq_core::engine::{Delivery, Engine, SettleOutcome};
use ezq_core::message::headers::REPLAY;
use ezq_core::message::{MessageId, QueueName, Retention};
use ezq_pgmq::{PgmqConfig, PgmqEngine};

use crate::support::*;

#[tokio::test]
async fn a_batch_moves_whole_with_every_column() {
    let (engine, queue) = archiving(Retention::ARCHIVE).await;
    let mut own = connection().await;
    let mut with_headers = message(&queue, r#"{"n": 1}"#);
    with_headers.headers.insert("mine", "x");
    engine
        .publish(vec![with_headers, message(&queue, "[2]")])
        .await
        .unwrap();

    // What another client wrote moves unchanged.
    let odd = format!(
        "INSERT INTO pgmq.q_{queue} (vt, message, headers)
         VALUES (clock_timestamp(), NULL, '[7]'), (clock_timestamp(), '\"x\"', NULL)"
    );
    run(&mut own, &odd).await;

    let deliveries = lease(&engine, &queue).await;
    let columns = "msg_id, read_ct, enqueued_at, last_read_at, vt, message, headers";
    let rows = |table: &str| {
        format!(
            "SELECT jsonb_agg(to_jsonb(r) ORDER BY msg_id)::text FROM (SELECT {columns} FROM pgmq.{table}) r"
        )
    };

    let before: String = scalar(&mut own, &rows(&format!("q_{queue}"))).await;
    let settlements = deliveries
        .into_iter()
        .map(|delivery| (delivery.receipt, ack()));

    let outcomes = engine.settle(&queue, settlements.collect()).await.unwrap();
    assert_eq!(outcomes.len(), 4);
    assert!(
        outcomes
            .iter()
            .all(|outcome| matches!(outcome, SettleOutcome::Done)),
        "{outcomes:?}"
    );

    let after: String = scalar(&mut own, &rows(&format!("a_{queue}"))).await;
    assert_eq!(before, after);

    let fresh = format!("SELECT bool_and(archived_at > enqueued_at) FROM pgmq.a_{queue}");
    assert!(scalar::<bool>(&mut own, &fresh).await);
    assert_eq!(
        engine.stats(&queue).await.unwrap(),
        ezq_core::engine::QueueStats::default()
    );
}

#[tokio::test]
async fn an_id_that_the_archive_holds_already_is_no_obstacle() {
    let (engine, queue) = archiving(Retention::ARCHIVE).await;
    publish(&engine, &queue, &["1"]).await;
    acknowledge_all(&engine, &queue).await;
    let again = format!("ALTER TABLE pgmq.q_{queue} ALTER COLUMN msg_id RESTART");
    run(&mut connection().await, &again).await;
    publish(&engine, &queue, &["2", "3"]).await;
    assert_eq!(acknowledge_all(&engine, &queue).await, 2);
    assert_eq!(archived(&queue).await, 3);
}

fn event(id: &str) -> String {
    format!(r#"{{"specversion":"1.0","id":"{id}","source":"/s","type":"t"}}"#)
}

/// Publishes events, one after another, and acknowledges them.
async fn archive(engine: &PgmqEngine, queue: &QueueName, ids: &[String]) -> Vec<MessageId> {
    let mut stored = Vec::new();
    for id in ids {
        stored.extend(publish(engine, queue, &[&event(id)]).await);
    }
    assert_eq!(acknowledge_all(engine, queue).await, ids.len());
    stored
}

fn ids(queue: &QueueName, life: u32) -> [String; 3] {
    [1, 2, 3].map(|n| format!("{queue}-{life}-{n}"))
}

#[tokio::test]
async fn a_queue_that_ezq_makes_beside_an_old_archive_goes_on_behind_it() {
    let (engine, queue) = archiving(Retention::ARCHIVE).await;
    let mut last = archive(&engine, &queue, &ids(&queue, 1))
        .await
        .pop()
        .unwrap();

    for life in [2, 3] {
        run(
            &mut connection().await,
            &format!("DROP TABLE pgmq.q_{queue}"),
        )
        .await;

        let error = engine
            .publish(vec![message(&queue, "1")])
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::QueueMissing);

        engine.ensure_queue(&queue).await.unwrap();
        for id in archive(&engine, &queue, &ids(&queue, life)).await {
            assert!(id.as_number() > last.as_number(), "{id} is behind {last}");
            last = id;
        }
    }

    assert_eq!(archived(&queue).await, 9);
    let mut own = connection().await;
    let kept = format!("SELECT array_agg(msg_id ORDER BY msg_id) FROM pgmq.a_{queue}");
    assert_eq!(
        scalar::<Vec<i64>>(&mut own, &kept).await,
        Vec::from_iter(1..=9)
    );
}

#[tokio::test]
async fn of_a_queue_that_pgmq_makes_beside_an_old_archive_nothing_is_lost() {
    let (engine, queue) = archiving(Retention::ARCHIVE).await;
    let mut own = connection().await;
    let mut all = Vec::new();

    for life in [1, 2, 3] {
        let stored = archive(&engine, &queue, &ids(&queue, life)).await;
        assert_eq!(stored[0].as_number(), Some(1));
        all.extend(ids(&queue, life).into_iter().zip(stored));
        let anew = format!("DROP TABLE pgmq.q_{queue}; SELECT pgmq.create('{queue}')");
        run(&mut own, &anew).await;
    }
    assert_eq!(archived(&queue).await, 9);

    // Each is found, and has the number that it had in its queue.
    for (event_id, id) in &all {
        let copies = engine.history(event_id, Some(&queue)).await.unwrap().copies;
        let [copy] = &copies[..] else {
            panic!("{event_id}: {copies:?}")
        };
        assert_eq!(copy.message_id, *id);
    }

    let done = engine.replay(queue.as_str(), &queue).await.unwrap();
    assert_eq!(done.handed_over, 9);

    let copies = lease(&engine, &queue).await;
    let from = |delivery: &Delivery| {
        let replay = delivery.headers.value(REPLAY).unwrap();
        replay["id"].as_i64().unwrap()
    };
    let mut from: Vec<i64> = copies.iter().map(from).collect();
    from.sort_unstable();
    assert_eq!(from, [1, 1, 1, 2, 2, 2, 3, 3, 3]);

    // A queue that ezq creates anew continues behind the archive's numbers.
    run(&mut own, &format!("DROP TABLE pgmq.q_{queue}")).await;
    engine_at(&server().await.url())
        .await
        .ensure_queue(&queue)
        .await
        .unwrap();

    let next = publish(&engine, &queue, &["1"]).await;
    assert_eq!(next[0].as_number(), Some(4));
}

#[tokio::test]
async fn an_event_of_the_flat_form_is_told_of_in_each_life_of_its_queue() {
    let (engine, queue) = archiving(Retention::ARCHIVE).await;
    let flat = r#"{"_type": "Paid"}"#;
    let mut stored = Vec::new();

    for _ in 0..2 {
        stored.extend(publish(&engine, &queue, &[flat]).await);
        acknowledge_all(&engine, &queue).await;
        let anew = format!("DROP TABLE pgmq.q_{queue}; SELECT pgmq.create('{queue}')");
        run(&mut connection().await, &anew).await;
    }

    let copies = engine
        .history(&format!("{queue}:1"), Some(&queue))
        .await
        .unwrap()
        .copies;
    let told: Vec<_> = copies.into_iter().map(|copy| copy.message_id).collect();
    assert_eq!(told, stored);
}

#[tokio::test]
async fn a_message_that_the_archive_holds_already_is_there_once() {
    let (engine, queue) = archiving(Retention::ARCHIVE).await;
    archive(&engine, &queue, &ids(&queue, 1)).await;

    let columns = "msg_id, enqueued_at, vt, message, headers";
    let back = format!(
        "INSERT INTO pgmq.q_{queue} ({columns}) OVERRIDING SYSTEM VALUE
         SELECT {columns} FROM pgmq.a_{queue} WHERE msg_id = 2;
         UPDATE pgmq.q_{queue} SET vt = now()"
    );
    run(&mut connection().await, &back).await;
    assert_eq!(acknowledge_all(&engine, &queue).await, 1);
    assert_eq!(archived(&queue).await, 3);
}

#[tokio::test]
async fn an_id_of_any_length_can_be_archived() {
    let (engine, queue) = archiving(Retention::ARCHIVE).await;
    // Incompressible, so that no index of whole values could hold it.
    let id: String = (0..20_000_u64)
        .map(|n| format!("{:x}", n.wrapping_mul(0x9E37_79B9_7F4A_7C15)))
        .collect();
    let body = format!(r#"{{"specversion":"1.0","id":"{id}","source":"/s","type":"t"}}"#);
    publish(&engine, &queue, &[&body]).await;
    assert_eq!(acknowledge_all(&engine, &queue).await, 1);
    assert_eq!(engine.history(&id, None).await.unwrap().copies.len(), 1);
}

#[tokio::test]
async fn a_missing_archive_is_created_again() {
    let (engine, queue) = archiving(Retention::ARCHIVE).await;
    publish(&engine, &queue, &["1"]).await;
    acknowledge_all(&engine, &queue).await;
    run(
        &mut connection().await,
        &format!("DROP TABLE pgmq.a_{queue}"),
    )
    .await;

    publish(&engine, &queue, &["2"]).await;
    assert_eq!(acknowledge_all(&engine, &queue).await, 1);
    assert_eq!(archived(&queue).await, 1);
}

#[tokio::test]
async fn a_column_that_goes_under_a_running_engine_is_noticed() {
    let (engine, queue) = archiving(Retention::ARCHIVE).await;
    publish(&engine, &queue, &["1"]).await;
    acknowledge_all(&engine, &queue).await;
    let sql = format!("ALTER TABLE pgmq.a_{queue} DROP COLUMN last_read_at");
    run(&mut connection().await, &sql).await;
    publish(&engine, &queue, &["2"]).await;
    assert_eq!(acknowledge_all(&engine, &queue).await, 1);
    assert_eq!(archived(&queue).await, 2);
}

#[tokio::test]
async fn histories_have_an_index_where_the_schema_is_managed_and_the_archive_small() {
    let has_index = |queue: &ezq_core::message::QueueName| {
        format!("SELECT to_regclass('pgmq.a_{queue}_event_id_idx') IS NOT NULL")
    };
    let mut own = connection().await;
    let (_, queue) = archiving(Retention::ARCHIVE).await;
    assert!(scalar::<bool>(&mut own, &has_index(&queue)).await);

    let (_, deleting) = engine_and_queue().await;
    assert!(!scalar::<bool>(&mut own, &has_index(&deleting)).await);

    let config = PgmqConfig::url(&server().await.url())
        .unwrap()
        .manage_schema(false);
    let careful = PgmqEngine::connect(config).await.unwrap();
    careful
        .set_retention(&deleting, Retention::ARCHIVE)
        .unwrap();
    careful.ensure_queue(&deleting).await.unwrap();
    assert!(!scalar::<bool>(&mut own, &has_index(&deleting)).await);
}

/// Building an index there would block acknowledgements.
#[tokio::test]
async fn a_setup_leaves_the_index_of_a_large_archive_to_be_built_by_hand() {
    let url = fresh_database().await;
    let engine = engine_at(&url).await;
    let queue = unique("q");
    engine.ensure_queue(&queue).await.unwrap();

    let mut own = <sqlx::PgConnection as sqlx::Connection>::connect(&url)
        .await
        .unwrap();
    let setup = ezq_pgmq::setup_sql([&queue], None).unwrap();
    let setup = setup.replace("create extension if not exists pgmq;", "");

    // Random text is not compressed when it is stored.
    let fill = format!(
        "ALTER TABLE pgmq.a_{queue} ALTER message SET STORAGE EXTERNAL;
         INSERT INTO pgmq.a_{queue} (msg_id, vt, message)
         SELECT n, now(), jsonb_build_object('t', repeat('x', 1000000)) FROM generate_series(1, 40) n"
    );
    run(&mut own, &fill).await;
    run(&mut own, &setup).await;

    let indexes = format!(
        "SELECT count(*) FROM pg_indexes WHERE tablename = 'a_{queue}' AND indexname LIKE '%_id_idx'"
    );
    assert_eq!(scalar::<i64>(&mut own, &indexes).await, 0);

    // What the script says about them, and what it does while the archive is small.
    let by_hand = setup
        .lines()
        .filter_map(|line| line.strip_prefix("-- create index concurrently"));
    for statement in by_hand {
        run(&mut own, &format!("create index concurrently {statement}")).await;
    }
    assert_eq!(scalar::<i64>(&mut own, &indexes).await, 2);

    let small = format!("DROP INDEX pgmq.a_{queue}_event_id_idx; TRUNCATE pgmq.a_{queue}");
    run(&mut own, &small).await;
    run(&mut own, &setup).await;
    assert_eq!(scalar::<i64>(&mut own, &indexes).await, 2);
}

#[tokio::test]
async fn a_role_with_the_grants_that_setup_prints_archives_and_sweeps() {
    let url = fresh_database().await;
    let queue = unique("q");
    let admin = engine_at(&url).await;
    let mut own = <sqlx::PgConnection as sqlx::Connection>::connect(&url)
        .await
        .unwrap();
    run(&mut own, "CREATE ROLE archivist LOGIN").await;
    let sql = ezq_pgmq::setup_sql([&queue], Some("archivist")).unwrap();

    // The development server has PGMQ from SQL.
    run(
        &mut own,
        &sql.replace("create extension if not exists pgmq;", ""),
    )
    .await;
    drop(admin);

    let options: sqlx::postgres::PgConnectOptions = url.parse().unwrap();
    let month = Retention::archive_for(std::time::Duration::from_secs(30 * 24 * 3600));
    let config = PgmqConfig::options(options.username("archivist")).manage_schema(false);
    let engine = PgmqEngine::connect(config.retention(&queue, month))
        .await
        .unwrap();
    engine.ensure_queue(&queue).await.unwrap();

    let body = r#"{"specversion":"1.0","id":"e","source":"/s","type":"t"}"#;
    publish(&engine, &queue, &[body]).await;
    assert_eq!(acknowledge_all(&engine, &queue).await, 1);

    run(
        &mut own,
        &format!("UPDATE pgmq.a_{queue} SET archived_at = now() - interval '31 days'"),
    )
    .await;
    assert_eq!(engine.history("e", None).await.unwrap().copies.len(), 1);
    assert_eq!(engine.sweep().await.unwrap(), 1);
    assert!(engine.history("e", None).await.unwrap().is_empty());
}

#[tokio::test]
async fn an_absent_archive_that_may_not_be_created_is_told() {
    let (_, queue) = engine_and_queue().await;
    run(
        &mut connection().await,
        &format!("DROP TABLE pgmq.a_{queue}"),
    )
    .await;

    let config = PgmqConfig::url(&server().await.url())
        .unwrap()
        .manage_schema(false);
    let config = config.retention(&queue, Retention::ARCHIVE);
    let engine = PgmqEngine::connect(config).await.unwrap();
    let error = engine.ensure_queue(&queue).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::QueueMissing);
    assert!(error.to_string().contains("archive"), "{error}");
}
