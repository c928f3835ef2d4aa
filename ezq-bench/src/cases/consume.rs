//! `consume`: how fast a backlog is worked off by a handler that does nothing.
//!
//! The reference reads 100 messages with `pgmq.read` and deletes them with `pgmq.delete`, again and
//! again, on one connection. Both find the same messages in a fresh queue.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use ezq::prelude::*;
use ezq::sqlx::{Executor as _, PgConnection, query, query_as, query_scalar};
use ezq::{Engine as _, Handler, QueueName, Retention};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::sync::Mutex;

use super::{Case, check};
use crate::Result;
use crate::arguments::Arguments;
use crate::database::Database;
use crate::outcome::{Figures, Outcome};
use crate::pairs::{Pairs, Run};

pub(super) const CASE: Case = Case {
    name: "consume",
    about: "a backlog, no-op handler, concurrency 64, delete; against read(100) and delete",
    unit: "events/s",
    run: |arguments, database| Box::pin(run(arguments, database)),
};

pub(super) const EVENTS: usize = 50_000;
const CONCURRENCY: usize = 64;
const READ: i32 = 100;
/// Brings a message to about 200 bytes.
const TEXT: &str = "sixteen letters.";
const TEMPLATE: &str = "bench_consume_template";

#[derive(Event, Serialize, Deserialize)]
#[event(type = "bench")]
struct Payload {
    n: usize,
    text: String,
}

async fn run(arguments: &Arguments, database: &Database) -> Result<Outcome> {
    let events = arguments.events.unwrap_or(EVENTS);
    let (ezq, handled) = open(database).await?;
    let bytes = fill(&ezq, events).await?;
    let plain = Mutex::new(database.connect().await?);

    let pairs = Pairs::measure(
        CASE.name,
        arguments.pairs,
        |n| consume(&ezq, &handled, events, n, Retention::Delete),
        |n| read_and_delete(&ezq, &plain, events, n),
    );
    let pairs = pairs.await?;

    let mut settings = close(ezq, database, events, bytes).await?;
    settings.insert("reference_read".into(), json!(READ));
    Ok(Outcome { figures: Figures::Pairs(pairs), settings })
}

/// An application with a handler that does nothing, and what that counts.
pub(super) async fn open(database: &Database) -> Result<(Ezq, Arc<AtomicU64>)> {
    let handled = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&handled);
    let ezq = Ezq::builder()
        .database_url(database.url())
        .without_discovered_handlers()
        .register(Handler::on("noop", move |_: Payload| {
            counter.fetch_add(1, Ordering::Relaxed);
            std::future::ready(())
        }))
        .connect()
        .await?;
    Ok((ezq, handled))
}

/// Leaves nothing behind; the settings under which it ran.
pub(super) async fn close(
    ezq: Ezq,
    database: &Database,
    events: usize,
    bytes: i64,
) -> Result<Map<String, Value>> {
    query("select pgmq.drop_queue($1)").bind(TEMPLATE).execute(ezq.pool()).await?;
    ezq.close().await;
    let mut settings = database.settings().await?;
    settings.insert("events".into(), json!(events));
    settings.insert("body_bytes".into(), json!(bytes));
    settings.insert("concurrency".into(), json!(CONCURRENCY));
    Ok(settings)
}

/// Publishes the events once, to be copied for every run; the mean size of a body.
pub(super) async fn fill(ezq: &Ezq, events: usize) -> Result<i64> {
    query("select pgmq.create($1)").bind(TEMPLATE).execute(ezq.pool()).await?;
    query("select pgmq.purge_queue($1)").bind(TEMPLATE).execute(ezq.pool()).await?;
    let payloads: Vec<Payload> = (0..events).map(|n| Payload { n, text: TEXT.into() }).collect();
    for batch in payloads.chunks(1000) {
        for stored in ezq.publish_all(batch).queue(TEMPLATE).await? {
            stored?;
        }
    }
    let sql = "select avg(octet_length(message::text))::bigint from pgmq.q_bench_consume_template";
    Ok(query_scalar(sql).fetch_one(ezq.pool()).await?)
}

/// Copies the events to a queue, and leaves the server with nothing of it to do.
async fn copy(ezq: &Ezq, queue: &str) -> Result<()> {
    let mut connection = ezq.pool().acquire().await?;
    let table = format!("pgmq.q_{queue}");
    let copy = format!(
        "insert into {table} (vt, enqueued_at, message, headers)
         select vt, enqueued_at, message, headers from pgmq.q_{TEMPLATE} order by msg_id"
    );
    connection.execute(ezq::sqlx::AssertSqlSafe(copy)).await?;
    connection.execute(ezq::sqlx::AssertSqlSafe(format!("vacuum analyze {table}"))).await?;
    // A role that may not is measured with the checkpoints that come by themselves.
    let _ = connection.execute("checkpoint").await;
    Ok(())
}

/// Works off a copy of the events, and checks what became of them.
pub(super) async fn consume(
    ezq: &Ezq,
    handled: &AtomicU64,
    events: usize,
    n: usize,
    retention: Retention,
) -> Result<Run> {
    let end = if retention.is_archive() { "archive" } else { "delete" };
    let name = format!("bench_consume_{end}_{n}");
    let queue = QueueName::new(&name)?;
    ezq.pgmq().set_retention(&queue, retention)?;
    ezq.pgmq().ensure_queue(&queue).await?;
    ezq.purge(&queue).await?;
    copy(ezq, &name).await?;
    handled.store(0, Ordering::Relaxed);

    let consumer = ezq.consumer().queue(&queue).concurrency(CONCURRENCY).until_idle();
    let started = Instant::now();
    let report = consumer.run().await?;
    let took = started.elapsed();

    check("the number of events that ezq reports", report.counts.handled, events)?;
    check("the number of events that the handler saw", handled.load(Ordering::Relaxed), events)?;
    let count = format!("select count(*) from pgmq.a_{queue}");
    let kept: i64 = query_scalar(ezq::sqlx::AssertSqlSafe(count)).fetch_one(ezq.pool()).await?;
    let wanted = if retention.is_archive() { events } else { 0 };
    check("the number of events in the archive", kept.unsigned_abs(), wanted)?;
    drop_queue(ezq, &name).await?;
    drop_queue(ezq, &queue.dead_letters()).await?;
    Ok(Run { events, took })
}

async fn read_and_delete(
    ezq: &Ezq,
    connection: &Mutex<PgConnection>,
    events: usize,
    n: usize,
) -> Result<Run> {
    let queue = format!("bench_consume_plain_{n}");
    query("select pgmq.create($1)").bind(&queue).execute(ezq.pool()).await?;
    query("select pgmq.purge_queue($1)").bind(&queue).execute(ezq.pool()).await?;
    copy(ezq, &queue).await?;
    let mut connection = connection.lock().await;

    let started = Instant::now();
    let mut deleted = 0;
    loop {
        let messages: Vec<(i64, String)> =
            query_as("select msg_id, message::text from pgmq.read($1, 30, $2)")
                .bind(&queue)
                .bind(READ)
                .fetch_all(&mut *connection)
                .await?;
        if messages.is_empty() {
            break;
        }
        let ids: Vec<i64> = messages.iter().map(|(id, _)| *id).collect();
        let gone: Vec<i64> = query_scalar("select pgmq.delete($1, $2)")
            .bind(&queue)
            .bind(ids)
            .fetch_all(&mut *connection)
            .await?;
        deleted += gone.len() as u64;
    }
    let took = started.elapsed();

    check("the number of messages that were deleted", deleted, events)?;
    drop_queue(ezq, &queue).await?;
    Ok(Run { events, took })
}

/// Drops a queue, of which nothing may be left.
async fn drop_queue(ezq: &Ezq, queue: &str) -> Result<()> {
    let count = format!("select count(*) from pgmq.q_{queue}");
    let left: i64 = query_scalar(ezq::sqlx::AssertSqlSafe(count)).fetch_one(ezq.pool()).await?;
    check("the number of messages left", left.unsigned_abs(), 0)?;
    query("select pgmq.drop_queue($1)").bind(queue).execute(ezq.pool()).await?;
    Ok(())
}
