//! apalis with its Postgres backend: batches, LISTEN, and a task for each job, as in its basic example.

use std::time::Duration;

use apalis::prelude::*;
use apalis_postgres::{Config, PostgresStorage};
use ezq::sqlx::PgPool;
use tokio::runtime::Handle;

use super::QUEUE;
use crate::error::Result;
use crate::job::Job;
use crate::load::handle;
use crate::peer::{Peer, Worker};

pub(crate) struct OfApalis(PostgresStorage<Job>);

fn config() -> Config {
    Config::default()
        .queue(QUEUE)
        .batch_size(5_000)
        .lock_tasks(false)
}

async fn run(job: Job) -> std::result::Result<(), BoxDynError> {
    handle(&job).await;
    Ok(())
}

impl Peer for OfApalis {
    async fn install(url: &str) -> Result<()> {
        let pool = PgPool::connect(url).await?;
        PostgresStorage::setup(&pool).await?;
        Ok(())
    }

    async fn connect(url: &str) -> Result<Self> {
        let pool = PgPool::connect(url).await?;
        Ok(Self(PostgresStorage::new(&pool).with_config(config())))
    }

    async fn publish(&mut self, job: Job) -> Result<()> {
        self.0.push(job).await?;
        Ok(())
    }

    async fn publish_many(&mut self, jobs: Vec<Job>) -> Result<()> {
        self.0.push_bulk(jobs).await?;
        Ok(())
    }

    async fn work(url: &str) -> Result<Worker> {
        let pool = PgPool::connect(url).await?;
        let backend = PostgresStorage::<Job>::new(&pool)
            .with_config(config())
            .with_pubsub()
            .poll_with_interval(Duration::from_secs(5));
        let worker = WorkerBuilder::new(format!("worker-{}", std::process::id()))
            .backend(backend)
            .parallelize(tokio::spawn)
            .build(run);

        // Its future cannot be spawned as a task, so a thread drives it. The jobs are tasks.
        let runtime = Handle::current();
        let task = tokio::task::spawn_blocking(move || {
            if let Err(error) = runtime.block_on(worker.run()) {
                eprintln!("apalis: {error}");
            }
        });
        Ok(Box::new(task))
    }
}
