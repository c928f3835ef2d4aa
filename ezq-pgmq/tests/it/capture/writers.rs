//! Writers of a captured table: many rows in one statement, and many sessions at once.

use serde_json::json;
use sqlx::AssertSqlSafe;
use tokio::task::JoinSet;

use super::{events, table};
use crate::support::*;

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
