//! What the tables hold of one event, beyond what the conformance suite checks.

use std::time::Duration;

use ezq_core::engine::{CopyState, Engine, Settle};
use ezq_core::message::{
    ErrorRecord, HandlerMark, HandlerName, HandlerState, Progress, QueueName, Retention,
};
use sqlx::Connection as _;

use crate::support::*;

fn event(id: &str) -> String {
    format!(r#"{{"specversion":"1.0","id":"{id}","source":"/shop","type":"order.paid"}}"#)
}

fn failed(attempt: u32, error: &str) -> Progress {
    let at = chrono::DateTime::UNIX_EPOCH;
    let record = ErrorRecord::new(at, attempt, error.to_owned());
    let mark = HandlerMark::new(HandlerState::Retry)
        .attempts(attempt)
        .errors(vec![record]);
    Progress::from_iter([(HandlerName::from("shop::mail"), mark)])
}

#[tokio::test]
async fn finds_every_copy_in_all_queues_archives_and_dead_letters() {
    let (engine, queue) = archiving(Retention::ARCHIVE).await;
    let (_, other) = engine_and_queue().await;
    let id = format!("e-{queue}");
    let body = event(&id);
    publish(&engine, &queue, &[&body]).await;
    acknowledge_all(&engine, &queue).await;
    publish(&engine, &queue, &[&body, &event("another")]).await;

    let deliveries = lease(&engine, &queue).await;
    engine
        .settle(&queue, vec![(deliveries[0].receipt.clone(), dead())])
        .await
        .unwrap();
    publish(&engine, &queue, &[&body]).await;
    publish(&engine, &other, &[&body]).await;

    let history = engine.history(&id, None).await.unwrap();
    let states: Vec<_> = history
        .copies
        .iter()
        .map(|copy| (&copy.queue, &copy.state))
        .collect();

    let [(a, first), (b, second), (c, third), (d, fourth)] = states[..] else {
        panic!("{states:?}");
    };
    assert_eq!([a, b, c, d], [&queue, &queue, &queue, &other]);
    assert!(matches!(first, CopyState::Archived { .. }), "{first:?}");
    assert!(matches!(second, CopyState::Dead { .. }), "{second:?}");
    assert!(matches!(
        [third, fourth],
        [CopyState::Waiting { .. }, CopyState::Waiting { .. }]
    ));

    assert_eq!(
        engine
            .history(&id, Some(&other))
            .await
            .unwrap()
            .copies
            .len(),
        1
    );

    let unknown = QueueName::new("no_such_queue").unwrap();
    assert!(
        engine
            .history(&id, Some(&unknown))
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn is_told_to_people() {
    let (engine, queue) = archiving(Retention::ARCHIVE).await;
    let id = format!("e-{queue}");
    let nothing = engine.history(&id, None).await.unwrap().to_string();
    assert!(
        nothing.contains("nothing is kept") && nothing.contains("Retention"),
        "{nothing}"
    );
    publish(&engine, &queue, &[&event(&id)]).await;

    let delivery = lease_one(&engine, &queue).await;
    let retry = Settle::Retry {
        after: Duration::ZERO,
        progress: failed(2, "no such address"),
        outgoing: Vec::new(),
    };
    engine
        .settle(&queue, vec![(delivery.receipt, retry)])
        .await
        .unwrap();

    let told = engine.history(&id, None).await.unwrap().to_string();
    assert!(told.contains("ready to be tried again"), "{told}");
    acknowledge_all(&engine, &queue).await;

    let history = engine.history(&id, None).await.unwrap();
    let told = history.to_string();
    let lines: Vec<_> = told.lines().collect();
    assert_eq!(lines.len(), 4, "{told}");
    assert_eq!(lines[0], format!("event {id}: 1 copy"));
    assert!(
        lines[1].starts_with(&format!("{queue} 1, order.paid: published 2")),
        "{told}"
    );
    assert!(
        lines[1].contains("delivered 2 times, handled and archived 2"),
        "{told}"
    );
    assert_eq!(lines[2], "  shop::mail: done at last, failed 2 times");
    assert_eq!(
        lines[3],
        "    attempt 2, 1970-01-01 00:00:00.000 UTC: no such address"
    );
}

#[tokio::test]
async fn takes_no_lock_and_waits_for_none() {
    let (engine, queue) = archiving(Retention::ARCHIVE).await;
    publish(&engine, &queue, &[&event("e"), &event("e")]).await;

    let mut own = connection().await;
    let mut tx = own.begin().await.unwrap();
    run(&mut tx, &format!("SELECT 1 FROM pgmq.q_{queue} FOR UPDATE")).await;
    run(
        &mut tx,
        &format!("DELETE FROM pgmq.q_{queue} WHERE msg_id = 1"),
    )
    .await;

    let history = tokio::time::timeout(Duration::from_secs(20), engine.history("e", Some(&queue)));
    assert_eq!(history.await.unwrap().unwrap().copies.len(), 2);
    tx.rollback().await.unwrap();
}

#[tokio::test]
async fn queues_that_may_not_be_read_are_named() {
    let url = fresh_database().await;
    let admin = engine_at(&url).await;
    let ours = unique("ours");
    let theirs = unique("theirs");
    let mut own = sqlx::PgConnection::connect(&url).await.unwrap();

    for queue in [&ours, &theirs] {
        admin.ensure_queue(queue).await.unwrap();
        publish(&admin, queue, &[&event("e")]).await;
    }

    run(&mut own, "CREATE ROLE reader LOGIN").await;
    let grant = format!(
        "GRANT USAGE ON SCHEMA pgmq TO reader;
         GRANT SELECT ON pgmq.q_{ours}, pgmq.a_{ours}, pgmq.q_{ours}_dlq TO reader"
    );
    run(&mut own, &grant).await;

    let options: sqlx::postgres::PgConnectOptions = url.parse().unwrap();
    let config = ezq_pgmq::PgmqConfig::options(options.username("reader"));
    let reader = ezq_pgmq::PgmqEngine::connect(config.manage_schema(false))
        .await
        .unwrap();

    let history = reader.history("e", None).await.unwrap();
    assert_eq!(history.copies.len(), 1);
    assert_eq!(history.unread, [format!("the queue `{theirs}`")]);
    assert!(
        history
            .to_string()
            .ends_with(&format!("not looked into: the queue `{theirs}`"))
    );
}

#[tokio::test]
async fn odd_rows_harm_nothing() {
    let (engine, queue) = archiving(Retention::ARCHIVE).await;
    let rows = r#"(now(), 'infinity', NULL, '[1]'), ('infinity', now(), '[1]', NULL),
                  ('-infinity', '-infinity', '{"specversion": 1, "id": "odd"}', '"x"'),
                  (now(), now(), '{"id": "odd", "x": [1]}', '{"ezq-redriven": 7, "ezq-dead": [2]}')"#;

    for table in ["q", "a"] {
        let id = if table == "a" {
            "row_number() over (), "
        } else {
            ""
        };

        let column = if table == "a" { "msg_id, " } else { "" };
        let sql = format!(
            "INSERT INTO pgmq.{table}_{queue} ({column}vt, enqueued_at, message, headers)
             SELECT {id}vt::timestamptz, at::timestamptz, message::jsonb, headers::jsonb
             FROM (VALUES {rows}) r(vt, at, message, headers)"
        );
        run(&mut connection().await, &sql).await;
    }

    let found = |id: String| {
        let engine = &engine;
        let queue = &queue;
        async move { engine.history(&id, Some(queue)).await.unwrap().copies.len() }
    };
    assert_eq!(found("odd".to_owned()).await, 2);

    // In the flat form, or undecodable, each is known by its place, in the queue and the archive.
    for n in [1, 2, 4] {
        assert_eq!(found(format!("{queue}:{n}")).await, 2, "{n}");
    }
    assert_eq!(found(format!("{queue}:3")).await, 0);
}

#[tokio::test]
async fn an_archive_is_searched_by_its_index() {
    let (engine, queue) = archiving(Retention::ARCHIVE).await;
    let mut own = connection().await;
    let sql = format!(
        "INSERT INTO pgmq.a_{queue} (msg_id, vt, message)
         SELECT n, now(), jsonb_build_object('specversion', '1.0', 'id', 'e-' || n)
         FROM generate_series(1, 20000) n; ANALYZE pgmq.a_{queue}"
    );
    run(&mut own, &sql).await;
    assert_eq!(engine.history("e-77", None).await.unwrap().copies.len(), 1);

    // A connection reports its statistics when it ends, which may be a moment after it was closed.
    let scans = format!(
        "SELECT idx_scan::bigint FROM pg_stat_user_indexes
         WHERE indexrelname = 'a_{queue}_event_id_idx'"
    );
    let began = std::time::Instant::now();

    while scalar::<i64>(&mut own, &scans).await == 0 {
        assert!(
            began.elapsed() < Duration::from_secs(30),
            "the index was not used"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
