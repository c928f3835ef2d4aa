//! Captured tables: which changes become events, in which order, whose rights apply, and what is
//! refused.

use ezq_core::ErrorKind;
use ezq_core::codec::{Origin, decode};
use ezq_core::engine::Engine;
use ezq_core::event::{Change, Operation, Pattern};
use ezq_core::message::QueueName;
use ezq_core::message::headers::Headers;
use ezq_pgmq::{PgmqConfig, PgmqEngine};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Row as _};
use tokio::task::JoinSet;

use crate::support::*;

/// An engine, a queue, a table `(id, name, secret)` with the queue's name, and a connection.
async fn table() -> (PgmqEngine, QueueName, PgConnection) {
    let (engine, queue) = engine_and_queue().await;
    let mut own = connection().await;
    let columns = "id bigint PRIMARY KEY, name text, secret text, amount numeric DEFAULT 0";
    run(&mut own, &format!("CREATE TABLE {queue} ({columns})")).await;
    (engine, queue, own)
}

/// The types and payloads of a queue's events, in the order of their ids.
async fn events(own: &mut PgConnection, queue: &QueueName) -> Vec<(String, Change<Value>)> {
    let sql = format!("SELECT message FROM pgmq.q_{queue} ORDER BY msg_id");
    let rows = sqlx::query(AssertSqlSafe(sql))
        .fetch_all(own)
        .await
        .unwrap();

    let read = |row: &sqlx::postgres::PgRow| {
        let message: Value = row.get(0);
        let text = message["type"].as_str().unwrap().to_owned();
        (
            text,
            serde_json::from_value(message["data"].clone()).unwrap(),
        )
    };
    rows.iter().map(read).collect()
}

async fn count(own: &mut PgConnection, queue: &QueueName) -> i64 {
    scalar(own, &format!("SELECT count(*) FROM pgmq.q_{queue}")).await
}

/// Captures a new table, writes to it, and removes the capture.
pub(crate) async fn captures(url: &str) {
    let engine = engine_at(url).await;
    let mut own = PgConnection::connect(url).await.unwrap();
    let queue = unique("q");

    run(&mut own, "CREATE TABLE captured (id int, name text)").await;
    engine.capture("captured", &queue).await.unwrap();
    run(
        &mut own,
        "INSERT INTO captured SELECT n, 'x' FROM generate_series(1, 3) n",
    )
    .await;

    run(
        &mut own,
        "UPDATE captured SET name = 'y' WHERE id = 2; DELETE FROM captured",
    )
    .await;
    assert_eq!(lease(&engine, &queue).await.len(), 7);
    assert!(engine.captures().remove("captured").await.unwrap());
    run(&mut own, "DROP TABLE captured").await;
}

#[tokio::test]
async fn every_change_is_an_event_of_the_writers_transaction() {
    let (engine, queue, mut own) = table().await;
    let captured = engine
        .capture(queue.as_str(), &queue)
        .source("shop")
        .await
        .unwrap();
    assert_eq!(
        (captured.schema.as_str(), captured.is_enabled),
        ("public", true)
    );

    let insert = format!("INSERT INTO {queue} VALUES (1, 'ada', 's', 1.10)");
    run(&mut own, &format!("BEGIN; {insert}; ROLLBACK")).await;
    assert_eq!(count(&mut own, &queue).await, 0);

    let mut tx = own.begin().await.unwrap();
    run(&mut tx, &insert).await;

    let transaction = "SELECT pg_current_xact_id()::text";
    let transaction: u64 = scalar::<String>(&mut tx, transaction)
        .await
        .parse()
        .unwrap();
    tx.commit().await.unwrap();

    // The key changes as well.
    run(&mut own, &format!("UPDATE {queue} SET id = 2, name = NULL")).await;
    run(&mut own, &format!("UPDATE {queue} SET name = name")).await;
    run(&mut own, &format!("DELETE FROM {queue} WHERE false")).await;
    run(&mut own, &format!("DELETE FROM {queue}; TRUNCATE {queue}")).await;

    let found = events(&mut own, &queue).await;
    let types: Vec<String> = found.iter().map(|(name, _)| name.clone()).collect();
    let expected = ["created", "updated", "deleted", "truncated"];
    assert_eq!(
        types,
        expected.map(|operation| format!("{queue}.{operation}"))
    );

    let [created, updated, deleted, truncated] = &found[..] else {
        panic!("{found:?}")
    };
    let row = |id: i64, name: Value| {
        Some(json!({ "id": id, "name": name, "secret": "s", "amount": 1.10 }))
    };
    let ada = row(1, "ada".into());
    let none = row(2, Value::Null);

    assert_eq!((&created.1.old, &created.1.new), (&None, &ada));
    assert_eq!(created.1.transaction, transaction);
    assert_eq!((&updated.1.old, &updated.1.new), (&ada, &none));
    assert_eq!(updated.1.changed, ["id", "name"]);
    assert!(updated.1.transaction > transaction);
    assert_eq!((&deleted.1.old, &deleted.1.new), (&none, &None));
    assert_eq!((&truncated.1.old, &truncated.1.new), (&None, &None));
    assert_eq!(truncated.1.operation, Operation::Truncated);
    assert!(created.1.changed.is_empty() && deleted.1.changed.is_empty());
}

#[tokio::test]
async fn a_captured_event_is_one_as_ezq_publishes_it() {
    let (engine, queue, mut own) = table().await;
    engine
        .capture(queue.as_str(), &queue)
        .source("shop")
        .key("name")
        .await
        .unwrap();

    run(
        &mut own,
        "SET timezone = 'Asia/Kathmandu'; SET datestyle = 'German'",
    )
    .await;

    let big = "123456789012345678901234567890.10";
    run(
        &mut own,
        &format!("INSERT INTO {queue} VALUES (1, 'ada', NULL, {big}), (2, NULL, NULL, 0)"),
    )
    .await;

    let deliveries = lease(&engine, &queue).await;
    let [first, second] = &deliveries[..] else {
        panic!("{deliveries:?}")
    };
    assert_eq!(first.headers.key().as_deref(), Some("ada"));
    assert_eq!(second.headers, Headers::new());

    let origin = Origin::new(
        &queue,
        first.receipt.message_id(),
        first.enqueued_at,
        &first.headers,
    );

    let envelope = decode(&first.body, origin).unwrap();
    assert_eq!(envelope.event_type(), format!("{queue}.created"));
    assert_eq!(envelope.source(), "shop");

    let id: Vec<&str> = envelope.id().split('-').collect();
    let is_v7 = id.len() == 5 && id[2].starts_with('7') && "89ab".contains(&id[3][..1]);
    assert!(is_v7, "{}", envelope.id());
    let age = chrono::Utc::now() - envelope.time().unwrap().to_utc();
    assert!(age.num_seconds().abs() < 300, "{age}");

    let stamp = i64::from_str_radix(&format!("{}{}", id[0], id[1]), 16).unwrap();
    assert!(
        (stamp - envelope.time().unwrap().timestamp_millis()).abs() < 300_000,
        "{stamp}"
    );
    assert!(
        envelope.data().unwrap().contains(big),
        "{:?}",
        envelope.data()
    );
}

#[tokio::test]
async fn a_statement_on_10_000_rows_is_one_insert_and_keeps_their_order() {
    let (engine, queue, mut own) = table().await;
    engine.capture(queue.as_str(), &queue).await.unwrap();

    let rows = "SELECT n, 'name ' || n FROM generate_series(1, 10000) n";
    run(
        &mut own,
        &format!("INSERT INTO {queue} (id, name) {rows} ORDER BY n DESC"),
    )
    .await;

    // Every key becomes that of another row: only the places of rows tell which belong together.
    run(
        &mut own,
        &format!("ALTER TABLE {queue} DROP CONSTRAINT {queue}_pkey"),
    )
    .await;
    run(&mut own, &format!("UPDATE {queue} SET id = 10001 - id")).await;
    run(&mut own, &format!("DELETE FROM {queue}")).await;

    let found = events(&mut own, &queue).await;
    assert_eq!(found.len(), 30_000);
    for (place, (name, change)) in found[..10_000].iter().enumerate() {
        assert_eq!(*name, format!("{queue}.created"));
        assert_eq!(change.new.as_ref().unwrap()["id"], json!(10_000 - place));
    }

    for (name, change) in &found[10_000..20_000] {
        assert_eq!(*name, format!("{queue}.updated"));
        let old = change.old.as_ref().unwrap();
        let new = change.new.as_ref().unwrap();
        assert_eq!(old["name"], new["name"]);
        assert_eq!(
            old["id"].as_i64().unwrap() + new["id"].as_i64().unwrap(),
            10_001
        );
    }

    assert!(
        found[20_000..]
            .iter()
            .all(|(name, _)| *name == format!("{queue}.deleted"))
    );

    let sql = format!(
        "SELECT count(DISTINCT xmin::text), count(DISTINCT message ->> 'id'),
                bool_and(vt > before) FROM (
           SELECT xmin, message, vt, coalesce(lag(vt) OVER (ORDER BY msg_id), '-infinity') AS before
           FROM pgmq.q_{queue} WHERE message ->> 'type' = '{queue}.created') q"
    );

    let told: (i64, i64, bool) = sqlx::query_as(AssertSqlSafe(sql))
        .fetch_one(&mut own)
        .await
        .unwrap();
    assert_eq!(told, (1, 10_000, true));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_writers_with_roll_backs_match_the_tables_own_audit() {
    let (engine, queue, mut own) = table().await;
    engine.capture(queue.as_str(), &queue).await.unwrap();

    let audit = format!(
        "CREATE TABLE {queue}_audit (operation text, before jsonb, after jsonb, xact text);
         CREATE FUNCTION {queue}_audit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
           IF tg_op = 'UPDATE' AND old IS NOT DISTINCT FROM new THEN RETURN NULL; END IF;
           INSERT INTO {queue}_audit VALUES (tg_op,
             CASE WHEN tg_op <> 'INSERT' THEN to_jsonb(old) END,
             CASE WHEN tg_op <> 'DELETE' THEN to_jsonb(new) END, pg_current_xact_id()::text);
           RETURN NULL; END $$;
         CREATE TRIGGER audit AFTER INSERT OR UPDATE OR DELETE ON {queue}
           FOR EACH ROW EXECUTE FUNCTION {queue}_audit();"
    );

    run(&mut own, &audit).await;
    let mut writers = JoinSet::new();

    for writer in 0..8_i64 {
        let table = queue.clone();
        writers.spawn(async move {
            let mut own = connection().await;
            for round in 0..40_i64 {
                let id = writer * 1000 + round;
                let end = round % 4 == 3;
                let upsert = format!(
                    "INSERT INTO {table} (id, name) VALUES ({round}, '{writer}'), ({id} + 10000, 'own')
                     ON CONFLICT (id) DO UPDATE SET amount = {table}.amount + 1, name = excluded.name"
                );

                let cte = format!(
                    "WITH gone AS (DELETE FROM {table} WHERE id = {id} + 9999 RETURNING id)
                     UPDATE {table} SET name = '{round}' WHERE id = {id} + 10000"
                );
                let undone = format!("SAVEPOINT s; DELETE FROM {table} WHERE id = {round}; ROLLBACK TO s");
                let end = if end { "ROLLBACK" } else { "COMMIT" };
                run(&mut own, &format!("BEGIN; {upsert}; {undone}; {cte}; {end}")).await;
            }
        });
    }

    writers.join_all().await;
    let captured = format!(
        "SELECT CASE message -> 'data' ->> 'operation' WHEN 'created' THEN 'INSERT'
                  WHEN 'updated' THEN 'UPDATE' ELSE 'DELETE' END AS operation,
                nullif(message #> '{{data,old}}', 'null') AS before,
                nullif(message #> '{{data,new}}', 'null') AS after,
                message #>> '{{data,transaction}}' AS xact FROM pgmq.q_{queue}"
    );

    let audited = format!("SELECT operation, before, after, xact FROM {queue}_audit");
    let total: i64 = scalar(&mut own, &format!("SELECT count(*) FROM {queue}_audit")).await;
    assert!(total > 500, "{total}");

    let differing = format!(
        "SELECT count(*) FROM ((({captured}) EXCEPT ALL ({audited}))
                               UNION ALL (({audited}) EXCEPT ALL ({captured}))) d"
    );
    assert_eq!(scalar::<i64>(&mut own, &differing).await, 0);
}

#[tokio::test]
async fn an_excluded_column_stands_nowhere_and_makes_no_event() {
    let (engine, queue, mut own) = table().await;
    let captured = engine
        .capture(queue.as_str(), &queue)
        .without(["secret"])
        .await
        .unwrap();
    assert_eq!(
        captured.columns.as_deref(),
        Some(&["id", "name", "amount"].map(String::from)[..])
    );

    run(
        &mut own,
        &format!("INSERT INTO {queue} VALUES (1, 'ada', 'hush')"),
    )
    .await;
    run(&mut own, &format!("UPDATE {queue} SET secret = 'hushhush'")).await;
    assert_eq!(count(&mut own, &queue).await, 1);

    run(
        &mut own,
        &format!("UPDATE {queue} SET secret = 'hush!', name = 'Ada'"),
    )
    .await;

    // A renamed or added column is not mistaken for one that was not excluded.
    run(
        &mut own,
        &format!("ALTER TABLE {queue} RENAME secret TO password"),
    )
    .await;

    run(
        &mut own,
        &format!("ALTER TABLE {queue} ADD salt text DEFAULT 'hush'"),
    )
    .await;

    run(
        &mut own,
        &format!("UPDATE {queue} SET password = 'hush?', salt = 'hush'"),
    )
    .await;
    run(&mut own, &format!("DELETE FROM {queue}")).await;

    let found = events(&mut own, &queue).await;
    assert_eq!(found.len(), 3);
    assert_eq!(found[1].1.changed, ["name"]);

    let all = format!("SELECT string_agg(message::text, '') FROM pgmq.q_{queue}");
    let all: String = scalar(&mut own, &all).await;
    for word in ["hush", "secret", "password", "salt"] {
        assert!(!all.contains(word), "{word} in {all}");
    }

    engine
        .capture(queue.as_str(), &queue)
        .columns(["name"])
        .await
        .unwrap();

    run(
        &mut own,
        &format!("INSERT INTO {queue} VALUES (2, 'bob'); UPDATE {queue} SET id = 3"),
    )
    .await;

    let found = events(&mut own, &queue).await;
    assert_eq!(found.len(), 4);
    assert_eq!(found[3].1.new, Some(json!({ "name": "bob" })));
}

#[tokio::test]
async fn odd_names_are_quoted_and_other_schemas_told_apart() {
    let (engine, queue, mut own) = table().await;
    let columns = r#""o" text, "old" text, "line" int, "it's" int, "a\b" int, "hidden" int"#;
    let schema = format!("Odd \"{queue}\" \\ schema").replace('"', "\"\"");
    let table = format!("\"{schema}\".\"T'a\\ble.x\"");
    run(
        &mut own,
        &format!("CREATE SCHEMA \"{schema}\"; CREATE TABLE {table} ({columns})"),
    )
    .await;

    engine
        .capture(&table, &queue)
        .without(["hidden"])
        .key("it's")
        .await
        .unwrap();

    run(&mut own, "SET standard_conforming_strings = off").await;
    run(
        &mut own,
        &format!("INSERT INTO {table} VALUES ('1', '2', 3, 4, 5, 6)"),
    )
    .await;
    run(&mut own, &format!("UPDATE {table} SET line = 4")).await;

    let found = events(&mut own, &queue).await;
    let name = format!("Odd \"{queue}\" \\ schema.T'a\\ble.x");
    assert_eq!(found[0].0, format!("{name}.created"));

    let row = json!({ "o": "1", "old": "2", "line": 3, "it's": 4, "a\\b": 5 });
    assert_eq!(found[0].1.new, Some(row));
    assert_eq!(found[1].1.changed, ["line"]);

    engine.capture(&table, &queue).named("odd").await.unwrap();
    run(&mut own, &format!("DELETE FROM {table}")).await;
    assert_eq!(events(&mut own, &queue).await[2].0, "odd.deleted");
    assert!(engine.captures().remove(&table).await.unwrap());

    let capital = "CREATE TABLE IF NOT EXISTS \"Users\" (id int)";
    run(&mut own, capital).await;
    engine.capture("\"Users\"", &queue).await.unwrap();
    run(&mut own, "INSERT INTO \"Users\" VALUES (1)").await;
    assert_eq!(events(&mut own, &queue).await[3].0, "Users.created");
    assert!(engine.captures().remove("public.\"Users\"").await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_capture_is_made_once_listed_and_removed_without_a_trace() {
    let url = fresh_database().await;
    let mut own = PgConnection::connect(&url).await.unwrap();
    let queue = unique("q");
    engine_at(&url).await.ensure_queue(&queue).await.unwrap();
    run(
        &mut own,
        "CREATE TABLE one (id int); CREATE TABLE two (id int); CREATE TABLE gone (id int)",
    )
    .await;

    run(
        &mut own,
        "CREATE TRIGGER mine BEFORE UPDATE ON one FOR EACH ROW
                   EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    )
    .await;

    let mut tasks = JoinSet::new();
    for _ in 0..10 {
        let engine = engine_at(&url).await;
        let queue = queue.clone();
        tasks.spawn(async move { engine.capture("one", &queue).await.unwrap() });
    }

    tasks.join_all().await;
    let engine = engine_at(&url).await;
    engine.capture("gone", &queue).await.unwrap();
    run(&mut own, "DROP TABLE gone").await;
    engine.capture("two", &queue).broadcast().await.unwrap();

    let found = engine.captures().list().await.unwrap();
    let told: Vec<_> = found
        .iter()
        .map(|c| (c.table.as_str(), c.queue.clone()))
        .collect();
    assert_eq!(told, [("one", Some(queue.clone())), ("two", None)]);

    let functions = "SELECT count(*) FROM pg_proc WHERE proname LIKE 'capture\\_%'";
    assert_eq!(scalar::<i64>(&mut own, functions).await, 2);

    // The same options take no lock, so a writer's open transaction does not matter.
    let mut tx = own.begin().await.unwrap();
    run(&mut tx, "INSERT INTO one VALUES (1)").await;
    engine.capture("one", &queue).await.unwrap();

    // Other options replace the function only.
    let again = engine.capture("one", &queue).source("other").await.unwrap();
    assert_eq!(again.source, "other");

    // Removing needs the table's lock, and gives up soon.
    let error = engine.captures().remove("one").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient, "{error:?}");

    tx.commit().await.unwrap();
    assert_eq!(count(&mut own, &queue).await, 1);

    run(
        &mut own,
        "ALTER TABLE one DISABLE TRIGGER ezq_capture_insert",
    )
    .await;
    assert!(!engine.captures().list().await.unwrap()[0].is_enabled);
    assert!(engine.captures().remove("one").await.unwrap());
    assert!(!engine.captures().remove("one").await.unwrap());

    run(&mut own, "INSERT INTO one VALUES (1); TRUNCATE one").await;
    assert_eq!(count(&mut own, &queue).await, 1);
    let triggers = "SELECT array_agg(tgname::text) FROM pg_trigger WHERE tgrelid = 'one'::regclass";
    assert_eq!(scalar::<Vec<String>>(&mut own, triggers).await, ["mine"]);
    assert_eq!(scalar::<i64>(&mut own, functions).await, 1);
    assert_eq!(engine.captures().list().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_captured_change_is_broadcast_to_who_is_subscribed() {
    let url = fresh_database().await;
    let mut own = PgConnection::connect(&url).await.unwrap();
    let engine = engine_at(&url).await;
    run(&mut own, "CREATE TABLE users (id int)").await;

    let one = unique("q");
    let two = unique("q");
    let missing = unique("q");
    engine.capture("users", &one).broadcast().await.unwrap();
    run(&mut own, "INSERT INTO users VALUES (0)").await;

    for (queue, pattern) in [(&one, "users.*"), (&two, "users.created"), (&missing, "#")] {
        use ezq_core::engine::Broadcasts as _;
        engine
            .subscribe("a", queue, &[Pattern::new(pattern).unwrap()])
            .await
            .unwrap();
    }

    engine.ensure_queue(&one).await.unwrap();
    engine.ensure_queue(&two).await.unwrap();
    run(
        &mut own,
        "INSERT INTO users SELECT generate_series(1, 100); DELETE FROM users WHERE id = 1",
    )
    .await;
    assert_eq!(
        (count(&mut own, &one).await, count(&mut own, &two).await),
        (101, 100)
    );

    let same = format!(
        "SELECT bool_and(a.message = b.message) FROM pgmq.q_{one} a JOIN pgmq.q_{two} b USING (msg_id)"
    );
    assert!(scalar::<bool>(&mut own, &same).await);
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "one story, told in its order")]
async fn the_writer_needs_no_right_on_queues_and_cannot_use_the_function_itself() {
    let (engine, queue, mut own) = table().await;
    engine.capture(queue.as_str(), &queue).await.unwrap();

    let role = unique("role");
    run(
        &mut own,
        &format!("CREATE ROLE {role} LOGIN; GRANT INSERT ON {queue} TO {role}"),
    )
    .await;

    run(
        &mut own,
        &format!("CREATE SCHEMA {role} AUTHORIZATION {role}"),
    )
    .await;

    let url = server()
        .await
        .url()
        .replace("postgres@", &format!("{role}@"));
    let mut writer = PgConnection::connect(&url).await.unwrap();

    // Objects of the writer's own do not interfere.
    run(
        &mut writer,
        &format!(
            "SET search_path = {role}, pg_catalog, public; CREATE TABLE ezq_new (id int);
         CREATE FUNCTION to_jsonb(anyelement) RETURNS jsonb LANGUAGE sql AS 'SELECT ''0''::jsonb'"
        ),
    )
    .await;

    run(
        &mut writer,
        &format!("INSERT INTO public.{queue} VALUES (1, 'ada')"),
    )
    .await;

    let found = events(&mut own, &queue).await;
    assert_eq!(found[0].1.new.as_ref().unwrap()["name"], "ada");

    let function = format!(
        "SELECT tgfoid::regproc::text FROM pg_trigger
         WHERE tgrelid = '{queue}'::regclass AND tgname = 'ezq_capture_insert'"
    );
    let function: String = scalar(&mut own, &function).await;
    let forged = format!(
        "CREATE TABLE forged (id int); CREATE TRIGGER t AFTER INSERT ON forged
         REFERENCING NEW TABLE AS ezq_new FOR EACH STATEMENT EXECUTE FUNCTION {function}()"
    );

    run(
        &mut own,
        &format!("GRANT USAGE ON SCHEMA ezq, pgmq TO {role}"),
    )
    .await;

    let refused = sqlx::raw_sql(AssertSqlSafe(forged))
        .execute(&mut writer)
        .await
        .unwrap_err();
    assert_eq!(
        refused.as_database_error().unwrap().code().unwrap(),
        "42501",
        "{refused}"
    );

    // A role that may only read cannot capture.
    let reader = engine_at(&url).await;
    let error = reader
        .capture(format!("public.{queue}"), &queue)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Permission);
    assert!(
        error.to_string().contains("grant trigger, select on"),
        "{error}"
    );

    let error = reader
        .captures()
        .remove(&format!("public.{queue}"))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Permission);

    assert_eq!(
        reader
            .captures()
            .list()
            .await
            .unwrap()
            .iter()
            .filter(|c| c.table == queue.as_str())
            .count(),
        1
    );
}

#[tokio::test]
async fn what_is_not_covered_is_refused_with_a_message() {
    let (engine, queue, mut own) = table().await;
    let t = queue.as_str();
    run(
        &mut own,
        &format!(
            "CREATE TABLE {t}_p (id int) PARTITION BY RANGE (id);
         CREATE TABLE {t}_part PARTITION OF {t}_p FOR VALUES FROM (0) TO (9);
         CREATE TABLE {t}_child () INHERITS ({t});
         CREATE VIEW {t}_v AS SELECT 1 AS id; CREATE MATERIALIZED VIEW {t}_m AS SELECT 1 AS id;
         CREATE SEQUENCE {t}_s; CREATE TABLE {t}_ok (id int, s text);
         CREATE FOREIGN DATA WRAPPER {t}_w; CREATE SERVER {t}_srv FOREIGN DATA WRAPPER {t}_w;
         CREATE FOREIGN TABLE {t}_f (id int) SERVER {t}_srv"
        ),
    )
    .await;

    let names = ["p", "part", "child", "v", "m", "s", "f"].map(|name| format!("{t}_{name}"));
    let internal = ["ezq.migrations", "pgmq.meta", "pg_class"].map(String::from);
    let queue_table = format!("pgmq.q_{t}");

    use ezq_core::engine::Broadcasts as _;
    engine.ready().await.unwrap();

    for table in names
        .iter()
        .chain(&internal)
        .chain([&queue_table, &t.to_owned()])
    {
        let error = engine.capture(table, &queue).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{table}: {error:?}");
        assert!(
            error.to_string().contains("cannot be captured: it is "),
            "{error}"
        );
    }

    for table in [
        "nowhere",
        "no.such.name.at.all",
        "",
        "a b",
        "x; drop table y",
        "other.public.t",
    ] {
        let error = engine.capture(table, &queue).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration, "{table}: {error:?}");
        let error = engine.captures().remove(table).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration, "{table}: {error:?}");
    }

    let ok = || engine.capture(format!("{t}_ok"), &queue);

    for wrong in [
        ok().without(["x"]),
        ok().columns(["ID"]),
        ok().key("nope"),
        ok().without(["id", "s"]),
        ok().without(["s"]).key("s"),
        ok().named(""),
        ok().named("a\nb"),
        ok().source("my shop"),
        ok().source("a\"b"),
        ok().source(""),
    ] {
        let error = wrong.await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration, "{error:?}");
    }

    assert_eq!(
        ok().queue("Not A Queue").await.unwrap_err().kind(),
        ErrorKind::InvalidQueueName
    );

    let triggers = format!(
        "SELECT count(*) FROM pg_trigger WHERE tgrelid::regclass::text LIKE '{t}%' AND NOT tgisinternal"
    );
    assert_eq!(scalar::<i64>(&mut own, &triggers).await, 0);
}

#[tokio::test]
async fn nothing_is_made_unasked_and_the_error_says_what_to_run() {
    let url = fresh_database().await;
    let mut own = PgConnection::connect(&url).await.unwrap();
    let queue = unique("q");
    engine_at(&url).await.ensure_queue(&queue).await.unwrap();
    run(&mut own, "CREATE TABLE users (id int)").await;

    let config = PgmqConfig::url(&url).unwrap().manage_schema(false);
    let engine = PgmqEngine::connect(config).await.unwrap();
    let error = engine.capture("users", &queue).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SchemaMissing);

    run(&mut own, error.to_string().split_once('\n').unwrap().1).await;
    engine.capture("users", &queue).await.unwrap();
    run(&mut own, "INSERT INTO public.users VALUES (1)").await;
    assert_eq!(count(&mut own, &queue).await, 1);
}

#[tokio::test]
async fn a_queue_that_is_gone_fails_the_writer_with_a_message() {
    let (engine, queue, mut own) = table().await;
    engine.capture(queue.as_str(), &queue).await.unwrap();
    run(&mut own, &format!("SELECT pgmq.drop_queue('{queue}')")).await;

    let insert = format!("INSERT INTO {queue} VALUES (1)");
    let error = sqlx::raw_sql(AssertSqlSafe(insert))
        .execute(&mut own)
        .await
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains(&format!("the queue \"{queue}\"")),
        "{error}"
    );
    assert_eq!(
        scalar::<i64>(&mut own, &format!("SELECT count(*) FROM {queue}")).await,
        0
    );
}
