//! The other nouns: schedules, consumers, subscriptions, captures, replays, `migrate` and `dev`.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::Duration;

use ezq::engine::Engine as _;
use ezq::handler::Handler;
use ezq::message::Retention;
use ezq::schedule::Schedule;
use ezq::sqlx::{self, Connection as _, PgConnection};
use ezq::testing::TestDatabase;
use ezq::{AnyEvent, Event};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::program::{bury, command, create, ezq, publish, publisher};

#[derive(Event, Serialize, Deserialize)]
#[event(type = "report.due", queue = "reports")]
struct ReportDue {}

#[ezq::test]
async fn schedules_are_listed_paused_and_resumed(database: TestDatabase) {
    let url = database.url();
    ezq(&url, &["schedule", "list"]).is(0, "", "no schedules\n");
    ezq(&url, &["schedule", "pause", "x"]).fails(3, "there is no schedule `x`");

    let builder = database.builder().without_discovered_handlers().app("shop");
    let hourly = Schedule::every(Duration::from_secs(3_600));
    let app = builder
        .schedule("it's hourly", hourly, &ReportDue {})
        .connect()
        .await
        .unwrap();
    // It is stored when it is first needed.
    app.schedules().unwrap().pause("it's hourly").await.unwrap();
    app.schedules()
        .unwrap()
        .resume("it's hourly")
        .await
        .unwrap();

    let listed = ezq(&url, &["schedule", "list"]);
    assert!(listed.stdout.contains("it's hourly"), "{listed:?}");
    let listed = &ezq(&url, &["schedule", "list", "--json"]).objects()[0];
    assert_eq!(
        (&listed["application"], &listed["is_paused"]),
        (&json!("shop"), &json!(false))
    );

    let pause = ["schedule", "pause", "it's hourly"];
    let dry = [&pause[..], &["-n"]].concat();
    ezq(&url, &dry).is(0, "", "would pause the schedule `it's hourly`\n");
    ezq(&url, &pause).is(0, "", "paused the schedule `it's hourly`\n");
    ezq(&url, &pause).is(0, "", "the schedule `it's hourly` is paused already\n");
    let listed = &ezq(&url, &["schedule", "list", "--json"]).objects()[0];
    assert_eq!(
        (&listed["next_at"], &listed["is_paused"]),
        (&json!(null), &json!(true))
    );
    let resumed = ezq(&url, &["schedule", "resume", "it's hourly", "--json"]).objects();
    let answer = json!({"schedule": "it's hourly", "changed": true, "dry_run": false});
    assert_eq!(resumed, [answer]);
    ezq(&url, &["schedule", "resume", "its hourly"]).fails(3, "is it `it's hourly`?");
}

#[ezq::test]
async fn a_schedule_is_run_without_the_code_of_its_application(database: TestDatabase) {
    let url = database.url();
    ezq(&url, &["schedule", "run", "x"]).fails(3, "there is no schedule `x`");

    let builder = database.builder().without_discovered_handlers().app("shop");
    let hourly = Schedule::every(Duration::from_secs(3_600));
    let app = builder
        .schedule("<it's 100 %>", hourly, &ReportDue {})
        .connect()
        .await
        .unwrap();
    app.schedules()
        .unwrap()
        .pause("<it's 100 %>")
        .await
        .unwrap();
    let listed = || {
        ezq(&url, &["schedule", "list", "--json"])
            .objects()
            .remove(0)
    };
    let before = listed();

    let run = ["schedule", "run", "<it's 100 %>"];
    let dry = [&run[..], &["-n"]].concat();
    let would = "would publish the event of the schedule `<it's 100 %>`\n";
    ezq(&url, &dry).is(0, "", would);
    ezq(&url, &["schedule", "run", "<its 100 %>"]).fails(3, "is it `<it's 100 %>`?");
    ezq(&url, &run).is(
        0,
        "<uuid>\n",
        "published the event of the schedule `<it's 100 %>`, which stays paused, in the queue \
         `reports`\n",
    );
    let again = &ezq(&url, &[&run[..], &["--json"]].concat()).objects()[0];
    assert_eq!(
        (&again["queue"], &again["event_type"], &again["id"]),
        (&json!("reports"), &json!("report.due"), &json!("2"))
    );

    let events = ezq(&url, &["event", "list", "reports", "--json"]).objects();
    let ids = [&events[0]["body"]["id"], &events[1]["body"]["id"]];
    assert!(events.len() == 2 && ids[0] != ids[1], "{events:?}");
    assert_eq!(ids[1], &again["event_id"]);
    let after = listed();
    for member in ["next_at", "last_tick", "is_paused"] {
        assert_eq!(after[member], before[member], "{member}");
    }
    assert_ne!(after["fired_at"], before["fired_at"]);

    // As an older version leaves it.
    let mut own = PgConnection::connect(&url).await.unwrap();
    let forget = sqlx::query("update ezq.schedules set event = null");
    forget.execute(&mut own).await.unwrap();
    ezq(&url, &dry).fails(1, "fire it from `shop`, whose code has it");
    ezq(&url, &run).fails(1, "Fire it from `shop`, whose code has it");
}

#[ezq::test]
async fn changes_of_the_schema_are_listed_and_applied_at_once(database: TestDatabase) {
    let url = database.url();
    let applied = || {
        let all = ezq(&url, &["migrate", "status", "--json"]).objects();
        let applied = all.iter().filter(|one| one["is_applied"] == true);
        (applied.count(), all.len())
    };
    assert_eq!(applied().0, 0);
    let listed = ezq(&url, &["migrate", "status"]);
    let line = "5 replays when it is first needed";
    let mut lines = listed.stdout.lines();
    let is_listed = lines.any(|one| one.split_whitespace().eq(line.split(' ')));
    assert!(is_listed, "{listed:?}");

    let count = applied().1 - 1;
    let dry = ezq(&url, &["migrate", "up", "-n"]);
    dry.is(0, "", &format!("would apply {count} changes\n"));
    assert_eq!(applied().0, 0);
    ezq(&url, &["migrate", "up"]).is(0, "", &format!("applied {count} changes\n"));
    // All but the inbox, which is in other databases.
    assert_eq!(applied(), (count, count + 1));
    ezq(&url, &["migrate", "up"]).is(0, "", "every change is applied already\n");
}

#[ezq::test]
async fn consumers_are_listed_with_where_they_run(database: TestDatabase) {
    let url = database.url();
    let none = "no consumers: none runs, or its program has EZQ_PRESENCE=false\n";
    ezq(&url, &["consumer", "list"]).is(0, "", none);

    let builder = database.builder().without_discovered_handlers().app("shop");
    let app = builder
        .queue("orders")
        .register(Handler::on("mail", |_: AnyEvent| async {}))
        .connect()
        .await
        .unwrap();
    let handle = app.consumer().spawn();
    let listed = tokio::time::timeout(Duration::from_secs(60), first_consumer(&url));
    let listed = listed.await.expect("the consumer is listed");
    assert_eq!(listed["process"], std::process::id());
    assert_eq!(
        (&listed["queue"], &listed["handlers"]),
        (&json!("orders"), &json!(["mail"]))
    );
    assert_eq!(
        (&listed["application"], &listed["is_gone"]),
        (&json!("shop"), &json!(false))
    );

    let table = ezq(&url, &["consumer", "list"]);
    assert!(
        table.stdout.starts_with("QUEUE   APPLICATION  HOST"),
        "{table:?}"
    );
    assert!(table.stdout.ends_with("runs\n"), "{table:?}");

    // A pause of a name that nobody has would look as if it worked.
    let pause = |name| ezq(&url, &["queue", "pause", "orders", "--handler", name]);
    let said = "no running consumer has the handler `mial`: is it `mail`?\n\
                paused the handler `mial` of the queue `orders`\n";
    pause("mial").is(0, "", said);
    pause("mail").is(0, "", "paused the handler `mail` of the queue `orders`\n");
    handle.stop();
    handle.await.unwrap();
}

/// The first consumer that is listed, as soon as there is one. The consumer under test runs in between.
async fn first_consumer(url: &str) -> Value {
    loop {
        let listed = ezq(url, &["consumer", "list", "--json"]).objects();
        if let Some(first) = listed.into_iter().next() {
            return first;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[ezq::test]
async fn sources_are_listed_with_how_far_they_are_stored(database: TestDatabase) {
    let url = database.url();
    let app = publisher(&database).await;
    for (partition, at) in [("orders/1", Some(7.into())), ("orders/0", None)] {
        let positions = app.pgmq().positions().unwrap();
        positions.begin("kafka/shop", partition, at).await.unwrap();
    }

    let listed = ezq(&url, &["source", "list", "--json"]).objects();
    let shown = listed.iter().map(|one| {
        assert!(one["moved_at"].is_string(), "{one}");
        (&one["source"], &one["partition"], &one["position"])
    });
    let kafka = json!("kafka/shop");
    let zero = (&kafka, &json!("orders/0"), &json!(null));
    let one = (&kafka, &json!("orders/1"), &json!("7"));
    assert_eq!(shown.collect::<Vec<_>>(), [zero, one]);
    let table = ezq(&url, &["source", "list"]);
    let start = "SOURCE      PARTITION  POSITION  MOVED AT";
    assert!(table.stdout.starts_with(start), "{table:?}");
}

#[ezq::test]
async fn subscriptions_are_added_tested_removed_and_pruned(database: TestDatabase) {
    let url = database.url();
    ezq(&url, &["subscription", "list"]).is(0, "", "no subscriptions\n");
    ezq(&url, &["subscription", "test", "order.paid"]).is(
        0,
        "",
        "no queue gets a copy of `order.paid`\n",
    );
    create(&publisher(&database).await, "orders").await;

    let add = [
        "subscription",
        "add",
        "orders",
        "order.*",
        "--app",
        "shop-2",
    ];
    let what = "the subscription of the queue `orders` to `order.*` by `shop-2`";
    let dry = [&add[..], &["-n"]].concat();
    ezq(&url, &dry).is(0, "", &format!("would add {what}\n"));
    ezq(&url, &add).is(0, "", &format!("added {what}\n"));
    ezq(&url, &add).is(0, "", &format!("{what} is there already\n"));
    ezq(
        &url,
        &["subscription", "add", "orders", "#", "--app", "mail"],
    );
    let wrong = [
        "subscription",
        "add",
        "orders",
        "order**",
        "--app",
        "shop-2",
    ];
    ezq(&url, &wrong).fails(2, "error: ");
    let mistyped = [
        "subscription",
        "add",
        "ordres",
        "order.*",
        "--app",
        "shop-2",
    ];
    ezq(&url, &mistyped).fails(3, "is it `orders`?");

    let table = "\
QUEUE   BY                         STATE
orders  # of mail, order.* of shop-2  -
";
    let tested = ezq(&url, &["subscription", "test", "order.paid"]);
    let words = |text: &str| {
        text.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(words(&tested.stdout), words(table), "{tested:?}");

    let remove = [
        "subscription",
        "remove",
        "orders",
        "order.*",
        "--app",
        "shop-2",
    ];
    ezq(&url, &remove).is(0, "", &format!("removed {what}\n"));
    ezq(&url, &remove).fails(3, "there is no subscription of the queue `orders`");

    let prune = ["subscription", "prune", "--app", "mail"];
    ezq(&url, &["subscription", "prune"]).fails(2, "--app");
    ezq(&url, &prune).fails(4, "this removes 1 subscription of `mail`");
    let dry = [&prune[..], &["-n"]].concat();
    ezq(&url, &dry).is(0, "", "would remove 1 subscription of `mail`\n");
    let yes = [&prune[..], &["-y", "--json"]].concat();
    let answer = json!({"application": "mail", "removed": 1, "dry_run": false});
    assert_eq!(ezq(&url, &yes).objects(), [answer]);
    assert!(
        ezq(&url, &["subscription", "list", "--json"])
            .objects()
            .is_empty()
    );
}

#[ezq::test]
async fn captures_are_listed(database: TestDatabase) {
    let url = database.url();
    ezq(&url, &["capture", "list"]).is(0, "", "no captured tables\n");

    let app = publisher(&database).await;
    sqlx::raw_sql("create table \"us'ers\" (id bigint primary key, name text)")
        .execute(app.pool())
        .await
        .unwrap();
    app.pgmq()
        .capture("public.\"us'ers\"", "changes")
        .await
        .unwrap();

    let listed = &ezq(&url, &["capture", "list", "--json"]).objects()[0];
    assert_eq!(
        (&listed["table"], &listed["queue"]),
        (&json!("us'ers"), &json!("changes"))
    );
    let table = ezq(&url, &["capture", "list"]);
    assert!(table.stdout.contains("public.us'ers"), "{table:?}");
}

#[ezq::test]
async fn a_replay_needs_a_choice_and_hands_each_event_over_once(database: TestDatabase) {
    let url = database.url();
    ezq(&url, &["replay", "list"]).is(0, "", "no replays\n");
    let app = database
        .app(|app| {
            app.queue("orders")
                .retention("orders", Retention::ARCHIVE)
                .register(Handler::on("mail", |_: AnyEvent| async {}))
        })
        .await
        .unwrap();
    for event_type in ["order.paid", "order.sent", "order.paid"] {
        publish(&app, "orders", event_type, r#"{"order": 7}"#).await;
    }
    app.drain_queue("orders").await.unwrap();
    create(&app, "again").await;

    let start = [
        "replay", "start", "it's", "--queue", "orders", "--to", "again",
    ];
    ezq(&url, &start).fails(2, "which events? Give a filter");
    let both = [&start[..], &["--all", "--type", "order.paid"]].concat();
    ezq(&url, &both).fails(2, "give either a filter or `--all`");
    let lost = [
        "replay", "start", "x", "--queue", "orders", "--to", "agian", "--all",
    ];
    ezq(&url, &lost).fails(3, "is it `again`?");

    let paid = [&start[..], &["--type", "order.paid"]].concat();
    let dry = [&paid[..], &["-n"]].concat();
    ezq(&url, &dry).is(0, "", "would hand over 2 events to the queue `again`\n");
    for _ in 0..2 {
        let ran = ezq(&url, &paid);
        ran.is(0, "", "handed over 2 events to the queue `again`\n");
    }
    let listed = &ezq(&url, &["replay", "list", "--json"]).objects()[0];
    assert_eq!(
        (&listed["replay"], &listed["handed_over"]),
        (&json!("it's"), &json!(2))
    );
    let held = &ezq(&url, &["queue", "show", "again", "--json"]).objects()[0];
    assert_eq!(held["ready"], 2);
}

#[test]
fn the_script_for_an_administrator_needs_no_database() {
    let arguments = ["migrate", "print", "orders", "--role", "o'ps"];
    let ran = crate::program::run(&mut command(&arguments));
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
    assert!(
        ran.stdout.contains("select pgmq.create('orders');\n"),
        "{ran:?}"
    );
    assert!(ran.stdout.contains("to \"o'ps\";"), "{ran:?}");
    crate::program::run(&mut command(&["migrate", "print", "o'rders"])).fails(2, "error: ");
}

#[cfg(unix)]
#[test]
fn a_development_database_lives_as_long_as_the_command() {
    let mut dev = command(&["dev", "-q"]);
    // It finds or fetches the binaries of Postgres as the tests do.
    for name in [
        "PATH",
        "HOME",
        "EZQ_PG_CACHE",
        "EZQ_PG_BIN",
        "XDG_CACHE_HOME",
    ] {
        if let Some(value) = std::env::var_os(name) {
            dev.env(name, value);
        }
    }
    let mut running = dev.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(running.stdout.take().unwrap()).lines();
    let url = lines.next().unwrap().unwrap();
    ezq(&url, &["queue", "create", "orders"]).is(0, "", "created the queue `orders`\n");

    let interrupt = format!("kill -INT {}", running.id());
    let asked = std::process::Command::new("sh")
        .args(["-c", &interrupt])
        .status();
    assert!(asked.unwrap().success());
    assert!(running.wait().unwrap().success());
    assert_eq!(ezq(&url, &["queue", "list"]).code, 1);
}

#[ezq::test]
async fn a_check_compares_with_limits_in_every_format(database: TestDatabase) {
    let url = database.url();
    bury(&database, "orders", &[("order.paid", "no such account")]).await;
    let app = publisher(&database).await;
    create(&app, "mails").await;
    publish(&app, "orders", "order.paid", "{}").await;

    ezq(&url, &["check"]).is(0, "", "2 queues within limits\n");
    let dead = [
        "check",
        "--max-dead",
        "0",
        "--max-ready",
        "1",
        "--max-age",
        "1h",
        "--max-gone",
        "0",
    ];
    let text = "the queue `orders`: 1 dead (at most 0)";
    ezq(&url, &dead).is(1, &format!("{text}\n"), "");
    let one = [&dead[..], &["--queue", "mails"]].concat();
    ezq(&url, &one).is(0, "", "1 queue within limits\n");
    let aged = ezq(&url, &["check", "--max-age", "0ms", "--max-ready", "0"]);
    assert_eq!((aged.code, aged.stdout.lines().count()), (1, 2), "{aged:?}");

    let json = ezq(&url, &[&dead[..], &["--json"]].concat());
    let problem = json!({"queue": "orders", "limit": "max_dead", "text": text});
    let answer = json!({"is_ok": false, "queues": 2, "consumers": 0, "problems": [problem]});
    let printed: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(printed, answer);
    assert_eq!(json.code, 1);

    let nagios = [&dead[..], &["--format", "nagios"]].concat();
    ezq(&url, &nagios).is(2, &format!("EZQ CRITICAL - {text}\n"), "");
    ezq(&url, &["check", "--format", "nagios"]).is(0, "EZQ OK - 2 queues within limits\n", "");
    let nowhere = "postgres://ada:hunter2@127.0.0.1:1/shop";
    let away = ezq(nowhere, &["check", "--format", "nagios"]);
    assert!(away.stdout.starts_with("EZQ CRITICAL - "), "{away:?}");
    assert_eq!(away.code, 2, "{away:?}");

    let metrics = ezq(&url, &[&dead[..], &["--format", "prometheus"]].concat());
    assert_eq!(metrics.code, 0, "{metrics:?}");
    for line in [
        "ezq_queue_dead{queue=\"orders\"} 1",
        "ezq_queue_ready{queue=\"mails\"} 0",
        "ezq_check_ok 0",
    ] {
        assert!(
            metrics.stdout.lines().any(|found| found == line),
            "{metrics:?}"
        );
    }
    ezq(&url, &["check", "--max-ready", "10000"]).fails(2, "10000 is not in");
    ezq(&url, &["check", "--queue", "mail"]).fails(3, "is it `mails`?");
    ezq(nowhere, &["check"]).fails(1, "error: ");
}

#[test]
fn the_files_for_monitoring_are_printed_whole() {
    let print = |file| crate::program::run(&mut command(&["generate", file]));

    let dashboard = print("grafana");
    assert_eq!(dashboard.code, 0);
    let dashboard: serde_json::Value = serde_json::from_str(&dashboard.stdout).unwrap();
    assert!(!dashboard["panels"].as_array().unwrap().is_empty());

    let alerts = print("alerts");
    assert!(alerts.code == 0 && alerts.stdout.contains("- alert: "));
    print("nothing").fails(2, "grafana");
}

#[test]
fn completions_and_the_manual_name_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let ran = crate::program::run(&mut command(&["completions", shell]));
        assert!(ran.code == 0 && ran.stdout.contains("redrive"), "{shell}");
    }
    let manual = crate::program::run(&mut command(&["man"]));
    for part in [
        ".TH ezq",
        ".SS ezq dlq redrive\n",
        "--rate",
        ".SS ezq check\n",
    ] {
        assert!(manual.stdout.contains(part), "{part}: {}", manual.stdout);
    }
}
