//! `recovery`: the time from `kill -9` of a worker until the 10 events that it was handling are done, by
//! a consumer that was idle beside it. The worker is a process of its own.

use std::time::{Duration, Instant};

use ezq::engine::Engine as _;
use ezq::prelude::*;
use ezq::sqlx::{AssertSqlSafe, query, query_scalar};
use ezq::{Handler, QueueName};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::case::Case;
use crate::check::check;
use crate::children::Child;
use crate::database::Database;
use crate::error::Result;
use crate::options::Options;
use crate::outcome::{Figures, Outcome, Target};
use crate::progress::bar;

pub(super) const DEFAULT: Case = Case {
    name: "recovery",
    about: "kill -9 of a worker to its 10 running events done by another, lease 10 s",
    unit: "s",
    target: Some(Target::AtMost(3.0)),
    run: |options, database| Box::pin(run(&DEFAULT, options, database, 10)),
};

pub(super) const SHORT: Case = Case {
    name: "recovery_2s",
    about: "the same with a lease of 2 s",
    unit: "s",
    target: Some(Target::AtMost(3.0)),
    run: |options, database| Box::pin(run(&SHORT, options, database, 2)),
};

const RUNNING: usize = 10;
const REPETITIONS: usize = 10;

#[derive(Event, Serialize, Deserialize)]
#[event(type = "bench.held")]
struct Held {
    n: usize,
}

async fn run(
    case: &Case,
    options: &Options,
    database: &Database,
    lease_secs: u64,
) -> Result<Vec<Outcome>> {
    let repetitions = options.repetitions(REPETITIONS);

    let bar = bar(case.name, repetitions)?;
    let mut seconds = Vec::new();
    for n in 0..repetitions {
        seconds.push(once(database, Duration::from_secs(lease_secs), n).await?);
        bar.inc(1);
    }
    bar.finish_and_clear();

    let mut settings = database.settings().await?;
    settings.insert("lease_s".into(), json!(lease_secs));
    settings.insert("running".into(), json!(RUNNING));
    Ok(vec![Outcome::of(
        case.measure(),
        Figures::Alone(seconds),
        settings,
    )])
}

async fn once(database: &Database, lease: Duration, n: usize) -> Result<f64> {
    let name = format!("bench_recovery_{}_{n}", lease.as_secs());
    let queue = QueueName::new(&name)?;
    let other = application(database.url(), Duration::ZERO).await?;
    other.pgmq().ensure_queue(&queue).await?;
    let events: Vec<Held> = (0..RUNNING).map(|n| Held { n }).collect();
    other.publish_all(&events).queue(&queue).await?;

    let role = format!("recovery {queue} {}", lease.as_secs());
    let mut worker = Child::start(&role, database.url())?;
    // The worker has claimed all of them, and so their handlers run.
    let are_held = format!("select count(*) = {RUNNING} from pgmq.q_{queue} where read_ct = 1");
    while !query_scalar::<_, bool>(AssertSqlSafe(are_held.clone()))
        .fetch_one(other.pool())
        .await?
    {
        worker.still_runs()?;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    let consumer = other
        .consumer()
        .queue(&queue)
        .concurrency(RUNNING)
        .lease(lease)
        .spawn();
    // The consumer looks once and finds nothing. The pause differs between repetitions, so that the
    // worker is killed at different times after its last renewal of the leases.
    tokio::time::sleep(Duration::from_millis(500 + 137 * n as u64)).await;

    worker.kill()?;
    let killed = Instant::now();
    while consumer.counts().handled < RUNNING as u64 {
        if killed.elapsed() > Duration::from_secs(120) {
            return Err("nobody took the events over".into());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let took = killed.elapsed();

    consumer.stop();
    check(
        "the number of events taken over",
        consumer.await?.counts.handled,
        RUNNING,
    )?;
    query("select pgmq.drop_queue($1)")
        .bind(&name)
        .execute(other.pool())
        .await?;
    other.close().await;
    Ok(took.as_secs_f64())
}

async fn application(url: &str, takes: Duration) -> Result<Ezq> {
    let held = Handler::on("held", move |_: Held| tokio::time::sleep(takes)).timeout(None);
    Ok(Ezq::builder()
        .database_url(url)
        .without_discovered_handlers()
        .register(held)
        .connect()
        .await?)
}

/// The worker: it holds the events that it claims until it is killed.
pub(crate) async fn work(url: &str, queue: &str, lease: &str) -> Result<()> {
    // For ever, but no time that overflows when it is added to now.
    let ezq = application(url, Duration::MAX / 4).await?;
    let lease = Duration::from_secs(lease.parse()?);
    ezq.consumer()
        .queue(queue)
        .concurrency(RUNNING)
        .lease(lease)
        .run()
        .await?;
    Ok(())
}
