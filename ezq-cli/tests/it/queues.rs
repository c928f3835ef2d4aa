//! `ezq queue`.

use std::process::{Command, Stdio};

use ezq::testing::TestDatabase;
use serde_json::{Value, json};

use crate::program::{bury, command, create, ezq, publish, publisher, run};

#[ezq::test]
async fn a_queue_is_created_once(database: TestDatabase) {
    let url = database.url();
    let create = ["queue", "create", "orders"];
    let dry = ["queue", "create", "orders", "--dry-run"];

    ezq(&url, &dry).is(0, "", "would create the queue `orders`\n");
    ezq(&url, &create).is(0, "", "created the queue `orders`\n");
    ezq(&url, &create).is(0, "", "the queue `orders` exists already\n");
    let again = ezq(&url, &["queue", "create", "orders", "--json"]);
    let expected = "{\"created\":false,\"dry_run\":false,\"queue\":\"orders\"}\n";
    again.is(0, expected, "");
}

#[ezq::test]
async fn a_list_shows_what_queues_hold(database: TestDatabase) {
    bury(&database, "orders", &[("order.paid", "no such account")]).await;
    let app = publisher(&database).await;
    create(&app, "invoices").await;
    publish(&app, "orders", "order.paid", "{}").await;
    ezq(&database.url(), &["queue", "pause", "orders"]);

    let table = "\
QUEUE     READY  LEASED  RETRYING  SCHEDULED  DEAD  OLDEST  STATE
invoices  0      0       0         0          0     -       -
orders    1      0       0         0          1     -       paused
";
    ezq(&database.url(), &["queue", "list"]).is(0, table, "");

    let objects = ezq(&database.url(), &["queue", "list", "--json"]).objects();
    let mut orders = objects[1].clone();
    orders["at"].take();
    orders["pauses"][0]["since"].take();
    let pause = json!({"handler": null, "since": null, "by": "ada@box", "reason": null});
    let expected = json!({
        "queue": "orders", "at": null, "ready": 1, "leased": 0, "retrying": 0, "scheduled": 0,
        "dead": 1, "capped": [], "oldest_claimable_seconds": null, "is_paused": true,
        "pauses": [pause], "partitions": 1, "unreadable": null,
    });
    assert_eq!(orders, expected);
}

#[ezq::test]
async fn who_acts_is_known_without_variables(database: TestDatabase) {
    let url = database.url();
    create(&publisher(&database).await, "orders").await;
    let mut pause = command(&["queue", "pause", "orders", "-q"]);
    pause.env_remove("USER").env("EZQ_DATABASE_URL", &url);
    run(&mut pause).is(0, "", "");
    let account = Command::new("id").arg("-un").output().unwrap();
    let account = String::from_utf8(account.stdout).unwrap();
    let entry = &ezq(&url, &["audit", "list", "--json"]).objects()[0];
    assert_eq!(entry["by"], format!("{}@box", account.trim()));
}

#[ezq::test]
async fn a_queue_and_a_handler_are_paused_and_resumed(database: TestDatabase) {
    let url = database.url();
    create(&publisher(&database).await, "orders").await;

    let pause = [
        "queue",
        "pause",
        "orders",
        "--by",
        "Ada",
        "--reason",
        "the shop's 5% <off>",
    ];
    let dry = [&pause[..], &["--dry-run"]].concat();
    ezq(&url, &dry).is(0, "", "would pause the queue `orders`\n");
    ezq(&url, &pause).is(0, "", "paused the queue `orders`\n");
    ezq(&url, &pause).is(0, "", "the queue `orders` is paused already\n");
    let handler = ["queue", "pause", "orders", "--handler", "mail"];
    ezq(&url, &handler).is(0, "", "paused the handler `mail` of the queue `orders`\n");

    let shown = "\
queue      orders
ready      0
leased     0
retrying   0
scheduled  0
dead       0
oldest     -
paused     since <time> by Ada: the shop's 5% <off>
paused     the handler `mail`, since <time> by ada@box
";
    ezq(&url, &["queue", "show", "orders"]).is(0, shown, "");

    let resume = ["queue", "resume", "orders"];
    let dry = [&resume[..], &["--dry-run"]].concat();
    ezq(&url, &dry).is(0, "", "would resume the queue `orders`\n");
    ezq(&url, &resume).is(0, "", "resumed the queue `orders`\n");
    ezq(&url, &resume).is(0, "", "the queue `orders` is not paused\n");

    let listed = ezq(&url, &["queue", "list"]);
    assert!(listed.stdout.ends_with("paused: mail\n"), "{listed:?}");
    let handler = ["queue", "resume", "orders", "--handler", "mail", "--json"];
    let answer = &ezq(&url, &handler).objects()[0];
    let expected = json!({"queue": "orders", "handler": "mail", "changed": true, "dry_run": false});
    assert_eq!(*answer, expected);
}

#[ezq::test]
async fn a_purge_needs_a_confirmation_and_leaves_dead_letters(database: TestDatabase) {
    let url = database.url();
    bury(&database, "orders", &[("order.paid", "no such account")]).await;
    let app = publisher(&database).await;
    for _ in 0..3 {
        publish(&app, "orders", "order.paid", "{}").await;
    }

    let refused = "error: this deletes 3 events of the queue `orders`: not without confirmation. \
                   Repeat the command with `--yes`\n";
    ezq(&url, &["queue", "purge", "orders"]).is(4, "", refused);
    let dry = ezq(&url, &["queue", "purge", "orders", "--dry-run"]);
    dry.is(0, "", "would delete 3 events of the queue `orders`\n");
    let json = ezq(&url, &["queue", "purge", "orders", "--yes", "--json"]);
    json.is(
        0,
        "{\"dry_run\":false,\"purged\":3,\"queue\":\"orders\"}\n",
        "",
    );

    let left = ezq(&url, &["queue", "show", "orders", "--json"]).objects();
    assert_eq!(
        (&left[0]["ready"], &left[0]["dead"]),
        (&json!(0), &json!(1))
    );
}

#[ezq::test]
async fn a_mistyped_queue_is_answered_with_the_one_that_was_meant(database: TestDatabase) {
    let url = database.url();
    create(&publisher(&database).await, "orders").await;
    for verb in ["show", "pause", "resume", "purge"] {
        let text = "there is no queue `ordres`: is it `orders`?";
        ezq(&url, &["queue", verb, "ordres", "--yes"]).fails(3, text);
    }
    // Nothing was created by the way.
    assert_eq!(ezq(&url, &["queue", "list", "--json"]).objects().len(), 1);
}

#[ezq::test]
async fn the_rates_of_queues_are_those_between_two_looks(database: TestDatabase) {
    let app = publisher(&database).await;
    create(&app, "orders").await;
    let url = database.url();
    let listed = ezq(&url, &["queue", "list", "--rates", "100ms"]);
    let lines: Vec<&str> = listed.stdout.lines().collect();
    assert!(
        lines[0].ends_with("STATE  STORED/S  REMOVED/S"),
        "{listed:?}"
    );
    assert!(lines[1].ends_with("-      0.0       0.0"), "{listed:?}");

    let mut running = command(&["queue", "list", "--rates", "3s", "--json"])
        .env("EZQ_DATABASE_URL", &url)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // The program looks first, and again when these are counted: the statistics are a second late.
    let mut is_running = true;
    while is_running {
        publish(&app, "orders", "order.paid", "{}").await;
        is_running = running.try_wait().unwrap().is_none();
    }
    let listed = running.wait_with_output().unwrap();
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert!(
        listed["stored_per_second"].as_f64().unwrap() > 0.0,
        "{listed}"
    );
    assert_eq!(listed["removed_per_second"], json!(0.0), "{listed}");
    ezq(&url, &["queue", "list", "--rates", "soon"]).fails(2, "use a whole number and a unit");
}

#[ezq::test]
async fn every_command_on_a_queue_suggests_the_one_that_was_meant(database: TestDatabase) {
    let url = database.url();
    create(&publisher(&database).await, "orders").await;
    let commands: [&[&str]; 22] = [
        &["queue", "show", "ordres"],
        &["queue", "pause", "ordres"],
        &["queue", "resume", "ordres"],
        &["queue", "drain", "ordres"],
        &["queue", "drop", "ordres", "--yes"],
        &["queue", "purge", "ordres", "--yes"],
        &[
            "event", "publish", "--queue", "ordres", "--type", "t", "--data", "1",
        ],
        &["event", "list", "ordres"],
        &["event", "tail", "ordres"],
        &["event", "cancel", "ordres", "1"],
        &["event", "discard", "ordres", "1", "--yes"],
        &["event", "retry", "ordres", "1"],
        &["event", "move", "orders", "1", "--to", "ordres"],
        &["dlq", "list", "ordres"],
        &["dlq", "show", "ordres", "1"],
        &["dlq", "redrive", "ordres", "1"],
        &["dlq", "discard", "ordres", "--all", "--yes"],
        &["dlq", "export", "ordres"],
        &["errors", "ordres"],
        &["audit", "list", "--queue", "ordres"],
        &["subscription", "add", "ordres", "order.*", "--app", "shop"],
        &["replay", "start", "again", "--queue", "ordres", "--all"],
    ];
    for arguments in commands {
        let ran = ezq(&url, arguments);
        assert!(
            ran.stderr.contains("is it `orders`?"),
            "{arguments:?}: {ran:?}"
        );
        assert_eq!(ran.code, 3, "{arguments:?}: {ran:?}");
    }
    ezq(&url, &["check", "--queue", "ordres"]).fails(3, "is it `orders`?");
    ezq(&url, &["event", "types", "--queue", "ordres"]).fails(3, "is it `orders`?");
}
