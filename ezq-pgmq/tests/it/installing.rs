//! PGMQ is installed once, by whoever comes first, and not by a role that may not.

use std::process::{Command, Stdio};

use ezq_core::ErrorKind;
use ezq_core::engine::Engine;
use ezq_pgmq::{PgmqConfig, PgmqEngine};
use sqlx::Connection as _;
use sqlx::PgConnection;

use crate::support::*;

const URL: &str = "EZQ_TEST_INSTALL_URL";
const QUEUE: &str = "together";

#[tokio::test]
async fn ten_processes_start_at_once() {
    let url = fresh_database().await;
    let binary = std::env::current_exe().unwrap();
    let start = |_| {
        Command::new(&binary)
            .args(["--exact", "installing::one_of_ten_processes", "--nocapture"])
            .env(URL, &url)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let processes: Vec<_> = (0..10).map(start).collect();

    for process in processes {
        let output = tokio::task::spawn_blocking(|| process.wait_with_output().unwrap());
        let output = output.await.unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && text.contains("published by"),
            "{text}"
        );
    }

    let engine = engine_at(&url).await;
    let queue = ezq_core::message::QueueName::new(QUEUE).unwrap();
    assert_eq!(engine.stats(&queue).await.unwrap().ready, 10);
}

// Started ten times by the test above. By itself it does nothing.
#[tokio::test]
async fn one_of_ten_processes() {
    let Ok(url) = std::env::var(URL) else { return };
    let engine = engine_at(&url).await;
    let queue = ezq_core::message::QueueName::new(QUEUE).unwrap();
    engine.ensure_queue(&queue).await.unwrap();
    publish(&engine, &queue, &["1"]).await;
    println!("published by {}", std::process::id());
}

#[tokio::test]
async fn a_role_without_rights_on_the_schema_works_on_a_finished_one() {
    let url = fresh_database().await;
    let queue = unique("q");
    let role = unique("role");
    engine_at(&url).await.ensure_queue(&queue).await.unwrap();
    let mut own = PgConnection::connect(&url).await.unwrap();
    run(&mut own, &format!("CREATE ROLE {role} LOGIN")).await;

    let sql = ezq_pgmq::setup_sql([&queue], Some(role.as_str())).unwrap();
    // PGMQ and the queue exist, from SQL.
    let rest: Vec<&str> = sql
        .lines()
        .filter(|l| !l.contains(" extension ") && !l.contains("pgmq.create"))
        .collect();
    run(&mut own, &rest.join("\n")).await;

    let url = url.replace("postgres@", &format!("{role}@"));

    for manage in [true, false] {
        let config = PgmqConfig::url(&url).unwrap().manage_schema(manage);
        let engine = PgmqEngine::connect(config).await.unwrap();
        engine.ensure_queue(&queue).await.unwrap();
        publish(&engine, &queue, &["1", "2"]).await;

        let deliveries = lease(&engine, &queue).await;
        let settles = [ack(), dead()];
        let batch = deliveries.into_iter().map(|d| d.receipt).zip(settles);

        for outcome in engine.settle(&queue, batch.collect()).await.unwrap() {
            assert!(
                matches!(outcome, ezq_core::engine::SettleOutcome::Done),
                "{outcome:?}"
            );
        }

        let letters = engine
            .dead_letters()
            .unwrap()
            .list(&queue, None, 10)
            .await
            .unwrap();

        engine
            .dead_letters()
            .unwrap()
            .redrive(&queue, &[letters[0].id.clone()])
            .await
            .unwrap();
        assert_eq!(engine.purge(&queue).await.unwrap(), 1);

        let keyed = || vec![keyed(&queue, "1", &format!("{manage}"))];
        stored(engine.publish(keyed()).await.unwrap().remove(0));

        let again = engine.publish(keyed()).await.unwrap();
        assert!(
            matches!(
                again[..],
                [ezq_core::engine::PublishOutcome::Duplicate(Some(_))]
            ),
            "{again:?}"
        );
        assert_eq!(engine.purge(&queue).await.unwrap(), 1);
        assert!(engine.wakeups(&queue).await.unwrap().is_some());
    }

    let engine = PgmqEngine::connect(PgmqConfig::url(&url).unwrap())
        .await
        .unwrap();
    let error = engine.ensure_queue(&unique("new")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Permission);
}

#[tokio::test]
async fn nothing_is_created_where_the_schema_is_not_ours() {
    let url = fresh_database().await;
    let config = || PgmqConfig::url(&url).unwrap().manage_schema(false);
    let error = PgmqEngine::connect(config()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PgmqMissing);

    let mut own = PgConnection::connect(&url).await.unwrap();
    let absent: bool = scalar(&mut own, "SELECT to_regnamespace('pgmq') IS NULL").await;
    assert!(absent);

    engine_at(&url).await;
    let engine = PgmqEngine::connect(config()).await.unwrap();
    let error = engine.ensure_queue(&unique("q")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::QueueMissing);
    assert_eq!(
        scalar::<i64>(&mut own, "SELECT count(*) FROM pgmq.meta").await,
        0
    );
}

#[tokio::test]
async fn pgmq_from_sql_is_recorded_where_its_own_installers_look() {
    let url = fresh_database().await;
    engine_at(&url).await;
    let mut own = PgConnection::connect(&url).await.unwrap();
    let recorded = "SELECT string_agg(name || ' ' || version, ', ') FROM pgmq.__pgmq_migrations";
    let expected = format!("pgmq.sql {}", ezq_pgmq::CARRIED_PGMQ);
    assert_eq!(scalar::<String>(&mut own, recorded).await, expected);
}

#[tokio::test]
async fn a_record_of_a_pgmq_that_is_gone_keeps_nobody_from_installing_it() {
    let url = fresh_database().await;
    let mut own = PgConnection::connect(&url).await.unwrap();
    let left = "CREATE SCHEMA pgmq;
                CREATE TABLE pgmq.__pgmq_migrations (
                  name text PRIMARY KEY NOT NULL, version text NOT NULL,
                  run_at timestamptz NOT NULL DEFAULT clock_timestamp());
                INSERT INTO pgmq.__pgmq_migrations (name, version) VALUES ('pgmq.sql', '1.4.0')";
    run(&mut own, left).await;

    let queue = unique("q");
    let engine = engine_at(&url).await;
    engine.ensure_queue(&queue).await.unwrap();
    publish(&engine, &queue, &["1"]).await;

    let version = "SELECT version FROM pgmq.__pgmq_migrations";
    assert_eq!(
        scalar::<String>(&mut own, version).await,
        ezq_pgmq::CARRIED_PGMQ
    );
}

#[tokio::test]
async fn a_pgmq_without_headers_is_too_old() {
    let url = fresh_database().await;
    let mut own = PgConnection::connect(&url).await.unwrap();
    let sql = "CREATE SCHEMA pgmq; CREATE TABLE pgmq.meta (queue_name text);
               CREATE TYPE pgmq.message_record AS (msg_id bigint)";
    run(&mut own, sql).await;

    let error = PgmqEngine::connect(PgmqConfig::url(&url).unwrap())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PgmqMissing);
    assert!(error.to_string().contains(ezq_pgmq::OLDEST_PGMQ), "{error}");
}
