//! awa with its default storage, whose tables rotate.

use std::time::Duration;

use awa::model::insert::params_with;
use awa::{Client, InsertOpts, JobArgs, JobResult, QueueConfig, QueueStorage, QueueStorageConfig};
use sqlx_0_8::PgPool;
use sqlx_0_8::postgres::PgPoolOptions;

use super::QUEUE;
use crate::error::Result;
use crate::job::Job;
use crate::load::handle;
use crate::peer::{Peer, Worker};

impl JobArgs for Job {
    fn kind() -> &'static str {
        "job"
    }
}

/// A worker of its waits until the completion of its job is stored, in batches of up to 512. From so many
/// workers on it stores them on four connections.
const WORKERS: u32 = 1_024;

/// The storage is what its documentation names for publishers of many jobs.
pub(crate) struct OfAwa(PgPool, QueueStorage);

fn options() -> InsertOpts {
    InsertOpts {
        queue: QUEUE.to_owned(),
        ..InsertOpts::default()
    }
}

impl Peer for OfAwa {
    async fn install(url: &str) -> Result<()> {
        let pool = PgPool::connect(url).await?;
        awa::migrations::run(&pool).await?;
        let storage = QueueStorage::new(QueueStorageConfig::default())?;
        storage.install(&pool).await?;
        Ok(())
    }

    async fn connect(url: &str) -> Result<Self> {
        let storage = QueueStorage::new(QueueStorageConfig::default())?;
        Ok(Self(PgPool::connect(url).await?, storage))
    }

    async fn publish(&mut self, job: Job) -> Result<()> {
        awa::insert_with(&self.0, &job, options()).await?;
        Ok(())
    }

    async fn publish_many(&mut self, jobs: Vec<Job>) -> Result<()> {
        let jobs: std::result::Result<Vec<_>, _> =
            jobs.iter().map(|job| params_with(job, options())).collect();
        self.1.enqueue_params_copy(&self.0, &jobs?).await?;
        Ok(())
    }

    async fn work(url: &str) -> Result<Worker> {
        let pool = PgPoolOptions::new()
            .max_connections(20)
            .connect(url)
            .await?;
        let config = QueueConfig {
            max_workers: WORKERS,
            // Its documented short path: claims without a deadline are kept as receipts.
            deadline_duration: Duration::ZERO,
            ..QueueConfig::default()
        };
        let client = Client::builder(pool)
            .queue(QUEUE, config)
            .register::<Job, _, _>(|job, _context| async move {
                handle(&job).await;
                Ok(JobResult::Completed)
            })
            .build()?;
        client.start().await?;
        Ok(Box::new(client))
    }
}
