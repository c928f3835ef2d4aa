//! The queues of a run: filled once as a template, copied for each run, and dropped when exactly
//! what should be left of them is.

use std::time::Duration;

use ezq::prelude::*;
use ezq::sqlx::{AssertSqlSafe, Executor as _, query, query_scalar};

use crate::Result;
use crate::check::check;
use crate::payload::Payload;

/// A queue that is filled once, to be copied for every run.
#[derive(Debug)]
pub(crate) struct Template {
    name: String,
    /// Events that are due.
    pub(crate) due: usize,
    /// Events that are due tomorrow.
    pub(crate) later: usize,
    is_keyed: bool,
}

impl Template {
    /// An empty one.
    pub(crate) async fn create(ezq: &Ezq, name: &str) -> Result<Self> {
        let name = format!("bench_{name}_template");
        create(ezq, &name).await?;
        Ok(Self {
            name,
            due: 0,
            later: 0,
            is_keyed: false,
        })
    }

    /// One with so many events that are due, without keys.
    pub(crate) async fn plain(ezq: &Ezq, name: &str, events: usize) -> Result<Self> {
        let mut template = Self::create(ezq, name).await?;
        template
            .add(ezq, (0..events).map(Payload::new), false)
            .await?;
        Ok(template)
    }

    /// Publishes events into it, tomorrow's or today's.
    pub(crate) async fn add(
        &mut self,
        ezq: &Ezq,
        events: impl Iterator<Item = Payload>,
        tomorrow: bool,
    ) -> Result<()> {
        let after = if tomorrow {
            Duration::from_secs(24 * 3600)
        } else {
            Duration::ZERO
        };
        let mut events = events.peekable();
        while events.peek().is_some() {
            let batch: Vec<Payload> = events.by_ref().take(1000).collect();
            self.is_keyed |= batch.iter().any(|event| event.key().is_some());
            *if tomorrow {
                &mut self.later
            } else {
                &mut self.due
            } += batch.len();
            ezq.publish_all(&batch)
                .queue(self.name.as_str())
                .after(after)
                .await?;
        }
        Ok(())
    }

    /// Copies it to an empty queue, and leaves the server with nothing of it to do.
    pub(crate) async fn copy(&self, ezq: &Ezq, queue: &str) -> Result<()> {
        if self.is_keyed {
            // A queue is prepared for keys by the first that is published to it.
            ezq.publish(&Payload::with_key(0, "first"))
                .queue(queue)
                .await?;
        }
        query("select pgmq.purge_queue($1)")
            .bind(queue)
            .execute(ezq.pool())
            .await?;
        let (table, template) = (format!("pgmq.q_{queue}"), &self.name);
        let copy = format!(
            "insert into {table} (vt, enqueued_at, message, headers)
             select vt, enqueued_at, message, headers from pgmq.q_{template} order by msg_id"
        );
        let mut connection = ezq.pool().acquire().await?;
        connection.execute(AssertSqlSafe(copy)).await?;
        connection
            .execute(AssertSqlSafe(format!("vacuum analyze {table}")))
            .await?;
        drop(connection);
        checkpoint(ezq).await;
        Ok(())
    }

    /// The mean size of a body as text.
    pub(crate) async fn body_bytes(&self, ezq: &Ezq) -> Result<i64> {
        let sql = format!(
            "select avg(octet_length(message::text))::bigint from pgmq.q_{}",
            self.name
        );
        Ok(query_scalar(AssertSqlSafe(sql))
            .fetch_one(ezq.pool())
            .await?)
    }

    pub(crate) async fn drop(self, ezq: &Ezq) -> Result<()> {
        query("select pgmq.drop_queue($1)")
            .bind(self.name)
            .execute(ezq.pool())
            .await?;
        Ok(())
    }
}

/// Creates a queue as PGMQ does, or empties it.
pub(crate) async fn create(ezq: &Ezq, queue: &str) -> Result<()> {
    query("select pgmq.create($1)")
        .bind(queue)
        .execute(ezq.pool())
        .await?;
    query("select pgmq.purge_queue($1)")
        .bind(queue)
        .execute(ezq.pool())
        .await?;
    Ok(())
}

/// Writes out what earlier runs left in memory, so that no run pays for another.
pub(crate) async fn checkpoint(ezq: &Ezq) {
    // A role that may not is measured with the checkpoints that come by themselves.
    let _ = query("checkpoint").execute(ezq.pool()).await;
}

/// How many rows a table has.
pub(crate) async fn count(ezq: &Ezq, table: &str) -> Result<u64> {
    let sql = format!("select count(*) from {table}");
    let rows: i64 = query_scalar(AssertSqlSafe(sql))
        .fetch_one(ezq.pool())
        .await?;
    Ok(rows.unsigned_abs())
}

/// Drops a queue, of which exactly so many messages may be left.
pub(crate) async fn drop_queue(ezq: &Ezq, queue: &str, left: usize) -> Result<()> {
    check(
        "the number of messages left",
        count(ezq, &format!("pgmq.q_{queue}")).await?,
        left,
    )?;
    query("select pgmq.drop_queue($1)")
        .bind(queue)
        .execute(ezq.pool())
        .await?;
    Ok(())
}
