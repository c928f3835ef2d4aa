//! ezq: one publisher, and a consumer with its defaults but for the concurrency.

use ezq::engine::Engine as _;
use ezq::prelude::*;
use ezq::{Handler, QueueName};

use super::QUEUE;
use crate::error::Result;
use crate::job::Job;
use crate::load::handle;
use crate::peer::{CONCURRENCY, Peer, Worker};

impl Event for Job {
    const TYPE: &'static str = "job";
}

pub(crate) struct OfEzq {
    ezq: Ezq,
    queue: QueueName,
}

impl Peer for OfEzq {
    async fn install(url: &str) -> Result<()> {
        let peer = Self::connect(url).await?;
        peer.ezq.pgmq().ensure_queue(&peer.queue).await?;
        Ok(())
    }

    async fn connect(url: &str) -> Result<Self> {
        let handler = Handler::on("job", |job: Job| async move { handle(&job).await });
        let ezq = Ezq::builder()
            .database_url(url)
            .without_discovered_handlers()
            .queue(QUEUE)
            // A held job must outlive the measurement.
            .register(handler.timeout(None))
            .connect()
            .await?;
        Ok(Self {
            ezq,
            queue: QueueName::new(QUEUE)?,
        })
    }

    async fn publish(&mut self, job: Job) -> Result<()> {
        self.ezq.publish(&job).queue(&self.queue).await?;
        Ok(())
    }

    async fn publish_many(&mut self, jobs: Vec<Job>) -> Result<()> {
        self.ezq.publish_all(&jobs).queue(&self.queue).await?;
        Ok(())
    }

    async fn work(url: &str) -> Result<Worker> {
        let Self { ezq, queue } = Self::connect(url).await?;
        let consumer = ezq
            .consumer()
            .queue(&queue)
            .concurrency(CONCURRENCY)
            .spawn();
        Ok(Box::new((ezq, consumer)))
    }
}
