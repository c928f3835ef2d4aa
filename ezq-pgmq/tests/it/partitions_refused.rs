//! Which queues are not partitioned anew, and whom the attempt waits for.

use std::time::Duration;

use ezq_core::ErrorKind;
use ezq_core::engine::Engine as _;
use ezq_core::message::QueueName;
use ezq_pgmq::{PartitionOutcome, PgmqConfig, PgmqEngine};
use sqlx::{Connection as _, PgConnection};

use crate::support::*;

async fn count(engine: &PgmqEngine, queue: &QueueName) -> u32 {
    engine.partitions(queue).await.unwrap().unwrap().count
}

/// Partitions the queue in vain; the error's text.
async fn refused(engine: &PgmqEngine, queue: &QueueName, partitions: u32) -> String {
    let before = count(engine, queue).await;
    let error = engine
        .partition_queue(queue, partitions)
        .await
        .expect_err("it is refused");
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert_eq!(count(engine, queue).await, before);
    error.to_string()
}

/// Waits until a session waits for this lock.
async fn until_awaited(connection: &mut PgConnection, relation: &str, mode: &str) {
    let sql = format!(
        "SELECT EXISTS (SELECT FROM pg_locks WHERE relation = '{relation}'::regclass
                        AND mode = '{mode}' AND NOT granted)"
    );
    let awaited = async {
        while !scalar::<bool>(&mut *connection, &sql).await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), awaited)
        .await
        .unwrap_or_else(|_| panic!("nobody waited for {mode} on {relation}"));
}

#[tokio::test]
async fn what_the_new_table_would_lose_is_refused_and_named() {
    let cases = [
        (
            "CREATE FUNCTION public.nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
             CREATE TRIGGER audit_them BEFORE INSERT ON {q} FOR EACH ROW EXECUTE FUNCTION public.nothing()",
            "`audit_them`",
        ),
        ("ALTER TABLE {q} ENABLE ROW LEVEL SECURITY", "row policies"),
        ("ALTER TABLE {q} SET UNLOGGED", "unlogged"),
        ("CREATE PUBLICATION of_one FOR TABLE {q}", "`of_one`"),
        ("CREATE PUBLICATION of_all FOR ALL TABLES", "`of_all`"),
        ("CREATE PUBLICATION of_schema FOR TABLES IN SCHEMA pgmq", "`of_schema`"),
        ("CREATE TABLE {q}_heir () INHERITS ({q})", "ezq did not make"),
        ("CREATE VIEW public.seen AS SELECT msg_id FROM {q}", "public.seen"),
        ("CREATE MATERIALIZED VIEW public.kept AS SELECT msg_id FROM {q}", "public.kept"),
        ("CREATE RULE unsaid AS ON DELETE TO {q} DO INSTEAD NOTHING", "unsaid"),
        (
            "CREATE FUNCTION public.reads() RETURNS bigint BEGIN ATOMIC SELECT max(msg_id) FROM {q}; END",
            "reads()",
        ),
        (
            "CREATE FUNCTION public.takes({q}) RETURNS int LANGUAGE sql AS 'SELECT 1'",
            "takes(",
        ),
        (
            "CREATE TABLE public.notes (n bigint CONSTRAINT of_note REFERENCES {q})",
            "`of_note`",
        ),
        (
            "CREATE TABLE public.tenants (n int PRIMARY KEY);
             ALTER TABLE {q} ADD COLUMN tenant int CONSTRAINT of_tenant REFERENCES public.tenants",
            "of_tenant",
        ),
        ("CREATE UNIQUE INDEX only_once ON {q} (msg_id, vt)", "only_once"),
        (
            "ALTER TABLE {q} ADD CONSTRAINT apart EXCLUDE USING btree (msg_id WITH =)",
            "apart",
        ),
        ("ALTER TABLE {q} REPLICA IDENTITY FULL", "replica identity `full`"),
        ("ALTER EXTENSION plpgsql ADD TABLE {q}", "belongs to an extension"),
        (
            "ALTER EXTENSION plpgsql ADD SEQUENCE {q}_msg_id_seq",
            "belongs to an extension",
        ),
    ];
    // A database of its own: a publication of all tables concerns all queues.
    let url = fresh_database().await;
    let engine = engine_at(&url).await;
    let mut connection = PgConnection::connect(&url).await.unwrap();
    for (sql, named) in cases {
        let queue = unique("parted");
        engine.ensure_queue(&queue).await.unwrap();
        run(
            &mut connection,
            &sql.replace("{q}", &format!("pgmq.q_{queue}")),
        )
        .await;
        let why = refused(&engine, &queue, 4).await;
        assert!(why.contains(named), "{sql}: {why}");
        if sql.contains("PUBLICATION") {
            run(
                &mut connection,
                &format!("DROP PUBLICATION {}", named.trim_matches('`')),
            )
            .await;
        }
    }
}

#[tokio::test]
async fn what_one_partition_would_lose_is_refused_and_named() {
    let (engine, queue) = engine_and_queue().await;
    engine.partition_queue(&queue, 2).await.unwrap();
    let mut connection = connection().await;
    let partition = format!("pgmq.\"q_{queue}--2-1\"");
    for (sql, undone, named) in [
        (
            "CREATE VIEW public.v_{queue} AS SELECT msg_id FROM {part}",
            "DROP VIEW public.v_{queue}",
            "v_",
        ),
        (
            "ALTER TABLE {part} ENABLE ROW LEVEL SECURITY",
            "ALTER TABLE {part} DISABLE ROW LEVEL SECURITY",
            "row policies",
        ),
    ] {
        let of_queue = |sql: &str| {
            sql.replace("{queue}", queue.as_str())
                .replace("{part}", &partition)
        };
        run(&mut connection, &of_queue(sql)).await;
        let why = refused(&engine, &queue, 4).await;
        assert!(why.contains(named), "{why}");
        run(&mut connection, &of_queue(undone)).await;
    }
    engine.partition_queue(&queue, 4).await.unwrap();
    assert_eq!(count(&engine, &queue).await, 4);
}

/// Functions of indexes, constraints and columns run when rows are moved, with the rights of who moves them.
#[tokio::test]
async fn code_of_a_queues_owner_does_not_run_with_an_operators_rights() {
    let (engine, queue) = engine_and_queue().await;
    let mut connection = connection().await;
    let owner = format!("owner_{queue}");
    run(
        &mut connection,
        &format!(
            "CREATE ROLE {owner} LOGIN; GRANT USAGE, CREATE ON SCHEMA pgmq TO {owner};
             GRANT USAGE ON SCHEMA ezq TO {owner}; GRANT ALL ON ALL TABLES IN SCHEMA ezq TO {owner};
             CREATE SCHEMA {owner} AUTHORIZATION {owner};
             ALTER TABLE pgmq.q_{queue} OWNER TO {owner};
             SET ROLE {owner};
             CREATE TABLE {owner}.ran (by text);
             GRANT INSERT ON {owner}.ran TO PUBLIC;
             CREATE FUNCTION {owner}.record() RETURNS void LANGUAGE sql AS
               $$ INSERT INTO {owner}.ran VALUES (current_user) $$;
             CREATE FUNCTION {owner}.note(n bigint) RETURNS bigint IMMUTABLE LANGUAGE plpgsql AS
               $$ BEGIN PERFORM {owner}.record(); RETURN n; END $$;
             SELECT pgmq.send('{queue}', '1');
             CREATE INDEX ON pgmq.q_{queue} ({owner}.note(msg_id));
             ALTER TABLE pgmq.q_{queue} ADD CHECK ({owner}.note(msg_id) > 0);
             TRUNCATE {owner}.ran;
             RESET ROLE"
        ),
    )
    .await;

    let why = refused(&engine, &queue, 4).await;
    assert!(why.contains(&format!("`{owner}`")), "{why}");
    let ran: i64 = scalar(
        &mut connection,
        &format!("SELECT count(*) FROM {owner}.ran"),
    )
    .await;
    assert_eq!(ran, 0, "it ran for the operator");

    let url = server()
        .await
        .url()
        .replacen("postgres@", &format!("{owner}@"), 1);
    let config = PgmqConfig::url(&url).unwrap().manage_schema(false);
    let own = PgmqEngine::connect(config).await.unwrap();
    own.partition_queue(&queue, 4).await.unwrap();
    assert_eq!(count(&own, &queue).await, 4);
    own.close().await;
    let ran: Vec<String> = scalar(
        &mut connection,
        &format!("SELECT array_agg(DISTINCT by) FROM {owner}.ran"),
    )
    .await;
    assert_eq!(ran, [owner.as_str()]);
    run(
        &mut connection,
        &format!("DROP OWNED BY {owner} CASCADE; DROP ROLE {owner}"),
    )
    .await;
}

/// PGMQ 1.5 as an extension makes the tables of queues its own.
#[tokio::test]
async fn a_new_queue_that_cannot_be_partitioned_is_one_table() {
    let url = fresh_database().await;
    let mut connection = PgConnection::connect(&url).await.unwrap();
    engine_at(&url)
        .await
        .ensure_queue(&unique("first"))
        .await
        .unwrap();
    run(
        &mut connection,
        "CREATE TABLE public.limits (place int GENERATED ALWAYS AS IDENTITY, lock text, statement text);
         ALTER FUNCTION pgmq.create(text) RENAME TO create_loose;
         CREATE FUNCTION pgmq.create(queue_name text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
           INSERT INTO public.limits (lock, statement)
             VALUES (current_setting('lock_timeout'), current_setting('statement_timeout'));
           PERFORM pgmq.create_loose(queue_name);
           IF starts_with(queue_name, 'owned') THEN
             EXECUTE format('ALTER EXTENSION plpgsql ADD TABLE pgmq.%I', 'q_' || queue_name);
           END IF;
         END $$",
    )
    .await;

    for (prefix, expected) in [("owned", 1), ("loose", 4)] {
        let queue = unique(prefix);
        let config = PgmqConfig::url(&url).unwrap().partitions(&queue, 4);
        let engine = PgmqEngine::connect(config).await.unwrap();
        engine.ensure_queue(&queue).await.unwrap();
        assert_eq!(count(&engine, &queue).await, expected);
        publish(&engine, &queue, &["1"]).await;
        assert_eq!(lease_one(&engine, &queue).await.body, "1");
    }

    // The dead letters come after the partitions, under the limits of the whole transaction.
    let limits: Vec<String> = scalar(
        &mut connection,
        "SELECT array_agg(lock || ' ' || (statement = '0') ORDER BY place) FROM public.limits",
    )
    .await;
    assert_eq!(limits.len(), 4, "{limits:?}");
    assert!(limits.iter().all(|one| *one == limits[0]), "{limits:?}");
    assert!(limits[0].starts_with("20s"), "{limits:?}");
}

/// Postgres cancels an autovacuum that others wait for, after a second.
#[tokio::test]
async fn while_a_vacuum_is_waited_for_nobody_else_waits() {
    let (engine, queue) = engine_and_queue().await;
    let table = format!("pgmq.q_{queue}");
    let mut vacuum = connection().await;
    let mut vacuum = vacuum.begin().await.unwrap();
    // The lock that a vacuum takes.
    run(
        &mut vacuum,
        &format!("LOCK TABLE {table} IN SHARE UPDATE EXCLUSIVE MODE"),
    )
    .await;

    let (outcome, ()) = tokio::join!(engine.partition_queue(&queue, 4), async {
        let mut other = connection().await;
        until_awaited(&mut other, &table, "ShareUpdateExclusiveLock").await;
        run(
            &mut other,
            &format!("SET lock_timeout = '100ms'; SELECT pgmq.send('{queue}', '1')"),
        )
        .await;
        until_awaited(&mut other, &table, "ShareUpdateExclusiveLock").await;
        vacuum.commit().await.unwrap();
    });
    let expected = PartitionOutcome::Partitioned {
        before: 1,
        moved: 1,
    };
    assert_eq!(outcome.unwrap(), expected);
}

#[tokio::test]
async fn a_number_that_was_taken_meanwhile_is_not_given_again() {
    let (engine, queue) = engine_and_queue().await;
    publish(&engine, &queue, &["1"]).await;
    let sequence = format!("pgmq.q_{queue}_msg_id_seq");
    let mut other = connection().await;
    let mut tx = other.begin().await.unwrap();
    let take = format!("SELECT nextval('{sequence}')");
    scalar::<i64>(&mut tx, &take).await;

    let (outcome, taken) = tokio::join!(engine.partition_queue(&queue, 4), async {
        until_awaited(&mut connection().await, &sequence, "AccessExclusiveLock").await;
        let taken: i64 = scalar(&mut tx, &take).await;
        tx.commit().await.unwrap();
        taken
    });
    outcome.unwrap();
    let next = publish(&engine, &queue, &["2"]).await.remove(0);
    assert!(next.as_number() > Some(taken), "{next:?} after {taken}");
}
