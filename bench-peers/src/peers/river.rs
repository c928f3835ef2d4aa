//! River's client for Rust, with the shortest pause between fetches that it allows.

use std::time::Duration;

use ezq::sqlx::PgPool;
use ezq::sqlx::postgres::PgPoolOptions;
use riverqueue::migrate::PostgresMigrator;
use riverqueue::{
    BoxError, Client, Job as Row, JobArgs, QueueConfig, WorkContext, WorkOutcome, Workers,
};

use crate::error::Result;
use crate::job::Job;
use crate::load::handle;
use crate::peer::{Peer, Worker};

/// Also the time for which a publisher sends no second notification.
const COOLDOWN: Duration = Duration::from_millis(1);

/// A fetch takes as many jobs as workers are free, so a wide worker has large batches.
const CONCURRENCY: usize = 1_000;

impl JobArgs for Job {
    const KIND: &'static str = "job";
}

async fn run(_context: WorkContext, row: Row<Job>) -> std::result::Result<WorkOutcome, BoxError> {
    handle(&row.args).await;
    Ok(WorkOutcome::Complete)
}

pub(crate) struct OfRiver(Client);

impl Peer for OfRiver {
    async fn install(url: &str) -> Result<()> {
        let pool = PgPool::connect(url).await?;
        PostgresMigrator::new(pool).migrate_up().await?;
        Ok(())
    }

    async fn connect(url: &str) -> Result<Self> {
        let pool = PgPool::connect(url).await?;
        let client = Client::builder(pool).fetch_cooldown(COOLDOWN).build()?;
        Ok(Self(client))
    }

    async fn publish(&mut self, job: Job) -> Result<()> {
        self.0.insert(job).await?;
        Ok(())
    }

    async fn publish_many(&mut self, jobs: Vec<Job>) -> Result<()> {
        self.0.insert_many(jobs).await?;
        Ok(())
    }

    async fn work(url: &str) -> Result<Worker> {
        let pool = PgPoolOptions::new()
            .max_connections(20)
            .connect(url)
            .await?;
        let mut workers = Workers::new();
        workers.add_fn(run)?;

        let client = Client::builder(pool)
            .workers(workers)
            .fetch_cooldown(COOLDOWN)
            .queue("default", QueueConfig::new(CONCURRENCY))
            // A held job must outlive the measurement.
            .without_job_timeout()
            .build()?;
        let run = client.start()?;
        Ok(Box::new((client, run)))
    }
}
