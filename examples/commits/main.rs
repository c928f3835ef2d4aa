//! The history of a git repository as events: `cargo run --example commits -- --repo PATH`.
//!
//! It shows a whole program on real input of any size: one typed event for each commit, published in
//! batches while earlier ones are handled; three handlers of each event, which write to Postgres; a
//! progress bar; and at the end a check that every commit was handled. It needs no database: without
//! `DATABASE_URL` it starts one.

mod git;
mod tables;

use std::error::Error;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use ezq::prelude::*;
use ezq::sqlx::{self, PgPool};
use ezq::{ConsumerHandle, QueueName};
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const HELP: &str = "\
Counts the authors, files and hours of a git repository's commits, by way of events.

Usage: commits [--repo PATH]

  --repo PATH   The repository. Defaults to the one around the current directory
  --help        Print this

The tables stay in the schema `commits_example`, which every run creates anew.";

/// A repository's first commit may have very many files, more than fit the default limit.
const MESSAGE_LIMIT: usize = 64 << 20;
const QUEUE: &str = "commits_example";

#[derive(Event, Serialize, Deserialize)]
#[event(type = "git.commit", queue = "commits_example")]
pub(crate) struct Commit {
    hash: String,
    author: String,
    /// The hour of the day on the author's clock.
    hour: Option<i16>,
    subject: String,
    /// Empty for a merge.
    files: Vec<String>,
}

#[on_event]
async fn note_author(commit: Commit, State(pool): State<PgPool>) -> sqlx::Result<()> {
    sqlx::query("insert into commits_example.author values ($1, $2) on conflict do nothing")
        .bind(commit.hash)
        .bind(commit.author)
        .execute(&pool)
        .await?;
    Ok(())
}

#[on_event]
async fn note_hour(commit: Commit, State(pool): State<PgPool>) -> sqlx::Result<()> {
    sqlx::query("insert into commits_example.hour values ($1, $2) on conflict do nothing")
        .bind(commit.hash)
        .bind(commit.hour)
        .execute(&pool)
        .await?;
    Ok(())
}

#[on_event]
async fn note_files(commit: Commit, State(pool): State<PgPool>) -> sqlx::Result<()> {
    sqlx::query(
        "insert into commits_example.file
         select $1, n, path from unnest($2::text[]) with ordinality as files (path, n)
         on conflict do nothing",
    )
    .bind(commit.hash)
    .bind(commit.files)
    .execute(&pool)
    .await?;
    Ok(())
}

#[tokio::main]
async fn main() -> ExitCode {
    let repo = match repository(std::env::args_os().skip(1)) {
        Ok(Some(repo)) => repo,
        Ok(None) => {
            println!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(wrong) => {
            eprintln!("error: {wrong}\n\n{HELP}");
            return ExitCode::from(2);
        }
    };
    match run(&repo).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", ezq::error::error_chain(&*error));
            ExitCode::FAILURE
        }
    }
}

async fn run(repo: &Path) -> Result<()> {
    let head = git::head(repo).await?;
    let expected = git::count(repo, &head).await?;
    println!("reading {expected} commits from {}", repo.display());

    let ezq = Ezq::builder()
        .configure(|config| config.message_limit = config.message_limit.max(MESSAGE_LIMIT))
        .connect()
        .await?;
    let queue = QueueName::new(QUEUE)?;
    ezq.engine(&queue).ensure_queue(&queue).await?;
    ezq.purge(&queue).await?;
    tables::create(ezq.pool()).await?;

    let started = Instant::now();
    let bar = ProgressBar::new(expected).with_style(ProgressStyle::with_template(
        "{elapsed_precise} [{wide_bar}] {pos} of {len} handled {msg}",
    )?);
    let consumer = ezq.consumer().queue(&queue).concurrency(16).spawn();
    let history = git::History::open(repo, &head)?;
    let published = publish(&ezq, history, &consumer, &bar).await?;
    wait(&ezq, &queue, published, &consumer, &bar).await?;

    consumer.stop();
    let report = consumer.await?;
    bar.finish_and_clear();

    tables::print(ezq.pool()).await?;
    println!("\n{report}");
    let handled = tables::handled(ezq.pool()).await?;
    ezq.close().await;

    if handled != expected {
        let why = format!("{handled} events were handled, and git counts {expected} commits");
        return Err(why.into());
    }
    let rate = handled as f64 / started.elapsed().as_secs_f64();
    println!("{handled} events were handled, as many as git counts commits ({rate:.0} a second)");
    Ok(())
}

/// Publishes the history in batches. Returns the number of events.
async fn publish(
    ezq: &Ezq,
    mut history: git::History,
    consumer: &ConsumerHandle,
    bar: &ProgressBar,
) -> Result<u64> {
    let mut batch = Vec::new();
    let mut files = 0;
    let mut published = 0;
    loop {
        let commit = history.next().await?;
        let is_last = commit.is_none();
        files += commit.as_ref().map_or(0, |commit| commit.files.len());
        batch.extend(commit);

        // Few commits with many files make a batch as large as many commits do.
        if is_last || batch.len() >= 500 || files >= 20_000 {
            published += ezq.publish_all(&batch).await?.len() as u64;
            batch.clear();
            files = 0;
            bar.set_message(format!("({published} published)"));
            bar.set_position(consumer.counts().handled);
        }
        if is_last {
            return Ok(published);
        }
    }
}

/// Waits until nothing is left, including events that wait for a retry.
async fn wait(
    ezq: &Ezq,
    queue: &QueueName,
    published: u64,
    consumer: &ConsumerHandle,
    bar: &ProgressBar,
) -> Result<()> {
    while consumer.is_running() {
        let counts = consumer.counts();
        bar.set_position(counts.handled);
        if counts.handled + counts.dead_lettered + counts.lost >= published {
            let left = ezq.stats(queue).await?;
            if left.ready + left.in_progress + left.scheduled == 0 {
                break;
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// The repository that the arguments name; `None` if they ask for help.
fn repository(
    mut arguments: impl Iterator<Item = OsString>,
) -> std::result::Result<Option<PathBuf>, String> {
    let mut repo = None;
    while let Some(argument) = arguments.next() {
        match argument.to_str() {
            Some("--help" | "-h") => return Ok(None),
            Some("--repo") => {
                repo = Some(arguments.next().ok_or("`--repo` needs a path")?.into());
            }
            _ => return Err(format!("unknown argument `{}`", argument.display())),
        }
    }
    Ok(Some(repo.unwrap_or_else(|| ".".into())))
}
