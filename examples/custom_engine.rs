//! An engine of your own, for a store that ezq does not know: `cargo run --example custom_engine`.
//!
//! The store is a `Vec` for each queue behind a lock. The engine passes the suite that all engines of
//! ezq pass, and then hands an event to a handler. It leaves out every optional part: the suite skips
//! the cases on these, and says so.

use std::{collections::HashMap, sync::Arc, time::Duration};

use ezq::async_trait;
use ezq::chrono::{DateTime, Utc};
use ezq::engine::{
    Capabilities, Delivery, Engine, ExtendOutcome, LeaseRequest, Leased, Outgoing, PublishOutcome,
    QueueStats, Receipt, Settle, SettleOutcome, Token,
};
use ezq::message::{MessageId, Progress};
use ezq::prelude::*;
use ezq::{App, Error, ErrorKind, QueueName, Result};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

/// A message is kept as its next delivery. Nobody gets it before `due`, which is also the end of its
/// lease, and only its newest receipt settles it.
#[derive(Default)]
struct Queues {
    messages: HashMap<QueueName, Vec<Delivery>>,
    last_id: i64,
}

#[derive(Default)]
struct Shelf(Mutex<Queues>);

type Settlements = Vec<(Receipt, Settle)>;

impl Queues {
    fn find(&mut self, queue: &QueueName) -> Result<&mut Vec<Delivery>> {
        self.messages
            .get_mut(queue)
            .ok_or_else(|| Error::new(ErrorKind::QueueMissing, format!("no queue `{queue}`")))
    }

    fn put(&mut self, message: Outgoing) -> Result<MessageId> {
        self.last_id += 1;
        let id = MessageId::Number(self.last_id);
        self.find(&message.queue.clone())?
            .push(Delivery::stored(id.clone(), message, Utc::now()));
        Ok(id)
    }

    /// Whatever can fail comes first, so that a settlement is done as a whole or not at all.
    fn settle(&mut self, queue: &QueueName, by: &Receipt, how: Settle) -> Result<SettleOutcome> {
        let outgoing = how.outgoing().to_vec();
        outgoing
            .iter()
            .try_for_each(|event| self.find(&event.queue).map(drop))?;
        let messages = self.find(queue)?;
        let Some(place) = messages.iter().position(|m| m.receipt == *by) else {
            return Ok(SettleOutcome::LeaseLost);
        };

        let message = messages.swap_remove(place);
        match how {
            Settle::Ack { .. } => {}
            Settle::Retry {
                after, progress, ..
            } => messages.push(message.returned_at(later(after), &progress)),
            Settle::Release => messages.push(message.returned_at(Utc::now(), &Progress::default())),
            Settle::DeadLetter { reason, .. } => eprintln!("given up: {}", reason.error),
            _ => {
                messages.push(message);
                let text = "this engine is older than the settlement";
                return Err(Error::new(ErrorKind::Unsupported, text));
            }
        }
        outgoing
            .into_iter()
            .try_for_each(|event| self.put(event).map(drop))?;
        Ok(SettleOutcome::Done)
    }
}

fn later(pause: Duration) -> DateTime<Utc> {
    Utc::now() + pause.min(Duration::from_secs(u32::MAX.into()))
}

#[async_trait]
impl Engine for Shelf {
    fn capabilities(&self) -> &Capabilities {
        const { &Capabilities::new("shelf") }
    }

    async fn ensure_queue(&self, queue: &QueueName) -> Result<()> {
        let mut queues = self.0.lock().await;
        queues.messages.entry(queue.clone()).or_default();
        Ok(())
    }

    async fn publish(&self, messages: Vec<Outgoing>) -> Result<Vec<PublishOutcome>> {
        let mut queues = self.0.lock().await;
        Ok(messages
            .into_iter()
            .map(|message| queues.put(message).into())
            .collect())
    }

    async fn lease(&self, request: LeaseRequest) -> Result<Leased> {
        let mut queues = self.0.lock().await;
        let mut leased = Leased::default();
        let now = Utc::now();

        let messages = queues.find(&request.queue)?.iter_mut();
        for message in messages.filter(|m| m.due <= now).take(request.max) {
            message.deliveries += 1;
            message.leased_at = now;
            // The number of deliveries makes each receipt void the earlier ones.
            let token = Token::from_words([message.deliveries.into()]);
            message.receipt = Receipt::new(message.receipt.message_id().clone(), token);
            leased.deliveries.push(message.clone());
            message.due = later(request.ttl);
        }

        leased.deliveries.sort_by_key(Delivery::position);
        Ok(leased)
    }

    async fn settle(&self, queue: &QueueName, all: Settlements) -> Result<Vec<SettleOutcome>> {
        let mut queues = self.0.lock().await;
        let outcomes = all.into_iter().map(|(receipt, how)| {
            queues
                .settle(queue, &receipt, how)
                .unwrap_or_else(|error| SettleOutcome::Failed { receipt, error })
        });
        Ok(outcomes.collect())
    }

    async fn extend(
        &self,
        queue: &QueueName,
        receipts: &[Receipt],
        ttl: Duration,
    ) -> Result<Vec<ExtendOutcome>> {
        let mut queues = self.0.lock().await;
        let messages = queues.find(queue)?;
        let outcomes = receipts.iter().map(|receipt| {
            let Some(message) = messages.iter_mut().find(|m| m.receipt == *receipt) else {
                return ExtendOutcome::LeaseLost;
            };
            message.due = later(ttl);
            ExtendOutcome::Extended
        });
        Ok(outcomes.collect())
    }

    async fn purge(&self, queue: &QueueName) -> Result<u64> {
        Ok(self.0.lock().await.find(queue)?.drain(..).len() as u64)
    }

    async fn stats(&self, queue: &QueueName) -> Result<QueueStats> {
        let mut queues = self.0.lock().await;
        let mut stats = QueueStats::default();
        for message in queues.find(queue)? {
            let age = (Utc::now() - message.due).to_std().ok();
            stats.ready += u64::from(age.is_some());
            stats.in_progress += u64::from(age.is_none());
            stats.oldest_ready = stats.oldest_ready.max(age);
        }
        Ok(stats)
    }
}

#[derive(Event, Serialize, Deserialize)]
struct Visited(String);

#[on_event]
async fn log(Visited(page): Visited) {
    println!("somebody visited {page}");
}

#[tokio::main]
async fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let report = ezq_conformance::run(&Arc::new(Shelf::default())).await;
    println!("{report}");
    report.into_result()?;

    let app = App::builder().build(Shelf::default())?;
    app.publish(&Visited("/welcome".into())).await?;
    app.publish(&End::default()).await?;
    println!("{}", app.consumer().run().await?);
    Ok(())
}
