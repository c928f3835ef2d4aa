//! `bloat_released`: what an open transaction leaves behind. While it is open, its snapshot keeps the dead rows
//! of handled events. It ends, and 800 events a second go on. The dead rows are counted 10 s later. The
//! reference is ezq with `vacuum` off, so that the rows wait for autovacuum.

use ezq::QueueName;
use ezq::sqlx::{Connection as _, query_scalar};
use serde_json::json;
use tokio::sync::mpsc;

use crate::case::Case;
use crate::cases::bloat_latency::{BATCH, BATCHES, PERIOD, handle_before};
use crate::cases::latency::{measure, telling};
use crate::database::Database;
use crate::error::Result;
use crate::options::Options;
use crate::outcome::{Figures, Outcome};
use crate::pairs::{Pairs, percentile};
use crate::progress::bar;
use crate::queues::drop_queue;

pub(super) const CASE: Case = Case {
    name: "bloat_released",
    about: "dead rows 10 s after a snapshot was released, 800 events a second; against vacuum off",
    unit: "rows",
    target: None,
    run: |options, database| Box::pin(run(options, database)),
};

/// How many events follow the end of the transaction: those of 10 s.
const EVENTS: usize = 8_000;
const REPETITIONS: usize = 3;

/// What was found at the end.
struct Found {
    dead: f64,
    /// The milliseconds of each event since the end of the transaction.
    times: Vec<f64>,
}

async fn run(options: &Options, database: &Database) -> Result<Vec<Outcome>> {
    let events = options.events.unwrap_or(EVENTS);
    let repetitions = options.repetitions(REPETITIONS);
    let bar = bar(CASE.name, repetitions)?;

    let mut dead = Pairs::default();
    let mut tail = Pairs::default();
    for n in 0..repetitions {
        let plain = pass_through(
            database,
            &format!("bench_plain_released_{n}"),
            events,
            false,
        )
        .await?;
        let own = pass_through(database, &format!("bench_released_{n}"), events, true).await?;
        dead.push(own.dead, plain.dead);
        tail.push(percentile(&own.times, 99), percentile(&plain.times, 99));
        bar.inc(1);
    }
    bar.finish_and_clear();

    let mut settings = database.settings().await?;
    settings.insert("events".into(), json!(events));
    settings.insert("handled_before".into(), json!(BATCHES * BATCH));
    let dead = Outcome::of(CASE.measure(), Figures::Pairs(dead), settings.clone());
    // The time of events, beside the rows that the case is named for.
    let mut measure = CASE.measure();
    measure.unit = "ms";
    let tail = Outcome::of(measure, Figures::Pairs(tail), settings);
    Ok(vec![dead, tail.part("bloat_released_p99", None)])
}

async fn pass_through(
    database: &Database,
    name: &str,
    events: usize,
    vacuum: bool,
) -> Result<Found> {
    let queue = QueueName::new(name)?;
    let (start, mut started) = mpsc::unbounded_channel();
    let ezq = telling(database.url(), start)
        .queue(&queue)
        .configure(|config| config.vacuum = vacuum)
        .connect()
        .await?;
    let consumer = ezq.consumer().queue(&queue).spawn();

    // It begins first, so that every row dies under it.
    let snapshot = database.hold_snapshot().await?;
    handle_before(&ezq, (&queue, BATCH), &mut started).await?;
    snapshot.close().await?;
    let times = measure(&ezq, (&queue, PERIOD), &mut started, events).await?;

    // What the server has counted: sessions tell it of rows that died about once a second.
    let dead: i64 = query_scalar("select pg_stat_get_dead_tuples(to_regclass($1))")
        .bind(format!("pgmq.q_{queue}"))
        .fetch_one(ezq.pool())
        .await?;
    consumer.stop();
    consumer.await?;
    drop_queue(&ezq, name, 0).await?;
    drop_queue(&ezq, &queue.dead_letters(), 0).await?;
    ezq.close().await;
    Ok(Found {
        dead: dead as f64,
        times,
    })
}
