//! Captured rows: how values of every kind are written whatever the writer's session says, which
//! key an event has, and what happens to captured tables that change.

use ezq_core::ErrorKind;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, PgConnection, Row as _};

use crate::skip;
use crate::support::*;

/// The messages of a queue with their keys, in the order of their ids. It empties the queue.
async fn take(own: &mut PgConnection, queue: &str) -> Vec<(Value, Option<String>)> {
    let sql = format!(
        "WITH gone AS (DELETE FROM pgmq.q_{queue} RETURNING msg_id, message, headers)
         SELECT message -> 'data', headers ->> 'x-pgmq-group' FROM gone ORDER BY msg_id"
    );
    let rows = sqlx::query(AssertSqlSafe(sql))
        .fetch_all(own)
        .await
        .unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// Whether the server is built with libxml, which the fetched Postgres is not.
async fn has_xml(own: &mut PgConnection) -> bool {
    match sqlx::query("SELECT '<a/>'::xml").execute(own).await {
        Ok(_) => true,
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("0A000") => false,
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn values_of_every_kind_are_the_same_whatever_the_session_of_the_writer_says() {
    let (engine, queue) = engine_and_queue().await;
    let t = queue.as_str();
    let mut own = connection().await;
    let xml = if has_xml(&mut own).await {
        "xml"
    } else {
        let test = "values_of_every_kind_are_the_same_whatever_the_session_of_the_writer_says";
        skip::because(test, "in part: this server has no xml");
        "text"
    };

    run(
        &mut own,
        &format!(
            "CREATE SCHEMA {t}_s; CREATE TYPE {t}_s.mood AS ENUM ('a', 'B');
             CREATE TABLE {t}_s.odd (id int, made int GENERATED ALWAYS AS (id * 2) STORED, doc jsonb,
               bytes bytea, real float8, exact numeric, at timestamptz, texts text[], mood {t}_s.mood,
               pause interval, day date, nothing text, what regclass, paid money, tree {xml})"
        ),
    )
    .await;

    engine.capture(format!("{t}_s.odd"), &queue).await.unwrap();
    run(
        &mut own,
        "SET timezone = 'Asia/Kathmandu'; SET datestyle = 'German'; SET intervalstyle = 'iso_8601';
         SET extra_float_digits = 0; SET bytea_output = 'escape'; SET quote_all_identifiers = on;
         SET lc_monetary = 'C.UTF-8'; SET xmlbinary = 'hex'; SET array_nulls = off",
    )
    .await;

    run(
        &mut own,
        &format!(
            "INSERT INTO {t}_s.odd VALUES
               (7, DEFAULT, '{{\"b\": [1, null]}}', '\\x00ff', 0.1::float8 + 0.2::float8,
                12.50, '2026-01-01 10:00+05', array['a', null], 'B',
                '1 day 2 hours', '2026-02-01', NULL, 'pg_class', '1234.5', '<a/>'),
               (8, DEFAULT, 'null', '', 'NaN', 'NaN', 'infinity', '{{}}', NULL, NULL, NULL, NULL,
                NULL, NULL, NULL)"
        ),
    )
    .await;

    let found = take(&mut own, t).await;
    let change = &found[0].0;
    assert_eq!(
        (&change["schema"], &change["table"]),
        (&json!(format!("{t}_s")), &json!("odd"))
    );
    assert_eq!(change["operation"], "created");

    let expected = json!({
        "id": 7, "made": 14, "doc": { "b": [1, null] }, "bytes": "\\x00ff",
        "real": 0.300_000_000_000_000_04, "exact": 12.50,
        "at": "2026-01-01T05:00:00+00:00", "texts": ["a", null], "mood": "B",
        "pause": "1 day 02:00:00", "day": "2026-02-01", "nothing": null,
        "what": "pg_class", "paid": "$1,234.50", "tree": "<a/>"
    });
    assert_eq!(change["new"], expected);

    let second = &found[1].0["new"];
    assert_eq!(
        (&second["real"], &second["exact"]),
        (&json!("NaN"), &json!("NaN"))
    );
    assert_eq!(
        (&second["at"], &second["texts"]),
        (&json!("infinity"), &json!([]))
    );
}

#[tokio::test]
async fn the_key_of_an_event_is_that_of_the_row_as_it_was_left() {
    let (engine, queue) = engine_and_queue().await;
    let t = queue.as_str();
    let mut own = connection().await;
    run(
        &mut own,
        &format!("CREATE TABLE {t} (id int PRIMARY KEY, owner text)"),
    )
    .await;
    engine.capture(t, &queue).key("owner").await.unwrap();

    let index = format!("SELECT count(*) FROM pg_indexes WHERE tablename = 'q_{t}'");
    assert!(
        scalar::<i64>(&mut own, &index).await > 2,
        "keys are looked up by an index"
    );

    run(&mut own, &format!("INSERT INTO {t} VALUES (1, 'ada')")).await;
    run(
        &mut own,
        &format!("UPDATE {t} SET owner = 'bob'; DELETE FROM {t}; TRUNCATE {t}"),
    )
    .await;

    let keys: Vec<_> = take(&mut own, t)
        .await
        .into_iter()
        .map(|(_, key)| key)
        .collect();
    let text = |name: &str| Some(name.to_owned());
    assert_eq!(keys, [text("ada"), text("bob"), text("bob"), None]);
}

#[tokio::test]
async fn what_jsonb_cannot_hold_fails_the_writer_unless_it_is_left_out() {
    let (engine, queue) = engine_and_queue().await;
    let t = queue.as_str();
    let mut own = connection().await;
    run(
        &mut own,
        &format!("CREATE TABLE {t} (\"100%s\" int, raw json)"),
    )
    .await;
    engine.capture(t, &queue).await.unwrap();

    let insert = format!(r#"INSERT INTO {t} VALUES (1, '"\u0000"')"#);
    let refused = sqlx::raw_sql(AssertSqlSafe(insert.clone()))
        .execute(&mut own)
        .await;
    assert!(refused.unwrap_err().to_string().contains("Unicode"));

    engine.capture(t, &queue).without(["raw"]).await.unwrap();
    run(
        &mut own,
        &format!("{insert}; UPDATE {t} SET raw = '1e400000'; DELETE FROM {t}"),
    )
    .await;

    let found = take(&mut own, t).await;
    assert_eq!(found.len(), 2);
    assert_eq!(found[0].0["new"], json!({ "100%s": 1 }));
    assert_eq!(found[1].0["old"], json!({ "100%s": 1 }));
}

#[tokio::test]
async fn a_table_may_change_while_it_is_captured() {
    let (engine, queue) = engine_and_queue().await;
    let t = queue.as_str();
    let mut own = connection().await;
    run(
        &mut own,
        &format!("CREATE TABLE {t} (id int, a text, b text)"),
    )
    .await;

    engine.capture(t, &queue).await.unwrap();
    run(&mut own, &format!("INSERT INTO {t} VALUES (1, 'a', 'b')")).await;
    run(
        &mut own,
        &format!("ALTER TABLE {t} ADD c int DEFAULT 5, DROP a"),
    )
    .await;
    run(&mut own, &format!("UPDATE {t} SET c = 6")).await;

    let found = take(&mut own, t).await;
    assert_eq!(found[0].0["new"], json!({ "id": 1, "a": "a", "b": "b" }));
    assert_eq!(found[1].0["old"], json!({ "id": 1, "b": "b", "c": 5 }));
    assert_eq!(found[1].0["changed"], json!(["c"]));

    // The chosen columns are dropped, one after the other.
    engine.capture(t, &queue).columns(["b", "c"]).await.unwrap();
    run(
        &mut own,
        &format!("ALTER TABLE {t} DROP b; UPDATE {t} SET c = 7"),
    )
    .await;

    run(
        &mut own,
        &format!("ALTER TABLE {t} DROP c; UPDATE {t} SET id = 2; DELETE FROM {t}"),
    )
    .await;

    let found = take(&mut own, t).await;
    assert_eq!(found[0].0["new"], json!({ "c": 7 }));
    assert_eq!((found.len(), &found[1].0["old"]), (2, &json!({})));

    // As a partition it is no longer covered, and the next start reports that.
    run(
        &mut own,
        &format!("CREATE TABLE {t}_p (id int) PARTITION BY LIST (id)"),
    )
    .await;

    run(
        &mut own,
        &format!("ALTER TABLE {t}_p ATTACH PARTITION {t} DEFAULT"),
    )
    .await;

    let error = engine.capture(t, &queue).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);

    let listed = engine.captures().list().await.unwrap();
    let listed = listed
        .into_iter()
        .find(|captured| captured.table == t)
        .unwrap();
    assert_eq!(listed.uncovered, [format!("public.{t}_p")]);
    assert!(engine.captures().remove(t).await.unwrap());
}

#[tokio::test]
async fn a_child_that_a_captured_table_got_later_is_listed() {
    let (engine, queue) = engine_and_queue().await;
    let t = queue.as_str();
    let mut own = connection().await;
    run(&mut own, &format!("CREATE TABLE {t} (id int)")).await;

    assert!(
        engine
            .capture(t, &queue)
            .await
            .unwrap()
            .uncovered
            .is_empty()
    );

    run(
        &mut own,
        &format!("CREATE TABLE {t}_child () INHERITS ({t})"),
    )
    .await;

    let listed = engine.captures().list().await.unwrap();
    let listed = listed
        .into_iter()
        .find(|captured| captured.table == t)
        .unwrap();
    assert_eq!(listed.uncovered, [format!("public.{t}_child")]);

    let error = engine.capture(t, &queue).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    run(&mut own, &format!("DROP TABLE {t}_child")).await;
}

#[tokio::test]
async fn every_way_to_write_rows_is_told() {
    let (engine, queue) = engine_and_queue().await;
    let t = queue.as_str();
    let mut own = connection().await;
    run(
        &mut own,
        &format!(
            "CREATE TABLE {t} (id int PRIMARY KEY, v text);
             CREATE TABLE {t}_child (id int, parent int REFERENCES {t} ON DELETE CASCADE)"
        ),
    )
    .await;

    engine.capture(t, &queue).await.unwrap();
    engine.capture(format!("{t}_child"), &queue).await.unwrap();

    let mut copy = own
        .copy_in_raw(&format!("COPY {t} FROM STDIN"))
        .await
        .unwrap();
    copy.send(&b"1\ta\n2\tb\n"[..]).await.unwrap();
    copy.finish().await.unwrap();

    run(
        &mut own,
        &format!(
            "MERGE INTO {t} USING (VALUES (2, 'm'), (3, 'n')) s (i, v) ON id = i
               WHEN MATCHED THEN UPDATE SET v = s.v WHEN NOT MATCHED THEN INSERT VALUES (i, v);
             INSERT INTO {t} VALUES (3, 'x') ON CONFLICT DO NOTHING;
             INSERT INTO {t}_child VALUES (1, 1); DELETE FROM {t} WHERE id = 1"
        ),
    )
    .await;

    let found = take(&mut own, t).await;
    let mut told: Vec<_> = found
        .iter()
        .map(|(change, _)| {
            let text = |field: &str| change[field].as_str().unwrap().to_owned();
            let row = if change["new"].is_null() {
                &change["old"]
            } else {
                &change["new"]
            };

            (
                text("table"),
                text("operation"),
                row["id"].as_i64().unwrap(),
            )
        })
        .collect();
    told.sort_unstable();

    let is = |table: &str, operation: &str, id| (table.to_owned(), operation.to_owned(), id);
    let child = format!("{t}_child");
    let expected = [
        is(t, "created", 1),
        is(t, "created", 2),
        is(t, "created", 3),
        is(t, "deleted", 1),
        is(t, "updated", 2),
        is(&child, "created", 1),
        is(&child, "deleted", 1),
    ];
    assert_eq!(told, expected);
}
