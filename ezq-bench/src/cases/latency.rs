//! `latency`: the time from the call that publishes an event to the start of its handler, on an idle
//! consumer that does not poll. Publisher and consumer are two applications, so that each event goes
//! through Postgres.
//!
//! The reference is what every queue on Postgres needs: `pg_notify` on one connection, its arrival at a
//! listener on another, and one `pgmq.read`. Both run at the same time, 20 times a second each, and
//! alternate.

use std::time::{Duration, Instant};

use ezq::prelude::*;
use ezq::sqlx::postgres::PgListener;
use ezq::sqlx::{Connection as _, PgConnection, query, query_scalar};
use ezq::{EzqBuilder, Handler, QueueName};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval_at, timeout};

use crate::case::Case;
use crate::check::check;
use crate::database::Database;
use crate::error::Result;
use crate::options::Options;
use crate::outcome::{Figures, Outcome, Target};
use crate::pairs::{Pairs, percentile};
use crate::payload::Payload;
use crate::progress::bar;
use crate::queues::{create, drop_queue};

pub(super) const CASE: Case = Case {
    name: "latency",
    about: "publish to handler start, 20 a second, idle consumer; against NOTIFY to LISTEN and a read",
    unit: "ms",
    target: None,
    run: |options, database| Box::pin(run(options, database)),
};

/// The events of one repetition.
const EVENTS: usize = 200;
const PERIOD: Duration = Duration::from_millis(50);
const NEVER: Duration = Duration::from_secs(3600);
const QUEUE: &str = "bench_latency";
const PLAIN: &str = "bench_latency_plain";

/// The numbers of events, and when their handlers started.
pub(super) type Started = mpsc::UnboundedReceiver<(usize, Instant)>;

async fn run(options: &Options, database: &Database) -> Result<Vec<Outcome>> {
    let url = database.url();
    let publisher = Ezq::builder()
        .database_url(url)
        .without_discovered_handlers()
        .connect()
        .await?;

    let (start, mut started) = mpsc::unbounded_channel();
    let ezq = telling(url, start)
        .configure(|config| {
            // A poll that happens to come right then would pass for a wake-up.
            config.poll_min = Some(NEVER);
            config.poll_max = Some(NEVER);
        })
        .connect()
        .await?;
    let queue = QueueName::new(QUEUE)?;
    let consumer = ezq.consumer().queue(QUEUE).spawn();
    let mut reference = Reference::open(&publisher, database).await?;

    let events = options.events.unwrap_or(EVENTS);
    let repetitions = options.pairs();

    let bar = bar(CASE.name, repetitions + 1)?;
    let mut middle = Pairs::default();
    let mut tail = Pairs::default();
    for n in 0..=repetitions {
        // At the same time, so that both see the same machine.
        let measured = tokio::join!(
            measure(&publisher, (&queue, PERIOD), &mut started, events),
            reference.measure(events),
        );
        let own = measured.0?;
        let plain = measured.1?;
        // The first repetition only warms up.
        if n > 0 {
            middle.push(percentile(&own, 50), percentile(&plain, 50));
            tail.push(percentile(&own, 99), percentile(&plain, 99));
        }
        bar.inc(1);
    }
    bar.finish_and_clear();

    consumer.stop();
    let handled = consumer.await?.counts.handled;
    check(
        "the number of events handled",
        handled,
        events * (repetitions + 1),
    )?;
    ezq.close().await;

    drop_queue(&publisher, QUEUE, 0).await?;
    drop_queue(&publisher, &QueueName::new(QUEUE)?.dead_letters(), 0).await?;
    drop_queue(&publisher, PLAIN, 1).await?;
    publisher.close().await;

    let mut settings = database.settings().await?;
    settings.insert("events".into(), json!(events));
    settings.insert("events_per_s".into(), json!(1000 / PERIOD.as_millis()));
    let part = |name, pairs, most| {
        Outcome::of(CASE.measure(), Figures::Pairs(pairs), settings.clone())
            .part(name, Some(Target::AtMost(most)))
    };
    Ok(vec![
        part("latency_p50", middle, 2.0),
        part("latency_p99", tail, 3.0),
    ])
}

/// An application that tells when its handler starts.
pub(super) fn telling(url: &str, start: mpsc::UnboundedSender<(usize, Instant)>) -> EzqBuilder {
    let handler = Handler::on("noop", move |event: Payload| {
        // The receiver is gone once the case has failed.
        let _ = start.send((event.n, Instant::now()));
        std::future::ready(())
    });
    Ezq::builder()
        .database_url(url)
        .without_discovered_handlers()
        .register(handler)
}

/// Publishes one event a period. Returns the milliseconds from each publish to its handler's start.
pub(super) async fn measure(
    ezq: &Ezq,
    (queue, period): (&QueueName, Duration),
    started: &mut Started,
    events: usize,
) -> Result<Vec<f64>> {
    let mut ticks = interval_at(tokio::time::Instant::now() + period, period);
    let mut sent = Vec::with_capacity(events);
    for n in 0..events {
        ticks.tick().await;
        sent.push(Instant::now());
        ezq.publish(&Payload::new(n)).queue(queue).await?;
    }

    let mut times = Vec::with_capacity(events);
    while times.len() < events {
        let (n, at) = next(started).await?;
        times.push(at.saturating_duration_since(sent[n]).as_secs_f64() * 1000.0);
    }
    Ok(times)
}

/// The next handler's start.
pub(super) async fn next(started: &mut Started) -> Result<(usize, Instant)> {
    let next = timeout(Duration::from_secs(60), started.recv()).await;
    Ok(next
        .ok()
        .flatten()
        .ok_or("events are left that nobody was woken for")?)
}

/// The connections of the reference.
struct Reference {
    listener: PgListener,
    notifier: PgConnection,
    reader: PgConnection,
}

impl Reference {
    async fn open(ezq: &Ezq, database: &Database) -> Result<Self> {
        create(ezq, PLAIN).await?;
        query("select pgmq.send($1, '{}'::jsonb)")
            .bind(PLAIN)
            .execute(ezq.pool())
            .await?;
        let mut listener = PgListener::connect(database.url()).await?;
        listener.listen(PLAIN).await?;

        Ok(Self {
            listener,
            notifier: database.connect().await?,
            reader: database.connect().await?,
        })
    }

    /// The milliseconds of each round. Rounds begin half a period after the events, so that the two do
    /// not disturb each other.
    async fn measure(&mut self, rounds: usize) -> Result<Vec<f64>> {
        let first = tokio::time::Instant::now() + PERIOD + PERIOD / 2;
        let mut ticks = interval_at(first, PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut times = Vec::with_capacity(rounds);

        for _ in 0..rounds {
            ticks.tick().await;
            let sent = Instant::now();
            query("select pg_notify($1, '')")
                .bind(PLAIN)
                .execute(&mut self.notifier)
                .await?;
            self.listener.recv().await?;
            // A visibility timeout of 0 leaves the message readable for the next round.
            let found: Vec<i64> = query_scalar("select msg_id from pgmq.read($1, 0, 1)")
                .bind(PLAIN)
                .fetch_all(&mut self.reader)
                .await?;
            times.push(sent.elapsed().as_secs_f64() * 1000.0);
            check("the number of messages read", found.len() as u64, 1)?;
        }
        self.reader.ping().await?;
        Ok(times)
    }
}
