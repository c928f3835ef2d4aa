//! Pauses in their table: made when something is paused, heard of across processes, also where a
//! notification is lost, and read by nobody with another's rights.

use std::time::{Duration, Instant};

use ezq_core::ErrorKind;
use ezq_core::engine::{
    Engine, LeaseRequest, PauseTarget, Pauses, QueuePauses, Settle, TypeSearch,
};
use ezq_core::message::{HandlerMark, HandlerName, HandlerState, Progress, QueueName};
use ezq_pgmq::{PgmqConfig, PgmqEngine};
use sqlx::{Connection as _, PgConnection};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::support::*;

const PATIENCE: Duration = Duration::from_secs(30);
const STANDS: &str = "SELECT to_regclass('ezq.controls') IS NOT NULL";

fn pauses(engine: &PgmqEngine) -> &dyn Pauses {
    engine.pauses().unwrap()
}

fn whole(queue: &QueueName) -> PauseTarget {
    PauseTarget::queue(queue.clone())
}

/// Waits until so much is paused; how long it took.
async fn told(watcher: &mut watch::Receiver<QueuePauses>, count: usize) -> Duration {
    let began = Instant::now();
    let waited = watcher.wait_for(|pauses| pauses.len() == count);
    timeout(PATIENCE, waited)
        .await
        .expect("nobody told")
        .unwrap();
    began.elapsed()
}

/// A database of the test's own with a queue, and a connection.
async fn database() -> (String, QueueName, PgConnection) {
    let url = fresh_database().await;
    let queue = unique("q");
    engine_at(&url).await.ensure_queue(&queue).await.unwrap();
    let own = PgConnection::connect(&url).await.unwrap();
    (url, queue, own)
}

#[tokio::test]
async fn another_process_hears_of_a_pause_within_a_second() {
    let (url, queue, _) = database().await;
    let engine = engine_at(&url).await;
    let other = engine_at(&url).await;
    let mut watcher = pauses(&other).watch(&queue).await.unwrap();

    // The quickest of a few: the machine may be busy.
    let mut quickest = PATIENCE;
    for _ in 0..5 {
        pauses(&engine)
            .pause(&whole(&queue), "Ada", None)
            .await
            .unwrap();
        quickest = quickest.min(told(&mut watcher, 1).await);
        pauses(&engine).resume(&whole(&queue), "Ada").await.unwrap();
        quickest = quickest.min(told(&mut watcher, 0).await);
    }
    assert!(quickest < Duration::from_secs(1), "{quickest:?}");
}

#[tokio::test]
async fn a_pause_whose_notification_is_lost_is_found_by_the_next_look() {
    let (url, queue, mut own) = database().await;
    let engine = engine_at(&url).await;
    let mut watcher = pauses(&engine).watch(&queue).await.unwrap();
    pauses(&engine)
        .pause(&whole(&queue), "Ada", None)
        .await
        .unwrap();
    told(&mut watcher, 1).await;

    run(&mut own, "DELETE FROM ezq.controls").await;
    told(&mut watcher, 0).await;
    let insert = format!("INSERT INTO ezq.controls VALUES ('{queue}', '', now(), 'by hand')");
    run(&mut own, &insert).await;
    told(&mut watcher, 1).await;
    assert_eq!(watcher.borrow()[0].by, "by hand");

    // Something else's rows, and a name that no queue has, are no pauses.
    run(
        &mut own,
        "INSERT INTO ezq.controls VALUES ('Not a Name', '', now(), 'x'), ('other', '', NULL, NULL)",
    )
    .await;
    let listed = pauses(&engine).list().await.unwrap();
    assert_eq!(listed.len(), 1, "{listed:?}");
}

#[tokio::test]
async fn a_pause_is_heard_of_after_the_listening_connection_was_lost() {
    let (url, queue, mut own) = database().await;
    let other = engine_at(&url).await;
    let mut watcher = pauses(&other).watch(&queue).await.unwrap();

    let kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                WHERE datname = current_database() AND pid <> pg_backend_pid()";
    assert!(scalar::<i64>(&mut own, kill).await > 0);
    let engine = engine_at(&url).await;
    pauses(&engine)
        .pause(&whole(&queue), "Ada", None)
        .await
        .unwrap();
    told(&mut watcher, 1).await;
}

#[tokio::test]
async fn only_a_pause_makes_the_table() {
    let (url, queue, mut own) = database().await;
    let engine = engine_at(&url).await;
    let watcher = pauses(&engine).watch(&queue).await.unwrap();
    assert!(pauses(&engine).list().await.unwrap().is_empty());
    assert!(watcher.borrow().is_empty());
    assert!(!scalar::<bool>(&mut own, STANDS).await);

    pauses(&engine)
        .pause(&whole(&queue), "Ada", None)
        .await
        .unwrap();
    assert!(scalar::<bool>(&mut own, STANDS).await);
}

#[tokio::test]
async fn a_table_that_was_dropped_pauses_nothing_and_is_made_again() {
    let (url, queue, mut own) = database().await;
    let engine = engine_at(&url).await;
    let mut watcher = pauses(&engine).watch(&queue).await.unwrap();
    pauses(&engine)
        .pause(&whole(&queue), "Ada", None)
        .await
        .unwrap();
    told(&mut watcher, 1).await;

    run(&mut own, "DROP TABLE ezq.controls").await;
    told(&mut watcher, 0).await;
    assert!(pauses(&engine).list().await.unwrap().is_empty());
    assert!(
        pauses(&engine)
            .pause(&whole(&queue), "Ada", None)
            .await
            .unwrap()
    );
    told(&mut watcher, 1).await;
}

#[tokio::test]
async fn a_role_without_rights_consumes_and_cannot_pause() {
    let (url, queue, mut own) = database().await;
    let admin = engine_at(&url).await;
    pauses(&admin)
        .pause(&whole(&queue), "Ada", None)
        .await
        .unwrap();
    let role = unique("role");
    run(
        &mut own,
        &format!(
            "CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA pgmq, ezq TO {role};
             GRANT SELECT ON ezq.migrations TO {role};
             GRANT SELECT, INSERT, UPDATE, DELETE ON pgmq.q_{queue}, pgmq.q_{queue}_dlq TO {role}"
        ),
    )
    .await;

    let url = url.replacen("postgres@", &format!("{role}@"), 1);
    let config = PgmqConfig::url(&url).unwrap().manage_schema(false);
    let engine = PgmqEngine::connect(config).await.unwrap();
    let watcher = pauses(&engine).watch(&queue).await.unwrap();
    assert!(
        watcher.borrow().is_empty(),
        "what cannot be read is not known"
    );
    let kind = |error: ezq_core::Error| error.kind();
    assert_eq!(
        pauses(&engine).list().await.map_err(kind),
        Err(ErrorKind::Permission)
    );
    let refused = pauses(&engine)
        .resume(&whole(&queue), "Ada")
        .await
        .unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::SchemaMissing, "{refused:#?}");
    assert!(
        refused.to_string().contains("grant select, insert"),
        "{refused}"
    );
}

/// Reading a view runs the code of its owner, with the rights of the reader.
#[tokio::test]
async fn a_table_of_a_role_that_is_not_trusted_is_not_read() {
    let (url, queue, mut own) = database().await;
    // Once it is connected: it refuses to connect to what is there by then.
    let engine = engine_at(&url).await;
    let role = unique("role");
    run(
        &mut own,
        &format!(
            "CREATE SCHEMA ezq; CREATE ROLE {role}; GRANT CREATE, USAGE ON SCHEMA ezq TO {role};
             SET ROLE {role};
             CREATE FUNCTION ezq.capture_trap() RETURNS text LANGUAGE sql AS
               $$ SELECT set_config('application_name', 'trapped', false) $$;
             CREATE VIEW ezq.controls AS SELECT '{queue}'::text AS queue, ''::text AS handler,
               now() AS paused_at, ezq.capture_trap() AS paused_by, NULL::text AS reason;
             GRANT SELECT ON ezq.controls TO PUBLIC; RESET ROLE"
        ),
    )
    .await;

    let watcher = pauses(&engine).watch(&queue).await.unwrap();
    assert!(watcher.borrow().is_empty());
    assert_eq!(
        pauses(&engine).list().await.map_err(|error| error.kind()),
        Err(ErrorKind::Permission)
    );
    let trapped = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'trapped'";
    assert_eq!(scalar::<i64>(&mut own, trapped).await, 0);
}

#[tokio::test]
async fn what_is_put_aside_is_released_in_steps() {
    const COUNT: usize = 2500;

    let (engine, queue) = engine_and_queue().await;
    let messages = (0..COUNT)
        .map(|n| message(&queue, &n.to_string()))
        .collect();
    engine.publish(messages).await.unwrap();
    let leased = engine
        .lease(LeaseRequest::new(queue.clone(), COUNT, TTL))
        .await
        .unwrap();
    let mail = HandlerName::from("mail → \"a\"");
    let mark = HandlerMark::new(HandlerState::Retry).held(1);
    let aside = Settle::Retry {
        after: TTL,
        progress: Progress::from_iter([(mail.clone(), mark)]),
        outgoing: Vec::new(),
    };
    let settlements = leased
        .deliveries
        .into_iter()
        .map(|one| (one.receipt, aside.clone()));
    engine.settle(&queue, settlements.collect()).await.unwrap();

    assert!(lease(&engine, &queue).await.is_empty());
    let released = pauses(&engine).release_held(&queue, &mail).await.unwrap();
    assert_eq!(released, COUNT as u64);

    let again = engine.lease(LeaseRequest::new(queue, COUNT, TTL)).await;
    let bodies: Vec<usize> = again
        .unwrap()
        .deliveries
        .iter()
        .map(|one| one.body.parse().unwrap())
        .collect();
    assert_eq!(
        bodies,
        Vec::from_iter(0..COUNT),
        "in the order in which they were published"
    );
}

#[tokio::test]
async fn a_search_reads_the_newest_messages_and_no_large_body() {
    let (engine, queue) = engine_and_queue().await;
    let mut own = connection().await;
    let insert = |body: &str, count: u32| {
        format!(
            "INSERT INTO pgmq.q_{queue} (vt, message)
             SELECT now(), '{body}'::jsonb FROM generate_series(1, {count})"
        )
    };
    let end = r#"{"_type": "EZQEndEvent"}"#;
    let padded = format!(r#"{{"_type": "EZQEndEvent", "x": "{}"}}"#, noise(9000));

    // One too old, one too large, one that is found.
    for (body, count) in [(end, 1), (r#"{"n": 1}"#, 9_999), (&padded, 1), (end, 1)] {
        run(&mut own, &insert(body, count)).await;
    }
    let types = ["ezq.end", "EZQEndEvent"];
    let search = pauses(&engine).search(&queue, &types, TypeSearch::default());
    let found = search.await.unwrap();
    assert_eq!(found.found.len(), 1, "{found:?}");
    assert_eq!(found.found[0].as_number(), Some(10_002));
    assert_eq!(found.due, found.found);

    // One whose transaction commits after a later one was read.
    let mut late = PgConnection::connect(&server().await.url()).await.unwrap();
    let mut tx = late.begin().await.unwrap();
    run(&mut tx, &insert(end, 1)).await;
    run(&mut own, &insert(r#"{"n": 2}"#, 10)).await;
    let found = pauses(&engine).search(&queue, &types, found).await.unwrap();
    assert_eq!(found.found.len(), 1, "{found:?}");
    tx.commit().await.unwrap();
    let found = pauses(&engine).search(&queue, &types, found).await.unwrap();
    assert_eq!(found.found.len(), 2, "{found:?}");
}

/// A text that cannot be compressed.
fn noise(length: u32) -> String {
    let mut state = 1_u64;
    let next = |_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        char::from(b'a' + u8::try_from((state >> 33) % 26).unwrap())
    };
    (0..length).map(next).collect()
}
