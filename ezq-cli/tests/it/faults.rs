//! Wrong databases, wrong roles, and hostile names.

use ezq::sqlx::{self, AssertSqlSafe, Connection as _, PgConnection};
use ezq::testing::TestDatabase;
use serde_json::json;

use crate::program::{bury, command, create, ezq, publish, publisher, run};

#[test]
fn a_wrong_url_is_wrong_usage_and_its_password_is_not_shown() {
    for url in [
        "postgres://ada:hunter2@db.example.com:port/shop",
        "mysql://ada:hunter2@db.example.com/shop",
        "ada:hunter2@db.example.com",
        "postgres://ada:hunter2@db.example.com/shop?sslmode=perhaps",
    ] {
        let ran = run(command(&["queue", "list", "-vv"]).env("EZQ_DATABASE_URL", url));
        ran.fails(2, "error: ");
        assert!(!ran.stderr.contains("hunter2"), "{ran:?}");
    }
}

#[test]
fn a_server_that_does_not_answer_is_an_error_and_no_password_is_shown() {
    let url = "postgres://ada:hunter2@127.0.0.1:1/shop";
    let ran = run(&mut command(&[
        "-vv",
        "queue",
        "list",
        "--database-url",
        url,
    ]));
    ran.fails(1, "127.0.0.1");
    assert!(!ran.stderr.contains("hunter2"), "{ran:?}");
}

#[ezq::test]
async fn a_missing_database_is_named(database: TestDatabase) {
    let url = database.url().replace("ezq_test_", "no_such_");
    ezq(&url, &["queue", "list"]).fails(1, "no_such_");
}

#[ezq::test]
async fn a_role_that_does_not_exist_is_refused(database: TestDatabase) {
    let url = database.url().replace("postgres@", "nobody:hunter2@");
    let ran = ezq(&url, &["queue", "list"]);
    ran.fails(1, "nobody");
    assert!(!ran.stderr.contains("hunter2"), "{ran:?}");
}

#[ezq::test]
async fn nothing_is_created_by_looking_or_in_a_wrong_database(database: TestDatabase) {
    let url = database.url();
    let mut admin = PgConnection::connect(&url).await.unwrap();
    execute(
        &mut admin,
        "drop schema if exists ezq cascade; drop schema pgmq cascade",
    )
    .await;

    for arguments in [
        &["queue", "list"][..],
        &["queue", "pause", "orders"],
        &["queue", "purge", "orders", "--yes"],
        &["queue", "create", "orders", "--dry-run"],
        &["dlq", "list", "orders"],
        &["dlq", "redrive", "orders", "--all"],
    ] {
        ezq(&url, arguments).fails(1, "PGMQ");
    }
    assert_eq!(schemas(&mut admin).await, 0);

    ezq(&url, &["queue", "create", "orders"]).is(0, "", "created the queue `orders`\n");
    assert!(schemas(&mut admin).await > 0);
}

#[ezq::test]
async fn a_role_that_may_only_read_sees_and_changes_nothing(database: TestDatabase) {
    bury(&database, "orders", &[("order.paid", "no such account")]).await;
    publish(&publisher(&database).await, "orders", "order.paid", "{}").await;
    create(&publisher(&database).await, "orders_2").await;
    let url = database.url();
    let mut admin = PgConnection::connect(&url).await.unwrap();
    // The name is the server's, and tests share that.
    let role = format!("reader_{}", std::process::id());
    execute(
        &mut admin,
        &format!(
            "create role {role} login; grant usage on schema pgmq to {role};
             grant select on all tables in schema pgmq to {role};
             grant usage on schema ezq to {role}; grant select on all tables in schema ezq to {role}"
        ),
    )
    .await;

    let reader = url.replace("postgres@", &format!("{role}@"));
    assert_eq!(ezq(&reader, &["queue", "list"]).code, 0);
    assert_eq!(
        ezq(&reader, &["dlq", "list", "orders", "--json"])
            .objects()
            .len(),
        1
    );
    for noun in [
        "consumer",
        "subscription",
        "schedule",
        "replay",
        "capture",
        "operation",
        "audit",
    ] {
        assert_eq!(ezq(&reader, &[noun, "list"]).code, 0, "{noun}");
    }
    assert_eq!(ezq(&reader, &["event", "types"]).code, 0);
    // What would be done can be asked without any right to do it.
    let dry = ezq(&reader, &["dlq", "redrive", "orders", "--all", "-n"]);
    dry.is(0, "", "would redrive 1 dead letter of the queue `orders`\n");
    for arguments in [
        &["queue", "create", "invoices"][..],
        &["queue", "pause", "orders"],
        &["queue", "purge", "orders", "--yes"],
        &["dlq", "redrive", "orders", "--all", "--yes"],
        &["dlq", "redrive", "orders", "1"],
        &["dlq", "discard", "orders", "--all", "--yes"],
        &["event", "move", "orders", "1", "--to", "orders_2"],
        &[
            "event", "discard", "orders", "--all", "--state", "ready", "--yes",
        ],
        &["event", "retry", "orders", "1"],
        &["event", "cancel", "orders", "1"],
        &[
            "event", "publish", "--queue", "orders", "--type", "x", "--data", "{}",
        ],
        &["queue", "drop", "orders", "--force", "--yes"],
        &["queue", "drain", "orders", "--pause"],
        &["migrate", "up"],
        &["subscription", "add", "orders", "x", "--app", "shop"],
        &["replay", "start", "again", "--queue", "orders", "--all"],
    ] {
        ezq(&reader, arguments).fails(1, "error: ");
    }
    let left = ezq(&url, &["queue", "show", "orders", "--json"]).objects();
    assert_eq!(
        (&left[0]["ready"], &left[0]["dead"]),
        (&json!(1), &json!(1))
    );

    execute(
        &mut admin,
        &format!("drop owned by {role}; drop role {role}"),
    )
    .await;
}

#[ezq::test]
async fn hostile_names_are_refused_or_kept_as_they_are(database: TestDatabase) {
    let url = database.url();
    create(&publisher(&database).await, "orders").await;
    for name in ["o'rders", "a%b", "<b>", "ördérs", "a;drop table x", "", " "] {
        for verb in ["show", "create", "pause"] {
            let ran = ezq(&url, &["queue", verb, name]);
            ran.fails(2, "error: ");
        }
    }

    for handler in ["o'mail", "100%", "<b>", "ünï \u{1f980}", "--"] {
        let paused = ezq(
            &url,
            &["queue", "pause", "orders", &format!("--handler={handler}")],
        );
        assert_eq!(paused.code, 0, "{paused:?}");
        let shown = ezq(&url, &["queue", "show", "orders", "--json"]).objects();
        let pauses = shown[0]["pauses"].as_array().unwrap();
        assert!(
            pauses.iter().any(|pause| pause["handler"] == handler),
            "{shown:?}"
        );
    }
}

/// Names that are hard to quote, to print and to tell from options, in every place that takes one.
#[ezq::test]
async fn every_noun_answers_hostile_names_and_prints_nothing_that_a_terminal_obeys(
    database: TestDatabase,
) {
    let url = database.url();
    create(&publisher(&database).await, "orders").await;
    for name in [
        "ordres",
        "<b>",
        "o'rders",
        "100%",
        "örders\u{1f980}",
        "a\u{202e}b\u{1b}[2J",
        "x\ny",
        "",
        "a;drop table x",
    ] {
        for words in [
            "queue show @",
            "queue drop --yes @",
            "event list @",
            "event publish --type x --data {} --queue=@",
            "event show @",
            "event types --queue=@",
            "event move orders 1 --to=@",
            "event discard --yes @ 1",
            "dlq export @",
            "dlq redrive --all --yes @",
            "errors @",
            "schedule run @",
            "schedule pause @",
            "operation show @",
            "operation resume @",
            "audit list --queue=@",
            "subscription add --app=x -- @ order.*",
            "subscription prune --yes --app=@",
            "replay start again --all --queue=@",
            "check --queue=@",
            "doctor --check=@",
            "generate @",
        ] {
            let words: Vec<String> = words
                .split(' ')
                .map(|word| word.replace('@', name))
                .collect();
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let ran = ezq(&url, &words);
            assert!(matches!(ran.code, 2 | 3), "{words:?}: {ran:?}");
            assert_eq!(ran.stdout, "", "{words:?}: {ran:?}");
            let obeyed = ran.stderr.contains(['\u{1b}', '\u{202e}']);
            assert!(!obeyed, "{words:?}: {ran:?}");
        }
    }
}

/// Every noun says that the server is away, and nothing as data.
#[test]
fn every_noun_says_that_the_server_is_away() {
    let url = "postgres://ada:hunter2@127.0.0.1:1/shop";
    for words in [
        "queue list",
        "queue drain orders",
        "event list orders",
        "event types",
        "event retry orders --all",
        "event tail orders -f",
        "errors orders",
        "dlq list orders",
        "dlq redrive orders --all --yes",
        "dlq export orders",
        "operation list",
        "operation resume 7",
        "audit list",
        "schedule list",
        "schedule run report",
        "consumer list",
        "subscription list",
        "capture list",
        "replay list",
        "migrate status",
    ] {
        let mut words: Vec<&str> = words.split(' ').collect();
        words.push("--json");
        let ran = ezq(url, &words);
        ran.fails(1, "no connection to ada@127.0.0.1:1/shop");
        assert!(!ran.stderr.contains("hunter2"), "{ran:?}");
    }
}

async fn execute(admin: &mut PgConnection, statement: &str) {
    let statement = sqlx::raw_sql(AssertSqlSafe(statement));
    statement.execute(admin).await.unwrap();
}

async fn schemas(admin: &mut PgConnection) -> i64 {
    let statement = "select count(*) from pg_namespace where nspname in ('ezq', 'pgmq')";
    sqlx::query_scalar(statement)
        .fetch_one(admin)
        .await
        .unwrap()
}

#[ezq::test]
async fn a_queue_that_cannot_be_read_is_named_and_hides_no_other(database: TestDatabase) {
    let owner = publisher(&database).await;
    for queue in ["orders", "mail", "secret", "stock"] {
        create(&owner, queue).await;
        publish(&owner, queue, "order.paid", "1").await;
    }
    // Makes the tables of pauses.
    owner.queues().pause("stock").await.unwrap();
    owner.queues().resume("stock").await.unwrap();
    let role = format!("watcher_{}", std::process::id());
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!(
        "CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA pgmq, ezq TO {role};
         GRANT SELECT ON ALL TABLES IN SCHEMA pgmq, ezq TO {role};
         REVOKE SELECT ON pgmq.q_secret FROM {role}"
    )))
    .execute(owner.pool())
    .await
    .unwrap();
    let url = database.url().replacen("postgres@", &format!("{role}@"), 1);
    assert!(url.contains(&role), "{url}");
    let mut holder = owner.pool().begin().await.unwrap();
    let lock = "LOCK TABLE pgmq.q_orders, pgmq.q_mail IN ACCESS EXCLUSIVE MODE";
    sqlx::raw_sql(lock).execute(&mut *holder).await.unwrap();

    for arguments in [
        &["queue", "list", "--json"][..],
        &["queue", "list", "--rates", "10ms", "--json"],
    ] {
        let listed = ezq(&url, arguments).objects();
        let why = |queue: &str| {
            let row = listed.iter().find(|row| row["queue"] == queue).unwrap();
            (
                row["ready"].as_u64(),
                row["unreadable"].as_str().unwrap_or_default().to_owned(),
            )
        };
        assert_eq!(why("stock"), (Some(1), String::new()));
        for queue in ["orders", "mail"] {
            let (ready, text) = why(queue);
            assert!(ready.is_none() && text.contains("lock"), "{queue}: {text}");
        }
        let (ready, text) = why("secret");
        assert!(ready.is_none() && text.contains(&role), "{text}");
    }
    let listed = ezq(&url, &["queue", "list"]);
    assert!(listed.stdout.contains("unreadable: "), "{listed:?}");
    assert_eq!(listed.code, 0);

    let checked = ezq(&url, &["check", "--max-ready", "0"]);
    assert_eq!(checked.code, 1, "{checked:?}");
    for text in [
        "the queue `orders` cannot be read: ",
        "the queue `secret` cannot be read: ",
        "the queue `stock`: 1 ready",
    ] {
        assert!(checked.stdout.contains(text), "{text}: {checked:?}");
    }
    let one = ezq(&url, &["check", "--queue", "stock"]);
    one.is(0, "", "1 queue within limits\n");
    let nagios = ezq(&url, &["check", "--queue", "mail", "--format", "nagios"]);
    assert_eq!(nagios.code, 2, "{nagios:?}");
    let metrics = ezq(&url, &["check", "--format", "prometheus"]);
    assert!(
        metrics
            .stdout
            .contains("ezq_queue_unreadable{queue=\"orders\"} 1"),
        "{metrics:?}"
    );
    assert!(
        metrics
            .stdout
            .contains("ezq_queue_unreadable{queue=\"stock\"} 0"),
        "{metrics:?}"
    );
    assert!(
        !metrics.stdout.contains("ezq_queue_ready{queue=\"orders\"}"),
        "{metrics:?}"
    );

    let doctor = ezq(&url, &["doctor", "--check", "consumers", "--json"]).stdout;
    assert!(doctor.contains("another session has locked it"), "{doctor}");
    assert!(doctor.contains("\"queue\":\"stock\""), "{doctor}");
    holder.rollback().await.unwrap();
    let listed = ezq(&url, &["queue", "list", "--json"]).objects();
    let unread = listed.iter().filter(|row| row["unreadable"].is_string());
    assert_eq!(unread.count(), 1, "{listed:?}");
}
