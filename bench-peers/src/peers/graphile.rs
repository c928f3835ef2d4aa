//! graphile_worker (Rust): a local queue and batched completions, which its guide names for throughput.

use std::time::Duration;

use ezq::sqlx::PgPool;
use ezq::sqlx::postgres::PgPoolOptions;
use graphile_worker::{
    IntoTaskHandlerResult, JobSpec, LocalQueueConfig, TaskHandler, WorkerContext, WorkerOptions,
    WorkerUtils,
};

use crate::error::Result;
use crate::job::Job;
use crate::load::handle;
use crate::peer::{CONCURRENCY, Peer, Worker};

const SCHEMA: &str = "graphile_worker";

impl TaskHandler for Job {
    const IDENTIFIER: &'static str = "job";

    async fn run(self, _context: WorkerContext) -> impl IntoTaskHandlerResult {
        handle(&self).await;
        Ok::<(), String>(())
    }
}

pub(crate) struct OfGraphile(WorkerUtils);

impl Peer for OfGraphile {
    async fn install(url: &str) -> Result<()> {
        Ok(Self::connect(url).await?.0.migrate().await?)
    }

    async fn connect(url: &str) -> Result<Self> {
        let pool = PgPool::connect(url).await?;
        Ok(Self(WorkerUtils::new(pool, SCHEMA)))
    }

    async fn publish(&mut self, job: Job) -> Result<()> {
        self.0.add_job(job, JobSpec::default()).await?;
        Ok(())
    }

    async fn publish_many(&mut self, jobs: Vec<Job>) -> Result<()> {
        let spec = JobSpec::default();
        let jobs: Vec<(Job, &JobSpec)> = jobs.into_iter().map(|job| (job, &spec)).collect();
        self.0.add_jobs(&jobs).await?;
        Ok(())
    }

    async fn work(url: &str) -> Result<Worker> {
        let pool = PgPoolOptions::new()
            .max_connections(20)
            .connect(url)
            .await?;
        let worker = WorkerOptions::default()
            .pg_pool(pool)
            .schema(SCHEMA)
            .concurrency(CONCURRENCY)
            .complete_job_batch_delay(Duration::from_millis(5))
            .local_queue(LocalQueueConfig::default().with_size(5_000))
            .define_job::<Job>()
            .init()
            .await?;

        let task = tokio::spawn(async move {
            if let Err(error) = worker.run().await {
                eprintln!("graphile_worker: {error}");
            }
        });
        Ok(Box::new(task))
    }
}
