//! `publish_concurrent`: 64 tasks, each of which publishes one event at a time and awaits its durable
//! commit.
//!
//! The reference calls `pgmq.send` from as many tasks, on a pool of 8; ezq's pool is as large.

use std::future::Future;
use std::time::Instant;

use ezq::QueueName;
use ezq::engine::Engine as _;
use ezq::prelude::*;
use ezq::sqlx::postgres::PgPoolOptions;
use ezq::sqlx::{PgPool, query_scalar};
use serde_json::json;
use tokio::task::JoinSet;

use crate::bodies::Bodies;
use crate::case::Case;
use crate::database::Database;
use crate::error::Result;
use crate::options::Options;
use crate::outcome::{Figures, Outcome, Target};
use crate::pairs::{Pairs, Run};
use crate::payload::Payload;
use crate::queues::{checkpoint, create, drop_queue};

pub(super) const CASE: Case = Case {
    name: "publish_concurrent",
    about: "64 tasks, one event at a time; against pgmq.send in 64 tasks on a pool of 8",
    unit: "events/s",
    target: Some(Target::AtLeast(3.0)),
    run: |options, database| Box::pin(run(options, database)),
};

const EVENTS: usize = 12_800;
const TASKS: usize = 64;
const POOL: u32 = 8;

async fn run(options: &Options, database: &Database) -> Result<Vec<Outcome>> {
    let pool = || {
        PgPoolOptions::new()
            .max_connections(POOL)
            // All open before the time begins.
            .min_connections(POOL)
    };
    let plain = pool().connect(database.url()).await?;
    let ezq = Ezq::builder()
        .pool(pool().connect(database.url()).await?)
        .without_discovered_handlers()
        .connect()
        .await?;
    let each = options.events.unwrap_or(EVENTS).div_ceil(TASKS);

    let pairs = Pairs::measure(
        CASE.name,
        options.pairs(),
        |n| publish(&ezq, each, n),
        |n| send(&ezq, &plain, each, n),
    )
    .await?;

    ezq.close().await;

    let mut settings = database.settings().await?;
    settings.insert("events".into(), json!(each * TASKS));
    settings.insert("tasks".into(), json!(TASKS));
    settings.insert("connections".into(), json!(POOL));
    settings.insert("reference_connections".into(), json!(POOL));
    Ok(vec![Outcome::of(
        CASE.measure(),
        Figures::Pairs(pairs),
        settings,
    )])
}

async fn publish(ezq: &Ezq, each: usize, n: usize) -> Result<Run> {
    let name = format!("bench_concurrent_ezq_{n}");
    let queue = QueueName::new(&name)?;
    ezq.pgmq().ensure_queue(&queue).await?;
    ezq.purge(&queue).await?;
    checkpoint(ezq).await;

    let run = in_tasks(each, |numbers| {
        let ezq = ezq.clone();
        let queue = queue.clone();
        async move {
            for n in numbers {
                ezq.publish(&Payload::new(n)).queue(&queue).await?;
            }
            Ok(())
        }
    })
    .await?;
    drop_queue(ezq, &name, run.events).await?;
    drop_queue(ezq, &queue.dead_letters(), 0).await?;
    Ok(run)
}

async fn send(ezq: &Ezq, pool: &PgPool, each: usize, n: usize) -> Result<Run> {
    let queue = format!("bench_concurrent_plain_{n}");
    create(ezq, &queue).await?;
    checkpoint(ezq).await;

    let run = in_tasks(each, |numbers| {
        let pool = pool.clone();
        let queue = queue.clone();
        let mut bodies = Bodies::default();
        async move {
            for n in numbers {
                let _id: i64 = query_scalar("select pgmq.send($1, $2::text::jsonb)")
                    .bind(&queue)
                    .bind(bodies.next(&Payload::new(n))?)
                    .fetch_one(&pool)
                    .await?;
            }
            Ok(())
        }
    })
    .await?;
    drop_queue(ezq, &queue, run.events).await?;
    Ok(run)
}

/// Runs the tasks, each with its own range of events.
async fn in_tasks<F>(each: usize, task: impl Fn(std::ops::Range<usize>) -> F) -> Result<Run>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let started = Instant::now();
    let mut tasks: JoinSet<Result<()>> = (0..TASKS)
        .map(|first| task(first * each..(first + 1) * each))
        .collect();
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(Run {
        events: TASKS * each,
        took: started.elapsed(),
    })
}
