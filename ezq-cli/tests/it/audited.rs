//! What an operator does by the program leaves an entry in the audit trail: each verb is in one of the lists
//! here, and those that act are run. A new verb that is in no list fails the test.

use std::collections::BTreeSet;
use std::time::Duration;

use ezq::handler::Handler;
use ezq::message::Retention;
use ezq::schedule::Schedule;
use ezq::testing::TestDatabase;
use ezq::{AnyEvent, Event};
use serde::{Deserialize, Serialize};

use crate::program::{bury, create, ezq, publish, publisher};

#[derive(Event, Serialize, Deserialize)]
#[event(type = "report.due", queue = "reports")]
struct ReportDue {}

/// What changes nothing.
const LOOKS: [&str; 30] = [
    "audit list",
    "capture list",
    "check",
    "completions",
    "consumer list",
    "dlq export",
    "dlq list",
    "dlq show",
    "doctor",
    "errors",
    "event list",
    "event show",
    "event tail",
    "event types",
    "generate",
    "man",
    "migrate print",
    "migrate status",
    "operation list",
    "operation show",
    // It waits.
    "queue drain",
    "queue list",
    "queue show",
    "replay list",
    "schedule list",
    "source list",
    "subscription list",
    "subscription test",
    // It starts a server of its own, and the dashboard signs what is done there.
    "dev",
    "ui",
];

/// What is recorded elsewhere: `ezq.migrations` has each change with its time.
const ELSEWHERE: [&str; 1] = ["migrate up"];

/// The verbs that act, in an order in which each finds what it acts on, with what is recorded.
const ACTS: [(&str, &[&str], &str); 21] = [
    ("queue create", &["shelf"], "create_queue"),
    ("queue pause", &["orders"], "pause"),
    ("queue resume", &["orders"], "resume"),
    (
        "event publish",
        &["--queue", "orders", "--type", "order.sent", "--data", "7"],
        "publish",
    ),
    ("event cancel", &["orders", "5"], "cancel"),
    // One that runs is discarded as well, by cancelling it.
    ("event discard", &["orders", "6"], "discard"),
    ("event move", &["orders", "7", "--to", "mail"], "move"),
    (
        "event retry",
        &["orders", "--all", "--state", "scheduled"],
        "retry_now",
    ),
    ("dlq redrive", &["orders", "1"], "redrive"),
    ("dlq discard", &["orders", "2"], "discard"),
    ("operation stop", &["begun"], "stop_operation"),
    ("operation resume", &["begun"], "resume_operation"),
    ("schedule run", &["report"], "run_schedule"),
    ("schedule resume", &["report"], "resume"),
    ("schedule pause", &["report"], "pause"),
    (
        "subscription add",
        &["mail", "order.*", "--app", "shop"],
        "subscribe",
    ),
    (
        "subscription remove",
        &["mail", "order.*", "--app", "shop"],
        "unsubscribe",
    ),
    ("subscription prune", &["--app", "mailer"], "prune"),
    (
        "replay start",
        &["again", "--queue", "archived", "--all"],
        "replay",
    ),
    ("queue purge", &["orders"], "purge"),
    ("queue partition", &["orders", "4"], "partition"),
];

/// The last one: nothing else finds the queue after it.
const LAST: (&str, &[&str], &str) = ("queue drop", &["mail", "--force"], "drop_queue");

#[ezq::test]
async fn every_verb_that_acts_is_recorded(database: TestDatabase) {
    let url = database.url();
    stage(&database).await;
    let mut before = trail(&url).len();
    for (verb, arguments, action) in ACTS.into_iter().chain([LAST]) {
        let mut all: Vec<&str> = verb.split(' ').collect();
        all.extend(arguments);
        all.push("--yes");
        let ran = ezq(&url, &all);
        assert_eq!(ran.code, 0, "{verb}: {ran:?}");

        let now = trail(&url);
        let newest = &now[..now.len() - before];
        let is_recorded = newest
            .iter()
            .any(|(found, by)| found == action && by == "ada@box");
        assert!(is_recorded, "{verb}: {newest:?}");
        before = now.len();
    }

    let mut known: BTreeSet<&str> = ACTS
        .into_iter()
        .chain([LAST])
        .map(|(verb, ..)| verb)
        .collect();
    known.extend(LOOKS);
    known.extend(ELSEWHERE);
    let found = verbs();
    let found: BTreeSet<&str> = found.iter().map(String::as_str).collect();
    assert_eq!(found, known, "does a new verb act? Then it is recorded");
}

#[ezq::test]
async fn a_dry_run_is_not_recorded(database: TestDatabase) {
    let url = database.url();
    stage(&database).await;
    let before = trail(&url);
    for (verb, arguments, _) in ACTS.into_iter().chain([LAST]) {
        // What another verb would have added is not there.
        if verb == "subscription remove" {
            continue;
        }
        let mut all: Vec<&str> = verb.split(' ').collect();
        all.extend(arguments);
        all.push("--dry-run");
        let ran = ezq(&url, &all);
        assert_eq!(ran.code, 0, "{verb}: {ran:?}");
        assert_eq!(trail(&url), before, "{verb}");
    }
}

/// Events that wait and are dead, an operation that has begun, an archive, a schedule and subscriptions.
async fn stage(database: &TestDatabase) {
    let letters = [
        ("order.paid", "a"),
        ("order.paid", "b"),
        ("order.paid", "c"),
    ];
    bury(database, "orders", &letters).await;
    let archiving = database
        .app(|app| {
            app.queue("archived")
                .retention("archived", Retention::ARCHIVE)
                .register(Handler::on("take", async |_: AnyEvent| {}))
        })
        .await
        .unwrap();
    publish(&archiving, "archived", "order.paid", "1").await;
    archiving.drain_queue("archived").await.unwrap();
    archiving.close().await;

    let app = publisher(database).await;
    create(&app, "mail").await;
    for number in 0..6 {
        publish(&app, "orders", "order.paid", &number.to_string()).await;
    }
    let later = "UPDATE pgmq.q_orders SET vt = now() + interval '1 hour' WHERE msg_id = 8";
    ezq::sqlx::raw_sql(later).execute(app.pool()).await.unwrap();
    let dead = app
        .events("orders")
        .unwrap()
        .all(ezq::admin::EventState::Dead);
    let begun = dead.discard().start().await.unwrap().id;
    let name = "UPDATE ezq.operations SET id = 'begun' WHERE id = $1";
    let renamed = ezq::sqlx::query(name).bind(begun).execute(app.pool());
    renamed.await.unwrap();

    let hourly = Schedule::every(Duration::from_secs(3_600));
    let shop = database.builder().without_discovered_handlers().app("shop");
    let shop = shop.schedule("report", hourly, &ReportDue {});
    let shop = shop.connect().await.unwrap();
    shop.schedules().unwrap().pause("report").await.unwrap();
    let mailer = database
        .builder()
        .without_discovered_handlers()
        .app("mailer");
    let mailer = mailer.connect().await.unwrap();
    mailer
        .subscriptions()
        .unwrap()
        .add("mail", "order.#")
        .await
        .unwrap();
}

/// What was done, newest first, and by whom.
fn trail(url: &str) -> Vec<(String, String)> {
    let listed = ezq(url, &["audit", "list", "--limit", "1000", "--json"]).objects();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    listed
        .iter()
        .map(|entry| (text(&entry["action"]), text(&entry["by"])))
        .collect()
}

/// Every verb, as the help lists them: `noun verb`, or a noun that has none.
fn verbs() -> BTreeSet<String> {
    let mut verbs = BTreeSet::new();
    for noun in commands(&["--help"]) {
        let of_noun = commands(&[&noun, "--help"]);
        if of_noun.is_empty() {
            verbs.insert(noun);
        } else {
            verbs.extend(of_noun.iter().map(|verb| format!("{noun} {verb}")));
        }
    }
    verbs
}

fn commands(arguments: &[&str]) -> Vec<String> {
    let help = ezq("", arguments).stdout;
    let Some((_, list)) = help.split_once("\nCommands:\n") else {
        return Vec::new();
    };
    let lines = list.lines().take_while(|line| !line.is_empty());
    lines
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect()
}
