//! Processes of their own: this binary runs itself again, told by the environment what to be.
//!
//! A child says what happens on its standard output, one line with an `@` before it each, and is
//! told a word on its standard input. When that closes, because the test is over in whatever way,
//! it ends.

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ezq::prelude::*;
use ezq::sqlx::postgres::{PgPool, PgPoolOptions};
use ezq::sqlx::{self, AssertSqlSafe};
use ezq::{Handler, QueueName};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::database::{self, CEILING};
use crate::{
    batches, broadcasting, inbox, leftovers, newcomer, ordering, schedules, stress, trials,
};

/// What a child is; no name that begins with `EZQ_`, since those are options of ezq.
const ROLE: &str = "CHILD_ROLE";

#[derive(Debug, PartialEq, Event, Serialize, Deserialize)]
#[event(type = "job")]
pub(crate) struct Job {
    pub(crate) n: i64,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Role {
    Worker(Worker),
    Stress(stress::Plan),
    Importer(batches::Importer),
    Trial(trials::Plan),
    Ordering(ordering::Plan),
    Server,
    Booker(inbox::Booker),
    Timekeeper(schedules::Timekeeper),
    Member(broadcasting::Member),
    Newcomer(newcomer::Mistake),
}

/// A consumer that stops on signals.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Worker {
    pub(crate) queue: String,
    pub(crate) name: String,
    pub(crate) concurrency: usize,
    pub(crate) lease: Duration,
    pub(crate) waits: Waits,
    pub(crate) says: Outcome,
}

/// What a worker's handler waits for before it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Waits {
    For(Duration),
    Forever,
    /// For a word from the parent.
    Word,
    /// For a word, without giving the thread back: nothing else of the process gets on.
    BlockingForWord,
}

/// How a worker's handler ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Outcome {
    Done,
    /// Retry, long after the test.
    Retry,
    Fatal,
}

/// Creates the table into which workers of a queue write what they handled.
pub(crate) async fn create_ledger(connection: &mut sqlx::PgConnection, queue: &QueueName) {
    let sql = format!(
        "CREATE TABLE ledger_{queue}
         (n bigint, attempt int, deliveries int, worker text, ok bool, at timestamptz DEFAULT now())"
    );
    database::run(connection, &sql).await;
}

/// Not a test: what a child runs. In the test run itself it has nothing to do.
#[test]
fn child_main() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    let role: Role = serde_json::from_str(&role).unwrap();

    let words = Words::listen();
    let blocks = matches!(&role, Role::Worker(worker) if worker.waits == Waits::BlockingForWord);
    let mut builder = match blocks {
        true => tokio::runtime::Builder::new_current_thread(),
        false => tokio::runtime::Builder::new_multi_thread(),
    };
    let runtime = builder.worker_threads(2).enable_all().build().unwrap();

    runtime.block_on(async {
        match role {
            Role::Worker(worker) => work(worker, words).await,
            Role::Stress(plan) => stress::work(plan).await,
            Role::Trial(plan) => trials::work(plan).await,
            Role::Importer(importer) => batches::import(importer).await,
            Role::Timekeeper(told) => schedules::keep_time(told).await,
            Role::Booker(booker) => inbox::book(booker).await,
            Role::Member(member) => broadcasting::take_part(member, words).await,
            Role::Newcomer(mistake) => newcomer::make(mistake).await,
            Role::Ordering(plan) => ordering::work(plan).await,
            Role::Server => leftovers::serve(words.wait().await).await,
        }
    });
}

async fn work(worker: Worker, words: Words) {
    let Worker {
        concurrency, lease, ..
    } = worker;
    let queue = worker.queue.clone();
    let ledger = Ledger::open(&worker.queue, &worker.name);
    let words = Arc::new(words);

    let handler = Handler::on("work", move |job: Job, context: Context| {
        let worker = worker.clone();
        let ledger = ledger.clone();
        let words = Arc::clone(&words);

        async move {
            say(&format!("started {}", job.n));
            let cut_short = Dropped(job.n);

            match worker.waits {
                Waits::For(pause) => tokio::time::sleep(pause).await,
                Waits::Forever => std::future::pending().await,
                Waits::Word => drop(words.wait().await),
                Waits::BlockingForWord => drop(words.block()),
            }

            if worker.waits != Waits::BlockingForWord {
                ledger
                    .write(job.n, &context, worker.says == Outcome::Done)
                    .await;
            }

            std::mem::forget(cut_short);
            say(&format!("ended {}", job.n));

            match worker.says {
                Outcome::Done => Ok(()),
                Outcome::Retry => Err(HandlerError::retry_after(
                    Duration::from_secs(3600),
                    "told to retry",
                )),
                Outcome::Fatal => Err(HandlerError::fatal("told to give up")),
            }
        }
    });

    let builder = Ezq::builder()
        .without_discovered_handlers()
        .register(handler);

    // A settlement goes out at once, before anything else of this process can.
    let ezq = builder
        .configure(|config| config.settle_batch = 1)
        .connect()
        .await
        .unwrap();

    let consumer = ezq
        .consumer()
        .queue(queue)
        .concurrency(concurrency)
        .lease(lease);

    let handle = consumer.stop_on_signals().spawn();
    say("ready");
    say(&format!("report {}", handle.await.unwrap()));
}

/// Says that a handler's future was dropped before it was through.
struct Dropped(i64);

impl Drop for Dropped {
    fn drop(&mut self) {
        say(&format!("dropped {}", self.0));
    }
}

/// The table that tells which worker handled what.
#[derive(Debug, Clone)]
pub(crate) struct Ledger {
    pool: PgPool,
    table: String,
    worker: String,
}

impl Ledger {
    pub(crate) fn open(queue: &str, worker: &str) -> Self {
        let url = std::env::var("DATABASE_URL").unwrap();
        let pool = PgPoolOptions::new()
            .max_connections(2)
            .connect_lazy(&url)
            .unwrap();

        Self {
            pool,
            table: format!("ledger_{queue}"),
            worker: worker.to_owned(),
        }
    }

    pub(crate) async fn write(&self, n: i64, context: &Context, ok: bool) {
        let sql = format!(
            "INSERT INTO {} (n, attempt, deliveries, worker, ok) VALUES ($1, $2, $3, $4, $5)",
            self.table
        );
        let number = |count: u32| i32::try_from(count).unwrap();

        let written = sqlx::query(AssertSqlSafe(sql))
            .bind(n)
            .bind(number(context.attempt()))
            .bind(number(context.deliveries()))
            .bind(&self.worker)
            .bind(ok)
            .execute(&self.pool)
            .await;

        if let Err(error) = written {
            // Only the handler's own outcome is to count.
            say(&format!("ledger failed: {error}"));
            std::process::exit(4);
        }
    }
}

/// What the parent says on standard input.
pub(crate) struct Words {
    last: watch::Receiver<String>,
    blocking: Mutex<Receiver<String>>,
}

impl Words {
    fn listen() -> Self {
        let (last, receiver) = watch::channel(String::new());
        let (sender, blocking) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for word in std::io::stdin().lines().map_while(Result::ok) {
                let _ = sender.send(word.clone());
                last.send_replace(word);
            }
            std::process::exit(3);
        });

        Self {
            last: receiver,
            blocking: Mutex::new(blocking),
        }
    }

    pub(crate) async fn wait(&self) -> String {
        let mut last = self.last.clone();
        last.wait_for(|word| !word.is_empty())
            .await
            .unwrap()
            .clone()
    }

    fn block(&self) -> String {
        self.blocking.lock().unwrap().recv().unwrap()
    }
}

/// Tells the parent something. The test harness may have begun the line.
pub(crate) fn say(line: &str) {
    println!("\n@{line}");
}

/// A child as its parent sees it; killed when dropped.
pub(crate) struct Process {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    orders: ChildStdin,
}

impl Process {
    /// A child that works on a database.
    pub(crate) fn start(url: &str, role: &Role) -> Self {
        let mut command = Self::command(role);
        command
            .env("DATABASE_URL", url)
            .env_remove("EZQ_DATABASE_URL");
        Self::spawn(command)
    }

    /// A child whose clock is off by so much, but for the monotonic one.
    pub(crate) async fn start_at(offset: &str, url: &str, role: &Role) -> Self {
        // The program itself would stand between the child and its signals.
        let mut asks = Command::new("faketime");
        let asked = asks
            .args(["-m", "-f", offset, "printenv", "LD_PRELOAD"])
            .output()
            .await
            .expect("the test asked for `faketime`");

        let library = String::from_utf8(asked.stdout).unwrap();
        let mut command = Self::command(role);
        command
            .env("LD_PRELOAD", library.trim())
            .env("FAKETIME", offset)
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .env("DONT_FAKE_MONOTONIC", "1")
            .env("DATABASE_URL", url)
            .env_remove("EZQ_DATABASE_URL");
        Self::spawn(command)
    }

    /// A child whose temporary files are in a folder of their own, and whose end may be loud.
    pub(crate) fn start_in(temporary: &Path, role: &Role) -> Self {
        let mut command = Self::command(role);
        command.env("TMPDIR", temporary).stderr(Stdio::null());
        Self::spawn(command)
    }

    /// What a child that ends by itself printed, with these variables.
    pub(crate) async fn output(
        url: &str,
        role: &Role,
        variables: &[(&str, &str)],
    ) -> std::process::Output {
        let mut command = Self::command(role);
        command
            .env("DATABASE_URL", url)
            .env_remove("EZQ_DATABASE_URL")
            .envs(variables.to_vec());
        command.stderr(Stdio::piped());

        let mut child = command.spawn().unwrap();
        // Its end would end the child.
        let _input = child.stdin.take();

        timeout(CEILING, child.wait_with_output())
            .await
            .expect("it ends in time")
            .unwrap()
    }

    fn command(role: &Role) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["child::child_main", "--exact", "--nocapture"])
            .env(ROLE, serde_json::to_string(role).unwrap())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    fn spawn(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let orders = child.stdin.take().unwrap();
        Self {
            child,
            lines,
            orders,
        }
    }

    /// The rest of the next line that begins with a word.
    pub(crate) async fn hear(&mut self, word: &str) -> String {
        let next = async {
            while let Some(line) = self.lines.next_line().await.unwrap() {
                if let Some(rest) = line
                    .strip_prefix('@')
                    .and_then(|line| line.strip_prefix(word))
                {
                    return rest.trim().to_owned();
                }
            }
            panic!("the child ended without saying `{word}`");
        };

        let late = |_| panic!("the child did not say `{word}` in time");
        timeout(CEILING, next).await.unwrap_or_else(late)
    }

    pub(crate) async fn tell(&mut self, word: &str) {
        self.orders
            .write_all(format!("{word}\n").as_bytes())
            .await
            .unwrap();
    }

    /// Sends a signal by its name.
    pub(crate) async fn signal(&self, name: &str) {
        let pid = self.child.id().expect("it still runs").to_string();
        let kill = ["-c", "kill -s \"$0\" \"$1\"", name, &pid];
        assert!(
            Command::new("/bin/sh")
                .args(kill)
                .status()
                .await
                .unwrap()
                .success()
        );
    }

    /// Waits until it ended by itself.
    pub(crate) async fn end(&mut self) -> ExitStatus {
        timeout(CEILING, self.child.wait())
            .await
            .expect("it ends in time")
            .unwrap()
    }

    /// Stops its consumer; the report it printed.
    pub(crate) async fn stop(&mut self) -> String {
        self.signal("TERM").await;
        let report = self.hear("report").await;
        assert_eq!(self.end().await.code(), Some(0));
        report
    }

    /// Ends it as `kill -9` does.
    pub(crate) async fn kill(&mut self) {
        self.child.kill().await.unwrap();
    }
}

/// The number before a word of a printed report.
pub(crate) fn count(report: &str, what: &str) -> u64 {
    let words: Vec<&str> = report
        .split([' ', ','])
        .filter(|word| !word.is_empty())
        .collect();
    let at = words.iter().position(|word| *word == what);
    at.map_or(0, |at| words[at - 1].parse().unwrap())
}
