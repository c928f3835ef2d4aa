//! The queues of a run. A template is filled once and copied for each run. A queue is dropped if exactly
//! the right number of messages is left in it.

use std::time::Duration;

use ezq::prelude::*;
use ezq::sqlx::{AssertSqlSafe, Executor as _, query, query_scalar};

use crate::check::check;
use crate::error::Result;
use crate::payload::Payload;

/// A queue that is filled once and copied for every run, so that every run finds the same messages.
#[derive(Debug)]
pub(crate) struct Template {
    name: String,
    /// The number of events that are due.
    pub(crate) due: usize,
    /// The number of events that are due tomorrow.
    pub(crate) later: usize,
    is_keyed: bool,
}

impl Template {
    /// An empty template.
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

    /// A template of events that are due and have no keys.
    pub(crate) async fn plain(ezq: &Ezq, name: &str, events: usize) -> Result<Self> {
        let mut template = Self::create(ezq, name).await?;
        template
            .add(ezq, (0..events).map(Payload::new), false)
            .await?;
        Ok(template)
    }

    /// Publishes events into the template, due now or tomorrow.
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
            // A statement of bounded size, whatever the number of events.
            let batch: Vec<Payload> = events.by_ref().take(1000).collect();
            self.is_keyed |= batch.iter().any(|event| event.key().is_some());
            if tomorrow {
                self.later += batch.len();
            } else {
                self.due += batch.len();
            }
            ezq.publish_all(&batch)
                .queue(self.name.as_str())
                .after(after)
                .await?;
        }
        Ok(())
    }

    /// Copies the template to a queue, in place of what is in there. It leaves nothing to autovacuum and
    /// the checkpointer, whose work would fall into the run.
    pub(crate) async fn copy(&self, ezq: &Ezq, queue: &str) -> Result<()> {
        if self.is_keyed {
            // The first event with a key that is published to a queue prepares the queue for keys.
            ezq.publish(&Payload::with_key(0, "first"))
                .queue(queue)
                .await?;
        }
        query("select pgmq.purge_queue($1)")
            .bind(queue)
            .execute(ezq.pool())
            .await?;

        let table = format!("pgmq.q_{queue}");
        let template = &self.name;
        let copy = format!(
            "insert into {table} (vt, enqueued_at, message, headers)
             select vt, enqueued_at, message, headers from pgmq.q_{template} order by msg_id"
        );
        let mut connection = ezq.pool().acquire().await?;
        connection.execute(AssertSqlSafe(copy)).await?;
        connection
            // Also gives the planner the statistics that a queue in use has.
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

/// Writes out what earlier runs left in memory, so that no run pays for an earlier one.
pub(crate) async fn checkpoint(ezq: &Ezq) {
    // Without the privilege, runs are measured with the checkpoints that the server begins by itself.
    let _ = query("checkpoint").execute(ezq.pool()).await;
}

/// The number of rows of a table.
pub(crate) async fn count(ezq: &Ezq, table: &str) -> Result<u64> {
    let sql = format!("select count(*) from {table}");
    let rows: i64 = query_scalar(AssertSqlSafe(sql))
        .fetch_one(ezq.pool())
        .await?;
    Ok(rows.unsigned_abs())
}

/// Drops a queue.
///
/// # Errors
/// If another number of messages than `left` is in it.
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
