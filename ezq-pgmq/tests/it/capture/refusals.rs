//! Captures and writers that are refused: each with a message that says why.

use ezq_core::ErrorKind;
use ezq_core::engine::Engine as _;
use ezq_pgmq::{PgmqConfig, PgmqEngine};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::{count, events, table};
use crate::support::*;

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
        .remove(format!("public.{queue}"))
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
