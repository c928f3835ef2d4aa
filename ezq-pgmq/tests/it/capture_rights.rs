//! Whose code runs with whose rights where a table is captured, and who may replace functions.

use ezq_core::ErrorKind;
use ezq_core::engine::{Broadcasts as _, Engine as _};
use ezq_core::event::Pattern;
use ezq_core::message::QueueName;
use ezq_pgmq::{PgmqConfig, PgmqEngine};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Row as _};

use crate::support::*;

/// A database with an owner of tables that may use the queue, and a role that captures them.
struct Database {
    url: String,
    owner: PgConnection,
    admin: PgConnection,
    capturer: QueueName,
    queue: QueueName,
}

impl Database {
    async fn new() -> Self {
        let url = fresh_database().await;
        let mut admin = PgConnection::connect(&url).await.unwrap();
        let owner = unique("owner");
        let capturer = unique("capturer");
        let queue = unique("q");
        let engine = engine_at(&url).await;
        engine.ensure_queue(&queue).await.unwrap();
        engine.ready().await.unwrap();

        for role in [&owner, &capturer] {
            run(&mut admin, &format!("CREATE ROLE {role} LOGIN")).await;
            let setup = ezq_pgmq::setup_sql([&queue], Some(role.as_str())).unwrap();
            run(
                &mut admin,
                &setup.replace("create extension if not exists pgmq;", ""),
            )
            .await;
        }

        run(
            &mut admin,
            &format!(
                "CREATE SCHEMA s AUTHORIZATION {owner}; GRANT USAGE ON SCHEMA s TO {capturer};
                 GRANT CREATE ON SCHEMA ezq TO {capturer}"
            ),
        )
        .await;

        let owner = PgConnection::connect(&login(&url, &owner)).await.unwrap();
        Self {
            url,
            owner,
            admin,
            capturer,
            queue,
        }
    }

    /// The rows after the change, from the events in the queue, in the order of their ids.
    async fn rows(&mut self) -> Vec<Value> {
        let sql = format!(
            "SELECT message #> '{{data,new}}' FROM pgmq.q_{} ORDER BY msg_id",
            self.queue
        );
        let rows = sqlx::query(AssertSqlSafe(sql))
            .fetch_all(&mut self.admin)
            .await
            .unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }
}

fn login(url: &str, role: &QueueName) -> String {
    url.replace("postgres@", &format!("{role}@"))
}

#[tokio::test]
async fn what_a_tables_types_do_is_not_done_with_the_rights_of_who_captured_it() {
    let mut database = Database::new().await;
    run(
        &mut database.owner,
        "CREATE TYPE s.mood AS ENUM ('fine', 'so so'); CREATE DOMAIN s.moody AS s.mood;
         CREATE TYPE s.pair AS (n int, mood s.mood);
         CREATE TYPE s.plain AS (n int, t text);
         CREATE TABLE s.ran (by text); GRANT ALL ON s.ran TO PUBLIC;
         CREATE FUNCTION s.told(m s.mood) RETURNS json LANGUAGE plpgsql AS
           $$ BEGIN INSERT INTO s.ran VALUES (current_user); RETURN to_json(m::text || '!'); END $$;
         CREATE CAST (s.mood AS json) WITH FUNCTION s.told(s.mood);
         CREATE FUNCTION s.told(p s.plain) RETURNS json LANGUAGE plpgsql AS
           $$ BEGIN INSERT INTO s.ran VALUES (current_user); RETURN '0'::json; END $$;
         CREATE CAST (s.plain AS json) WITH FUNCTION s.told(s.plain);
         CREATE TABLE s.t (id int, mood s.mood, moody s.moody, moods s.mood[], pair s.pair,
                           plain s.plain, moodies s.moody[], none s.mood)",
    )
    .await;

    let insert = "INSERT INTO s.t VALUES
        (1, 'fine', 'so so', '{fine,NULL,so so}', (1, 'fine'), (1, 'x'), '{fine}')";
    let expected = json!({
        "id": 1, "mood": "fine", "moody": "so so", "moods": ["fine", null, "so so"],
        "pair": "(1,fine)", "plain": { "n": 1, "t": "x" }, "moodies": ["fine"], "none": null
    });

    // A superuser, and a role that may capture and nothing else.
    let plain = login(&database.url, &database.capturer);
    let grant = format!("GRANT TRIGGER, SELECT ON s.t TO {}", database.capturer);
    run(&mut database.owner, &grant).await;

    for url in [database.url.clone(), plain] {
        let engine = engine_at(&url).await;
        engine.capture("s.t", &database.queue).await.unwrap();
        run(&mut database.owner, insert).await;
        run(
            &mut database.owner,
            "UPDATE s.t SET id = 1; DELETE FROM s.t",
        )
        .await;
        assert_eq!(database.rows().await, [expected.clone(), Value::Null]);

        engine.captures().remove("s.t").await.unwrap();
        engine.purge(&database.queue).await.unwrap();
    }

    let ran = "SELECT count(*) FROM s.ran";
    assert_eq!(scalar::<i64>(&mut database.admin, ran).await, 0);

    // Who captures a table of their own runs their own code.
    run(&mut database.owner, "CREATE TABLE s.own (mood s.mood)").await;
    let owner: String = scalar(&mut database.owner, "SELECT current_user::text").await;
    run(
        &mut database.admin,
        &format!("GRANT CREATE ON SCHEMA ezq TO {owner}"),
    )
    .await;

    let owner = QueueName::new(&owner).unwrap();
    let engine = engine_at(&login(&database.url, &owner)).await;
    engine.capture("s.own", &database.queue).await.unwrap();
    run(&mut database.owner, "INSERT INTO s.own VALUES ('fine')").await;
    assert_eq!(database.rows().await, [json!({ "mood": "fine!" })]);
}

#[tokio::test]
async fn a_superusers_rights_are_not_lent_to_the_owner_of_a_queue() {
    let mut database = Database::new().await;
    let Database {
        url,
        owner,
        admin,
        queue,
        ..
    } = &mut database;

    run(owner, "CREATE TABLE s.t (id int)").await;
    let role: String = scalar(owner, "SELECT current_user::text").await;
    let engine = engine_at(url).await;
    engine.capture("s.t", &*queue).await.unwrap();

    let refused = engine.capture("s.t", &*queue);
    let give = |to: &str| format!("ALTER TABLE pgmq.q_{queue} OWNER TO {to}");
    run(admin, &give(&role)).await;

    let refused = refused.await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Permission);
    assert!(refused.to_string().contains(&role), "{refused}");

    // An earlier capture fails its writers, and lends no rights.
    let insert = "INSERT INTO s.t VALUES (1)";
    let refused = sqlx::raw_sql(insert)
        .execute(&mut *owner)
        .await
        .unwrap_err();
    assert_eq!(
        refused.as_database_error().unwrap().code().unwrap(),
        "42501",
        "{refused}"
    );

    run(admin, &give("postgres")).await;
    run(owner, insert).await;
    // The same by a trigger.
    run(admin, &format!("GRANT TRIGGER ON pgmq.q_{queue} TO {role}")).await;

    run(
        owner,
        &format!(
            "CREATE FUNCTION s.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';
             CREATE TRIGGER t BEFORE INSERT ON pgmq.q_{queue} FOR EACH ROW EXECUTE FUNCTION s.f()"
        ),
    )
    .await;

    let error = engine.capture("s.t", &*queue).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Permission, "{error:?}");

    sqlx::raw_sql(insert)
        .execute(&mut *owner)
        .await
        .unwrap_err();

    // Of the subscribed queues only this one is left out.
    let other = unique("q");
    engine.ensure_queue(&other).await.unwrap();
    engine.capture("s.t", &*queue).broadcast().await.unwrap();

    for queue in [&*queue, &other] {
        engine
            .subscribe("a", queue, &[Pattern::new("s.t.#").unwrap()])
            .await
            .unwrap();
    }

    let count = |queue: &QueueName| format!("SELECT count(*) FROM pgmq.q_{queue}");
    let before: i64 = scalar(admin, &count(queue)).await;
    run(owner, insert).await;
    assert_eq!(scalar::<i64>(admin, &count(queue)).await, before);
    assert_eq!(scalar::<i64>(admin, &count(&other)).await, 1);

    run(
        admin,
        &format!("ALTER TABLE ezq.subscriptions OWNER TO {role}"),
    )
    .await;

    let error = engine
        .capture("s.t", &*queue)
        .broadcast()
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Permission, "{error:?}");
}

/// Pretends that another version made a capture; its function is known by its source.
async fn remake(own: &mut PgConnection, table: &str, version: Option<u64>) {
    let found = format!(
        "SELECT p.proname::text, obj_description(p.oid, 'pg_proc') FROM pg_trigger t
         JOIN pg_proc p ON p.oid = t.tgfoid
         WHERE t.tgrelid = '{table}'::regclass AND t.tgname = 'ezq_capture_insert'"
    );

    let (name, comment): (String, String) = sqlx::query_as(AssertSqlSafe(found))
        .fetch_one(&mut *own)
        .await
        .unwrap();
    let mut comment: Value = serde_json::from_str(&comment).unwrap();
    comment.as_object_mut().unwrap().remove("version");

    if let Some(version) = version {
        comment["version"] = version.into();
    }

    run(
        own,
        &format!(
            "CREATE OR REPLACE FUNCTION ezq.{name}() RETURNS trigger LANGUAGE plpgsql
               AS 'BEGIN RETURN null; END';
             COMMENT ON FUNCTION ezq.{name}() IS '{comment}'"
        ),
    )
    .await;
}

async fn is_remade(own: &mut PgConnection, table: &str) -> bool {
    let sql = format!(
        "SELECT prosrc = 'BEGIN RETURN null; END' FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
         WHERE t.tgrelid = '{table}'::regclass AND t.tgname = 'ezq_capture_insert'"
    );
    scalar(own, &sql).await
}

#[tokio::test]
async fn the_function_of_a_newer_ezq_is_left_as_it_is_and_that_of_an_older_one_is_renewed() {
    let (engine, queue) = engine_and_queue().await;
    let t = queue.as_str();
    let mut own = connection().await;
    run(&mut own, &format!("CREATE TABLE {t} (id int)")).await;

    let config = PgmqConfig::url(&server().await.url())
        .unwrap()
        .manage_schema(false);
    let passive = PgmqEngine::connect(config).await.unwrap();
    engine.capture(t, &queue).await.unwrap();

    remake(&mut own, t, Some(1000)).await;
    for engine in [&engine, &passive] {
        engine.capture(t, &queue).await.unwrap();
        let error = engine.capture(t, &queue).source("other").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
        assert!(error.to_string().contains("newer ezq"), "{error}");
    }
    assert!(is_remade(&mut own, t).await);

    // The first version was not recorded.
    remake(&mut own, t, None).await;
    let left = passive.capture(t, &queue).await.unwrap();
    assert!(is_remade(&mut own, t).await);

    run(&mut connection().await, &left.upgrade.unwrap()).await;
    assert!(!is_remade(&mut own, t).await);
    assert_eq!(passive.capture(t, &queue).await.unwrap().upgrade, None);

    remake(&mut own, t, None).await;
    let error = passive
        .capture(t, &queue)
        .source("other")
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SchemaMissing);

    engine.capture(t, &queue).await.unwrap();
    assert!(!is_remade(&mut own, t).await);
}
