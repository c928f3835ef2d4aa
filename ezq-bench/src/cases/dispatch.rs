//! `dispatch`: the cost of ezq itself for an event, from the body that an engine hands out to the
//! settlement that it gets. ezq reads the envelope, finds the handler, runs it and settles. The engine
//! hands out the same body again and again and keeps nothing.
//!
//! The reference reads the same JSON and calls a function. Where `valgrind` is installed, instructions
//! are counted, as the difference between a long and a short run, which leaves out the cost of a start.
//! Otherwise time is measured.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ezq::chrono::Utc;
use ezq::engine::{
    Capabilities, Delivery, Engine, ExtendOutcome, LeaseRequest, Leased, Outgoing, PublishOutcome,
    QueueStats, Receipt, Settle, SettleOutcome,
};
use ezq::message::MessageId;
use ezq::message::headers::Headers;
use ezq::{App, Handler, QueueName, async_trait};
use serde_json::json;

use crate::application::CONCURRENCY;
use crate::bodies::Bodies;
use crate::case::Case;
use crate::check::check;
use crate::children::Child;
use crate::database::Database;
use crate::error::Result;
use crate::options::Options;
use crate::outcome::{Figures, Measure, Outcome};
use crate::pairs::Pairs;
use crate::payload::Payload;
use crate::progress::bar;
use crate::rows::number;

pub(super) const CASE: Case = Case {
    name: "dispatch",
    about: "body to handler to settlement, no engine; against reading the JSON and a call",
    unit: "instructions",
    target: None,
    run: |options, database| Box::pin(run(options, database)),
};

const EVENTS: usize = 20_000;
/// The events of the short run, whose cost is subtracted from the long run's.
const SHORT: usize = 1000;
const REPETITIONS: usize = 3;

async fn run(options: &Options, database: &Database) -> Result<Vec<Outcome>> {
    let events = options.events.unwrap_or(EVENTS);
    // Valgrind counts instructions, where it is installed.
    // Instructions are the same on every run, and a time of 100 ns is not.
    let counts = Child::under("valgrind", &["--version".to_owned()], "").is_ok();
    let repetitions = options.repetitions(REPETITIONS);

    let bar = bar(CASE.name, repetitions)?;
    let mut pairs = Pairs::default();
    for _ in 0..repetitions {
        let ezq = cost("ezq", events, counts).await?;
        let plain = cost("plain", events, counts).await?;
        pairs.push(ezq, plain);
        bar.inc(1);
    }
    bar.finish_and_clear();

    let mut settings = database.settings().await?;
    settings.insert("events".into(), json!(events));
    settings.insert("concurrency".into(), json!(CONCURRENCY));
    settings.insert(
        "counted_by".into(),
        json!(if counts { "callgrind" } else { "time" }),
    );
    let measure = Measure {
        unit: if counts { CASE.unit } else { "ns" },
        ..CASE.measure()
    };
    Ok(vec![Outcome::of(measure, Figures::Pairs(pairs), settings)])
}

async fn cost(side: &str, events: usize, counts: bool) -> Result<f64> {
    if counts {
        instructions(side, events).await
    } else {
        nanoseconds(side, events).await
    }
}

/// The instructions for an event, in a process of its own.
async fn instructions(side: &str, events: usize) -> Result<f64> {
    // The difference of two runs leaves out the start of process and runtime.
    let short = counted(side, SHORT).await?;
    let long = counted(side, SHORT + events).await?;
    Ok((long as f64 - short as f64) / events as f64)
}

async fn counted(side: &str, events: usize) -> Result<u64> {
    let file = std::env::temp_dir().join(format!("ezq-bench-{}.callgrind", std::process::id()));
    let out = format!("--callgrind-out-file={}", file.display());
    let role = format!("dispatch {side} {events}");
    let child = Child::under("valgrind", &["--tool=callgrind".to_owned(), out], &role)?;
    child.end().await?;
    let profile = tokio::fs::read_to_string(&file).await?;
    tokio::fs::remove_file(&file).await?;

    let total = profile
        .lines()
        .find_map(|line| line.strip_prefix("totals: "));
    Ok(total.ok_or("callgrind printed no total")?.trim().parse()?)
}

async fn nanoseconds(side: &str, events: usize) -> Result<f64> {
    let started = Instant::now();
    match side {
        "ezq" => dispatch(events).await?,
        _ => call(events)?,
    }
    Ok(started.elapsed().as_nanos() as f64 / events as f64)
}

/// The child process whose instructions are counted.
pub(crate) async fn work(side: &str, events: &str) -> Result<()> {
    nanoseconds(side, events.parse()?).await?;
    Ok(())
}

fn call(events: usize) -> Result<()> {
    let body = Bodies::default().next(&Payload::new(7))?;
    let mut sum = 0;
    for _ in 0..events {
        // Without the boxes the compiler could read the same body once for all events.
        sum += std::hint::black_box(number(std::hint::black_box(&body))?);
    }
    check("the sum", sum.unsigned_abs(), 7 * events)
}

async fn dispatch(events: usize) -> Result<()> {
    let handled = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&handled);
    let handler = Handler::on("noop", move |event: Payload| {
        counter.fetch_add(std::hint::black_box(event.n) as u64, Ordering::Relaxed);
        std::future::ready(())
    });

    let feed = Feed {
        body: Bodies::default().next(&Payload::new(7))?,
        left: AtomicUsize::new(events),
        settled: Arc::default(),
    };
    let settled = Arc::clone(&feed.settled);
    let app = App::builder()
        .without_discovered_handlers()
        .register(handler)
        .build(feed)?;

    let report = app
        .consumer()
        .concurrency(CONCURRENCY)
        .until_idle()
        .run()
        .await?;
    check(
        "the number of events reported",
        report.counts.handled,
        events,
    )?;
    check(
        "the number of settlements",
        settled.load(Ordering::Relaxed),
        events,
    )?;
    check("the sum", handled.load(Ordering::Relaxed), 7 * events)
}

/// An engine that hands out one body `left` times and keeps nothing.
struct Feed {
    body: String,
    left: AtomicUsize,
    settled: Arc<AtomicU64>,
}

#[async_trait]
impl Engine for Feed {
    fn capabilities(&self) -> &Capabilities {
        const { &Capabilities::new("feed") }
    }

    async fn ensure_queue(&self, _: &QueueName) -> ezq::Result<()> {
        Ok(())
    }

    async fn publish(&self, _: Vec<Outgoing>) -> ezq::Result<Vec<PublishOutcome>> {
        Ok(Vec::new())
    }

    async fn lease(&self, request: LeaseRequest) -> ezq::Result<Leased> {
        // A consumer has one fetch at a time, so that nobody changes it in between.
        let left = self.left.load(Ordering::Relaxed);
        let count = left.min(request.max);
        self.left.store(left - count, Ordering::Relaxed);
        let now = Utc::now();
        let deliveries = (left - count..left).map(|n| {
            let id = MessageId::Number(i64::try_from(n).unwrap_or(i64::MAX));
            let message = Outgoing::new(request.queue.clone(), self.body.clone(), Headers::new());
            let mut delivery = Delivery::stored(id, message, now);
            delivery.deliveries = 1;
            delivery
        });

        Ok(Leased::new(deliveries.collect()))
    }

    async fn settle(
        &self,
        _: &QueueName,
        settlements: Vec<(Receipt, Settle)>,
    ) -> ezq::Result<Vec<SettleOutcome>> {
        self.settled
            .fetch_add(settlements.len() as u64, Ordering::Relaxed);
        Ok(settlements.iter().map(|_| SettleOutcome::Done).collect())
    }

    async fn extend(
        &self,
        _: &QueueName,
        receipts: &[Receipt],
        _: Duration,
    ) -> ezq::Result<Vec<ExtendOutcome>> {
        Ok(receipts.iter().map(|_| ExtendOutcome::Extended).collect())
    }

    async fn purge(&self, _: &QueueName) -> ezq::Result<u64> {
        Ok(0)
    }

    async fn stats(&self, _: &QueueName) -> ezq::Result<QueueStats> {
        Ok(QueueStats::default())
    }
}
