//! `relay` and `relay_keys`: a relay of a backlog on the memory engine, to a sink that takes 3 ms for each
//! batch. Neither a database nor a broker is in the way, so what is left is the relay's own pipeline.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ezq::broker::{Outbound, SendOutcome, Sink, SinkCapabilities};
use ezq::memory::MemoryEngine;
use ezq::relay::Relay;
use ezq::{App, async_trait};
use serde_json::{Map, json};

use crate::case::Case;
use crate::check::check;
use crate::error::Result;
use crate::options::Options;
use crate::outcome::{Figures, Outcome};
use crate::payload::Payload;
use crate::progress::bar;

pub(super) const PLAIN: Case = Case {
    name: "relay",
    about: "a backlog on the memory engine to a sink that takes 3 ms for each batch",
    unit: "events/s",
    target: None,
    run: |options, _| Box::pin(run(&PLAIN, options, 0)),
};

pub(super) const KEYS: Case = Case {
    name: "relay_keys",
    about: "as `relay`, with 50 ordering keys",
    unit: "events/s",
    target: None,
    run: |options, _| Box::pin(run(&KEYS, options, 50)),
};

const EVENTS: usize = 20_000;
const REPETITIONS: usize = 5;
const CALL: Duration = Duration::from_millis(3);

/// A broker that takes its time and keeps nothing.
#[derive(Clone, Default)]
struct Slow(Arc<AtomicU64>);

#[async_trait]
impl Sink for Slow {
    fn capabilities(&self) -> &SinkCapabilities {
        const { &SinkCapabilities::new("slow").ordered() }
    }

    async fn send(&self, batch: &[Outbound]) -> ezq::Result<Vec<SendOutcome>> {
        for message in batch {
            message.structured()?;
        }
        tokio::time::sleep(CALL).await;
        // A count alone, which nothing else is ordered by.
        self.0.fetch_add(batch.len() as u64, Ordering::Relaxed);
        Ok(batch.iter().map(|_| SendOutcome::Sent).collect())
    }
}

async fn run(case: &Case, options: &Options, keys: usize) -> Result<Vec<Outcome>> {
    let events = options.events.unwrap_or(EVENTS);
    let repetitions = options.repetitions(REPETITIONS);
    let bar = bar(case.name, repetitions)?;
    let mut rates = Vec::new();
    for _ in 0..repetitions {
        let took = relay(events, keys).await?;
        rates.push(events as f64 / took.as_secs_f64());
        bar.inc(1);
    }
    bar.finish_and_clear();

    let mut settings = Map::new();
    settings.insert("events".into(), json!(events));
    settings.insert("keys".into(), json!(keys));
    let figures = Figures::Alone(rates);
    Ok(vec![Outcome::of(case.measure(), figures, settings)])
}

async fn relay(events: usize, keys: usize) -> Result<Duration> {
    let sink = Slow::default();
    let builder = App::builder().without_discovered_handlers().queue("outbox");
    let app = builder
        .register(Relay::new("outbox", sink.clone()))
        .build(MemoryEngine::new())?;
    let backlog: Vec<Payload> = (0..events)
        .map(|n| match keys {
            0 => Payload::new(n),
            keys => Payload::with_key(n, n % keys),
        })
        .collect();
    app.publish_all(&backlog).await?;

    let started = Instant::now();
    app.consumer().until_idle().run().await?;
    let took = started.elapsed();
    check(
        "the events of the sink",
        sink.0.load(Ordering::Relaxed),
        events,
    )?;
    Ok(took)
}
