//! `many_queues`: 200 consumers in one process, one for each queue.
//!
//! | part | what it measures |
//! |---|---|
//! | `many_queues_idle` | the statements of all consumers together while they have nothing to do, counted as in [`idle`](super::idle) |
//! | `many_queues_p50`, `_p99` | the time from the call that publishes an event to the start of its handler; 20 events a second, spread over the queues |
//!
//! Publisher and consumers are two applications, with default options.

use std::time::{Duration, Instant};

use ezq::prelude::*;
use ezq::sqlx::PgConnection;
use ezq::{Handler, QueueName};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::{interval_at, timeout};

use crate::application::Application;
use crate::case::Case;
use crate::check::check;
use crate::database::Database;
use crate::error::Result;
use crate::options::Options;
use crate::outcome::{Figures, Measure, Outcome, Target};
use crate::pairs::percentile;
use crate::payload::Payload;
use crate::progress::bar;
use crate::statements::{count_statements, counting_server};

pub(super) const CASE: Case = Case {
    name: "many_queues",
    about: "200 queues consumed in one process: statements while idle, and publish to handler start",
    unit: "ms",
    target: None,
    run: |options, _| Box::pin(run(options)),
};

const IDLE: Measure = Measure {
    name: "many_queues_idle",
    unit: "statements/s",
    target: Some(Target::AtMost(5.0)),
};

const QUEUES: usize = 200;
/// The events of one repetition.
const EVENTS: usize = 200;
const PERIOD: Duration = Duration::from_millis(50);
const WINDOW: Duration = Duration::from_secs(10);
const REPETITIONS: usize = 3;
/// How long an event may take before the case fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// The numbers of events, and when their handlers started.
type Started = mpsc::UnboundedReceiver<(usize, Instant)>;

async fn run(options: &Options) -> Result<Vec<Outcome>> {
    let mut counted = counting_server().await?;
    let url = counted.server.url();
    let publisher = Application::counting(&url).await?.ezq;

    let (start, mut started) = mpsc::unbounded_channel();
    let ezq = telling(&url, start).await?;
    let names = (0..QUEUES).map(|n| QueueName::new(&format!("bench_many_{n}")));
    let queues = names.collect::<ezq::Result<Vec<_>>>()?;
    let consumers: Vec<_> = queues
        .iter()
        .map(|queue| ezq.consumer().queue(queue).spawn())
        .collect();

    // The first event of each queue creates it, and prepares statements.
    publish(&publisher, &queues, &mut started, QUEUES).await?;

    let events = options.events.unwrap_or(EVENTS);
    let repetitions = options.repetitions(REPETITIONS);
    let bar = bar(CASE.name, 2 * repetitions)?;
    let mut middle = Vec::new();
    let mut tail = Vec::new();
    for _ in 0..repetitions {
        let times = publish(&publisher, &queues, &mut started, events).await?;
        middle.push(percentile(&times, 50));
        tail.push(percentile(&times, 99));
        bar.inc(1);
    }

    // After an event a consumer polls at shorter intervals for a while. That is over by then.
    tokio::time::sleep(WINDOW).await;
    let mut rates = Vec::new();
    for _ in 0..repetitions {
        rates.push(statements_a_second(&mut counted.observer).await?);
        bar.inc(1);
    }
    bar.finish_and_clear();

    let mut handled = 0;
    for consumer in &consumers {
        consumer.stop();
    }
    for consumer in consumers {
        handled += consumer.await?.counts.handled;
    }
    check(
        "the number of events handled",
        handled,
        QUEUES + events * repetitions,
    )?;
    ezq.close().await;
    publisher.close().await;

    let mut settings = Database::open(Some(&url)).await?.settings().await?;
    settings.insert("queues".into(), json!(QUEUES));
    settings.insert("events".into(), json!(events));
    settings.insert("events_per_s".into(), json!(1000 / PERIOD.as_millis()));
    let part = |name, values, target| {
        Outcome::of(CASE.measure(), Figures::Alone(values), settings.clone()).part(name, target)
    };
    Ok(vec![
        Outcome::of(IDLE, Figures::Alone(rates), settings.clone()),
        part("many_queues_p50", middle, Some(Target::AtMost(20.0))),
        part("many_queues_p99", tail, None),
    ])
}

/// An application that tells when its handler starts.
async fn telling(url: &str, start: mpsc::UnboundedSender<(usize, Instant)>) -> Result<Ezq> {
    let handler = Handler::on("noop", move |event: Payload| {
        // The receiver is gone once the case has failed.
        let _ = start.send((event.n, Instant::now()));
        std::future::ready(())
    });
    Ok(Ezq::builder()
        .database_url(url)
        .without_discovered_handlers()
        .register(handler)
        .connect()
        .await?)
}

/// Publishes one event a period to one queue after another. Returns the milliseconds of each.
async fn publish(
    ezq: &Ezq,
    queues: &[QueueName],
    started: &mut Started,
    events: usize,
) -> Result<Vec<f64>> {
    let mut ticks = interval_at(tokio::time::Instant::now() + PERIOD, PERIOD);
    let mut sent = Vec::with_capacity(events);
    for n in 0..events {
        ticks.tick().await;
        sent.push(Instant::now());
        let queue = &queues[n % queues.len()];
        ezq.publish(&Payload::new(n)).queue(queue).await?;
    }

    let mut times = Vec::with_capacity(events);
    while times.len() < events {
        let next = timeout(PATIENCE, started.recv()).await;
        let (n, at) = next.ok().flatten().ok_or("events are left unhandled")?;
        times.push(at.saturating_duration_since(sent[n]).as_secs_f64() * 1000.0);
    }
    Ok(times)
}

async fn statements_a_second(observer: &mut PgConnection) -> Result<f64> {
    let before = count_statements(observer).await?;
    let started = Instant::now();
    tokio::time::sleep(WINDOW).await;
    let after = count_statements(observer).await?;
    Ok((after - before) as f64 / started.elapsed().as_secs_f64())
}
