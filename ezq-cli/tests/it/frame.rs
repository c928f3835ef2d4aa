//! What every command shares: which database, exit codes, streams, colours.

use std::io::Read as _;
use std::process::Stdio;

use ezq::testing::TestDatabase;

use crate::program::{TestFile, bury, command, create, ezq, publisher, run};

#[ezq::test]
async fn each_exit_code_has_its_meaning(database: TestDatabase) {
    let ezq_app = publisher(&database).await;
    create(&ezq_app, "orders").await;
    let url = database.url();

    assert_eq!(ezq(&url, &["queue", "list"]).code, 0);
    let nowhere = "postgres://ada@127.0.0.1:1/shop";
    ezq(nowhere, &["queue", "list"]).fails(1, "error: ");
    ezq(&url, &["queue", "list", "--wrong"]).fails(2, "unexpected argument '--wrong'");
    ezq(&url, &["queue", "show", "invoices"]).fails(3, "there is no queue `invoices`");
    ezq(&url, &["queue", "purge", "orders"]).fails(4, "Repeat the command with `--yes`");
}

#[test]
fn without_a_database_the_program_says_how_to_name_one() {
    let ran = run(&mut command(&["queue", "list"]));
    ran.fails(2, "use `--database-url`, `--context`, or the variable");
}

#[test]
fn help_goes_to_stdout_and_wrong_usage_to_stderr() {
    let help = run(&mut command(&["--help"]));
    assert_eq!((help.code, help.stderr.as_str()), (0, ""));
    assert!(help.stdout.contains("Exit codes: 0 done"), "{help:?}");
    assert!(help.stdout.contains("queue"), "{help:?}");

    let version = run(&mut command(&["--version"]));
    assert_eq!(
        version.stdout,
        format!("ezq {}\n", env!("CARGO_PKG_VERSION"))
    );
    run(&mut command(&["queu", "list"])).fails(2, "a similar subcommand exists: 'queue'");
    run(&mut command(&[])).fails(2, "Usage: ezq");
}

#[ezq::test]
async fn the_option_beats_the_variables_and_one_of_ezq_the_other(database: TestDatabase) {
    let url = database.url();
    let nowhere = "postgres://ada@127.0.0.1:1/shop";
    let list = ["queue", "list"];

    let named = ["queue", "list", "--database-url", &url];
    let ran = run(command(&named).env("EZQ_DATABASE_URL", nowhere));
    ran.is(0, "", "no queues: `ezq queue create NAME` creates one\n");

    let ran = run(command(&list)
        .env("EZQ_DATABASE_URL", &url)
        .env("DATABASE_URL", nowhere));
    assert_eq!(ran.code, 0, "{ran:?}");
    let ran = run(command(&list)
        .env("EZQ_DATABASE_URL", "")
        .env("DATABASE_URL", &url));
    assert_eq!(ran.code, 0, "{ran:?}");
}

#[ezq::test]
async fn a_context_names_a_database(database: TestDatabase) {
    let url = database.url();
    let text =
        format!("[shop]\ndatabase_url = \"{url}\"\n[mail]\ndatabase_url_env = \"MAIL_URL\"\n");
    let file = TestFile::new("context", &text);
    let path = file.path.to_str().unwrap();
    let with = |context: &'static str| {
        let arguments = [
            "--context-file",
            path,
            "--context",
            context,
            "queue",
            "list",
            "-q",
        ];
        command(&arguments)
    };

    assert_eq!(run(&mut with("shop")).code, 0);
    assert_eq!(run(with("mail").env("MAIL_URL", &url)).code, 0);
    run(&mut with("mail")).fails(2, "the variable `MAIL_URL` of `mail` is not set");
    run(&mut with("shpo")).fails(2, "the file has no context `shpo`: is it `shop`?");

    let both = ["--context", "shop", "--database-url", &url, "queue", "list"];
    run(&mut command(&both)).fails(2, "cannot be used with");
}

#[test]
fn a_missing_file_of_contexts_is_named() {
    let mut command = command(&["--context", "shop", "queue", "list"]);
    run(command.env("HOME", "/nowhere")).fails(2, "/nowhere/.config/ezq/contexts.toml");
}

#[ezq::test]
async fn colours_are_for_terminals_or_on_demand(database: TestDatabase) {
    create(&publisher(&database).await, "orders").await;
    let url = database.url();
    let list = ezq(&url, &["queue", "list"]);
    assert!(list.stdout.starts_with("QUEUE "), "{list:?}");

    let list = ezq(&url, &["queue", "list", "--color", "always"]);
    assert!(list.stdout.starts_with("\u{1b}[1mQUEUE"), "{list:?}");
    let missing = ezq(&url, &["queue", "show", "x", "--color", "always"]);
    missing.fails(3, "\u{1b}[1;31merror:\u{1b}[0m there is no queue `x`");
}

#[ezq::test]
async fn quiet_leaves_data_and_errors(database: TestDatabase) {
    let url = database.url();
    ezq(&url, &["-q", "queue", "list"]).is(0, "", "");
    ezq(&url, &["-q", "queue", "create", "orders"]).is(0, "", "");
    ezq(&url, &["-q", "queue", "show", "x"]).is(3, "", "error: there is no queue `x`\n");
    ezq(&url, &["-q", "-v", "queue", "list"]).fails(2, "cannot be used with");
}

#[ezq::test]
async fn a_reader_that_goes_away_is_no_error(database: TestDatabase) {
    let letters = vec![("order.paid", "no such account"); 40];
    bury(&database, "orders", &letters).await;

    let mut running = command(&["dlq", "export", "orders"])
        .env("EZQ_DATABASE_URL", database.url())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Closed before the program has connected, and so before it writes.
    drop(running.stdout.take());
    let mut said = String::new();
    running
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    assert_eq!(
        (running.wait().unwrap().code(), said.as_str()),
        (Some(0), "")
    );
}
