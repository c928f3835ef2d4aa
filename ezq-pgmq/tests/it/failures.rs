//! What handlers fail of, counted by the database: whatever others wrote into headers, and at a bounded
//! cost.

use std::time::Duration;

use ezq_core::engine::{Engine, EventFilter, EventState, FailureKey, Failures, PageRequest};
use ezq_core::message::QueueName;
use ezq_pgmq::PgmqEngine;
use sqlx::{Connection as _, PgConnection};

use crate::support::*;

async fn failures(engine: &PgmqEngine, queue: &QueueName, scan: usize) -> Failures {
    let browse = engine.browse().unwrap();
    browse.failures(queue, scan).await.unwrap()
}

#[tokio::test]
async fn headers_that_others_wrote_are_passed_over_or_told_as_they_are() {
    let (engine, queue) = engine_and_queue().await;
    let mut own = connection().await;
    let dead = [
        "NULL",
        "'[1]'",
        "'{\"ezq-dead\": 1}'",
        "'{\"ezq-dead\": {\"reason\": [1]}}'",
        "'{\"ezq-dead\": {\"reason\": {\"error\": \"of others\"}}}'",
        "'{\"ezq-dead\": {\"reason\": {\"error\": \"timed\"}, \"died_at\": \"yesterday\"}}'",
    ];
    let waiting = [
        "NULL",
        "'\"text\"'",
        "'{\"ezq-returned\": 1, \"ezq-h:a\": 1}'",
        "'{\"ezq-returned\": 1, \"ezq-h:b\": {\"state\": \"retry\", \"errors\": 1}}'",
        "'{\"ezq-returned\": 1, \"ezq-h:c\": {\"state\": \"retry\", \"errors\": [{\"error\": \"odd\", \"at\": 5}]}}'",
        "'{\"ezq-returned\": 1, \"ezq-h:d\": {\"state\": \"done\", \"errors\": [{\"error\": \"mended\"}]}}'",
    ];
    for headers in dead {
        let insert = format!(
            "INSERT INTO pgmq.q_{queue}_dlq (vt, message, headers) VALUES (now(), '1', {headers})"
        );
        run(&mut own, &insert).await;
    }
    for headers in waiting {
        let insert = format!(
            "INSERT INTO pgmq.q_{queue} (vt, read_ct, message, headers)
             VALUES (now() + interval '1 hour', 1, '1', {headers})"
        );
        run(&mut own, &insert).await;
    }

    let failures = failures(&engine, &queue, 100).await;
    assert!(failures.is_complete);
    let mut told: Vec<&str> = failures.found.iter().map(|one| &*one.error).collect();
    told.sort_unstable();
    assert_eq!(told, ["odd", "of others", "timed"]);
}

#[tokio::test]
async fn alike_errors_are_one_row_and_the_newest_are_looked_at() {
    let url = fresh_database().await;
    let queue = unique("q");
    let engine = engine_at(&url).await;
    engine.ensure_queue(&queue).await.unwrap();
    let mut own = PgConnection::connect(&url).await.unwrap();
    let insert = format!(
        "INSERT INTO pgmq.q_{queue}_dlq (vt, message, headers)
         SELECT now(), '1', jsonb_build_object('ezq-dead', jsonb_build_object(
           'died_at', '2026-01-01T00:00:00Z', 'reason', jsonb_build_object(
             'kind', 'fatal', 'attempts', 1, 'handler', 'mail',
             'error', 'no route to host ' || n / 10000)))
         FROM generate_series(0, 29999) n"
    );
    run(&mut own, &insert).await;

    let found = failures(&engine, &queue, 10_000).await;
    assert!(!found.is_complete);
    assert_eq!(found.found.len(), 1, "{found:?}");
    let newest = &found.found[0];
    assert_eq!(
        (&*newest.error, newest.count),
        ("no route to host 2", 10_000)
    );
    assert_eq!(newest.example.as_number(), Some(30_000));
    let all = failures(&engine, &queue, 30_000).await;
    assert!(all.is_complete);
    // A zero is not alike: it may begin an id such as `0x1f`.
    let mut counts: Vec<_> = all
        .found
        .iter()
        .map(|one| (&*one.error, one.count))
        .collect();
    counts.sort_unstable();
    assert_eq!(
        counts,
        [
            ("no route to host 0", 10_000),
            ("no route to host 2", 20_000)
        ]
    );

    // A filter by the key pages through all of them.
    let key = FailureKey::new(newest.handler.clone(), &newest.error);
    let mut request = PageRequest::new(queue, EventState::Dead);
    request.filter = EventFilter::all().failure(key);
    request.limit = 1000;
    let mut count = 0;
    loop {
        let page = engine.browse().unwrap().page(&request).await.unwrap();
        count += page.events.len();
        match page.next {
            Some(next) => request.after = Some(next),
            None => break,
        }
    }
    assert_eq!(count, 30_000);

    let tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'ezq'";
    assert_eq!(
        scalar::<i64>(&mut own, tables).await,
        0,
        "looking made a table"
    );
}

/// The planner reads a short table as a whole. So it does with a long one that was short, or all scheduled,
/// when it was last analysed.
#[tokio::test]
async fn pages_and_failures_are_read_by_index_whatever_the_planner_knows() {
    let (engine, queue) = engine_and_queue().await;
    let mut own = connection().await;
    let fill = format!(
        "INSERT INTO pgmq.q_{queue} (vt, message) SELECT now() - interval '1 s', '1' FROM generate_series(1, 3);
         INSERT INTO pgmq.q_{queue}_dlq (vt, message) SELECT now(), '1' FROM generate_series(1, 3);
         ANALYZE pgmq.q_{queue}; ANALYZE pgmq.q_{queue}_dlq"
    );
    run(&mut own, &fill).await;
    let scans = format!(
        "SELECT sum(seq_scan)::bigint FROM pg_stat_user_tables
         WHERE schemaname = 'pgmq' AND relname IN ('q_{queue}', 'q_{queue}_dlq')"
    );

    let browse = engine.browse().unwrap();
    let look = async || {
        for state in [EventState::Ready, EventState::Scheduled, EventState::Dead] {
            let request = PageRequest::new(queue.clone(), state);
            browse.page(&request).await.unwrap();
        }
        failures(&engine, &queue, 100).await;
    };
    // A session tells what it scanned a second after it last did.
    look().await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    look().await;
    let before: i64 = scalar(&mut own, &scans).await;
    look().await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    look().await;
    let after: i64 = scalar(&mut own, &scans).await;
    assert_eq!(after, before, "a table was scanned as a whole");
}
