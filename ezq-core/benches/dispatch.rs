//! What one event costs from its body to its settlement, for `.ci/budgets` to count: instructions and
//! allocations. It takes the number of events and that of handlers, each of which runs for each event, and
//! prints nothing. With the feature `metrics` and the word `exported` it has an exporter.
//!
//! The engine hands out the same body again and again and keeps nothing. One thread and a clock that
//! stands still make all runs alike: each first poll of the handler is short, whatever a counting tool
//! does to its time. The case `dispatch` of `ezq-bench` has several threads and the real clock.
#![allow(missing_docs)]

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use chrono::Utc;
use ezq_core::app::App;
use ezq_core::engine::{
    Capabilities, Delivery, Engine, ExtendOutcome, LeaseRequest, Leased, Outgoing, PublishOutcome,
    QueueStats, Receipt, Settle, SettleOutcome,
};
use ezq_core::event::Event;
use ezq_core::handler::Handler;
use ezq_core::message::headers::Headers;
use ezq_core::message::{MessageId, QueueName};
use serde::{Deserialize, Serialize};

/// As a publisher writes it with the library's defaults.
const BODY: &str = r#"{"specversion":"1.0","id":"01990000-0000-7000-8000-000000000001","source":"ezq-bench","type":"bench","time":"2026-01-02T03:04:05.678901Z","data":{"n":7,"text":"sixteen letters."}}"#;

#[derive(Serialize, Deserialize)]
struct Payload {
    n: u64,
    text: String,
}

impl Event for Payload {
    const TYPE: &'static str = "bench";
}

#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> Result<(), Box<dyn Error>> {
    // `cargo bench` gives it arguments of its own.
    let mut numbers = std::env::args().filter_map(|argument| argument.parse().ok());
    let events: usize = numbers.next().unwrap_or(1000);
    let handlers: usize = numbers.next().unwrap_or(1);
    #[cfg(feature = "metrics")]
    if std::env::args().any(|argument| argument == "exported") {
        metrics_exporter_prometheus::PrometheusBuilder::new().install_recorder()?;
    }

    let sum = Arc::new(AtomicU64::new(0));
    let mut builder = App::builder().without_discovered_handlers();
    for n in 0..handlers {
        let counter = Arc::clone(&sum);
        builder = builder.register(Handler::on(&format!("noop{n}"), move |event: Payload| {
            // Without the box the compiler could leave out the decoding.
            counter.fetch_add(std::hint::black_box(event.n), Ordering::Relaxed);
            std::future::ready(())
        }));
    }
    let app = builder.build(Feed {
        left: AtomicUsize::new(events),
    })?;

    let report = app.consumer().concurrency(64).until_idle().run().await?;
    let is_whole = report.counts.handled == events as u64
        && sum.load(Ordering::Relaxed) == 7 * report.counts.handled * handlers as u64;
    is_whole
        .then_some(())
        .ok_or_else(|| format!("not all of {events} events were handled: {report}").into())
}

/// An engine that hands out one body `left` times.
struct Feed {
    left: AtomicUsize,
}

#[async_trait]
impl Engine for Feed {
    fn capabilities(&self) -> &Capabilities {
        const { &Capabilities::new("feed") }
    }

    async fn ensure_queue(&self, _: &QueueName) -> ezq_core::Result<()> {
        Ok(())
    }

    async fn publish(&self, _: Vec<Outgoing>) -> ezq_core::Result<Vec<PublishOutcome>> {
        Ok(Vec::new())
    }

    async fn lease(&self, request: LeaseRequest) -> ezq_core::Result<Leased> {
        // A consumer has one fetch at a time, so that nobody changes it in between.
        let left = self.left.load(Ordering::Relaxed);
        let count = left.min(request.max);
        self.left.store(left - count, Ordering::Relaxed);

        let now = Utc::now();
        let deliveries = (left - count..left).map(|n| {
            let id = MessageId::Number(i64::try_from(n).unwrap_or(i64::MAX));
            let message = Outgoing::new(request.queue.clone(), BODY, Headers::new());
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
    ) -> ezq_core::Result<Vec<SettleOutcome>> {
        Ok(settlements.iter().map(|_| SettleOutcome::Done).collect())
    }

    async fn extend(
        &self,
        _: &QueueName,
        receipts: &[Receipt],
        _: Duration,
    ) -> ezq_core::Result<Vec<ExtendOutcome>> {
        Ok(receipts.iter().map(|_| ExtendOutcome::Extended).collect())
    }

    async fn purge(&self, _: &QueueName) -> ezq_core::Result<u64> {
        Ok(0)
    }

    async fn stats(&self, _: &QueueName) -> ezq_core::Result<QueueStats> {
        Ok(QueueStats::default())
    }
}
