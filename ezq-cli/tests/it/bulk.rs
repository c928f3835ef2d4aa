//! What is done to all events that match: counted, confirmed, stopped, resumed, and kept in the audit trail.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use ezq::sqlx::{self, AssertSqlSafe, Connection as _, PgConnection};
use ezq::testing::TestDatabase;
use serde_json::json;

use crate::program::{Ran, bury, command, create, ezq, publish, publisher};

/// A queue with many dead letters, which are copies of one.
async fn bury_many(database: &TestDatabase, count: i64) {
    bury(database, "orders", &[("order.paid", "no such account")]).await;
    let copies = format!(
        "insert into pgmq.q_orders_dlq (vt, message, headers)
         select vt, message, headers from pgmq.q_orders_dlq, generate_series(2, {count})"
    );
    execute(&database.url(), &copies).await;
}

async fn execute(url: &str, statement: &str) {
    let mut own = PgConnection::connect(url).await.unwrap();
    let statement = sqlx::raw_sql(AssertSqlSafe(statement));
    statement.execute(&mut own).await.unwrap();
}

fn counts(url: &str) -> (i64, i64) {
    let shown = ezq(url, &["queue", "show", "orders", "--json"]).objects();
    let count = |state: &str| shown[0][state].as_i64().unwrap();
    (count("ready"), count("dead"))
}

/// A redrive of everything that is slow after its first step, once that step is taken.
fn slow_redrive(url: &str) -> (Child, String) {
    let redrive = ["dlq", "redrive", "orders", "--all", "-y", "--rate", "10"];
    let mut running = command(&redrive)
        .env("EZQ_DATABASE_URL", url)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut said = BufReader::new(running.stderr.as_mut().unwrap());
    said.read_line(&mut line).unwrap();
    let id = line.strip_prefix("the operation ").unwrap();
    let (id, rest) = id.split_once(' ').unwrap();
    assert_eq!(rest, "begins; Ctrl-C stops it\n");
    let limit = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while counts(url).0 < 100 {
        assert!(std::time::Instant::now() < limit, "no step is taken");
    }
    (running, id.to_owned())
}

fn signal(running: &Child, name: &str) {
    let id = running.id().to_string();
    assert!(
        Command::new("kill")
            .args([name, &id])
            .status()
            .unwrap()
            .success()
    );
}

fn ended(running: Child) -> Ran {
    let output = running.wait_with_output().unwrap();
    Ran {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

#[ezq::test]
async fn a_bulk_operation_that_is_interrupted_is_stopped_and_resumed(database: TestDatabase) {
    bury_many(&database, 250).await;
    let url = database.url();
    let (running, id) = slow_redrive(&url);
    signal(&running, "-INT");
    let stopped = ended(running);
    let goes_on = format!(
        "error: stopped: redriven 100 of 250 dead letters of the queue `orders` so far. \
         `ezq operation resume {id}` goes on\n"
    );
    stopped.is(1, "", &crate::program::redacted(&goes_on));
    assert_eq!(counts(&url), (100, 150));

    let listed = &ezq(&url, &["operation", "list", "--json"]).objects()[0];
    assert_eq!(
        (&listed["operation"], &listed["status"], &listed["done"]),
        (&json!(id), &json!("stopped"), &json!(100))
    );
    let dry = ezq(&url, &["operation", "resume", &id, "-n"]);
    let text = "would go on: redriven 100 of 250 dead letters of the queue `orders` so far\n";
    dry.is(0, "", text);
    let resumed = ezq(&url, &["operation", "resume", &id, "--by", "Eve"]);
    resumed.is(0, "", "redriven: 250 dead letters of the queue `orders`\n");
    assert_eq!(counts(&url), (250, 0));

    let audit = ezq(&url, &["audit", "list", "--queue", "orders", "--json"]).objects();
    let actions: Vec<_> = audit
        .iter()
        .map(|entry| (entry["action"].as_str(), entry["by"].as_str()))
        .collect();
    assert_eq!(
        actions,
        [
            (Some("end_operation"), Some("ada@box")),
            (Some("resume_operation"), Some("Eve")),
            (Some("stop_operation"), Some("ada@box")),
            (Some("redrive"), Some("ada@box")),
        ]
    );
    let again = ezq(&url, &["operation", "resume", &id]);
    assert_eq!(again.code, 0, "{again:?}");
    assert!(again.stderr.contains("has ended already"), "{again:?}");
}

#[ezq::test]
async fn a_bulk_operation_whose_program_is_killed_goes_on_and_does_nothing_twice(
    database: TestDatabase,
) {
    bury_many(&database, 250).await;
    let url = database.url();
    let (mut running, id) = slow_redrive(&url);
    signal(&running, "-KILL");
    running.wait().unwrap();

    let shown = &ezq(&url, &["operation", "show", &id, "--json"]).objects()[0];
    assert_eq!(
        (&shown["status"], &shown["done"], &shown["total"]),
        (&json!("running"), &json!(100), &json!(250))
    );
    let stopped = ezq(&url, &["operation", "stop", &id, "--json"]).objects();
    let answer = json!({"operation": id, "status": "stopped", "changed": true, "dry_run": false});
    assert_eq!(stopped, [answer]);
    let again = ezq(&url, &["operation", "stop", &id]);
    let text = "the operation <uuid> does not run: it is stopped\n";
    again.is(0, "", text);
    assert_eq!(counts(&url), (100, 150));

    let resumed = ezq(&url, &["operation", "resume", &id, "--json"]).objects();
    assert_eq!(resumed[0]["done"], 250, "{resumed:?}");
    assert_eq!(counts(&url), (250, 0));
}

#[ezq::test]
async fn an_operation_that_does_not_exist_is_not_found(database: TestDatabase) {
    let url = database.url();
    ezq(&url, &["operation", "list"]).is(0, "", "no operations\n");
    ezq(&url, &["audit", "list"]).is(0, "", "nothing was done yet\n");
    for verb in ["show", "stop", "resume"] {
        for id in ["x", "o'ne", "<b>", "100%", "", "\u{1f980}"] {
            let text = format!("there is no operation `{id}`: `ezq operation list` lists them");
            ezq(&url, &["operation", verb, id]).fails(3, &text);
        }
    }
    ezq(&url, &["audit", "list", "--queue", "orders"]).fails(3, "there is no queue `orders`");
    ezq(&url, &["audit", "list", "--queue", "a;b"]).fails(2, "a;b");
}

#[ezq::test]
async fn events_are_changed_by_filter(database: TestDatabase) {
    let url = database.url();
    let app = publisher(&database).await;
    create(&app, "orders").await;
    create(&app, "mail").await;
    for event_type in ["order.paid", "order.paid", "order.sent", "order's <100%>"] {
        publish(&app, "orders", event_type, "{}").await;
    }

    let which = "which events? Give a number, a filter such as `--type`, or `--all`";
    let state = "in which state? Give `--state`";
    for (arguments, text) in [
        (&["discard", "orders"][..], which),
        (&["retry", "orders"], which),
        (&["move", "orders", "--to", "mail"], which),
        (&["discard", "orders", "--all"], state),
        (&["move", "orders", "--to", "mail", "--type", "x"], state),
        (
            &["retry", "orders", "1", "--type", "x"],
            "either a number or a filter",
        ),
        (
            &["retry", "orders", "1", "--all"],
            "either a number or `--all`",
        ),
        (
            &["retry", "orders", "--all", "--key", "x"],
            "either a filter or `--all`",
        ),
        (
            &["retry", "orders", "1", "--state", "ready"],
            "a number needs no state",
        ),
        (
            &["retry", "orders", "1", "--rate", "5"],
            "cannot be used with",
        ),
        (
            &["retry", "orders", "--all", "--state", "ready"],
            "does not fit ready events",
        ),
        (
            &["discard", "orders", "--all", "--state", "leased"],
            "a worker has leased events",
        ),
        (
            &["move", "orders", "1", "--to", "orders"],
            "the queue that the events are in",
        ),
    ] {
        ezq(&url, &[&["event"], arguments].concat()).fails(2, text);
    }
    let lost = ["event", "move", "orders", "1", "--to", "mial"];
    ezq(&url, &lost).fails(3, "there is no queue `mial`: is it `mail`?");

    let paid = ["--type", "order.paid", "--state", "ready"];
    let move_paid = [&["event", "move", "orders", "--to", "mail"][..], &paid].concat();
    let text = "would move 2 ready events of the queue `orders` to the queue `mail`\n";
    ezq(&url, &[&move_paid[..], &["-n"]].concat()).is(0, "", text);
    let text = "this moves 2 ready events of the queue `orders` to the queue `mail`: not without";
    ezq(&url, &move_paid).fails(4, text);
    let text = "moved: 2 ready events of the queue `orders` to the queue `mail`\n";
    ezq(&url, &[&move_paid[..], &["-y"]].concat()).is(0, "", text);

    let hostile = [
        "event",
        "discard",
        "orders",
        "--type",
        "order's <100%>",
        "--state",
        "ready",
    ];
    let text = "discarded: 1 ready event of the queue `orders`\n";
    ezq(&url, &[&hostile[..], &["-y"]].concat()).is(0, "", text);
    let left = ezq(&url, &["event", "list", "orders", "--json"]).objects();
    assert_eq!(
        (left.len(), &left[0]["event_type"]),
        (1, &json!("order.sent"))
    );
    let none = ["event", "retry", "orders", "--all", "-y"];
    ezq(&url, &none).is(0, "", "retried: 0 retrying events of the queue `orders`\n");
}

#[ezq::test]
async fn one_event_or_dead_letter_is_moved_or_discarded(database: TestDatabase) {
    let url = database.url();
    bury(&database, "orders", &[("order.paid", "no such account"); 2]).await;
    let app = publisher(&database).await;
    create(&app, "mail").await;
    publish(&app, "orders", "order.sent", "{}").await;

    let move_one = [
        "event",
        "move",
        "orders",
        "3",
        "--to",
        "mail",
        "--reason",
        "it's 100 % <wrong>",
    ];
    let text = "would move the event 3 of the queue `orders` to the queue `mail`, if it is there\n";
    ezq(&url, &[&move_one[..], &["-n"]].concat()).is(0, "", text);
    let text = "moved the event 3 of the queue `orders` to the queue `mail`\n";
    ezq(&url, &move_one).is(0, "", text);
    ezq(&url, &move_one).fails(3, "there is no event 3 in the queue `orders`");
    let audit = &ezq(&url, &["audit", "list", "--json"]).objects()[0];
    assert_eq!(
        (&audit["reason"], &audit["message_id"], &audit["target"]),
        (&json!("it's 100 % <wrong>"), &json!("3"), &json!("mail"))
    );

    let letter = [
        "event", "move", "orders", "1", "--state", "dead", "--to", "mail", "--json",
    ];
    let answer = json!({
        "queue": "orders", "id": "1", "changed": true, "target": "mail", "dry_run": false,
    });
    assert_eq!(ezq(&url, &letter).objects(), [answer]);
    let discard = ["event", "discard", "orders", "2", "--state", "dead"];
    ezq(&url, &discard).fails(4, "this deletes the dead letter 2 of the queue `orders`");
    let text = "discarded the dead letter 2 of the queue `orders`\n";
    ezq(&url, &[&discard[..], &["-y"]].concat()).is(0, "", text);
    let retry = ["event", "retry", "orders", "2", "--state", "dead"];
    ezq(&url, &retry).fails(2, "does not fit");
    let moved = ezq(&url, &["event", "list", "mail", "--json"]).objects();
    assert_eq!(moved.len(), 2, "{moved:?}");
}

#[ezq::test]
async fn an_export_goes_on_over_pages(database: TestDatabase) {
    bury_many(&database, 250).await;
    let exported = ezq(&database.url(), &["dlq", "export", "orders"]);
    assert_eq!(exported.stderr, "");
    let ids: Vec<_> = exported
        .objects()
        .iter()
        .map(|letter| letter["id"].as_str().unwrap().parse::<i64>().unwrap())
        .collect();
    assert_eq!(ids, Vec::from_iter(1..=250));
}

/// A terminal is made by `script`, of util-linux.
#[cfg(target_os = "linux")]
#[ezq::test]
async fn progress_is_drawn_for_a_terminal_only(database: TestDatabase) {
    if Command::new("script").arg("--version").output().is_err() {
        let is_required = std::env::var_os("REQUIRE_ALL_TESTS").is_some();
        assert!(!is_required, "`script` of util-linux is missing");
        eprintln!("skipped: `script` of util-linux is missing");
        return;
    }
    bury_many(&database, 250).await;
    let url = database.url();
    for (options, is_drawn) in [("", true), (" -q", false), (" --json", false)] {
        let export = command(&["dlq", "export", "orders"]);
        let program = export.get_program().to_str().unwrap();
        let line = format!("{program} dlq export orders{options} > /dev/null");
        let ran = Command::new("script")
            .args(["-qec", &line, "/dev/null"])
            .env("EZQ_DATABASE_URL", &url)
            .env("TERM", "xterm")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let drawn = String::from_utf8(ran.stdout).unwrap();
        assert_eq!(
            drawn.contains("exporting ["),
            is_drawn,
            "{options}: {drawn}"
        );
        assert!(is_drawn || drawn.is_empty(), "{options}: {drawn}");
    }
}
