//! Queues that consumers leave dead rows in are vacuumed, unless somebody holds the rows or that is switched
//! off.
//!
//! Autovacuum is off for each of their tables, so that a vacuum is ezq's own.

use std::time::{Duration, Instant};

use ezq::engine::Engine as _;
use ezq::prelude::*;
use ezq::sqlx::postgres::PgConnection;
use ezq::{EzqBuilder, Handler, QueueName};
use tracing::Level;

use crate::database::{CEILING, connection, run, scalar, server, unique, until};
use crate::failover::Pair;
use crate::kit::{Numbered, numbered};
use crate::tracing::{Capture, Record};

/// As many events as make an engine ask about a queue.
const ENOUGH: i64 = 5_000;

fn builder(url: &str, queue: &QueueName) -> EzqBuilder {
    Ezq::builder()
        .database_url(url)
        .without_discovered_handlers()
        .queue(queue)
        .register(Handler::on("count", |_: Numbered| async {}))
}

/// The application of a queue without autovacuum, and a connection of its database's administrator.
async fn busy(url: &str, queue: &QueueName, partitions: u32) -> (Ezq, PgConnection) {
    let builder = builder(url, queue).partitions(queue, partitions);
    let ezq = builder.connect().await.unwrap();
    ezq.pgmq().ensure_queue(queue).await.unwrap();
    let mut own = connection(url).await;
    run(&mut own, &autovacuum_off(queue)).await;
    (ezq, own)
}

fn autovacuum_off(queue: &QueueName) -> String {
    format!(
        "DO $$ DECLARE t regclass; BEGIN
           FOR t IN SELECT c.oid FROM pg_class c WHERE c.relkind = 'r' AND c.oid IN ({}) LOOP
             EXECUTE format('ALTER TABLE %s SET (autovacuum_enabled = off)', t);
           END LOOP; END $$",
        tables(queue)
    )
}

/// The table of a queue, or its partitions.
fn tables(queue: &QueueName) -> String {
    format!(
        "SELECT 'pgmq.q_{queue}'::regclass UNION ALL
         SELECT inhrelid FROM pg_inherits WHERE inhparent = 'pgmq.q_{queue}'::regclass"
    )
}

/// Whether all tables of a queue were vacuumed, and have few dead rows.
fn is_clean(queue: &QueueName) -> String {
    let tables = tables(queue);
    format!(
        "SELECT bool_and(vacuum_count > 0 AND n_dead_tup < 10000) FROM pg_stat_all_tables s
         JOIN pg_class c ON c.oid = s.relid AND c.relkind = 'r' WHERE s.relid IN ({tables})"
    )
}

async fn vacuums(own: &mut PgConnection, queue: &QueueName) -> i64 {
    let question = format!(
        "SELECT coalesce(sum(vacuum_count), 0)::bigint FROM pg_stat_all_tables
         WHERE relid IN ({})",
        tables(queue)
    );
    scalar(own, &question).await
}

/// Leaves dead rows, as others do, and has the server count them at once.
async fn leave_dead_rows(own: &mut PgConnection, queue: &QueueName, count: u32) {
    let statements = format!(
        "INSERT INTO pgmq.q_{queue} (vt, message) SELECT now() + interval '1 day', '1'
           FROM generate_series(1, {count});
         DELETE FROM pgmq.q_{queue} WHERE vt > now() + interval '1 hour'"
    );
    run(own, &statements).await;
    run(own, "SELECT pg_stat_force_next_flush()").await;
}

/// Publishes and handles events until a question is answered with yes.
async fn work_until(ezq: &Ezq, own: &mut PgConnection, question: &str) {
    let began = Instant::now();
    let mut consumer = ezq.consumer().concurrency(8).spawn();
    while !scalar::<bool>(own, question).await {
        assert!(began.elapsed() < CEILING, "still not so: {question}");
        ezq.publish_all(&numbered(0..500)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    consumer.stop();
    (&mut consumer).await.unwrap();
}

/// Handles as many events as make the engine ask about the queue, whatever it does then.
async fn work(ezq: &Ezq, events: i64) {
    ezq.publish_all(&numbered(0..events)).await.unwrap();
    ezq.consumer().until_idle().run().await.unwrap();
}

/// The warnings about who holds dead rows.
fn held(logs: &Capture) -> Vec<Record> {
    let mut warnings = logs.at(Level::WARN);
    warnings.retain(|warning| warning.says("cannot remove"));
    warnings
}

async fn work_until_named(ezq: &Ezq, logs: &Capture) {
    work_until_logged(ezq, logs, (Level::WARN, "cannot remove"), 2 * CEILING).await;
}

/// Handles events until the engine has logged a text, for so long at most.
async fn work_until_logged(
    ezq: &Ezq,
    logs: &Capture,
    (level, text): (Level, &str),
    limit: Duration,
) {
    let began = Instant::now();
    while !logs.at(level).iter().any(|line| line.says(text)) {
        assert!(began.elapsed() < limit, "never logged: {text}");
        work(ezq, ENOUGH).await;
    }
}

#[tokio::test]
async fn dead_rows_are_vacuumed_while_a_consumer_works() {
    let queue = unique("vacuumed");
    let (ezq, mut own) = busy(&server().await.url(), &queue, 1).await;
    leave_dead_rows(&mut own, &queue, 20_000).await;
    work_until(&ezq, &mut own, &is_clean(&queue)).await;
}

#[tokio::test]
async fn what_a_burst_has_left_is_vacuumed_when_nothing_follows() {
    let queue = unique("burst");
    let (ezq, mut own) = busy(&server().await.url(), &queue, 1).await;
    work(&ezq, 3 * ENOUGH).await;
    until(&mut own, &is_clean(&queue)).await;
}

#[tokio::test]
async fn each_partition_of_a_queue_is_vacuumed() {
    let queue = unique("vacuumed_parts");
    let (ezq, mut own) = busy(&server().await.url(), &queue, 2).await;
    leave_dead_rows(&mut own, &queue, 50_000).await;
    work_until(&ezq, &mut own, &is_clean(&queue)).await;
    assert!(vacuums(&mut own, &queue).await >= 2);
}

#[tokio::test]
async fn who_holds_dead_rows_is_named_once_and_they_are_vacuumed_when_it_has_ended() {
    let (logs, _guard) = Capture::begin();
    let url = server().await.url();
    let queue = unique("held");
    let (ezq, mut own) = busy(&url, &queue, 1).await;

    let mut holder = connection(&url).await;
    let begin = "SET application_name = 'monthly report'; BEGIN ISOLATION LEVEL REPEATABLE READ";
    run(&mut holder, begin).await;
    let pid: i32 = scalar(&mut holder, "SELECT pg_backend_pid()").await;
    leave_dead_rows(&mut own, &queue, 120_000).await;

    work_until_named(&ezq, &logs).await;
    let named = || held(&logs);
    let held_by = named()[0].field("held_by").to_owned();
    assert!(
        held_by.contains(&pid.to_string()) && held_by.contains("`monthly report`"),
        "{held_by}"
    );
    // The first one finds that it can remove nothing.
    assert!(vacuums(&mut own, &queue).await <= 1);

    run(&mut holder, "ROLLBACK").await;
    work_until(&ezq, &mut own, &is_clean(&queue)).await;
    assert_eq!(named().len(), 1, "{:?}", named());
}

#[tokio::test]
async fn a_table_that_another_session_has_locked_is_vacuumed_later() {
    let (logs, _guard) = Capture::begin();
    let url = server().await.url();
    let queue = unique("locked");
    let (ezq, mut own) = busy(&url, &queue, 1).await;
    let mut other = connection(&url).await;
    let lock = format!("BEGIN; LOCK TABLE pgmq.q_{queue} IN SHARE UPDATE EXCLUSIVE MODE; SELECT 1");
    run(&mut other, &lock).await;
    leave_dead_rows(&mut own, &queue, 120_000).await;

    work_until_logged(&ezq, &logs, (Level::DEBUG, "has locked it"), CEILING).await;
    assert_eq!(vacuums(&mut own, &queue).await, 0);
    run(&mut other, "ROLLBACK").await;
    work_until(&ezq, &mut own, &is_clean(&queue)).await;
    assert!(held(&logs).is_empty(), "{:?}", held(&logs));
}

#[tokio::test]
async fn a_standby_that_holds_dead_rows_is_named() {
    let (logs, _guard) = Capture::begin();
    let Pair {
        primary, standby, ..
    } = &Pair::start().await;
    let queue = unique("held_by_standby");
    let (ezq, mut own) = busy(&primary.url(), &queue, 1).await;

    let mut reader = connection(&standby.url()).await;
    run(&mut reader, "ALTER SYSTEM SET hot_standby_feedback = on").await;
    run(
        &mut reader,
        "ALTER SYSTEM SET wal_receiver_status_interval = '1s'",
    )
    .await;
    run(&mut reader, "SELECT pg_reload_conf()").await;
    run(
        &mut reader,
        "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1",
    )
    .await;
    let is_told = "SELECT EXISTS (SELECT FROM pg_stat_replication WHERE backend_xmin IS NOT NULL)";
    until(&mut own, is_told).await;

    leave_dead_rows(&mut own, &queue, 120_000).await;
    work_until_named(&ezq, &logs).await;
    let held_by = held(&logs)[0].field("held_by").to_owned();
    assert!(held_by.starts_with("the standby "), "{held_by}");
    let remedy = held(&logs)[0].field("remedy").to_owned();
    assert!(remedy.contains("hot_standby_feedback"), "{remedy}");

    run(&mut reader, "ROLLBACK").await;
    work_until(&ezq, &mut own, &is_clean(&queue)).await;
}

/// An application whose role has no rights beyond those that a worker needs.
async fn of_worker(own: &mut PgConnection, url: &str, queue: &QueueName) -> (Ezq, QueueName) {
    let role = unique("worker");
    run(own, &format!("CREATE ROLE {role} LOGIN")).await;
    let setup = ezq::pgmq::setup_sql([queue], Some(role.as_str())).unwrap();
    // Here PGMQ is not there as an extension.
    let setup = setup.replace("create extension if not exists pgmq;", "");
    run(own, &setup).await;

    let url = url.replace("postgres@", &format!("{role}@"));
    let builder = builder(&url, queue).manage_schema(false);
    (builder.connect().await.unwrap(), role)
}

#[tokio::test]
async fn a_role_that_does_not_see_since_when_somebody_holds_rows_names_it_as_well() {
    let (logs, _guard) = Capture::begin();
    let url = server().await.url();
    let queue = unique("held_unseen");
    let (_owner, mut own) = busy(&url, &queue, 1).await;
    let (ezq, role) = of_worker(&mut own, &url, &queue).await;
    run(
        &mut own,
        &format!("ALTER TABLE pgmq.q_{queue} OWNER TO {role}"),
    )
    .await;

    let mut holder = connection(&url).await;
    run(&mut holder, "BEGIN ISOLATION LEVEL REPEATABLE READ").await;
    let pid: i32 = scalar(&mut holder, "SELECT pg_backend_pid()").await;
    leave_dead_rows(&mut own, &queue, 120_000).await;
    work_until_named(&ezq, &logs).await;
    let held_by = held(&logs)[0].field("held_by").to_owned();
    assert!(held_by.contains(&format!("session {pid} ")), "{held_by}");
}

#[tokio::test]
async fn a_role_that_may_not_vacuum_consumes_as_ever() {
    let (logs, _guard) = Capture::begin();
    let url = server().await.url();
    let queue = unique("foreign");
    let (_owner, mut own) = busy(&url, &queue, 1).await;
    let (ezq, _) = of_worker(&mut own, &url, &queue).await;
    leave_dead_rows(&mut own, &queue, 20_000).await;
    work_until_logged(&ezq, &logs, (Level::DEBUG, "may not vacuum"), CEILING).await;

    assert_eq!(vacuums(&mut own, &queue).await, 0);
    let warnings = logs.at(Level::WARN);
    let warnings: Vec<_> = warnings
        .iter()
        .filter(|warning| warning.says("vacuum"))
        .collect();
    assert!(warnings.is_empty(), "{warnings:?}");
}

#[tokio::test]
async fn nothing_is_vacuumed_where_that_is_switched_off() {
    let url = server().await.url();
    let off = unique("vacuum_off");
    let on = unique("vacuum_on");
    let (_, mut own) = busy(&url, &off, 1).await;
    let builder = builder(&url, &off).configure(|config| config.vacuum = false);
    let switched_off = builder.connect().await.unwrap();
    leave_dead_rows(&mut own, &off, 20_000).await;
    work(&switched_off, 3 * ENOUGH).await;

    // Later than that another one is vacuumed.
    let (switched_on, _own) = busy(&url, &on, 1).await;
    leave_dead_rows(&mut own, &on, 20_000).await;
    work_until(&switched_on, &mut own, &is_clean(&on)).await;
    assert_eq!(vacuums(&mut own, &off).await, 0);
}

/// An application whose vacuums would take minutes, and a connection of its database's administrator.
async fn slow(name: &str, queue: &QueueName) -> (Ezq, PgConnection) {
    let mut admin = connection(&server().await.url()).await;
    run(&mut admin, &format!("CREATE DATABASE {name}")).await;
    let slow = format!(
        "ALTER DATABASE {name} SET vacuum_cost_delay = '100ms';
         ALTER DATABASE {name} SET vacuum_cost_limit = 1;
         ALTER DATABASE {name} SET statement_timeout = '3s'"
    );
    run(&mut admin, &slow).await;
    let (ezq, mut own) = busy(&server().await.database_url(name), queue, 1).await;
    leave_dead_rows(&mut own, queue, 20_000).await;
    (ezq, own)
}

/// Whether a vacuum has run in a database for so many seconds.
fn has_run(name: &str, seconds: u32) -> String {
    format!(
        "SELECT EXISTS (SELECT FROM pg_stat_progress_vacuum p JOIN pg_stat_activity a USING (pid)
           WHERE p.datname = '{name}'
             AND a.query_start < clock_timestamp() - interval '{seconds} s')"
    )
}

#[tokio::test]
async fn a_vacuum_makes_way_for_whoever_waits_for_its_table() {
    let name = unique("yielding_vacuum");
    let queue = unique("yielding");
    let (ezq, mut own) = slow(name.as_str(), &queue).await;
    work_until(&ezq, &mut own, &has_run(name.as_str(), 0)).await;

    run(&mut own, "SET statement_timeout = '30s'").await;
    run(
        &mut own,
        &format!("ALTER TABLE pgmq.q_{queue} ADD COLUMN note text"),
    )
    .await;
    // It is tried again.
    work_until(&ezq, &mut own, &has_run(name.as_str(), 0)).await;
    ezq.close().await;
}

#[tokio::test]
async fn a_long_vacuum_is_cut_by_no_limit_of_the_role_but_by_the_end_of_the_engine() {
    let name = unique("slow_vacuum");
    let queue = unique("slow");
    let (ezq, mut own) = slow(name.as_str(), &queue).await;
    work_until(&ezq, &mut own, &has_run(name.as_str(), 4)).await;
    let began = Instant::now();
    ezq.close().await;
    assert!(began.elapsed() < Duration::from_secs(5), "{began:?}");
    let is_over =
        format!("SELECT NOT EXISTS (SELECT FROM pg_stat_progress_vacuum WHERE datname = '{name}')");
    let ended = Instant::now();
    until(&mut own, &is_over).await;
    // Left alone it would end when the server misses its client, after ten seconds.
    assert!(ended.elapsed() < Duration::from_secs(5), "{ended:?}");
}
