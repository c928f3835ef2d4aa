//! `ezq event`.

use std::io::Write as _;
use std::process::Stdio;

use ezq::testing::TestDatabase;
use serde_json::json;

use crate::program::{Ran, bury, command, create, ezq, publisher};

const UUID: &str = "<uuid>\n";

#[ezq::test]
async fn an_event_is_published_and_its_id_is_printed(database: TestDatabase) {
    let url = database.url();
    create(&publisher(&database).await, "orders").await;

    let publish = [
        "event",
        "publish",
        "--queue",
        "orders",
        "--type",
        "order.paid",
        "--data",
    ];
    let data = r#"{"order": 9007199254740993, "note": "it's 5% <off> ünï"}"#;
    let arguments = [&publish[..], &[data]].concat();
    let ran = ezq(&url, &arguments);
    ran.is(0, UUID, "published in the queue `orders`\n");

    let shown = ezq(&url, &["event", "show", ran.stdout.trim(), "--json"]);
    assert!(shown.stdout.contains("9007199254740993"), "{shown:?}");
    let history = &shown.objects()[0];
    assert_eq!(history["status"], "pending");
    let copy = &history["copies"][0];
    assert_eq!(copy["state"], "waiting");
    assert_eq!(copy["body"]["data"]["note"], "it's 5% <off> ünï");
    assert_eq!(copy["body"]["source"], "ezq");

    let shown = ezq(
        &url,
        &["event", "show", ran.stdout.trim(), "--queue", "orders"],
    );
    assert!(
        shown.stdout.contains("orders 1, order.paid: published"),
        "{shown:?}"
    );
    let missing = ezq(&url, &["event", "show", "it's 5%"]);
    missing.fails(3, "event it's 5%: nothing is kept of it");
}

#[ezq::test]
async fn options_of_an_event_are_kept(database: TestDatabase) {
    let url = database.url();
    create(&publisher(&database).await, "orders").await;
    let options = [
        &[
            "event",
            "publish",
            "--queue",
            "orders",
            "--type",
            "order.paid",
            "--data",
            "null",
        ][..],
        &[
            "--key",
            "account 7",
            "--subject",
            "order/7",
            "--source",
            "/ops",
            "--delay",
            "1h",
        ],
        &["--dedupe-key", "o'7", "--json"],
    ]
    .concat();

    let first = &ezq(&url, &options).objects()[0];
    let again = &ezq(&url, &options).objects()[0];
    assert_eq!(
        (&first["is_duplicate"], &again["is_duplicate"]),
        (&json!(false), &json!(true))
    );
    assert_eq!(first["event_id"], again["event_id"]);

    let held = &ezq(&url, &["queue", "show", "orders", "--json"]).objects()[0];
    assert_eq!((&held["scheduled"], &held["ready"]), (&json!(1), &json!(0)));
    let id = first["event_id"].as_str().unwrap();
    let shown = &ezq(&url, &["event", "show", id, "--json"]).objects()[0];
    let body = &shown["copies"][0]["body"];
    assert_eq!(
        (&body["subject"], &body["source"]),
        (&json!("order/7"), &json!("/ops"))
    );

    let both = [&options[..], &["--at", "2999-01-01T00:00:00Z"]].concat();
    ezq(&url, &both).fails(2, "cannot be used with");
}

#[ezq::test]
async fn a_whole_cloud_event_is_published_from_a_pipe(database: TestDatabase) {
    let url = database.url();
    create(&publisher(&database).await, "orders").await;
    let publish = ["event", "publish", "--queue", "orders"];

    let event = r#"{"specversion": "1.0", "id": "o'7", "source": "/shop", "type": "order.paid", "data": 7}"#;
    piped(&url, &publish, event).is(0, "o'7\n", "published in the queue `orders`\n");
    let shown = &ezq(&url, &["event", "show", "o'7", "--json"]).objects()[0];
    assert_eq!(shown["copies"][0]["event_type"], "order.paid");

    piped(&url, &publish, r#"{"order": 7}"#).fails(2, "error: ");
    piped(&url, &publish, "{").fails(2, "error: ");
    piped(&url, &publish, "").fails(2, "give `--data`, or pipe it in");
    let sourced = [&publish[..], &["--source", "/ops"]].concat();
    piped(&url, &sourced, event).fails(2, "a CloudEvent has its own");
}

#[ezq::test]
async fn what_cannot_be_published_creates_no_queue(database: TestDatabase) {
    let url = database.url();
    create(&publisher(&database).await, "orders").await;
    let publish = |queue, event_type, data| {
        let typed = ["--queue", queue, "--type", event_type, "--data", data];
        ezq(&url, &[&["event", "publish"][..], &typed].concat())
    };

    publish("ordres", "order.paid", "{}").fails(3, "there is no queue `ordres`: is it `orders`?");
    publish("orders", "order.paid", "{").fails(2, "error: ");
    publish("orders", "", "{}").fails(2, "error: ");
    let dry = [
        "event", "publish", "--queue", "orders", "--type", "paid", "--data", "{}", "-n",
    ];
    ezq(&url, &dry).is(0, "", "would publish `paid` to the queue `orders`\n");

    let queues = ezq(&url, &["queue", "list", "--json"]).objects();
    assert_eq!((queues.len(), &queues[0]["ready"]), (1, &json!(0)));
}

#[ezq::test]
async fn the_history_of_a_dead_letter_tells_why(database: TestDatabase) {
    let url = database.url();
    bury(
        &database,
        "orders",
        &[("order.paid", "no \u{1b}[2Jaccount")],
    )
    .await;
    let letter = &ezq(&url, &["dlq", "list", "orders", "--json"]).objects()[0];
    let id = letter["event_id"].as_str().unwrap();

    let history = &ezq(&url, &["event", "show", id, "--json"]).objects()[0];
    let copy = &history["copies"][0];
    assert_eq!(
        (&history["status"], &copy["state"]),
        (&json!("failed"), &json!("dead"))
    );
    assert_eq!(copy["dead_letter_id"], letter["id"]);
    assert_eq!(copy["reason"]["kind"], "fatal");
    assert_eq!(copy["handlers"]["mail"]["state"], "dead");

    let shown = ezq(&url, &["event", "show", id]);
    assert!(shown.stdout.contains("no \\u{1b}[2Jaccount"), "{shown:?}");
    assert!(!shown.stdout.contains('\u{1b}'), "{shown:?}");
}

fn piped(url: &str, arguments: &[&str], text: &str) -> Ran {
    let mut running = command(arguments)
        .env("EZQ_DATABASE_URL", url)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = running.stdin.take().unwrap();
    stdin.write_all(text.as_bytes()).unwrap();
    drop(stdin);

    let ended = running.wait_with_output().unwrap();
    Ran {
        code: ended.status.code().unwrap(),
        stdout: String::from_utf8(ended.stdout).unwrap(),
        stderr: String::from_utf8(ended.stderr).unwrap(),
    }
}
