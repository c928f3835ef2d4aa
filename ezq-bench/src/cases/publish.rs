//! `publish_one`, `publish_batch`, `publish_bulk`: how fast one publisher stores events: one at a time, in
//! batches of 100, and all in one call.
//!
//! The reference sends bodies of the same shape with `pgmq.send` and `pgmq.send_batch`, on one
//! connection. It has no call for all, and sends batches of 1,000.

use std::time::Instant;

use ezq::QueueName;
use ezq::engine::Engine as _;
use ezq::prelude::*;
use ezq::sqlx::{PgConnection, query_scalar};
use serde_json::json;
use tokio::sync::Mutex;

use crate::bodies::Bodies;
use crate::case::Case;
use crate::check::check;
use crate::database::Database;
use crate::error::Result;
use crate::options::Options;
use crate::outcome::{Figures, Outcome, Target};
use crate::pairs::{Pairs, Run};
use crate::payload::Payload;
use crate::queues::{checkpoint, create, drop_queue};

pub(super) const ONE: Case = Case {
    name: "publish_one",
    about: "one event at a time, each awaited; against pgmq.send on one connection",
    unit: "events/s",
    target: None,
    run: |options, database| Box::pin(run(&ONE, 5000, 1, options, database)),
};

pub(super) const BATCH: Case = Case {
    name: "publish_batch",
    about: "batches of 100; against pgmq.send_batch of 100 on one connection",
    unit: "events/s",
    target: Some(Target::AtLeast(1.0)),
    run: |options, database| Box::pin(run(&BATCH, 50_000, 100, options, database)),
};

pub(super) const BULK: Case = Case {
    name: "publish_bulk",
    about: "50,000 in one call; against pgmq.send_batch of 1,000 on one connection",
    unit: "events/s",
    target: Some(Target::AtLeast(1.3)),
    run: |options, database| Box::pin(run(&BULK, 50_000, 50_000, options, database)),
};

/// The most events that the reference sends at once.
const SENT_AT_ONCE: usize = 1000;

async fn run(
    case: &Case,
    events: usize,
    batch: usize,
    options: &Options,
    database: &Database,
) -> Result<Vec<Outcome>> {
    let ezq = Ezq::builder()
        .database_url(database.url())
        .without_discovered_handlers()
        .connect()
        .await?;
    let plain = Mutex::new(database.connect().await?);
    let events = options.events.unwrap_or(events);

    let pairs = Pairs::measure(
        case.name,
        options.pairs(),
        |n| publish(&ezq, events, batch, n),
        |n| send(&ezq, &plain, events, batch.min(SENT_AT_ONCE), n),
    )
    .await?;

    ezq.close().await;

    let mut settings = database.settings().await?;
    settings.insert("events".into(), json!(events));
    settings.insert("batch".into(), json!(batch));
    settings.insert(
        "body_bytes".into(),
        json!(Bodies::default().next(&Payload::new(0))?.len()),
    );
    Ok(vec![Outcome::of(
        case.measure(),
        Figures::Pairs(pairs),
        settings,
    )])
}

async fn publish(ezq: &Ezq, events: usize, batch: usize, n: usize) -> Result<Run> {
    let name = format!("bench_publish_{batch}_ezq_{n}");
    let queue = QueueName::new(&name)?;
    ezq.pgmq().ensure_queue(&queue).await?;
    ezq.purge(&queue).await?;
    checkpoint(ezq).await;

    let started = Instant::now();
    for first in (0..events).step_by(batch) {
        // The call for one event is another than that for several.
        if batch == 1 {
            ezq.publish(&Payload::new(first)).queue(&queue).await?;
            continue;
        }
        let batch: Vec<Payload> = (first..events.min(first + batch))
            .map(Payload::new)
            .collect();
        ezq.publish_all(&batch).queue(&queue).await?;
    }
    let took = started.elapsed();

    drop_queue(ezq, &name, events).await?;
    drop_queue(ezq, &queue.dead_letters(), 0).await?;
    Ok(Run { events, took })
}

async fn send(
    ezq: &Ezq,
    connection: &Mutex<PgConnection>,
    events: usize,
    batch: usize,
    n: usize,
) -> Result<Run> {
    let queue = format!("bench_publish_{batch}_plain_{n}");
    create(ezq, &queue).await?;
    checkpoint(ezq).await;
    let mut connection = connection.lock().await;

    let started = Instant::now();
    let mut bodies = Bodies::default();
    let mut sent = 0;
    for first in (0..events).step_by(batch) {
        if batch == 1 {
            let body = bodies.next(&Payload::new(first))?;
            let send = query_scalar::<_, i64>("select pgmq.send($1, $2::text::jsonb)");
            send.bind(&queue)
                .bind(body)
                .fetch_one(&mut *connection)
                .await?;
            sent += 1;
            continue;
        }
        let batch: Vec<String> = (first..events.min(first + batch))
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
