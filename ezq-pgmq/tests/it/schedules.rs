//! Schedules in their table: created when needed, and moved on together with the event or not at
//! all.

use chrono::{DateTime, TimeDelta, Utc};
use ezq_core::engine::{Advance, Engine, Fired, Firing, Registration, ScheduleRow, ScheduleStore};
use ezq_core::message::QueueName;
use ezq_core::{Error, ErrorKind};
use ezq_pgmq::{PgmqConfig, PgmqEngine};
use sqlx::{Connection as _, PgConnection};
use tokio::task::JoinSet;

use crate::support::*;

const VERSIONS: &str = "SELECT array_agg(version ORDER BY version) FROM ezq.migrations";
const DEFINITION: &str = "every second";

/// A schedule whose ticks are all due.
async fn register(engine: &PgmqEngine, name: &str) -> Result<bool, Error> {
    let next_at = Utc::now() - TimeDelta::days(1);
    let new = Registration::new(name, "test", DEFINITION, next_at);
    engine.register(new, None).await
}

async fn row(engine: &PgmqEngine, name: &str) -> ScheduleRow {
    let rows = engine.look(&[(name, DEFINITION)]).await.unwrap().rows;
    rows.into_iter().find(|row| row.name == name).unwrap()
}

async fn fire(
    engine: &PgmqEngine,
    queue: &QueueName,
    name: &str,
    from: DateTime<Utc>,
) -> Result<Fired, Error> {
    let to = from + TimeDelta::seconds(1);
    let tick = Some(Advance::new(DEFINITION, from, to).due(from));
    let body = format!("\"{}\"", from.to_rfc3339());
    engine
        .fire(Firing::new(name).tick(tick).message(message(queue, &body)))
        .await
}

async fn database() -> (String, QueueName, PgConnection) {
    let url = fresh_database().await;
    let queue = unique("q");
    engine_at(&url).await.ensure_queue(&queue).await.unwrap();
    let own = PgConnection::connect(&url).await.unwrap();
    (url, queue, own)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn eight_who_fire_every_tick_fire_each_once() {
    const TICKS: i64 = 100;

    let (url, queue, mut own) = database().await;
    // All need the table at once, too.
    let mut firing = JoinSet::new();

    for _ in 0..8 {
        let engine = engine_at(&url).await;
        let queue = queue.clone();
        firing.spawn(async move {
            register(&engine, "a").await.unwrap();
            let begin = row(&engine, "a").await.next_at;
            let mut fired = 0;

            loop {
                let from = row(&engine, "a").await.next_at;
                if from - begin >= TimeDelta::seconds(2 * TICKS) {
                    return fired;
                }
                fired +=
                    i64::from(fire(&engine, &queue, "a", from).await.unwrap() != Fired::NotDue);
            }
        });
    }

    let fired: i64 = firing.join_all().await.into_iter().sum();
    let counts = format!("SELECT ARRAY[count(*), count(DISTINCT message)] FROM pgmq.q_{queue}");
    assert_eq!(scalar::<Vec<i64>>(&mut own, &counts).await, [fired, fired]);
    assert!(fired >= 2 * TICKS, "{fired}");
    assert_eq!(scalar::<Vec<i32>>(&mut own, VERSIONS).await, [4, 15]);
}

#[tokio::test]
async fn a_firing_that_is_cut_off_in_the_middle_moves_nothing_and_comes_again() {
    let (url, queue, mut own) = database().await;
    let engine = engine_at(&url).await;
    register(&engine, "a").await.unwrap();
    let before = row(&engine, "a").await;

    // It has moved the row and waits for the queue when its backend is terminated.
    let mut lock = own.begin().await.unwrap();
    run(
        &mut lock,
        &format!("LOCK TABLE pgmq.q_{queue} IN EXCLUSIVE MODE"),
    )
    .await;

    let cut = {
        let engine = engine.clone();
        let queue = queue.clone();
        tokio::spawn(async move { fire(&engine, &queue, "a", before.next_at).await })
    };

    let mut other = PgConnection::connect(&url).await.unwrap();
    let waiting = "FROM pg_stat_activity WHERE wait_event_type = 'Lock' \
                   AND query LIKE '%ezq.schedules%' AND pid <> pg_backend_pid()";
    let ended = format!("SELECT coalesce(bool_or(pg_terminate_backend(pid)), false) {waiting}");
    let began = std::time::Instant::now();
    while !scalar::<bool>(&mut other, &ended).await {
        assert!(began.elapsed().as_secs() < 60, "it never waited");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }

    cut.await.unwrap().unwrap_err();
    lock.rollback().await.unwrap();
    assert_eq!(row(&engine, "a").await, before);
    assert!(matches!(
        fire(&engine, &queue, "a", before.next_at).await,
        Ok(Fired::Done(Some(_)))
    ));

    let count = format!("SELECT count(*) FROM pgmq.q_{queue}");
    assert_eq!(scalar::<i64>(&mut own, &count).await, 1);
}

#[tokio::test]
async fn a_process_is_noted_without_waiting_for_others() {
    let (url, _, mut own) = database().await;
    let engine = engine_at(&url).await;
    register(&engine, "a").await.unwrap();
    run(
        &mut own,
        "UPDATE ezq.schedules SET seen_at = now() - interval '1 h'",
    )
    .await;

    let mut lock = own.begin().await.unwrap();
    run(&mut lock, "SELECT FROM ezq.schedules FOR UPDATE").await;
    let unseen = row(&engine, "a").await;
    lock.rollback().await.unwrap();
    row(&engine, "a").await;
    assert!(row(&engine, "a").await.seen_at - unseen.seen_at > TimeDelta::minutes(59));
}

#[tokio::test]
async fn a_schedules_table_that_is_not_to_be_made_is_told_with_what_to_run() {
    let (url, _, mut own) = database().await;
    let config = PgmqConfig::url(&url).unwrap().manage_schema(false);
    let engine = PgmqEngine::connect(config).await.unwrap();
    assert!(engine.look(&[]).await.unwrap().rows.is_empty());
    let error = engine.look(&[("a", "@hourly")]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SchemaMissing);

    let text = error.to_string();
    assert!(!text.contains("ezq.dedupe"), "{text}");
    run(&mut own, text.split_once('\n').unwrap().1).await;
    assert!(register(&engine, "a").await.unwrap());
}

#[tokio::test]
async fn a_role_without_rights_on_schedules_is_told_what_to_run() {
    let (url, queue, mut own) = database().await;
    let role = unique("role");
    let grants = format!(
        "CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA pgmq TO {role};
         GRANT ALL ON pgmq.q_{queue} TO {role}"
    );
    run(&mut own, &grants).await;
    let engine = engine_at(&url.replace("postgres@", &format!("{role}@"))).await;

    for what in ["nothing stands", "the table stands", "and can be found"] {
        match what {
            "the table stands" => assert!(register(&engine_at(&url).await, "b").await.unwrap()),
            "and can be found" => {
                let grants = format!(
                    "GRANT USAGE ON SCHEMA ezq TO {role};
                     GRANT SELECT ON ezq.migrations TO {role}"
                );
                run(&mut own, &grants).await;
            }
            _ => {}
        }

        let error = register(&engine, "a").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SchemaMissing, "{what}: {error:?}");

        if what == "and can be found" {
            run(&mut own, error.to_string().split_once('\n').unwrap().1).await;
        }
    }

    assert!(register(&engine, "a").await.unwrap());
    let from = row(&engine, "a").await.next_at;
    assert!(matches!(
        fire(&engine, &queue, "a", from).await,
        Ok(Fired::Done(Some(_)))
    ));
    // The printed script is enough as well.
    assert!(
        ezq_pgmq::setup_sql(Vec::<QueueName>::new(), Some(role.as_str()))
            .unwrap()
            .contains("on ezq.schedules to")
    );
}

#[tokio::test]
async fn a_schedules_table_that_was_dropped_is_made_again() {
    let (url, queue, mut own) = database().await;
    let engine = engine_at(&url).await;
    register(&engine, "a").await.unwrap();
    let from = row(&engine, "a").await.next_at;

    for drop in [
        "DROP SCHEMA ezq CASCADE",
        "DROP TABLE ezq.schedules, ezq.migrations",
    ] {
        run(&mut own, drop).await;
        assert_eq!(
            fire(&engine, &queue, "a", from).await.unwrap(),
            Fired::NotDue
        );
        assert!(register(&engine, "a").await.unwrap());
    }

    // The queue is another matter.
    let from = row(&engine, "a").await.next_at;
    run(&mut own, &format!("SELECT pgmq.drop_queue('{queue}')")).await;
    let error = fire(&engine, &queue, "a", from).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::QueueMissing);

    engine.ensure_queue(&queue).await.unwrap();
    assert!(matches!(
        fire(&engine, &queue, "a", from).await,
        Ok(Fired::Done(Some(_)))
    ));
}

#[tokio::test]
async fn an_event_that_postgres_refuses_leaves_its_tick() {
    let (url, queue, _own) = database().await;
    let engine = engine_at(&url).await;
    register(&engine, "a").await.unwrap();
    let before = row(&engine, "a").await;

    for body in [r#""\u0000""#, "no json"] {
        let tick = Some(
            Advance::new(
                DEFINITION,
                before.next_at,
                before.next_at + TimeDelta::seconds(1),
            )
            .due(before.next_at),
        );

        let message = Some(message(&queue, body));
        let error = engine
            .fire(Firing::new("a").tick(tick).message(message))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidEvent, "{error:?}");
    }

    assert_eq!(row(&engine, "a").await, before);
}

#[tokio::test]
async fn a_firing_wakes_who_waits() {
    let (url, queue, _own) = database().await;
    let engine = engine_at(&url).await;
    let waiting = engine_at(&url).await;
    register(&engine, "a").await.unwrap();
    let mut wakeups = waiting.wakeups(&queue).await.unwrap().unwrap();
    wakeups.mark_unchanged();

    let from = row(&engine, "a").await.next_at;
    fire(&engine, &queue, "a", from).await.unwrap();
    let woken = tokio::time::timeout(TTL, wakeups.changed()).await;
    woken.expect("it is woken in time").unwrap();
}
