//! An engine of your own, a `Vec` per queue behind a lock, that passes the suite which all engines
//! of ezq pass and then hands an event to a handler: `cargo run --example custom_engine`.
//! It offers nothing that an engine may leave out: the suite skips those cases, and says so.

use std::{collections::HashMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use ezq::{engine::*, prelude::*, *};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

/// A message is kept as its next delivery. Nobody gets it before it is `due`, which is also when
/// its lease ends, and only its newest receipt settles it. The number is the last id.
#[derive(Default)]
struct Queues(HashMap<QueueName, Vec<Delivery>>, i64);

#[derive(Default)]
struct Shelf(Mutex<Queues>);

type Settlements = Vec<(Receipt, Settle)>;

impl Queues {
    fn find(&mut self, queue: &QueueName) -> Result<&mut Vec<Delivery>> {
        let missing = || Error::new(ErrorKind::QueueMissing, format!("no queue `{queue}`"));
        self.0.get_mut(queue).ok_or_else(missing)
    }

    fn put(&mut self, message: Outgoing) -> Result<MessageId> {
        self.1 += 1;
        let id = MessageId::Number(self.1);
        self.find(&message.queue.clone())?
            .push(Delivery::stored(id.clone(), message, Utc::now()));
        Ok(id)
    }

    /// What can fail comes first, so that a settlement is done or not done.
    fn settle(&mut self, queue: &QueueName, by: &Receipt, how: Settle) -> Result<SettleOutcome> {
        let outgoing = how.outgoing().to_vec();
        outgoing
            .iter()
            .try_for_each(|event| self.find(&event.queue).map(drop))?;
        let messages = self.find(queue)?;
        let held = messages.iter().position(|message| message.receipt == *by);
        let Some(place) = held else {
            return Ok(SettleOutcome::LeaseLost);
        };
        let message = messages.swap_remove(place);
        match how {
            Settle::Ack { .. } => {}
            Settle::Retry {
                after, progress, ..
            } => {
                messages.push(message.returned_at(later(after), &progress));
            }
            Settle::Release => messages.push(message.returned_at(Utc::now(), &Progress::default())),
            Settle::DeadLetter { reason, .. } => eprintln!("given up: {}", reason.error),
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
        self.0.lock().await.0.entry(queue.clone()).or_default();
        Ok(())
    }

    async fn publish(&self, messages: Vec<Outgoing>) -> Result<Vec<PublishOutcome>> {
        let mut queues = self.0.lock().await;
        Ok(messages
            .into_iter()
            .map(|message| queues.put(message).into())
            .collect())
    }

    async fn lease(
        &self,
        LeaseRequest {
            queue, max, ttl, ..
        }: LeaseRequest,
    ) -> Result<Leased> {
        let (mut queues, now, mut leased) = (self.0.lock().await, Utc::now(), Leased::default());
        for message in queues
            .find(&queue)?
            .iter_mut()
            .filter(|m| m.due <= now)
            .take(max)
        {
            (message.deliveries, message.leased_at) = (message.deliveries + 1, now);
            let token = [message.deliveries.into(), 0, 0];
            message.receipt = Receipt::new(message.receipt.message_id().clone(), token);
            leased.deliveries.push(message.clone());
            message.due = later(ttl);
        }
        leased.deliveries.sort_by_key(Delivery::position);
        Ok(leased)
    }

    async fn settle(&self, queue: &QueueName, all: Settlements) -> Result<Vec<SettleOutcome>> {
        let mut queues = self.0.lock().await;
        let settle = |(receipt, how)| {
            let outcome = queues.settle(queue, &receipt, how);
            outcome.unwrap_or_else(|error| SettleOutcome::Failed { receipt, error })
        };
        Ok(all.into_iter().map(settle).collect())
    }

    async fn extend(
        &self,
        queue: &QueueName,
        receipts: &[Receipt],
        ttl: Duration,
    ) -> Result<Vec<ExtendOutcome>> {
        let mut queues = self.0.lock().await;
        let messages = queues.find(queue)?;
        let extend = |receipt: &Receipt| {
            let held = messages
                .iter_mut()
                .find(|message| message.receipt == *receipt);
            let due = held.map(|message| message.due = later(ttl));
            due.map_or(ExtendOutcome::LeaseLost, |()| ExtendOutcome::Extended)
        };
        Ok(receipts.iter().map(extend).collect())
    }

    async fn purge(&self, queue: &QueueName) -> Result<u64> {
        Ok(self.0.lock().await.find(queue)?.drain(..).len() as u64)
    }

    async fn stats(&self, queue: &QueueName) -> Result<QueueStats> {
        let (mut queues, mut stats) = (self.0.lock().await, QueueStats::default());
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
