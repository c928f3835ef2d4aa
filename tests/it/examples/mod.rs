//! Every example, run as a program: what it prints, and what it exits with.

mod commits;

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::database::{connection, scalar, server, unique};
use crate::skip;

const PATIENCE: Duration = Duration::from_secs(120);

/// An example's program, which `cargo test` builds beside the tests.
fn example(name: &str) -> Command {
    let tests = std::env::current_exe().unwrap();
    let program = tests
        .parent()
        .unwrap()
        .parent()
        .unwrap()
        .join("examples")
        .join(name);

    let found = program.is_file();
    assert!(
        found,
        "{} is missing: run `cargo build --examples`",
        program.display()
    );

    let mut command = Command::new(program);
    // Options of the caller's would change what is printed.
    command.env_remove("EZQ_QUEUE").stdin(Stdio::null());
    command
}

/// Runs a program to its end, which must come in time.
fn run(command: &mut Command) -> Output {
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    finish(child)
}

fn finish(child: Child) -> Output {
    let id = child.id();
    let (done, waiting) = std::sync::mpsc::channel();
    std::thread::spawn(move || done.send(child.wait_with_output()));

    match waiting.recv_timeout(PATIENCE) {
        Ok(output) => output.unwrap(),
        Err(_) => {
            let _ = Command::new("kill")
                .args(["-KILL", &id.to_string()])
                .status();
            panic!("still running after {PATIENCE:?}");
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What a program that must succeed printed.
fn printed(output: Output) -> String {
    let out = text(&output.stdout);
    let complaints = text(&output.stderr);
    assert!(
        output.status.success(),
        "{}\n{out}\n{complaints}",
        output.status
    );
    out
}

/// That the text has these pieces, one after another.
#[track_caller]
fn assert_in_order(text: &str, pieces: &[&str]) {
    let mut rest = text;
    for piece in pieces {
        let Some(place) = rest.find(piece) else {
            panic!("`{piece}` is missing, or in another place, in:\n{text}");
        };
        rest = &rest[place + piece.len()..];
    }
}

#[test]
fn quickstart_greets_and_reports() {
    let queue = format!("quickstart_{}", std::process::id());
    let out = printed(run(example("quickstart").env("EZQ_QUEUE", queue)));
    assert!(out.contains("hello ada\n"), "{out}");

    assert_in_order(
        &out,
        &[
            "stopped by End after",
            ": 1 handled, 0 retried, 0 dead-lettered",
        ],
    );
}

#[test]
fn readme_does_what_it_says() {
    let out = printed(run(&mut example("readme")));
    assert_in_order(
        &out,
        &[
            "orders: stopped by an empty queue after",
            ": 3 handled, 0 retried, 0 dead-lettered",
            "receipts: stopped by an empty queue after",
            ": 3 handled, 0 retried, 0 dead-lettered",
            "3 orders are paid, 3 receipts are printed",
            "what happened from ",
            "clock: stopped by an empty queue after",
            ": 1 handled, 0 retried, 0 dead-lettered",
            "1 copies",
            "mail gets one",
            "mail: 1 waiting",
        ],
    );
}

#[tokio::test]
async fn own_database_commits_an_event_with_a_row_and_handles_it() {
    let database = unique("own_database");
    let url = server().await.database_url(database.as_str());
    let mut admin = connection(&server().await.url()).await;
    crate::database::run(&mut admin, &format!("CREATE DATABASE {database}")).await;

    let mut own = connection(&url).await;
    let table = "CREATE TABLE orders (id bigint, paid bool); INSERT INTO orders VALUES (7, false)";
    crate::database::run(&mut own, table).await;

    let mut command = example("own_database");
    command
        .env("DATABASE_URL", url)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());

    let mut child = command.spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap())
        .lines()
        .map(Result::unwrap);
    let (sender, handled) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let mut lines = lines;
        let _ = sender.send(lines.any(|line| line == "order 7 is on its way"));
    });

    let handled = tokio::time::timeout(PATIENCE, handled).await;
    let id = child.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-TERM", &id])
            .status()
            .unwrap()
            .success()
    );

    let output = finish(child);
    assert_eq!(handled.unwrap(), Ok(true), "{}", text(&output.stderr));
    assert!(
        output.status.success(),
        "{}\n{}",
        output.status,
        text(&output.stderr)
    );
    assert!(scalar::<bool>(&mut own, "SELECT paid FROM orders").await);

    let left = "SELECT count(*) FROM pgmq.q_orders";
    assert_eq!(scalar::<i64>(&mut own, left).await, 0);
}

#[test]
fn custom_engine_passes_the_suite_and_handles_an_event() {
    let out = printed(run(&mut example("custom_engine")));
    assert_in_order(
        &out,
        &[
            "skipped a_batch_comes_out_in_its_order: the engine does not offer `ordered`",
            " passed, 0 failed, ",
            "somebody visited /welcome",
            "stopped by End after",
            ": 1 handled",
        ],
    );
}

#[test]
fn encrypting_hides_what_it_stores_and_handles_nothing_forged() {
    let out = printed(run(&mut example("encrypting")));
    assert_in_order(
        &out,
        &[
            "in the table: ",
            "patient 7 has a cold",
            "1 handled, 0 retried, 2 dead-lettered",
            "not handled: the codec `sealed` cannot read the body: the seal is broken",
            "not handled: the codec `sealed` cannot read the body: the body is JSON text",
        ],
    );
}

#[test]
fn capture_tells_a_handler_what_another_program_wrote() {
    let out = printed(run(&mut example("capture")));
    assert_in_order(
        &out,
        &[
            r#"captured: Some(["id", "name", "plan"]) of example_capture.users"#,
            "what the handler sees",
            "ada is new, on the plan free",
            "ada changed plan: free to team",
            "ada is gone",
            ": 3 handled, 0 retried, 0 dead-lettered",
        ],
    );
}

#[test]
fn custom_engine_is_short() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/custom_engine.rs");
    let lines = std::fs::read_to_string(file).unwrap().lines().count();
    assert!(lines < 200, "{lines} lines");
}

/// One at a time: with a database of the caller's, both would use one queue.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn graceful_shutdown_shows_every_way_to_stop() {
    let _alone = alone();
    let started = Instant::now();
    let out = printed(run(&mut example("graceful_shutdown")));

    assert!(
        started.elapsed() < Duration::from_secs(30),
        "{:?}",
        started.elapsed()
    );

    assert_in_order(
        &out,
        &[
            "job 1 is done",
            "stopped by a cancellation token after",
            "1 handled, 0 retried, 0 dead-lettered, 0 cancelled, 1 returned",
            "waiting in the queue: 1",
            "stopped by End after",
            "2 handled, 0 retried, 0 dead-lettered, 0 cancelled",
            "waiting in the queue: 1",
            "job 5 is cancelled",
            "stopped by End after",
            "1 cancelled",
            "waiting in the queue: 1",
            "job 5 is cancelled",
            "stopped by Interrupt after",
            "0 handled, 0 retried, 0 dead-lettered, 1 cancelled",
            "job 5 is done",
            "stopped by a signal after",
            "1 handled",
            "waiting in the queue: 0",
        ],
    );
}

#[test]
fn graceful_shutdown_waits_for_ctrl_c() {
    let _alone = alone();
    let mut command = example("graceful_shutdown");
    let mut child = command
        .arg("--wait")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();

    let mut lines = BufReader::new(child.stdout.take().unwrap())
        .lines()
        .map(Result::unwrap);
    assert!(
        lines.any(|line| line.contains("job 1 begins")),
        "no job began"
    );

    let id = child.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-INT", &id])
            .status()
            .unwrap()
            .success()
    );

    let rest: Vec<String> = lines.collect();
    let output = finish(child);
    assert!(
        output.status.success(),
        "{}\n{}",
        output.status,
        text(&output.stderr)
    );

    assert_in_order(
        &rest.join("\n"),
        &["job 1 is done", "stopped by a signal after"],
    );
}

#[test]
fn schedule_ticks_lists_pauses_and_runs_by_hand() {
    let out = printed(run(&mut example("schedule")));

    assert_in_order(
        &out,
        &[
            "each tick comes to one of them",
            "the tick of ",
            ": swept",
            "the tick of ",
            ": swept",
            "the tick of ",
            ": swept",
            "what comes next",
            "example.invoices ",
            "UTC: cron 0 6 1 * * (Europe/Paris), missed: fire once, `invoices.due` to schedule_example",
            "example.report ",
            "(Europe/Paris), missed: skip",
            "example.sweep ",
            "every 1s",
            "paused, and run by hand",
            "the invoices of north are due",
            "stopped by its handle after",
            "stopped by its handle after",
        ],
    );

    // At least a second from tick to tick, and no tick twice.
    let ticks: Vec<&str> = out
        .lines()
        .filter(|line| line.contains("the tick of"))
        .filter_map(|l| l.get(..24))
        .collect();
    assert!(ticks.windows(2).all(|pair| pair[0] != pair[1]), "{out}");
}

#[test]
fn python_interop_reads_and_writes_both_forms() {
    let test = "examples::python_interop_reads_and_writes_both_forms";
    let Some(_) = skip::program("python3", "python3", test) else {
        return;
    };
    let Some(_) = skip::program("psql", "postgresql-client", test) else {
        return;
    };

    let out = printed(run(&mut example("python_interop")));
    assert_in_order(
        &out,
        &[
            "python: sent order 1 in the flat form, order 2 as a CloudEvent",
            ": 2 handled, 0 retried, 0 dead-lettered",
        ],
    );

    for line in [
        "rust: order 1 of Ada \"the\" O'Neil, from ",
        "rust: order 2 of Grace, from python-shop\n",
        "python: read ReceiptPrinted of order 1 (flat)\n",
        "python: read ReceiptPrinted of order 2 (flat)\n",
        "python: read order.charged of order 1 (CloudEvent)\n",
        "python: read order.charged of order 2 (CloudEvent)\n",
    ] {
        assert_eq!(out.matches(line).count(), 1, "{line:?} in:\n{out}");
    }
}

#[test]
fn python_interop_says_that_it_is_skipped_where_there_is_no_python() {
    let out = printed(run(example("python_interop").env("PATH", "/nonexistent")));
    assert_in_order(&out, &["SKIPPED: `python3` is not installed"]);
}

#[test]
fn order_desk_corrects_and_redrives_what_failed() {
    let out = printed(run(&mut example("order_desk")));
    assert_in_order(
        &out,
        &[
            "to ada: your order 5 is paid",
            "order 4 died: the card has expired",
            "order 3 asks for a lmap",
            "redriven; had died",
        ],
    );
}

#[test]
fn night_shift_pauses_and_runs_its_schedules() {
    let out = printed(run(&mut example("night_shift")));
    assert_in_order(
        &out,
        &[
            "patrol: every 1s",
            "sent round by hand",
            "the shift ends",
            "night_shift::patrol: ",
        ],
    );
}
