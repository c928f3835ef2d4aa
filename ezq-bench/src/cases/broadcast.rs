//! `broadcast_1`, `broadcast_3`, `broadcast_10`: what it costs to store a copy in each of so many
//! subscribed queues.
//!
//! The reference stores the same bodies in the same queues by one prepared statement that names them
//! all, and asks nobody who is subscribed. Both commit once an event, one after another.

use std::time::Instant;

use ezq::prelude::*;
use ezq::sqlx::{AssertSqlSafe, PgConnection, query, query_scalar};
use ezq::{Engine as _, QueueName};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::Mutex;

use super::{Case, CaseFuture, check};
use crate::Result;
use crate::arguments::Arguments;
use crate::database::Database;
use crate::outcome::{Figures, Outcome};
use crate::pairs::{Pairs, Run};

pub(super) const ONE: Case = case(
    "broadcast_1",
    "one event at a time to 1 queue; against one insert",
    |arguments, database| Box::pin(run("broadcast_1", 1, arguments, database)),
);
pub(super) const THREE: Case = case(
    "broadcast_3",
    "one event at a time to 3 queues; against one statement of 3 inserts",
    |arguments, database| Box::pin(run("broadcast_3", 3, arguments, database)),
);
pub(super) const TEN: Case = case(
    "broadcast_10",
    "one event at a time to 10 queues; against one statement of 10 inserts",
    |arguments, database| Box::pin(run("broadcast_10", 10, arguments, database)),
);

const EVENTS: usize = 1000;
/// Brings a message to about 200 bytes.
const TEXT: &str = "sixteen letters.";

#[derive(Event, Serialize, Deserialize)]
#[event(type = "bench.broadcast")]
struct Payload {
    n: usize,
    text: String,
}

const fn case(
    name: &'static str,
    about: &'static str,
    run: for<'a> fn(&'a Arguments, &'a Database) -> CaseFuture<'a>,
) -> Case {
    Case { name, about, unit: "events/s", run }
}

async fn run(
    name: &str,
    queues: usize,
    arguments: &Arguments,
    database: &Database,
) -> Result<Outcome> {
    let events = arguments.events.unwrap_or(EVENTS);
    let ezq = Ezq::builder().database_url(database.url()).without_discovered_handlers();
    let ezq = ezq.app("ezq_bench").connect().await?;
    let names = (0..queues).map(|n| QueueName::new(&format!("bench_broadcast_{n}")));
    let names = names.collect::<Result<Vec<_>, _>>()?;
    let subscriptions = ezq.subscriptions()?;
    for queue in &names {
        ezq.pgmq().ensure_queue(queue).await?;
        ezq.pgmq().purge(queue).await?;
        subscriptions.add(queue, Payload::TYPE).await?;
    }
    let plain = Mutex::new(database.connect().await?);
    let body = body(&ezq, &names).await?;
    let pairs = Pairs::measure(
        name,
        arguments.pairs,
        |_| broadcast(&ezq, &names, events),
        |_| insert(&ezq, &plain, &names, &body, events),
    );
    let pairs = pairs.await?;
    for queue in &names {
        for table in [queue.to_string(), queue.dead_letters()] {
            query("select pgmq.drop_queue($1)").bind(table).execute(ezq.pool()).await?;
        }
    }
    subscriptions.remove_app("ezq_bench").await?;
    ezq.close().await;
    let mut settings = database.settings().await?;
    settings.insert("events".into(), json!(events));
    settings.insert("queues".into(), json!(queues));
    settings.insert("body_bytes".into(), json!(body.len()));
    Ok(Outcome { figures: Figures::Pairs(pairs), settings })
}

fn payload(n: usize) -> Payload {
    Payload { n, text: TEXT.to_owned() }
}

/// A body as ezq writes it.
async fn body(ezq: &Ezq, queues: &[QueueName]) -> Result<String> {
    ezq.broadcast(&payload(0)).await?;
    let sql = format!("select message::text from pgmq.q_{} limit 1", queues[0]);
    Ok(query_scalar(AssertSqlSafe(sql)).fetch_one(ezq.pool()).await?)
}

async fn broadcast(ezq: &Ezq, queues: &[QueueName], events: usize) -> Result<Run> {
    clear(ezq, queues).await?;
    let began = Instant::now();
    for n in 0..events {
        let sent = ezq.broadcast(&payload(n)).await?;
        check("copies", sent.copies.len() as u64, queues.len())?;
    }
    Ok(Run { events, took: began.elapsed() })
}

async fn insert(
    ezq: &Ezq,
    plain: &Mutex<PgConnection>,
    queues: &[QueueName],
    body: &str,
    events: usize,
) -> Result<Run> {
    clear(ezq, queues).await?;
    let copy = |queue: &QueueName| {
        format!(
            "{queue} as (insert into pgmq.q_{queue} (vt, message)
             values (clock_timestamp(), ($1::text)::jsonb) returning msg_id)"
        )
    };
    let copies: Vec<String> = queues.iter().map(copy).collect();
    let ids: Vec<String> =
        queues.iter().map(|queue| format!("select msg_id from {queue}")).collect();
    let sql = format!("with {} {}", copies.join(", "), ids.join(" union all "));
    let mut connection = plain.lock().await;
    let began = Instant::now();
    for _ in 0..events {
        let ids = query(AssertSqlSafe(sql.clone())).bind(body).fetch_all(&mut *connection).await?;
        check("copies", ids.len() as u64, queues.len())?;
    }
    Ok(Run { events, took: began.elapsed() })
}

async fn clear(ezq: &Ezq, queues: &[QueueName]) -> Result<()> {
    for queue in queues {
        ezq.pgmq().purge(queue).await?;
    }
    Ok(())
}
