//! Several operators at one operation, and operators that are killed.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::*;
use ezq_core::engine::{AuditAction, OperationStatus};

const OPERATION: &str = "OPERATOR_RESUMES";
const DATABASE: &str = "OPERATOR_DATABASE";
/// For a run by hand: how many events are redriven while operators are killed.
const REDRIVES: &str = "REDRIVES";

/// A process that resumes an operation.
struct Operator {
    process: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Operator {
    fn start(url: &str, operation: &str) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "operations::operators::resumes_an_operation"])
            .arg("--nocapture")
            .env(DATABASE, url)
            .env(OPERATION, operation)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { process, lines }
    }

    /// Waits until an operation has done so much, by what this process says.
    fn wait_for(&mut self, done: u64) {
        let reached = self.lines.by_ref().map(Result::unwrap).any(|line| {
            let told = line.split("done ").nth(1);
            told.is_some_and(|told| told.parse::<u64>().unwrap() >= done)
        });
        assert!(reached, "the operator ended before {done}");
    }

    /// By `kill -9`.
    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Not a test: what an operator's process runs. In the test run itself it has nothing to do.
#[tokio::test]
async fn resumes_an_operation() {
    let Ok(id) = std::env::var(OPERATION) else {
        return;
    };
    let app = application(&std::env::var(DATABASE).unwrap()).await;
    let run = app.operations().resume(id).by("Bob");
    run.on_progress(|operation| println!("done {}", operation.done))
        .await
        .unwrap();
    // Whoever kills this may be late.
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_that_are_killed_leave_nothing_undone_and_nothing_done_twice() {
    let count = std::env::var(REDRIVES).map_or(20_000, |count| count.parse().unwrap());
    let Stage {
        url,
        app,
        queue,
        mut own,
    } = Stage::new(count).await;

    let began = Instant::now();
    let operation = begin(&app, &queue).await;
    assert_eq!(operation.total, Some(count));
    for part in 1..=3 {
        let mut operator = Operator::start(&url, &operation.id);
        operator.wait_for(count / 10 * part);
        operator.kill();
    }

    let left = app.operations().get(&operation.id).await.unwrap();
    assert_eq!(left.status, OperationStatus::Running);
    assert!(left.done < count, "{left:?}");
    let ended = app.operations().resume(&operation.id).await.unwrap();
    println!(
        "{count} redrives, three operators killed: {:?}",
        began.elapsed()
    );

    assert_eq!(ended.status, OperationStatus::Ended);
    assert_eq!(counts(&ended), (count, 0, 0));
    let all = i64::try_from(count).unwrap();
    assert_eq!(stored_numbers(&mut own, &queue).await, (all, all));
    assert_eq!(dead(&mut own, &queue).await, 0);

    // What was ordered, and what became of it, is told once each.
    let entries = told(&app, &queue).await;
    let seen: Vec<_> = entries.iter().map(|one| (one.action, one.count)).collect();
    let expected = [AuditAction::Redrive, AuditAction::EndOperation];
    assert_eq!(seen, expected.map(|action| (action, Some(count))));
    for entry in &entries {
        assert_eq!(entry.operation.as_deref(), Some(&*operation.id));
        assert_eq!(entry.signature, operation.signature);
        assert_eq!(
            entry.selection,
            Some((EventState::Dead, EventFilter::all()))
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_operators_take_the_steps_of_one_operation_in_turn() {
    const COUNT: u64 = 3000;
    let Stage {
        url,
        app,
        queue,
        mut own,
    } = Stage::new(COUNT).await;
    let other = application(&url).await;
    let id = begin(&app, &queue).await.id;

    let mut steps = [0; 2];
    let [first, second] = &mut steps;
    let (one, two) = tokio::join!(
        app.operations().resume(&id).on_progress(|_| *first += 1),
        other.operations().resume(&id).on_progress(|_| *second += 1),
    );
    assert!(steps.iter().all(|steps| *steps > 1), "{steps:?}");
    for ended in [one.unwrap(), two.unwrap()] {
        assert_eq!(ended.status, OperationStatus::Ended);
        assert_eq!(counts(&ended), (COUNT, 0, 0));
    }
    assert_eq!(stored_numbers(&mut own, &queue).await, (3000, 3000));
    assert_eq!(told(&app, &queue).await.len(), 2, "its begin and its end");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_operations_on_the_same_events_do_each_event_once() {
    const COUNT: u64 = 2000;
    let Stage {
        url,
        app,
        queue,
        mut own,
    } = Stage::new(COUNT).await;
    let other = application(&url).await;

    let one = begin(&app, &queue).await;
    let two = begin(&other, &queue).await;
    let (one, two) = tokio::join!(
        app.operations().resume(&one.id),
        other.operations().resume(&two.id),
    );
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_eq!(one.done + two.done, COUNT, "{one:?} {two:?}");
    assert_eq!(one.failed + two.failed, 0, "{one:?} {two:?}");
    assert_eq!(stored_numbers(&mut own, &queue).await, (2000, 2000));
}

#[tokio::test]
async fn an_operation_that_another_has_stopped_stops_at_its_next_step() {
    let Stage {
        url,
        app,
        queue,
        mut own,
    } = Stage::new(1000).await;
    let other = application(&url).await;
    let id = begin(&app, &queue).await.id;

    let first = app.operations().step(&id).await.unwrap();
    let stopped = other.operations().stop(&id).by("Eve").reason("not these");
    let stopped = stopped.await.unwrap();
    assert_eq!(stopped.status, OperationStatus::Stopped);
    assert_eq!(app.operations().step(&id).await.unwrap(), stopped);
    assert_eq!(stopped.done, first.done);
    let moved = stored_numbers(&mut own, &queue).await.0;
    assert_eq!(u64::try_from(moved).unwrap(), first.done);

    let last = told(&app, &queue).await.pop().unwrap();
    assert_eq!(last.action, AuditAction::StopOperation);
    assert_eq!((&*last.signature.by, last.count), ("Eve", Some(first.done)));
    let limit = tokio::time::timeout(Duration::from_secs(30), other.operations().resume(&id));
    assert_eq!(counts(&limit.await.unwrap().unwrap()), (1000, 0, 0));
}
