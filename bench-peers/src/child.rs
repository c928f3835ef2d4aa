//! What a child process does for one library of Rust: `node/peer.mjs` does the same for those of Node.

use std::time::{Duration, Instant};

use ezq::sqlx::{AssertSqlSafe, Connection as _, PgConnection, query_scalar};
use serde_json::json;

use crate::error::Result;
use crate::job::Job;
use crate::load;
use crate::peer::{BULK, Peer};
use crate::peers::apalis::OfApalis;
use crate::peers::awa::OfAwa;
use crate::peers::ezq::OfEzq;
use crate::peers::graphile::OfGraphile;
use crate::peers::pgmq::OfPgmq;
use crate::peers::river::OfRiver;
use crate::peers::sqlxmq::OfSqlxmq;

/// A publisher's first jobs prepare its statements. They are not timed.
pub(crate) const WARM_UP: u64 = 100;

/// Between two publishes while latencies are taken.
const PACE: Duration = Duration::from_millis(50);

/// A child's arguments.
pub(crate) struct Task {
    pub(crate) name: String,
    pub(crate) library: String,
    pub(crate) url: String,
    /// How many jobs it is about.
    pub(crate) jobs: u64,
    /// Counts the library's unfinished jobs.
    pub(crate) unfinished: String,
}

pub(crate) async fn run(task: Task) -> Result<()> {
    match task.library.as_str() {
        "ezq" => run_as::<OfEzq>(task).await,
        "pgmq" => run_as::<OfPgmq>(task).await,
        "graphile_worker" => run_as::<OfGraphile>(task).await,
        "apalis" => run_as::<OfApalis>(task).await,
        "awa" => run_as::<OfAwa>(task).await,
        "sqlxmq" => run_as::<OfSqlxmq>(task).await,
        "riverqueue" => run_as::<OfRiver>(task).await,
        other => Err(format!("no library {other}").into()),
    }
}

async fn run_as<P: Peer>(task: Task) -> Result<()> {
    match task.name.as_str() {
        "install" => P::install(&task.url).await,
        "publish" => publish::<P>(&task).await,
        "bulk" => bulk::<P>(&task).await,
        "pace" => pace::<P>(&task).await,
        "work" => work::<P>(&task).await,
        "latency" => latency::<P>(&task).await,
        "hold" => hold::<P>(&task).await,
        "take" => take::<P>(&task).await,
        "idle" => idle::<P>(&task).await,
        other => Err(format!("no task {other}").into()),
    }
}

/// Publishes one at a time, each awaited.
async fn publish<P: Peer>(task: &Task) -> Result<()> {
    let mut peer = P::connect(&task.url).await?;
    for n in 0..WARM_UP {
        peer.publish(Job::now(n)).await?;
    }

    let started = Instant::now();
    for n in 0..task.jobs {
        peer.publish(Job::now(n)).await?;
    }
    println!("{}", started.elapsed().as_secs_f64());
    Ok(())
}

/// Publishes by the call for many.
async fn bulk<P: Peer>(task: &Task) -> Result<()> {
    let mut peer = P::connect(&task.url).await?;

    let started = Instant::now();
    for first in (0..task.jobs).step_by(BULK) {
        let last = task.jobs.min(first + BULK as u64);
        peer.publish_many((first..last).map(Job::now).collect())
            .await?;
    }
    println!("{}", started.elapsed().as_secs_f64());
    Ok(())
}

/// Publishes at a low rate, for a worker that is idle in between.
async fn pace<P: Peer>(task: &Task) -> Result<()> {
    let mut peer = P::connect(&task.url).await?;
    let mut ticks = tokio::time::interval(PACE);
    for n in 0..task.jobs {
        ticks.tick().await;
        peer.publish(Job::now(n)).await?;
    }
    Ok(())
}

/// Works a backlog off. The time ends when the database says that no job is left.
async fn work<P: Peer>(task: &Task) -> Result<()> {
    let mut observer = PgConnection::connect(&task.url).await?;

    let started = Instant::now();
    let _worker = P::work(&task.url).await?;
    finished(task, &mut observer).await?;
    println!("{} {}", started.elapsed().as_secs_f64(), load::begun());
    Ok(())
}

async fn latency<P: Peer>(task: &Task) -> Result<()> {
    load::take_times();
    let mut observer = PgConnection::connect(&task.url).await?;
    let _worker = P::work(&task.url).await?;
    println!("ready");
    finished(task, &mut observer).await?;
    println!("{}", json!(load::latencies()));
    Ok(())
}

/// Begins all jobs and ends none. The parent kills this process.
async fn hold<P: Peer>(task: &Task) -> Result<()> {
    load::hold();
    let _worker = P::work(&task.url).await?;
    begun(task).await;
    println!("held");
    std::future::pending().await
}

/// Is idle until jobs can be taken over.
async fn take<P: Peer>(task: &Task) -> Result<()> {
    let mut observer = PgConnection::connect(&task.url).await?;
    let _worker = P::work(&task.url).await?;
    println!("ready");
    finished(task, &mut observer).await?;
    println!("taken");
    Ok(())
}

async fn idle<P: Peer>(task: &Task) -> Result<()> {
    let _worker = P::work(&task.url).await?;
    println!("ready");
    std::future::pending().await
}

/// Waits until as many handlers as jobs began. It asks the database nothing.
async fn begun(task: &Task) {
    while load::begun() < task.jobs {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Waits until all jobs were handled, and until the database says so too.
async fn finished(task: &Task, observer: &mut PgConnection) -> Result<()> {
    begun(task).await;
    let unfinished = || query_scalar::<_, i64>(AssertSqlSafe(task.unfinished.clone()));
    while unfinished().fetch_one(&mut *observer).await? > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}
