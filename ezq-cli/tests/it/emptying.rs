//! `ezq queue drain` and `ezq queue drop`.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use ezq::testing::TestDatabase;
use serde_json::json;

use crate::program::{bury, command, create, ezq, publish, publisher};

const STILL: &str =
    "nobody consumes the queue `orders`, as far as consumers tell: it does not empty by itself\n";

#[ezq::test]
async fn draining_waits_until_the_queue_is_empty(database: TestDatabase) {
    let url = database.url();
    let app = publisher(&database).await;
    create(&app, "orders").await;
    ezq(&url, &["queue", "drain", "orders", "-q"]).is(0, "", "");
    publish(&app, "orders", "order.paid", "{}").await;

    let dry = "would wait for the queue `orders`: 1 ready\n";
    ezq(&url, &["queue", "drain", "orders", "-n"]).is(0, "", dry);
    let late = ezq(&url, &["queue", "drain", "orders", "--timeout", "10ms"]);
    let said =
        format!("{STILL}1 ready left\nerror: the queue `orders` is not drained: 1 ready left\n");
    late.is(1, "", &said);

    let mut running = command(&["queue", "drain", "orders"])
        .env("EZQ_DATABASE_URL", &url)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(running.stderr.take().unwrap()).lines();
    assert_eq!(format!("{}\n", said.next().unwrap().unwrap()), STILL);
    assert_eq!(said.next().unwrap().unwrap(), "1 ready left");
    app.purge("orders").await.unwrap();
    assert_eq!(said.next().unwrap().unwrap(), "the queue `orders` is empty");
    assert!(running.wait().unwrap().success());
}

#[ezq::test]
async fn a_queue_that_is_paused_to_drain_keeps_what_waits(database: TestDatabase) {
    let url = database.url();
    let app = publisher(&database).await;
    create(&app, "orders").await;
    publish(&app, "orders", "order.paid", "{}").await;

    let done = "the queue `orders` is paused, and nothing of it is being handled\n";
    ezq(&url, &["queue", "drain", "orders", "--pause"]).is(0, "", done);
    let shown = ezq(&url, &["queue", "show", "orders", "--json"]).objects();
    assert_eq!(
        (&shown[0]["ready"], &shown[0]["is_paused"]),
        (&json!(1), &json!(true))
    );
    assert_eq!(shown[0]["pauses"][0]["reason"], "it is drained");

    let late = ezq(&url, &["queue", "drain", "orders", "--timeout", "10ms"]);
    late.fails(
        1,
        "the queue `orders` is paused: it does not empty by itself",
    );
}

#[ezq::test]
async fn a_queue_that_holds_something_is_dropped_only_by_force(database: TestDatabase) {
    let url = database.url();
    bury(&database, "orders", &[("order.paid", "no such account")]).await;
    let app = publisher(&database).await;
    publish(&app, "orders", "order.paid", "{}").await;
    create(&app, "empty").await;

    let drop = ["queue", "drop", "orders"];
    let refused = "the queue `orders` is not empty, with 1 event, 1 dead letter: `--force` drops that as well";
    ezq(&url, &[&drop[..], &["--yes"]].concat()).fails(4, refused);
    let by_force = [&drop[..], &["--force"]].concat();
    ezq(&url, &by_force).fails(
        4,
        "this drops the queue `orders`, with 1 event, 1 dead letter: not without",
    );
    let dry = ezq(&url, &[&by_force[..], &["-n"]].concat());
    dry.is(
        0,
        "",
        "would drop the queue `orders`, with 1 event, 1 dead letter\n",
    );

    let dropped = ezq(&url, &[&by_force[..], &["--yes", "--json"]].concat()).objects();
    let expected = json!({
        "queue": "orders", "dropped": true, "events": 1, "dead": 1, "archived": 0, "dry_run": false,
    });
    assert_eq!(dropped, [expected]);
    ezq(&url, &["queue", "drop", "empty", "--yes"]).is(0, "", "dropped the queue `empty`\n");
    assert_eq!(
        ezq(&url, &["queue", "list", "--json"]).objects(),
        [] as [serde_json::Value; 0]
    );
    ezq(&url, &["queue", "drop", "orders", "--yes"]).fails(3, "there is no queue `orders`");
}
