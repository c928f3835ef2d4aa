//! `ezq event list`, `cancel`, `discard` and `retry`, and `ezq errors`.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use ezq::testing::TestDatabase;
use serde_json::json;

use crate::program::{bury, command, create, ezq, publish, publisher, redacted};

#[ezq::test]
async fn events_are_listed_by_state_and_filter(database: TestDatabase) {
    let url = database.url();
    bury(&database, "orders", &[("order.paid", "no such account")]).await;
    let app = publisher(&database).await;
    publish(
        &app,
        "orders",
        "order.sent",
        r#"{"order": 9007199254740993}"#,
    )
    .await;

    let table = "\
ID  TYPE        STATE  AT                    DELIVERIES  KEY  ERROR
2   order.sent  ready  <time>  0           -    -
1   order.paid  dead   <time>  1           -    no such account
";
    ezq(&url, &["event", "list", "orders"]).is(0, table, "");
    let more = "there are more: `--limit` sets how many are listed\n";
    let first = ezq(&url, &["event", "list", "orders", "--limit", "1"]);
    assert_eq!((first.code, first.stderr.as_str()), (0, more), "{first:?}");

    let dead = ezq(
        &url,
        &["event", "list", "orders", "--state", "dead", "--json"],
    )
    .objects();
    assert_eq!(dead.len(), 1, "{dead:?}");
    assert_eq!(
        (&dead[0]["state"], &dead[0]["dead_letter_id"]),
        (&json!("dead"), &json!("1"))
    );
    let sent = ezq(
        &url,
        &["event", "list", "orders", "--type", "order.sent", "--json"],
    );
    assert!(sent.stdout.contains("9007199254740993"), "{sent:?}");
    assert_eq!(sent.objects().len(), 1, "{sent:?}");

    ezq(&url, &["event", "list", "orders", "--handler", "cash"]).is(0, "", "no events\n");
    ezq(&url, &["event", "list", "orders", "--state", "lost"]).fails(2, "use `ready`");
    ezq(&url, &["event", "list", "ordres"]).fails(3, "is it `orders`?");
}

#[ezq::test]
async fn one_event_is_cancelled_discarded_or_tried_at_once(database: TestDatabase) {
    let url = database.url();
    let app = publisher(&database).await;
    create(&app, "orders").await;
    for _ in 0..3 {
        publish(&app, "orders", "order.paid", "{}").await;
    }

    let cancel = ["event", "cancel", "orders", "1", "--reason", "a test"];
    let dry = [&cancel[..], &["-n"]].concat();
    ezq(&url, &dry).is(
        0,
        "",
        "would cancel the event 1 of the queue `orders`, if it is there\n",
    );
    ezq(&url, &cancel).is(0, "", "cancelled the event 1 of the queue `orders`\n");
    ezq(&url, &cancel).is(
        0,
        "",
        "the event 1 of the queue `orders` is the dead letter 1 already\n",
    );
    let letters = ezq(&url, &["dlq", "list", "orders", "--json"]).objects();
    assert_eq!(letters[0]["reason"]["kind"], "cancelled", "{letters:?}");

    let discard = ["event", "discard", "orders", "2"];
    ezq(&url, &discard).fails(4, "this deletes the event 2 of the queue `orders`");
    let done = ezq(&url, &[&discard[..], &["--yes", "--json"]].concat()).objects();
    let expected = json!({"queue": "orders", "id": "2", "outcome": "discarded", "dry_run": false});
    assert_eq!(done, [expected]);
    ezq(&url, &[&discard[..], &["--yes"]].concat()).fails(3, "there is no event 2");

    ezq(&url, &["event", "retry", "orders", "3"]).is(
        0,
        "",
        "the event 3 of the queue `orders` is due now\n",
    );
    ezq(&url, &["event", "retry", "orders", "7"]).fails(3, "there is no event 7");
    assert_eq!(
        ezq(
            &url,
            &["event", "list", "orders", "--state", "ready", "--json"]
        )
        .objects()
        .len(),
        1
    );
}

#[ezq::test]
async fn errors_are_grouped(database: TestDatabase) {
    let url = database.url();
    bury(
        &database,
        "orders",
        &[
            ("order.paid", "no account 7"),
            ("order.paid", "no account 8"),
            ("order.sent", "no address"),
        ],
    )
    .await;
    let table = "\
HANDLER  ERROR         DEAD  RETRYING  FIRST                 LAST
mail     no account #  2     0         <time>  <time>
mail     no address    1     0         <time>  <time>
";
    ezq(&url, &["errors", "orders"]).is(0, table, "");
    let first = ezq(&url, &["errors", "orders", "--limit", "1"]);
    assert_eq!(
        first.stderr,
        "1 more group: `--limit` sets how many are listed\n"
    );
    let groups = ezq(&url, &["errors", "orders", "--json"]).objects();
    assert_eq!(
        (&groups[0]["count"], &groups[0]["example"]),
        (&json!(2), &json!("no account 8"))
    );
}

#[ezq::test]
async fn the_newest_events_are_shown_and_those_that_follow_until_the_program_is_stopped(
    database: TestDatabase,
) {
    let url = database.url();
    let app = publisher(&database).await;
    create(&app, "orders").await;
    for number in 1..=3 {
        publish(&app, "orders", "order.paid", &number.to_string()).await;
    }

    let last = ezq(&url, &["event", "tail", "orders", "--last", "2"]);
    let lines: Vec<_> = last.stdout.lines().map(redacted).collect();
    assert_eq!(lines.len(), 2, "{last:?}");
    assert!(lines[0].starts_with("<time>  2  order.paid  {"), "{last:?}");
    let sent = ezq(&url, &["event", "tail", "orders", "--type", "order.sent"]);
    sent.is(0, "", "");

    let mut running = command(&["event", "tail", "orders", "-f", "--last", "0", "--json"])
        .env("EZQ_DATABASE_URL", &url)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut notes = BufReader::new(running.stderr.take().unwrap()).lines();
    let note = notes.next().unwrap().unwrap();
    assert_eq!(note, "following the queue `orders`; Ctrl-C ends it");
    publish(&app, "orders", "order.sent", "4").await;
    let mut shown = BufReader::new(running.stdout.take().unwrap()).lines();
    let event: serde_json::Value = serde_json::from_str(&shown.next().unwrap().unwrap()).unwrap();
    assert_eq!(
        (&event["message_id"], &event["event_type"]),
        (&json!("4"), &json!("order.sent"))
    );
    // It was not leased.
    assert_eq!(
        (&event["state"], &event["deliveries"]),
        (&json!("ready"), &json!(0))
    );

    let stop = std::process::Command::new("kill")
        .args(["-INT", &running.id().to_string()])
        .status();
    assert!(stop.unwrap().success());
    assert!(running.wait().unwrap().success());
}
