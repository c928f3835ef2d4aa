//! Replays: what is replayed, how often, and what stays unchanged.

mod extent;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use ezq_core::ErrorKind;
use ezq_core::codec::{Origin, decode};
use ezq_core::engine::{CopyState, Engine as _};
use ezq_core::message::headers::{KEY, REPLAY};
use ezq_core::message::{QueueName, Retention};
use ezq_pgmq::{PgmqConfig, PgmqEngine};
use serde_json::json;
use sqlx::{Connection as _, PgConnection};
use tokio::task::JoinSet;

use crate::support::*;

/// Archives so many events of a queue, `e-1` to `e-<n>`: every second one of another type, each a
/// second after the one before, with a mark and an ordering key.
async fn archive(count: u32) -> (PgmqEngine, QueueName, PgConnection) {
    let (engine, queue) = archiving(Retention::ARCHIVE).await;
    let mut own = connection().await;
    fill(&mut own, &queue, count).await;
    (engine, queue, own)
}

async fn fill(own: &mut PgConnection, queue: &QueueName, count: u32) {
    let sql = format!(
        "WITH ids AS (
           INSERT INTO pgmq.q_{queue} (vt, message)
           SELECT now(), to_jsonb(n) FROM generate_series(1, {count}) n RETURNING msg_id, message),
         gone AS (SELECT msg_id, (message #>> '{{}}')::int AS n FROM ids)
         INSERT INTO pgmq.a_{queue} (msg_id, read_ct, enqueued_at, archived_at, vt, message, headers)
         SELECT msg_id, 1, '2026-01-01 00:00Z'::timestamptz + n * interval '1 s', now(), now(),
           jsonb_build_object('specversion', '1.0', 'id', 'e-' || n, 'source', 's',
             'type', CASE n % 2 WHEN 0 THEN 'order.paid' ELSE 'order.line.added' END,
             'data', jsonb_build_object('n', n, 'region', CASE n % 5 WHEN 0 THEN 'north' ELSE 'south' END)),
           '{{\"ezq-h:shop::a\": {{\"state\": \"done\", \"attempts\": 2}}, \"ezq-returned\": 1,
              \"correlation-id\": \"c\", \"x-pgmq-group\": \"k\"}}'
         FROM gone; DELETE FROM pgmq.q_{queue}"
    );
    run(own, &sql).await;
}

async fn count(own: &mut PgConnection, queue: &QueueName) -> i64 {
    scalar(own, &format!("SELECT count(*) FROM pgmq.q_{queue}")).await
}

fn second(n: i64) -> DateTime<Utc> {
    "2026-01-01T00:00:00Z".parse::<DateTime<Utc>>().unwrap() + chrono::Duration::seconds(n)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn each_of_50_000_is_handed_over_once_however_often_it_is_interrupted() {
    let (engine, queue, mut own) = archive(50_000).await;
    let target = unique("target");
    let name = queue.to_string();

    // Dropped again and again, two at a time, wherever they are.
    for round in 0..12_u64 {
        let mut runs = JoinSet::new();
        for _ in 0..2 {
            let replay = engine.replay(&name, &queue).to_queue(&target);
            let limit = Duration::from_millis(40 * (round + 1));
            runs.spawn(async move {
                tokio::time::timeout(limit, replay.into_future())
                    .await
                    .is_ok()
            });
        }

        runs.join_all().await;
    }

    let before = count(&mut own, &target).await;
    assert!(before > 0, "nothing was handed over before it was cut off");

    let mut runs = JoinSet::new();
    for _ in 0..3 {
        let replay = engine.replay(&name, &queue).to_queue(&target);
        runs.spawn(async move { replay.await.unwrap() });
    }

    let done = runs.join_all().await;
    assert!(
        done.iter()
            .all(|done| done.is_finished && done.handed_over == 50_000),
        "{done:?}"
    );

    let again = engine
        .replay(&name, &queue)
        .to_queue(&target)
        .await
        .unwrap();
    assert_eq!(again.handed_over, 50_000);

    let sql = format!(
        "SELECT count(*), count(DISTINCT message ->> 'id'),
                bool_and(n > before) FROM (
           SELECT message, (message #>> '{{data,n}}')::int AS n,
                  lag((message #>> '{{data,n}}')::int, 1, 0) OVER (ORDER BY msg_id) AS before
           FROM pgmq.q_{target}) q"
    );

    let told: (i64, i64, bool) = sqlx::query_as(sqlx::AssertSqlSafe(sql))
        .fetch_one(&mut own)
        .await
        .unwrap();
    assert_eq!(told, (50_000, 50_000, true));

    // Claims get them in their order, too.
    let disordered = format!(
        "SELECT count(*) FROM (SELECT vt <= lag(vt) OVER (ORDER BY msg_id) AS earlier
                               FROM pgmq.q_{target}) q WHERE earlier"
    );
    assert_eq!(scalar::<i64>(&mut own, &disordered).await, 0);
    assert_eq!(archived(&queue).await, 50_000);
}

#[tokio::test]
async fn a_copy_keeps_its_id_says_what_it_is_and_has_no_marks() {
    let (engine, queue, _own) = archive(1).await;
    engine.replay(queue.to_string(), &queue).await.unwrap();

    let copy = lease_one(&engine, &queue).await;
    let origin = Origin::new(
        &queue,
        copy.receipt.message_id(),
        copy.enqueued_at,
        &copy.headers,
    );
    assert_eq!(decode(&copy.body, origin).unwrap().id(), "e-1");

    let mut keys: Vec<&str> = copy
        .headers
        .as_object()
        .keys()
        .map(String::as_str)
        .collect();

    keys.sort_unstable();
    assert_eq!(keys, ["correlation-id", REPLAY, KEY]);
    assert_eq!(
        copy.headers.value(REPLAY).unwrap()["name"],
        json!(queue.as_str())
    );

    // The history shows the copies, beside the archived events, which are unchanged.
    let history = engine.history("e-1", Some(&queue)).await.unwrap();
    let [original, replayed] = &history.copies[..] else {
        panic!("{history}")
    };
    assert!(
        matches!(original.state, CopyState::Archived { .. }),
        "{history}"
    );
    assert_eq!((original.handlers.len(), &original.replay), (1, &None));
    assert_eq!(replayed.replay.as_deref(), Some(queue.as_str()));
    assert!(
        history.to_string().contains("handed over by the replay"),
        "{history}"
    );

    // The archived copy is not replayed in turn: the original is.
    let done = engine
        .settle(&queue, vec![(copy.receipt, ack())])
        .await
        .unwrap();
    assert_eq!((done.len(), archived(&queue).await), (1, 2));

    let again = engine.replay(format!("{queue} 2"), &queue).await.unwrap();
    assert_eq!(again.handed_over, 1);
}

#[tokio::test]
async fn an_event_in_the_flat_form_keeps_its_id_too() {
    let (engine, queue) = archiving(Retention::ARCHIVE).await;
    let target = unique("target");
    let id = publish(&engine, &queue, &[r#"{"_type": "Paid", "order": 7}"#])
        .await
        .remove(0);
    acknowledge_all(&engine, &queue).await;

    let replay = || {
        engine
            .replay(format!("{queue}{}", 1), &queue)
            .data(json!({ "order": 7 }))
    };
    replay().to_queue(&target).await.unwrap();

    let copy = lease_one(&engine, &target).await;
    let origin = Origin::new(
        &target,
        copy.receipt.message_id(),
        copy.enqueued_at,
        &copy.headers,
    );
    assert_eq!(
        decode(&copy.body, origin).unwrap().id(),
        format!("{queue}:{id}")
    );
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "one story, told in its order")]
async fn time_type_and_data_choose_and_a_dry_run_counts() {
    let (engine, queue, mut own) = archive(100).await;
    let start = |name: &str| engine.replay(format!("{queue} {name}"), &queue);
    assert_eq!(start("dry").dry_run().await.unwrap(), 100);
    assert_eq!(
        start("t").event_type("order.paid").dry_run().await.unwrap(),
        50
    );
    assert_eq!(
        start("t").event_type("order.*").dry_run().await.unwrap(),
        50
    );
    assert_eq!(
        start("t").event_type("order.#").dry_run().await.unwrap(),
        100
    );

    assert_eq!(
        start("t")
            .event_type("order.paid")
            .event_type("order.line.*")
            .dry_run()
            .await
            .unwrap(),
        100
    );

    assert_eq!(
        start("t").event_type("order_paid").dry_run().await.unwrap(),
        0
    );

    let some = || {
        let north = start("some")
            .data(json!({ "region": "north" }))
            .event_type("order.paid");
        north
            .published_after(second(10))
            .published_before(second(50))
    };
    assert_eq!(some().dry_run().await.unwrap(), 4);
    assert_eq!(count(&mut own, &queue).await, 0);

    let steps = Arc::new(AtomicU64::new(0));
    let told = Arc::clone(&steps);
    let done = some()
        .rate(60)
        .on_progress(move |progress| {
            told.fetch_add(1, Ordering::Relaxed);
            assert!(progress.handed_over <= 4);
        })
        .await
        .unwrap();
    assert_eq!((done.handed_over, steps.load(Ordering::Relaxed)), (4, 2));

    let ids = format!(
        "SELECT array_agg((message #>> '{{data,n}}')::int ORDER BY msg_id) FROM pgmq.q_{queue}"
    );
    assert_eq!(scalar::<Vec<i32>>(&mut own, &ids).await, [10, 20, 30, 40]);
    assert_eq!(some().dry_run().await.unwrap(), 0);

    // The same name with other options is another replay.
    let error = start("some").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    let error = start("some").dry_run().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);

    let names: Vec<String> = engine
        .replays()
        .list()
        .await
        .unwrap()
        .into_iter()
        .map(|progress| progress.name)
        .collect();
    assert!(names.contains(&format!("{queue} some")), "{names:?}");
    assert!(
        engine
            .replays()
            .remove(format!("{queue} some"))
            .await
            .unwrap()
    );
    assert!(
        !engine
            .replays()
            .remove(format!("{queue} some"))
            .await
            .unwrap()
    );
    assert_eq!(some().dry_run().await.unwrap(), 4);
}

#[tokio::test]
async fn the_rate_is_kept_and_who_waits_is_woken() {
    let (engine, queue, _own) = archive(90).await;
    let target = unique("target");
    let other = engine_at(&server().await.url()).await;
    let mut wakeups = other.wakeups(&target).await.unwrap().unwrap();
    wakeups.mark_unchanged();

    let began = std::time::Instant::now();
    let replay = engine
        .replay(queue.to_string(), &queue)
        .to_queue(&target)
        .rate(45);
    assert_eq!(replay.await.unwrap().handed_over, 90);

    // The second half comes a second after the first.
    assert!(
        began.elapsed() >= Duration::from_secs(1),
        "{:?}",
        began.elapsed()
    );

    let patience = Duration::from_secs(10);
    tokio::time::timeout(patience, wakeups.changed())
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn a_type_is_meant_letter_by_letter() {
    let (engine, queue) = archiving(Retention::ARCHIVE).await;
    for (n, name) in ["c++.made", "c.made", "ccc.made", "a(b|c.x", "C++.made"]
        .iter()
        .enumerate()
    {
        let body = format!(
            r#"{{"specversion": "1.0", "id": "{n}", "source": "s", "type": "{name}", "data": 1}}"#
        );
        publish(&engine, &queue, &[&body]).await;
    }

    acknowledge_all(&engine, &queue).await;
    for (pattern, meant) in [("c++.made", 1), ("c++.*", 1), ("a(b|c.x", 1), ("*.made", 4)] {
        let replay = engine.replay("t", &queue).event_type(pattern);
        assert_eq!(replay.dry_run().await.unwrap(), meant, "{pattern}");
    }
}

#[tokio::test]
async fn what_cannot_be_replayed_is_a_typed_error() {
    let (engine, queue) = engine_and_queue().await;
    let mut own = connection().await;
    run(&mut own, &format!("DROP TABLE pgmq.a_{queue}")).await;

    let error = engine.replay("none", &queue).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::QueueMissing);
    assert!(error.to_string().contains("archive"), "{error}");
    let error = engine.replay("none", &queue).dry_run().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::QueueMissing);

    // A mistyped name creates no queue, and is an error.
    let mistyped = unique("mistyped");
    let target = unique("target");

    for target in [&mistyped, &target] {
        let error = engine
            .replay("none", &mistyped)
            .to_queue(target)
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::QueueMissing);
    }

    let made =
        format!("SELECT count(*) FROM pgmq.meta WHERE queue_name IN ('{mistyped}', '{target}')");
    assert_eq!(scalar::<i64>(&mut own, &made).await, 0);

    let error = engine.replay("", &queue).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    let error = engine.replay("none", "No Queue").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidQueueName);

    let error = engine
        .replay("none", &queue)
        .event_type("a*")
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidPattern);

    let url = fresh_database().await;
    engine_at(&url).await.ensure_queue(&queue).await.unwrap();

    let config = PgmqConfig::url(&url).unwrap().manage_schema(false);
    let engine = PgmqEngine::connect(config).await.unwrap();
    // Counting changes nothing, and needs nothing.
    assert_eq!(engine.replay("one", &queue).dry_run().await.unwrap(), 0);
    let mut own = PgConnection::connect(&url).await.unwrap();
    for table in ["`ezq.audit`", "`ezq.replays`"] {
        let error = engine.replay("one", &queue).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SchemaMissing);
        let (text, script) = error
            .to_string()
            .split_once('\n')
            .map(|(a, b)| (a.to_owned(), b.to_owned()))
            .unwrap();
        assert!(text.contains(table), "{text}");
        run(&mut own, &script).await;
    }
    assert!(engine.replay("one", &queue).await.unwrap().is_finished);
}

/// Replays an archived event in a new database.
pub(crate) async fn replays(url: &str) {
    let queue = unique("q");
    let engine = archiving_at(url, &queue, Retention::ARCHIVE).await;
    publish(&engine, &queue, &["1", "2"]).await;
    acknowledge_all(&engine, &queue).await;

    let done = engine.replay(queue.to_string(), &queue).await.unwrap();
    assert_eq!(
        (done.handed_over, lease(&engine, &queue).await.len()),
        (2, 2)
    );
}
