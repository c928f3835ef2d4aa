//! What is measured of one library. Each figure comes from a database of its own.

use std::time::{Duration, Instant};

use crate::child::WARM_UP;
use crate::error::Result;
use crate::library::Library;
use crate::process::Child;
use crate::server::{Database, Server};

/// Enough single publishes for two seconds.
const SINGLE: u64 = 5_000;
const LATENCIES: u64 = 200;
/// How many jobs the killed worker holds.
const HELD: u64 = 10;

/// How long a worker may find its feet before it counts as idle.
const SETTLE: Duration = Duration::from_secs(3);
const IDLE: Duration = Duration::from_secs(20);
/// A library that takes longer is reported as such. Most have an interval in their documentation.
pub(crate) const RECOVERY_LIMIT: Duration = Duration::from_secs(30);

/// The jobs that a new database holds when a worker starts, and how fast they came there.
async fn backlog(
    server: &mut Server,
    library: &Library,
    database: &Database,
    jobs: u64,
) -> Result<f64> {
    let mut child = Child::start(library, "bulk", &database.url, jobs)?;
    let took: f64 = child.answer().await?.parse()?;
    child.end().await?;
    check(server, library, database, jobs).await?;
    Ok(jobs as f64 / took)
}

/// Fails unless so many unfinished jobs are stored: the time of another number means nothing.
async fn check(
    server: &mut Server,
    library: &Library,
    database: &Database,
    jobs: u64,
) -> Result<()> {
    let stored = server.count(database, library.unfinished).await?;
    if stored == jobs {
        Ok(())
    } else {
        Err(format!("{}: {stored} jobs stored, not {jobs}", library.name).into())
    }
}

/// Jobs a second of a worker that starts with a backlog, and of the bulk publish that made it.
pub(crate) async fn work(server: &mut Server, library: &Library, jobs: u64) -> Result<(f64, f64)> {
    let database = server.database(library).await?;
    let bulk = backlog(server, library, &database, jobs).await?;
    // Autovacuum would do it within a minute. Without statistics some libraries get very slow plans.
    server.analyze(&database).await?;
    server.checkpoint().await?;

    let mut child = Child::start(library, "work", &database.url, jobs)?;
    let answer = child.answer().await?;
    let (took, handled) = answer.split_once(' ').ok_or("no count")?;
    child.end().await?;
    // At least once: that is what they promise. None did so without a fault.
    if handled != jobs.to_string() {
        eprintln!("{}: handled {handled} of {jobs} jobs", library.name);
    }

    server.drop(database).await?;
    Ok((jobs as f64 / took.parse::<f64>()?, bulk))
}

/// Single publishes a second.
pub(crate) async fn publish(server: &mut Server, library: &Library) -> Result<f64> {
    let database = server.database(library).await?;
    server.checkpoint().await?;

    let mut child = Child::start(library, "publish", &database.url, SINGLE)?;
    let took: f64 = child.answer().await?.parse()?;
    child.end().await?;

    check(server, library, &database, SINGLE + WARM_UP).await?;
    server.drop(database).await?;
    Ok(SINGLE as f64 / took)
}

/// The median and the 99th percentile, in milliseconds.
pub(crate) async fn latency(server: &mut Server, library: &Library) -> Result<(f64, f64)> {
    let database = server.database(library).await?;
    let mut worker = Child::start(library, "latency", &database.url, LATENCIES)?;
    worker.answer().await?;
    tokio::time::sleep(SETTLE).await;

    Child::start(library, "pace", &database.url, LATENCIES)?
        .end()
        .await?;
    let mut latencies: Vec<f64> = serde_json::from_str(&worker.answer().await?)?;
    worker.end().await?;
    server.drop(database).await?;

    latencies.sort_by(f64::total_cmp);
    let at = |share: f64| {
        latencies
            .get((latencies.len() as f64 * share) as usize)
            .copied()
    };
    Ok((
        at(0.50).ok_or("no latencies")?,
        at(0.99).ok_or("no latencies")?,
    ))
}

/// Transactions a second of an idle worker of each library. They wait beside each other.
pub(crate) async fn idle(server: &mut Server, libraries: &[Library]) -> Result<Vec<f64>> {
    let mut workers = Vec::new();
    for library in libraries {
        let database = server.database(library).await?;
        let mut worker = Child::start(library, "idle", &database.url, 0)?;
        worker.answer().await?;
        workers.push((database, worker));
    }
    server.autovacuum(false).await?;
    tokio::time::sleep(SETTLE).await;

    let mut before = Vec::new();
    for (database, _) in &workers {
        before.push(server.commits(database).await?);
    }
    tokio::time::sleep(IDLE).await;

    let mut rates = Vec::new();
    for ((database, worker), before) in workers.into_iter().zip(before) {
        let commits = server.commits(&database).await? - before;
        rates.push(commits as f64 / IDLE.as_secs_f64());
        worker.kill().await?;
        server.drop(database).await?;
    }
    server.autovacuum(true).await?;
    Ok(rates)
}

/// Seconds from `kill -9` of a worker until another has finished its 10 running jobs. Nothing if that
/// takes longer than the limit. The libraries wait beside each other.
pub(crate) async fn recovery(
    server: &mut Server,
    libraries: &[Library],
    round: u32,
) -> Result<Vec<Option<f64>>> {
    let mut waits = Vec::new();
    for library in libraries {
        let database = server.database(library).await?;
        backlog(server, library, &database, HELD).await?;
        let mut held = Child::start(library, "hold", &database.url, HELD)?;
        held.answer().await?;
        let mut other = Child::start(library, "take", &database.url, HELD)?;
        other.answer().await?;
        waits.push((database, held, other));
    }
    // Rounds kill at different times after the last sign of life.
    tokio::time::sleep(SETTLE + Duration::from_millis(700) * round).await;

    let mut tasks = Vec::new();
    for (database, held, mut other) in waits {
        held.kill().await?;
        let killed = Instant::now();
        tasks.push(tokio::spawn(async move {
            let taken = tokio::time::timeout(RECOVERY_LIMIT, other.answer()).await;
            let seconds = killed.elapsed().as_secs_f64();
            other.kill().await?;
            let recovery = match taken {
                Ok(answer) => answer.map(|_| Some(seconds)),
                Err(_) => Ok(None),
            };
            recovery.map(|recovery| (database, recovery))
        }));
    }

    let mut recoveries = Vec::new();
    for task in tasks {
        let (database, recovery) = task.await??;
        recoveries.push(recovery);
        server.drop(database).await?;
    }
    Ok(recoveries)
}
