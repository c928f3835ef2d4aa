//! `publish_batch`: how fast one publisher stores events in batches of 100.
//!
//! The reference sends bodies of the same shape with `pgmq.send_batch`, on one connection.

use std::time::Instant;

use ezq::prelude::*;
use ezq::sqlx::{PgConnection, query_scalar};
use ezq::{Engine as _, QueueName};
use serde_json::json;
use tokio::sync::Mutex;

use super::{Case, check};
use crate::Result;
use crate::arguments::Arguments;
use crate::bodies::Bodies;
use crate::database::Database;
use crate::outcome::{Figures, Outcome, Target};
use crate::pairs::{Pairs, Run};
use crate::queues::{Payload, checkpoint, create, drop_queue};

pub(super) const CASE: Case = Case {
    name: "publish_batch",
    about: "batches of 100; against pgmq.send_batch of 100 on one connection",
    unit: "events/s",
    target: Some(Target::AtLeast(1.0)),
    run: |arguments, database| Box::pin(run(arguments, database)),
};

const EVENTS: usize = 50_000;
const BATCH: usize = 100;

async fn run(arguments: &Arguments, database: &Database) -> Result<Vec<Outcome>> {
    let ezq = Ezq::builder().database_url(database.url());
    let ezq = ezq.without_discovered_handlers().connect().await?;
    let plain = Mutex::new(database.connect().await?);
    let events = arguments.events.unwrap_or(EVENTS);
    let pairs = Pairs::measure(
        CASE.name,
        arguments.pairs(),
        |n| publish(&ezq, events, n),
        |n| send(&ezq, &plain, events, n),
    );
    let pairs = pairs.await?;
    ezq.close().await;
    let mut settings = database.settings().await?;
    settings.insert("events".into(), json!(events));
    settings.insert("batch".into(), json!(BATCH));
    settings.insert("body_bytes".into(), json!(Bodies::default().next(&Payload::new(0))?.len()));
    Ok(vec![Outcome::of(&CASE, Figures::Pairs(pairs), settings)])
}

async fn publish(ezq: &Ezq, events: usize, n: usize) -> Result<Run> {
    let name = format!("bench_publish_ezq_{n}");
    let queue = QueueName::new(&name)?;
    ezq.pgmq().ensure_queue(&queue).await?;
    ezq.purge(&queue).await?;
    checkpoint(ezq).await;

    let started = Instant::now();
    for first in (0..events).step_by(BATCH) {
        let batch: Vec<Payload> = (first..events.min(first + BATCH)).map(Payload::new).collect();
        for stored in ezq.publish_all(&batch).queue(&queue).await? {
            stored?;
        }
    }
    let took = started.elapsed();
    drop_queue(ezq, &name, events).await?;
    drop_queue(ezq, &queue.dead_letters(), 0).await?;
    Ok(Run { events, took })
}

async fn send(ezq: &Ezq, connection: &Mutex<PgConnection>, events: usize, n: usize) -> Result<Run> {
    let queue = format!("bench_publish_plain_{n}");
    create(ezq, &queue).await?;
    checkpoint(ezq).await;
    let mut connection = connection.lock().await;

    let started = Instant::now();
    let (mut bodies, mut sent) = (Bodies::default(), 0);
    for first in (0..events).step_by(BATCH) {
        let batch: Vec<String> = (first..events.min(first + BATCH))
            .map(|n| bodies.next(&Payload::new(n)))
            .collect::<Result<_>>()?;
        let ids: Vec<i64> = query_scalar("select pgmq.send_batch($1, $2::text[]::jsonb[])")
            .bind(&queue)
            .bind(batch)
            .fetch_all(&mut *connection)
            .await?;
        sent += ids.len() as u64;
    }
    let took = started.elapsed();
    check("the number of ids", sent, events)?;
    drop_queue(ezq, &queue, events).await?;
    Ok(Run { events, took })
}
