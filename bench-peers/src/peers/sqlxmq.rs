//! sqlxmq with a wide span between its two bounds of concurrency, since that is its batch.

use std::path::Path;

use sqlx_0_8::PgPool;
use sqlx_0_8::migrate::Migrator;
use sqlx_0_8::postgres::PgPoolOptions;
use sqlxmq::{CurrentJob, JobRegistry};

use crate::error::{Error, Result};
use crate::job::Job;
use crate::load::handle;
use crate::packages::folder_of;
use crate::peer::{Peer, Worker};

#[sqlxmq::job(channel_name = "jobs")]
async fn run(mut current_job: CurrentJob) -> std::result::Result<(), Error> {
    let job: Job = current_job.json()?.ok_or("the job has no payload")?;
    handle(&job).await;
    current_job.complete().await?;
    Ok(())
}

pub(crate) struct OfSqlxmq(PgPool);

impl Peer for OfSqlxmq {
    /// Its migrations are files of its package, which programs copy.
    async fn install(url: &str) -> Result<()> {
        let files = folder_of("sqlxmq")?.join("migrations");
        let migrator = Migrator::new(Path::new(&files)).await?;
        migrator.run(&PgPool::connect(url).await?).await?;
        Ok(())
    }

    async fn connect(url: &str) -> Result<Self> {
        Ok(Self(PgPool::connect(url).await?))
    }

    async fn publish(&mut self, job: Job) -> Result<()> {
        run.builder().set_json(&job)?.spawn(&self.0).await?;
        Ok(())
    }

    /// It has no call for many, so they share a transaction. Only the backlog is made like this.
    async fn publish_many(&mut self, jobs: Vec<Job>) -> Result<()> {
        let mut transaction = self.0.begin().await?;
        for job in jobs {
            run.builder()
                .set_json(&job)?
                .spawn(&mut *transaction)
                .await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    async fn work(url: &str) -> Result<Worker> {
        let pool = PgPoolOptions::new()
            .max_connections(20)
            .connect(url)
            .await?;
        let runner = JobRegistry::new(&[run])
            .runner(&pool)
            .set_channel_names(&["jobs"])
            .set_concurrency(100, 1_000)
            .run()
            .await?;
        Ok(Box::new(runner))
    }
}
