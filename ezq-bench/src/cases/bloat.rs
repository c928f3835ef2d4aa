//! `bloat`: the cost of a transaction that stays open. An hour's worth of events goes through one queue,
//! published while it is consumed, and the open transaction's snapshot keeps every row version from being
//! removed. The reference is ezq without the open transaction.

use std::time::{Duration, Instant};

use ezq::QueueName;
use ezq::engine::Engine as _;
use ezq::prelude::*;
use ezq::sqlx::Connection as _;
use serde_json::json;

use crate::application::{Application, CONCURRENCY};
use crate::case::Case;
use crate::check::check;
use crate::database::Database;
use crate::error::Result;
use crate::options::Options;
use crate::outcome::{Figures, Outcome};
use crate::pairs::{Pairs, Run};
use crate::payload::Payload;
use crate::queues::{checkpoint, drop_queue};

pub(super) const CASE: Case = Case {
    name: "bloat",
    about: "1,000,000 events through a queue while a snapshot is held; against itself without",
    unit: "events/s",
    target: None,
    run: |options, database| Box::pin(run(options, database)),
};

const EVENTS: usize = 1_000_000;
const REPETITIONS: usize = 1;
const BATCH: usize = 100;
/// The publisher waits while this many events are not handled.
const AHEAD: usize = 5000;

async fn run(options: &Options, database: &Database) -> Result<Vec<Outcome>> {
    let application = Application::counting(database.url()).await?;
    let ezq = &application.ezq;
    let events = options.events.unwrap_or(EVENTS);
    // The first pair only warms up, so it needs fewer events.
    let of_pair = |n: usize| if n == 0 { events.div_ceil(20) } else { events };

    let pairs = Pairs::measure(
        CASE.name,
        options.repetitions(REPETITIONS),
        |n| async move {
            let snapshot = database.hold_snapshot().await?;
            let run = pass_through(ezq, &format!("bench_bloat_{n}"), of_pair(n)).await?;
            snapshot.close().await?;
            Ok(run)
        },
        |n| async move { pass_through(ezq, &format!("bench_bloat_plain_{n}"), of_pair(n)).await },
    )
    .await?;

    ezq.close().await;

    let mut settings = database.settings().await?;
    settings.insert("events".into(), json!(events));
    settings.insert("batch".into(), json!(BATCH));
    settings.insert("concurrency".into(), json!(CONCURRENCY));
    Ok(vec![Outcome::of(
        CASE.measure(),
        Figures::Pairs(pairs),
        settings,
    )])
}

async fn pass_through(ezq: &Ezq, name: &str, events: usize) -> Result<Run> {
    let queue = QueueName::new(name)?;
    ezq.pgmq().ensure_queue(&queue).await?;
    ezq.purge(&queue).await?;
    checkpoint(ezq).await;
    let consumer = ezq
        .consumer()
        .queue(&queue)
        .concurrency(CONCURRENCY)
        .spawn();

    let started = Instant::now();
    for first in (0..events).step_by(BATCH) {
        // The queue stays short, so that what grows is dead rows and not the backlog.
        while consumer.counts().handled + (AHEAD as u64) < first as u64 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let batch: Vec<Payload> = (first..events.min(first + BATCH))
            .map(Payload::new)
            .collect();
        ezq.publish_all(&batch).queue(&queue).await?;
    }
    while consumer.counts().handled < events as u64 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let took = started.elapsed();

    consumer.stop();
    check(
        "the number of events handled",
        consumer.await?.counts.handled,
        events,
    )?;
    drop_queue(ezq, name, 0).await?;
    drop_queue(ezq, &queue.dead_letters(), 0).await?;
    Ok(Run { events, took })
}
