//! Captured tables: which changes become events, in which order, whose rights apply, and what is
//! refused.

mod refusals;
mod writers;

use ezq_core::ErrorKind;
use ezq_core::codec::{Origin, decode};
use ezq_core::engine::Engine as _;
use ezq_core::event::{Change, Operation, Pattern};
use ezq_core::message::QueueName;
use ezq_core::message::headers::Headers;
use ezq_pgmq::PgmqEngine;
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
