//! `bloat_latency`: what an open transaction costs the time from publish to handler start. Handled events
//! have left dead rows, which the transaction's snapshot keeps from being removed, and 800 events a second
//! leave more. The reference is ezq without the open transaction.

use std::time::Duration;

use ezq::QueueName;
use ezq::prelude::*;
use ezq::sqlx::Connection as _;
use serde_json::json;
use tokio::sync::mpsc;

use crate::case::Case;
use crate::cases::latency::{Started, measure, next, telling};
use crate::check::check;
use crate::database::Database;
use crate::error::Result;
use crate::options::Options;
use crate::outcome::{Figures, Outcome};
use crate::pairs::{Pairs, percentile};
use crate::payload::Payload;
use crate::progress::bar;
use crate::queues::drop_queue;

pub(super) const CASE: Case = Case {
    name: "bloat_latency",
    about: "publish to handler start, 800 a second, while a snapshot is held; against itself without",
    unit: "ms",
    target: None,
    run: |options, database| Box::pin(run(options, database)),
};

/// How many batches are handled first.
pub(super) const BATCHES: usize = 150;
/// The most events of a batch.
pub(super) const BATCH: usize = 1000;
/// How many are measured: those of 15 s.
const EVENTS: usize = 12_000;
pub(super) const PERIOD: Duration = Duration::from_micros(1250);
const REPETITIONS: usize = 3;

async fn run(options: &Options, database: &Database) -> Result<Vec<Outcome>> {
    let events = options.events.unwrap_or(EVENTS);
    let repetitions = options.repetitions(REPETITIONS);
    let bar = bar(CASE.name, repetitions)?;

    let mut middle = Pairs::default();
    let mut tail = Pairs::default();
    for n in 0..repetitions {
        let plain = pass_through(database, &format!("bench_bloat_plain_{n}"), events).await?;
        let snapshot = database.hold_snapshot().await?;
        let own = pass_through(database, &format!("bench_bloat_{n}"), events).await?;
        snapshot.close().await?;

        middle.push(percentile(&own, 50), percentile(&plain, 50));
        tail.push(percentile(&own, 99), percentile(&plain, 99));
        bar.inc(1);
    }
    bar.finish_and_clear();

    let mut settings = database.settings().await?;
    settings.insert("events".into(), json!(events));
    settings.insert("handled_before".into(), json!(BATCHES * events.min(BATCH)));
    let part = |name, pairs| {
        Outcome::of(CASE.measure(), Figures::Pairs(pairs), settings.clone()).part(name, None)
    };
    Ok(vec![
        part("bloat_latency_p50", middle),
        part("bloat_latency_p99", tail),
    ])
}

/// The milliseconds of each measured event.
async fn pass_through(database: &Database, name: &str, events: usize) -> Result<Vec<f64>> {
    let queue = QueueName::new(name)?;
    let (start, mut started) = mpsc::unbounded_channel();
    let ezq = telling(database.url(), start)
        .queue(&queue)
        .connect()
        .await?;
    let consumer = ezq.consumer().queue(&queue).spawn();

    let batch = events.min(BATCH);
    handle_before(&ezq, (&queue, batch), &mut started).await?;
    let times = measure(&ezq, (&queue, PERIOD), &mut started, events).await?;

    consumer.stop();
    let handled = consumer.await?.counts.handled;
    check(
        "the number of events handled",
        handled,
        BATCHES * batch + events,
    )?;
    drop_queue(&ezq, name, 0).await?;
    drop_queue(&ezq, &queue.dead_letters(), 0).await?;
    ezq.close().await;
    Ok(times)
}

/// Has events handled, which leave their dead rows.
pub(super) async fn handle_before(
    ezq: &Ezq,
    (queue, batch): (&QueueName, usize),
    started: &mut Started,
) -> Result<()> {
    for first in (0..BATCHES).map(|n| n * batch) {
        let events: Vec<Payload> = (first..first + batch).map(Payload::new).collect();
        ezq.publish_all(&events).queue(queue).await?;
        for _ in 0..batch {
            next(started).await?;
        }
    }
    Ok(())
}
