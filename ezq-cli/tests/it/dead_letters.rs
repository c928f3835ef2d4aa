//! `ezq dlq`.

use ezq::testing::TestDatabase;
use serde_json::json;

use crate::program::{bury, ezq};

const LETTERS: [(&str, &str); 3] = [
    ("order.paid", "no such account"),
    ("order.sent", "the shop's 5% <off>"),
    ("order.paid", "a \u{1b}[2Jtrick\nof ünïcode"),
];

#[ezq::test]
async fn dead_letters_are_listed_by_filter(database: TestDatabase) {
    bury(&database, "orders", &LETTERS).await;
    let url = database.url();

    let table = "\
ID  TYPE        DIED                  REASON  HANDLER  ERROR
1   order.paid  <time>  fatal   mail     no such account
2   order.sent  <time>  fatal   mail     the shop's 5% <off>
3   order.paid  <time>  fatal   mail     a \\u{1b}[2Jtrick\\nof ünïcode
";
    ezq(&url, &["dlq", "list", "orders"]).is(0, table, "");

    let limited = ezq(&url, &["dlq", "list", "orders", "--limit", "1"]);
    assert_eq!(limited.stdout.lines().count(), 2, "{limited:?}");
    assert!(limited.stderr.contains("there are more"), "{limited:?}");

    for (filter, ids) in [
        (["--type", "order.paid"], vec!["1", "3"]),
        (["--handler", "mail"], vec!["1", "2", "3"]),
        (["--handler", "it's"], vec![]),
        (["--type", "%"], vec![]),
        (["--died-of", "fatal"], vec!["1", "2", "3"]),
        (["--died-of", "operator"], vec![]),
        (["--since", "1h"], vec!["1", "2", "3"]),
        (["--until", "1h"], vec![]),
        (["--since", "2999-01-01T00:00:00Z"], vec![]),
    ] {
        let arguments = [&["dlq", "list", "orders", "--json"][..], &filter].concat();
        let found = ezq(&url, &arguments).objects();
        let found: Vec<&str> = found
            .iter()
            .map(|one| one["id"].as_str().unwrap())
            .collect();
        assert_eq!(found, ids, "{filter:?}");
    }
    ezq(&url, &["dlq", "list", "orders", "--died-of", "bad"]).fails(2, "use one of fatal");
    ezq(&url, &["dlq", "list", "ordres"]).fails(3, "is it `orders`?");
}

#[ezq::test]
async fn a_dead_letter_is_shown_whole_and_no_number_is_rounded(database: TestDatabase) {
    bury(&database, "orders", &LETTERS[..1]).await;
    let url = database.url();

    let shown = ezq(&url, &["dlq", "show", "orders", "1"]);
    for line in [
        "type         order.paid",
        "handler      mail",
        "attempts     1",
    ] {
        assert!(shown.stdout.lines().any(|shown| shown == line), "{shown:?}");
    }
    assert!(shown.stdout.contains("9007199254740993"), "{shown:?}");

    let json = ezq(&url, &["dlq", "show", "orders", "1", "--json"]);
    assert!(json.stdout.contains("9007199254740993"), "{json:?}");
    let letter = &json.objects()[0];
    let reason =
        json!({"kind": "fatal", "handler": "mail", "error": "no such account", "attempts": 1});
    assert_eq!(letter["reason"], reason);
    assert_eq!(letter["body"]["type"], "order.paid");
    assert!(letter["headers"].is_object(), "{letter}");

    ezq(&url, &["dlq", "show", "orders", "2"]).fails(3, "the queue `orders` has no dead letter 2");
}

#[ezq::test]
async fn an_export_has_one_whole_letter_on_each_line(database: TestDatabase) {
    bury(&database, "orders", &LETTERS).await;
    let url = database.url();
    let exported = ezq(&url, &["dlq", "export", "orders", "--type", "order.paid"]);
    let letters = exported.objects();
    assert_eq!(letters.len(), 2);
    assert_eq!(letters[1]["reason"]["error"], LETTERS[2].1);
    assert!(letters.iter().all(|letter| letter["body"].is_object()));
    assert_eq!(exported.stdout.matches("9007199254740993").count(), 2);
}

#[ezq::test]
async fn dead_letters_are_redriven_by_id_by_filter_or_all(database: TestDatabase) {
    bury(&database, "orders", &LETTERS).await;
    let url = database.url();

    let text = "which dead letters? Give their ids, a filter such as `--handler`, or `--all`";
    ezq(&url, &["dlq", "redrive", "orders"]).fails(2, text);
    let both = ["dlq", "redrive", "orders", "--all", "--handler", "mail"];
    ezq(&url, &both).fails(2, "give either a filter or `--all`");
    let both = ["dlq", "redrive", "orders", "1", "--handler", "mail"];
    ezq(&url, &both).fails(2, "give either ids or a filter");
    ezq(&url, &["dlq", "redrive", "orders", "1", "--all"]).fails(2, "cannot be used with");
    ezq(&url, &["dlq", "redrive", "orders", "--all", "--rate", "0"]).fails(2, "0 is not in 1..");

    let dry = ezq(&url, &["dlq", "redrive", "orders", "--all", "-n"]);
    dry.is(
        0,
        "",
        "would redrive 3 dead letters of the queue `orders`\n",
    );
    let refused = "error: this redrives 1 dead letter of the queue `orders`: not without \
                   confirmation. Repeat the command with `--yes`\n";
    let sent = ["dlq", "redrive", "orders", "--type", "order.sent"];
    ezq(&url, &sent).is(4, "", refused);
    let one = ezq(&url, &[&sent[..], &["--yes"]].concat());
    one.is(0, "", "redriven: 1 dead letter of the queue `orders`\n");

    let missing = "redriven: 1 dead letter of the queue `orders`\n\
                   error: the queue `orders` has no dead letter 2, 7\n";
    ezq(&url, &["dlq", "redrive", "orders", "1", "2", "7"]).is(3, "", missing);
    let all = ezq(
        &url,
        &[
            "dlq", "redrive", "orders", "--all", "--json", "-y", "--rate", "100",
        ],
    );
    let mut all = all.objects();
    assert!(all[0]["operation"].take().is_string(), "{all:?}");
    let answer = json!({
        "operation": null, "queue": "orders", "action": "redrive", "state": "dead", "target": null,
        "total": 1, "done": 1, "skipped": 0, "failed": 0, "dry_run": false,
    });
    assert_eq!(all, [answer]);
    let none = ezq(&url, &["dlq", "redrive", "orders", "--all"]);
    none.is(0, "", "redriven: 0 dead letters of the queue `orders`\n");

    let left = ezq(&url, &["queue", "show", "orders", "--json"]).objects();
    assert_eq!(
        (&left[0]["ready"], &left[0]["dead"]),
        (&json!(3), &json!(0))
    );
}

#[ezq::test]
async fn a_filter_changes_the_letters_that_it_lists(database: TestDatabase) {
    bury(&database, "orders", &LETTERS).await;
    let url = database.url();
    for filter in [
        ["--type", "order.paid"],
        ["--type", "%"],
        ["--handler", "mail"],
        ["--handler", "it's"],
        ["--died-of", "fatal"],
        ["--died-of", "max_attempts"],
        ["--since", "1h"],
        ["--until", "1h"],
    ] {
        let list = [&["dlq", "list", "orders", "--json"][..], &filter].concat();
        let dry = ["dlq", "discard", "orders", "-n", "--json"];
        let dry = ezq(&url, &[&dry[..], &filter].concat()).objects();
        let listed = ezq(&url, &list).objects().len();
        assert_eq!(dry[0]["total"], json!(listed), "{filter:?}");
    }
}

#[ezq::test]
async fn dead_letters_are_discarded_after_a_confirmation(database: TestDatabase) {
    bury(&database, "orders", &LETTERS).await;
    let url = database.url();

    let refused = "error: this deletes 2 dead letters of the queue `orders`: not without \
                   confirmation. Repeat the command with `--yes`\n";
    let paid = ["dlq", "discard", "orders", "--type", "order.paid"];
    ezq(&url, &paid).is(4, "", refused);
    let dry = [&paid[..], &["--dry-run"]].concat();
    ezq(&url, &dry).is(
        0,
        "",
        "would discard 2 dead letters of the queue `orders`\n",
    );
    let yes = [&paid[..], &["--yes"]].concat();
    ezq(&url, &yes).is(0, "", "discarded: 2 dead letters of the queue `orders`\n");
    ezq(&url, &["dlq", "discard", "orders", "2", "-y"]).is(
        0,
        "",
        "discarded: 1 dead letter of the queue `orders`\n",
    );
    ezq(&url, &["dlq", "list", "orders"]).is(0, "", "no dead letters\n");
}
