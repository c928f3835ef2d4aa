//! Archives lose expired messages, a few rows at a time, and no younger ones.

use std::time::Duration;

use ezq_core::engine::Engine;
use ezq_core::message::{QueueName, Retention};
use ezq_pgmq::{PgmqConfig, PgmqEngine};
use sqlx::Connection as _;

use crate::support::*;

const HOUR: Duration = Duration::from_secs(3600);

/// Fills an archive with `old` rows of an hour and a second ago, and `young` ones of a minute less.
async fn fill(queue: &QueueName, old: u32, young: u32) {
    let sql = format!(
        "INSERT INTO pgmq.a_{queue} (msg_id, vt, message, archived_at)
         SELECT n, now(), '{{}}', now() - CASE WHEN n <= {old} THEN interval '3601 s'
                                          ELSE interval '3540 s' END
         FROM generate_series(1, {old} + {young}) n"
    );
    run(&mut connection().await, &sql).await;
}

#[tokio::test]
async fn removes_what_is_older_than_it_keeps_and_nothing_younger() {
    let (engine, queue) = archiving(Retention::archive_for(HOUR)).await;
    fill(&queue, 2500, 10).await;
    assert_eq!(engine.sweep().await.unwrap(), 2500);
    assert_eq!(archived(&queue).await, 10);
    assert_eq!(engine.sweep().await.unwrap(), 0);

    // One keeps for ever, one has no archive: nothing is removed.
    engine.set_retention(&queue, Retention::ARCHIVE).unwrap();
    let old = format!("UPDATE pgmq.a_{queue} SET archived_at = '-infinity'");
    run(&mut connection().await, &old).await;
    assert_eq!(engine.sweep().await.unwrap(), 0);

    engine.set_retention(&queue, Retention::Delete).unwrap();
    assert_eq!(engine.sweep().await.unwrap(), 0);
    assert_eq!(archived(&queue).await, 10);

    engine
        .set_retention(&queue, Retention::archive_for(Duration::MAX))
        .unwrap();
    assert_eq!(engine.sweep().await.unwrap(), 10);
}

#[tokio::test]
async fn no_transaction_removes_more_than_a_thousand() {
    let (engine, queue) = archiving(Retention::archive_for(HOUR)).await;
    let mut own = connection().await;
    let audit = format!(
        "CREATE TABLE public.audit_{queue} (tx bigint, removed bigint);
         CREATE FUNCTION note_{queue}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
           INSERT INTO public.audit_{queue} SELECT pg_current_xact_id()::text::bigint, count(*) FROM gone;
           RETURN NULL; END $$;
         CREATE TRIGGER note AFTER DELETE ON pgmq.a_{queue} REFERENCING OLD TABLE AS gone
           FOR EACH STATEMENT EXECUTE FUNCTION note_{queue}()"
    );

    run(&mut own, &audit).await;
    fill(&queue, 2500, 0).await;
    assert_eq!(engine.sweep().await.unwrap(), 2500);

    let sql = format!(
        "SELECT array_agg(removed ORDER BY tx)::text FROM (
           SELECT tx, sum(removed) AS removed FROM audit_{queue} GROUP BY tx) t"
    );
    assert_eq!(scalar::<String>(&mut own, &sql).await, "{1000,1000,500}");
}

#[tokio::test]
async fn several_sweepers_remove_each_row_once_and_wait_for_none() {
    let (engine, queue) = archiving(Retention::archive_for(HOUR)).await;
    let url = server().await.url();
    let other = archiving_at(&url, &queue, Retention::archive_for(HOUR)).await;
    fill(&queue, 20_000, 7).await;
    let (first, second) = tokio::join!(engine.sweep(), other.sweep());
    // A process that finds another at work leaves the rest to it.
    assert_eq!(first.unwrap() + second.unwrap(), 20_000);
    assert_eq!(archived(&queue).await, 7);
}

#[tokio::test]
async fn a_queue_that_another_sweeps_is_left_to_it() {
    let (engine, queue) = archiving(Retention::archive_for(HOUR)).await;
    fill(&queue, 10, 0).await;

    let mut own = connection().await;
    let mut tx = own.begin().await.unwrap();
    let key = 0x657a_7102_i64 << 32;
    let lock =
        format!("SELECT pg_advisory_xact_lock({key} + 'pgmq.a_{queue}'::regclass::oid::bigint)");
    run(&mut tx, &lock).await;
    assert_eq!(engine.sweep().await.unwrap(), 0);

    tx.rollback().await.unwrap();
    assert_eq!(engine.sweep().await.unwrap(), 10);
}

#[tokio::test]
async fn sweeps_in_the_background_while_messages_come_and_go_until_it_is_closed() {
    let url = server().await.url();
    let queue = unique("q");
    let config = PgmqConfig::url(&url)
        .unwrap()
        .sweep_interval(Duration::from_millis(20));
    let engine = PgmqEngine::connect(config).await.unwrap();

    // Set after connecting, as an application does.
    engine
        .set_retention(&queue, Retention::archive_for(Duration::from_millis(300)))
        .unwrap();
    engine.ensure_queue(&queue).await.unwrap();

    let began = std::time::Instant::now();
    let mut published = 0;
    let mut gone = 0;
    let mut own = connection().await;
    let youngest_gone = format!("SELECT count(*) FROM pgmq.a_{queue}");

    while gone < 200 {
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "only {gone} of {published} are gone"
        );
        publish(&engine, &queue, &["1"; 20]).await;
        published += 20;
        assert_eq!(acknowledge_all(&engine, &queue).await, 20);
        gone = published - scalar::<i64>(&mut own, &youngest_gone).await;
    }

    publish(&engine, &queue, &["1"; 50]).await;
    assert_eq!(acknowledge_all(&engine, &queue).await, 50);
    assert!(archived(&queue).await >= 50, "what is young is kept");

    engine.close().await;
    let left = archived(&queue).await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(archived(&queue).await, left);
}

#[tokio::test]
async fn one_archive_that_fails_keeps_no_other_from_being_swept() {
    let (engine, good) = archiving(Retention::archive_for(HOUR)).await;
    let broken = QueueName::new(&format!("a{good}")).unwrap();
    let gone = QueueName::new(&format!("b{good}")).unwrap();

    for queue in [&broken, &gone] {
        engine
            .set_retention(queue, Retention::archive_for(HOUR))
            .unwrap();
        engine.ensure_queue(queue).await.unwrap();
    }

    let mut own = connection().await;
    run(
        &mut own,
        &format!("ALTER TABLE pgmq.a_{broken} RENAME COLUMN archived_at TO odd"),
    )
    .await;

    run(&mut own, &format!("DROP TABLE pgmq.a_{gone}")).await;
    fill(&good, 5, 0).await;
    engine.sweep().await.unwrap_err();
    assert_eq!(archived(&good).await, 0);

    run(
        &mut own,
        &format!("ALTER TABLE pgmq.a_{broken} RENAME COLUMN odd TO archived_at"),
    )
    .await;
    assert_eq!(engine.sweep().await.unwrap(), 0);
}

#[tokio::test]
async fn a_table_that_a_trigger_asks_for_is_no_missing_archive() {
    let (engine, queue) = archiving(Retention::archive_for(HOUR)).await;
    fill(&queue, 5, 0).await;

    let trigger = format!(
        "CREATE FUNCTION audit_{queue}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
           INSERT INTO public.no_such_audit VALUES (1); RETURN NULL; END $$;
         CREATE TRIGGER audit AFTER DELETE ON pgmq.a_{queue} EXECUTE FUNCTION audit_{queue}()"
    );
    run(&mut connection().await, &trigger).await;

    let error = engine.sweep().await.unwrap_err();
    assert!(
        ezq_core::error::error_chain(&error).contains("no_such_audit"),
        "{error:?}"
    );
    assert_eq!(archived(&queue).await, 5);
}
