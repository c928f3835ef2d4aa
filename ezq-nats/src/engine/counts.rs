//! How much a queue holds.
//!
//! What waits is counted by its subjects. The server names up to 100,000 of them in one answer; of more, the
//! rest is not counted.

use std::time::Duration;

use ezq_core::Result;
use ezq_core::engine::QueueStats;
use ezq_core::message::QueueName;
use serde_json::{Value, json};

use super::names::{Names, Wait};
use super::queues::consumer_info;
use super::state::State;
use crate::request::{number_in, time_in};

impl State {
    pub(crate) async fn stats(&self, queue: &QueueName) -> Result<QueueStats> {
        let names = self.names(queue);
        let consumer = self.consumer(queue, &names).await?;
        let filter = json!({ "subjects_filter": names.waiting() });
        let stream = self.shown(queue, &names.stream(), &filter).await?;
        let dead = self
            .shown(queue, &names.dead_stream(), &Value::Null)
            .await?;

        // Of a stream that keeps what waits, the total says nothing: it is counted by state.
        let mut stats = QueueStats::default();
        stats.ready = number_in(&consumer, "/num_pending");
        stats.in_progress = number_in(&consumer, "/num_ack_pending");
        stats.dead = number_in(&dead, "/state/messages");
        let waiting = stream.pointer("/state/subjects").and_then(Value::as_object);
        let again = names.waiting_for(Wait::Again);
        for subject in waiting.into_iter().flat_map(|subjects| subjects.keys()) {
            if subject.starts_with(&again) {
                stats.in_progress += 1;
            } else {
                stats.scheduled += 1;
            }
        }
        stats.oldest_ready = self.age(&names, &consumer).await?;
        Ok(stats)
    }

    pub(crate) async fn lag(&self, queue: &QueueName) -> Result<Option<Duration>> {
        let names = self.names(queue);
        let consumer = self.consumer(queue, &names).await?;
        self.age(&names, &consumer).await
    }

    /// How long the first message has been ready that was never handed out.
    async fn age(&self, names: &Names, consumer: &Value) -> Result<Option<Duration>> {
        if number_in(consumer, "/num_pending") == 0 {
            return Ok(None);
        }
        let next = number_in(consumer, "/delivered/stream_seq").saturating_add(1);
        let asked = json!({ "seq": next, "next_by_subj": names.ready() });
        let subject = format!("STREAM.MSG.GET.{}", names.stream());
        let Ok(message) = self.ask(&subject, &asked).await else {
            // It was handed out meanwhile.
            return Ok(None);
        };
        let since = time_in(&message, "/message/time");
        let age = since.map(|time| (self.clock.now() - time).to_std().unwrap_or_default());
        Ok(age)
    }

    async fn consumer(&self, queue: &QueueName, names: &Names) -> Result<Value> {
        let info = self.ask(&consumer_info(names), &Value::Null).await;
        info.map_err(|failure| failure.about(self.address(), queue, "did not count a queue"))
    }

    async fn shown(&self, queue: &QueueName, stream: &str, body: &Value) -> Result<Value> {
        let info = self.ask(&format!("STREAM.INFO.{stream}"), body).await;
        info.map_err(|failure| failure.about(self.address(), queue, "did not count a queue"))
    }

    /// Removes every message of a queue. Receipts of this process are void from then on.
    pub(crate) async fn purge(&self, queue: &QueueName) -> Result<u64> {
        let subject = format!("STREAM.PURGE.{}", self.names(queue).stream());
        let purged = self.ask(&subject, &json!({})).await;
        let purged = purged
            .map_err(|failure| failure.about(self.address(), queue, "did not purge a queue"))?;
        self.leases.void(queue);
        Ok(number_in(&purged, "/purged"))
    }
}
