//! The floor: plain statements of PGMQ on one connection, which read and delete 100 messages at a time.

use ezq::sqlx::types::Json;
use ezq::sqlx::{Connection as _, PgConnection, query, query_as};

use super::QUEUE;
use super::ezq::OfEzq;
use crate::error::Result;
use crate::job::Job;
use crate::load::handle;
use crate::peer::{Peer, Worker};

pub(crate) struct OfPgmq(PgConnection);

impl Peer for OfPgmq {
    /// The same tables as those of ezq.
    async fn install(url: &str) -> Result<()> {
        OfEzq::install(url).await
    }

    async fn connect(url: &str) -> Result<Self> {
        Ok(Self(PgConnection::connect(url).await?))
    }

    async fn publish(&mut self, job: Job) -> Result<()> {
        query("select pgmq.send($1, $2)")
            .bind(QUEUE)
            .bind(Json(job))
            .execute(&mut self.0)
            .await?;
        Ok(())
    }

    async fn publish_many(&mut self, jobs: Vec<Job>) -> Result<()> {
        let bodies: Vec<Json<Job>> = jobs.into_iter().map(Json).collect();
        query("select pgmq.send_batch($1, $2)")
            .bind(QUEUE)
            .bind(bodies)
            .execute(&mut self.0)
            .await?;
        Ok(())
    }

    async fn work(url: &str) -> Result<Worker> {
        let mut connection = PgConnection::connect(url).await?;
        let task = tokio::spawn(async move {
            loop {
                if let Err(error) = read_and_delete(&mut connection).await {
                    eprintln!("pgmq: {error}");
                    return;
                }
            }
        });
        Ok(Box::new(task))
    }
}

async fn read_and_delete(connection: &mut PgConnection) -> Result<()> {
    let messages: Vec<(i64, Json<Job>)> =
        query_as("select msg_id, message from pgmq.read($1, 30, 100)")
            .bind(QUEUE)
            .fetch_all(&mut *connection)
            .await?;

    let mut ids = Vec::with_capacity(messages.len());
    for (id, Json(job)) in messages {
        handle(&job).await;
        ids.push(id);
    }

    query("select pgmq.delete($1, $2)")
        .bind(QUEUE)
        .bind(ids)
        .execute(connection)
        .await?;
    Ok(())
}
