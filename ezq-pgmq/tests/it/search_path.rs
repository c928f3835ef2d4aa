//! A role that may create in a schema of the search path gets nothing of its own run with ezq's
//! rights.

use ezq_core::broker::SourcePosition;
use ezq_core::engine::{
    BroadcastMessage, Broadcasts as _, Browse, Cancel, CancelOrder, Cancellations, Dedupe, Due,
    Engine, Ingested, Settle, SourceBatch,
};
use ezq_core::event::Pattern;
use ezq_core::message::headers::Headers;
use ezq_core::message::{QueueName, Reason, ReasonKind, Retention};
use ezq_pgmq::{Inbox, PgmqConfig, PgmqEngine};
use sqlx::postgres::{PgConnection, PgPoolOptions};
use sqlx::{Connection as _, Executor as _};
use std::time::Duration;

use crate::support::*;

/// Functions and operators that fit ezq's statements better than the server's own. Each records
/// that it ran, and as whom, and then does what the server's own does.
const TRAPS: &str = r#"
CREATE TABLE trap.sprung (what text, who text DEFAULT current_user);
GRANT ALL ON trap.sprung TO public;
CREATE FUNCTION trap.width_bucket(bigint, bigint[]) RETURNS int LANGUAGE plpgsql AS $$
  BEGIN INSERT INTO trap.sprung VALUES ('width_bucket');
  RETURN pg_catalog.width_bucket($1, $2); END $$;
CREATE FUNCTION trap.unnest(bigint[]) RETURNS SETOF bigint LANGUAGE plpgsql AS $$
  BEGIN INSERT INTO trap.sprung VALUES ('unnest bigint');
  RETURN QUERY SELECT pg_catalog.unnest($1); END $$;
CREATE FUNCTION trap.unnest(text[]) RETURNS SETOF text LANGUAGE plpgsql AS $$
  BEGIN INSERT INTO trap.sprung VALUES ('unnest text');
  RETURN QUERY SELECT pg_catalog.unnest($1); END $$;
CREATE FUNCTION trap.jsonb_build_object(text, bigint) RETURNS jsonb LANGUAGE plpgsql AS $$
  BEGIN INSERT INTO trap.sprung VALUES ('jsonb_build_object');
  RETURN pg_catalog.jsonb_build_object($1, $2); END $$;
CREATE FUNCTION trap.jsonb_build_object(text, jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
  BEGIN INSERT INTO trap.sprung VALUES ('jsonb_build_object jsonb');
  RETURN pg_catalog.jsonb_build_object($1, $2); END $$;
CREATE FUNCTION trap.times(bigint, interval) RETURNS interval LANGUAGE plpgsql AS $$
  BEGIN INSERT INTO trap.sprung VALUES ('*');
  RETURN $1::float8 OPERATOR(pg_catalog.*) $2; END $$;
CREATE OPERATOR trap.* (LEFTARG = bigint, RIGHTARG = interval, FUNCTION = trap.times);
CREATE FUNCTION trap.path(jsonb, jsonb) RETURNS text LANGUAGE plpgsql AS $$
  BEGIN INSERT INTO trap.sprung VALUES ('#>>'); RETURN NULL; END $$;
CREATE OPERATOR trap.#>> (LEFTARG = jsonb, RIGHTARG = jsonb, FUNCTION = trap.path);
CREATE OPERATOR trap.-> (LEFTARG = jsonb, RIGHTARG = jsonb, FUNCTION = trap.path);
CREATE OPERATOR trap.->> (LEFTARG = jsonb, RIGHTARG = jsonb, FUNCTION = trap.path);
CREATE FUNCTION trap.format(text, text) RETURNS text LANGUAGE plpgsql AS $$
  BEGIN INSERT INTO trap.sprung VALUES ('format'); RETURN pg_catalog.format($1, $2); END $$;
CREATE FUNCTION trap.concat(text, text) RETURNS text LANGUAGE plpgsql AS $$
  BEGIN INSERT INTO trap.sprung VALUES ('||'); RETURN pg_catalog.concat($1, $2); END $$;
CREATE FUNCTION trap.concat(int, text) RETURNS text LANGUAGE plpgsql AS $$
  BEGIN INSERT INTO trap.sprung VALUES ('int ||'); RETURN pg_catalog.concat($1, $2); END $$;
CREATE OPERATOR trap.|| (LEFTARG = int, RIGHTARG = text, FUNCTION = trap.concat);
CREATE FUNCTION trap.hashtextextended(text, int) RETURNS bigint IMMUTABLE LANGUAGE plpgsql AS $$
  BEGIN INSERT INTO trap.sprung VALUES ('hashtextextended');
  RETURN pg_catalog.hashtextextended($1, $2); END $$;
CREATE FUNCTION trap.concat(name, name) RETURNS text LANGUAGE plpgsql AS $$
  BEGIN INSERT INTO trap.sprung VALUES ('name ||'); RETURN pg_catalog.concat($1, $2); END $$;
CREATE FUNCTION trap.concat(text, name) RETURNS text LANGUAGE plpgsql AS $$
  BEGIN INSERT INTO trap.sprung VALUES ('|| name'); RETURN pg_catalog.concat($1, $2); END $$;
CREATE OPERATOR trap.|| (LEFTARG = name, RIGHTARG = name, FUNCTION = trap.concat);
CREATE OPERATOR trap.|| (LEFTARG = text, RIGHTARG = name, FUNCTION = trap.concat);
CREATE FUNCTION trap.same(oid, regnamespace) RETURNS bool LANGUAGE plpgsql AS $$
  BEGIN INSERT INTO trap.sprung VALUES ('='); RETURN $1 OPERATOR(pg_catalog.=) $2::oid; END $$;
CREATE OPERATOR trap.= (LEFTARG = oid, RIGHTARG = regnamespace, FUNCTION = trap.same);
CREATE FUNCTION trap.convert_to(text, text) RETURNS bytea LANGUAGE plpgsql AS $$
  BEGIN INSERT INTO trap.sprung VALUES ('convert_to');
  RETURN pg_catalog.convert_to($1, $2::name); END $$;
"#;

/// A database in which a role, whose rights are limited to one schema of the path, has set its
/// traps.
async fn trapped() -> (String, PgConnection) {
    let url = fresh_database().await;
    let mut own = PgConnection::connect(&url).await.unwrap();
    let role = unique("trapper");

    let database: String = scalar(&mut own, "SELECT current_database()").await;
    let prepare = format!(
        "CREATE ROLE {role}; CREATE SCHEMA trap AUTHORIZATION {role}; SET ROLE {role}; {TRAPS};
         RESET ROLE; ALTER DATABASE {database} SET search_path = trap, public"
    );
    run(&mut own, &prepare).await;
    (url, own)
}

/// All that an engine does with a queue.
async fn use_all(engine: &PgmqEngine, queue: &QueueName, patterns: &[Pattern]) {
    engine.ensure_queue(queue).await.unwrap();
    engine.subscribe("app", queue, patterns).await.unwrap();

    let headers = Headers::from_value(serde_json::json!({ "x-pgmq-group": "k" }));
    let mut ordered = message(queue, "{\"specversion\": \"1.0\"}");
    ordered.headers = headers;
    engine
        .publish(vec![message(queue, "1"), keyed(queue, "2", "key"), ordered])
        .await
        .unwrap();
    engine.broadcast(broadcast()).await.unwrap();

    let mut tx = engine.pool().begin().await.unwrap();
    engine
        .publish_in(&mut tx, vec![message(queue, "3"), keyed(queue, "4", "b")])
        .await
        .unwrap();
    engine.broadcast_in(&mut tx, broadcast()).await.unwrap();
    engine.lock_key(&mut tx, queue, "k").await.unwrap();
    tx.commit().await.unwrap();

    let deliveries = lease(engine, queue).await;
    let receipts: Vec<_> = deliveries.iter().map(|one| one.receipt.clone()).collect();
    engine.extend(queue, &receipts, TTL).await.unwrap();

    let settles = [ack(), retry(TTL), dead(), Settle::Release]
        .into_iter()
        .cycle();
    engine
        .settle(queue, receipts.into_iter().zip(settles).collect())
        .await
        .unwrap();

    // As handlers' transactions do.
    let mut unit = engine.begin(queue, None).await.unwrap();
    unit.claim(10).await.ok();
    unit.finish(Vec::new(), vec![message(queue, "5")])
        .await
        .unwrap();

    for delivery in lease(engine, queue).await {
        let unit = engine.begin(queue, None).await.unwrap();
        let finished = ezq_core::engine::Finished::new(delivery.receipt);
        unit.finish(vec![finished], vec![message(queue, "6")])
            .await
            .unwrap();
    }

    cancel(engine, queue).await;
    take_in(engine, queue).await;
    engine.failures(queue, 100).await.unwrap();
    engine.stats(queue).await.unwrap();
    engine.lag(queue).await.unwrap();
    engine.blocked_keys(queue, 10).await.unwrap();
    engine.history("1", Some(queue)).await.unwrap();

    let letters = engine
        .dead_letters()
        .unwrap()
        .list(queue, None, 10)
        .await
        .unwrap();

    let ids: Vec<_> = letters.into_iter().map(|letter| letter.id).collect();
    engine
        .dead_letters()
        .unwrap()
        .redrive(queue, &ids)
        .await
        .unwrap();
    engine.sweep().await.unwrap();
    engine.purge(queue).await.unwrap();
}

/// Stores a message of a source, and a dead letter.
async fn take_in(engine: &PgmqEngine, queue: &QueueName) {
    let positions = engine.positions().unwrap();
    positions.begin("s", "p", None).await.unwrap();
    let letter = Ingested::DeadLetter {
        queue: queue.clone(),
        body: "1".to_owned(),
        headers: Headers::new(),
        reason: Reason::new(ReasonKind::Undecodable, "why", 0),
    };
    let messages = vec![
        (
            SourcePosition::from(1),
            Ingested::Message(message(queue, "8")),
        ),
        (SourcePosition::from(2), letter),
    ];
    let batch = SourceBatch::new("p", None, messages);
    positions.store("s", &[batch]).await.unwrap();
    positions.position("s", "p").await.unwrap();
    positions.list().await.unwrap();
    assert!(positions.elect_reader("s").await.unwrap().is_some());
}

/// Cancels a message, and settles it as a worker does.
async fn cancel(engine: &PgmqEngine, queue: &QueueName) {
    let later = message(queue, "7").due(Due::After(TTL));
    let published = engine.publish(vec![later]).await.unwrap();
    let id = published.into_iter().map(stored).next().unwrap();
    let order = CancelOrder::new(Cancel::Dead, "Ada");
    assert!(engine.ask(queue, &id, &order).await.unwrap());
    let watcher = Cancellations::watch(engine, queue).await.unwrap();
    assert_eq!(watcher.borrow().len(), 1);

    let leased = engine.lease_by_id(queue, &id, TTL).await.unwrap().unwrap();
    let discarded = vec![(leased.receipt, Settle::Discard)];
    engine.settle(queue, discarded).await.unwrap();
    engine.letter_of(queue, &id).await.unwrap();
    engine.finish(queue, &[id]).await.unwrap();
}

fn broadcast() -> BroadcastMessage {
    let dedupe = Dedupe::new("key", Duration::from_secs(60), "e").unwrap();
    BroadcastMessage::new("order.paid".to_owned(), "{}".to_owned(), Headers::new())
        .due(Due::After(Duration::from_millis(1)))
        .dedupe(dedupe)
}

async fn sprung(own: &mut PgConnection) -> Vec<String> {
    let all = "SELECT coalesce(array_agg(DISTINCT what), '{}') FROM trap.sprung";
    scalar(own, all).await
}

#[tokio::test]
async fn nothing_of_the_search_path_runs_with_ezqs_rights() {
    let (url, mut own) = trapped().await;
    let patterns = [
        Pattern::new("order.*").unwrap(),
        Pattern::new("order.paid").unwrap(),
    ];

    for retention in [
        Retention::Delete,
        Retention::archive_for(TTL),
        Retention::trail_for(TTL),
    ] {
        let queue = unique("q");
        let config = PgmqConfig::url(&url).unwrap().retention(&queue, retention);
        let engine = PgmqEngine::connect(config).await.unwrap();
        use_all(&engine, &queue, &patterns).await;
        engine.close().await;
    }

    // The traps work.
    assert_eq!(sprung(&mut own).await, Vec::<String>::new());

    own.execute("SET search_path = trap, public").await.unwrap();
    own.execute("SELECT width_bucket(1::bigint, ARRAY[1::bigint]), 1::bigint * interval '1 s'")
        .await
        .unwrap();
    assert_eq!(sprung(&mut own).await, ["*", "width_bucket"]);
}

#[tokio::test]
async fn nor_does_anything_on_the_applications_pool() {
    let (url, mut own) = trapped().await;
    let queue = unique("q");
    let pool = PgPoolOptions::new()
        .max_connections(3)
        .connect(&url)
        .await
        .unwrap();

    let engine = PgmqEngine::connect(PgmqConfig::pool(pool)).await.unwrap();
    use_all(&engine, &queue, &[Pattern::new("order.#").unwrap()]).await;
    assert_eq!(sprung(&mut own).await, Vec::<String>::new());
}

/// Also in indexes and defaults, for whoever writes later.
#[tokio::test]
async fn nothing_of_it_runs_in_what_is_printed_for_an_administrator() {
    let (url, mut own) = trapped().await;
    let queue = unique("q");
    let queues = std::slice::from_ref(&queue);

    // Only PGMQ exists, from SQL.
    let config = PgmqConfig::url(&url).unwrap().manage_schema(false);
    engine_at(&url).await.close().await;

    let engine = PgmqEngine::connect(config).await.unwrap();
    let setup = ezq_pgmq::setup_sql(queues, None).unwrap();
    let setup = setup.replace("create extension if not exists pgmq;", "");
    run(&mut own, &format!("SELECT pgmq.create('{queue}')")).await;

    let refused = engine
        .publish(vec![keyed(&queue, "1", "a")])
        .await
        .unwrap_err()
        .to_string();
    let (_, told) = refused.split_once('\n').unwrap();
    let inbox = Inbox::setup_sql(None);

    for sql in [
        told,
        &setup,
        &ezq_pgmq::ordering_sql(queues).unwrap(),
        &inbox,
        &setup,
        &inbox,
    ] {
        run(&mut own, "SET search_path = trap, public").await;
        run(&mut own, sql).await;
        assert_eq!(sprung(&mut own).await, Vec::<String>::new(), "{sql}");
    }

    use_all(&engine, &queue, &[Pattern::new("order.*").unwrap()]).await;
    assert_eq!(sprung(&mut own).await, Vec::<String>::new());
}

#[tokio::test]
async fn nor_in_the_statements_of_the_inbox() {
    let (url, mut own) = trapped().await;
    let mut session = PgConnection::connect(&url).await.unwrap();
    Inbox::create(&mut session).await.unwrap();
    Inbox::forget(&mut session, Duration::ZERO).await.unwrap();
    Inbox::create(&mut session).await.unwrap();
    assert_eq!(sprung(&mut own).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_role_that_reads_strings_in_the_old_way_is_no_obstacle() {
    let url = fresh_database().await;
    let mut own = PgConnection::connect(&url).await.unwrap();
    let database: String = scalar(&mut own, "SELECT current_database()").await;
    let sql = format!("ALTER DATABASE {database} SET standard_conforming_strings = off");
    run(&mut own, &sql).await;
    let engine = engine_at(&url).await;
    use_all(&engine, &unique("q"), &[Pattern::new("order.*").unwrap()]).await;
}
