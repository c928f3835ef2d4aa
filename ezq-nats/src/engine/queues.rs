//! Queues: made once, found again, and forgotten when their streams are gone.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use ezq_core::message::QueueName;
use ezq_core::{Error, ErrorKind, Result};
use serde_json::{Value, json};

use super::names::{CONSUMER, Names, Queue};
use super::state::State;
use crate::request::{Failure, code, number_in};

impl State {
    /// A queue that is there.
    ///
    /// # Errors
    /// [`ErrorKind::QueueMissing`] if it is not.
    pub(crate) async fn queue(&self, queue: &QueueName) -> Result<Arc<Queue>> {
        if let Some(known) = self.known(queue) {
            return Ok(known);
        }
        let names = self.names(queue);
        let found = self.ask(&consumer_info(&names), &Value::Null).await;
        let found = found
            .map_err(|failure| failure.about(self.address(), queue, "did not show a queue"))?;
        Ok(self.remember(queue, names, &found))
    }

    /// Makes sure that a queue and the stream of its dead letters are there.
    pub(crate) async fn ensure(&self, queue: &QueueName) -> Result<()> {
        if self.known(queue).is_some() {
            return Ok(());
        }

        self.connection.ready().await?;
        let names = self.names(queue);
        self.ensure_stream(&names.stream(), &self.stream_config(&names))
            .await?;
        self.ensure_stream(&names.dead_stream(), &self.dead_config(&names))
            .await?;

        // A consumer that is there keeps its settings: other workers rely on them.
        let found = match self.ask(&consumer_info(&names), &Value::Null).await {
            Err(failure) if failure.code() == Some(code::CONSUMER_NOT_FOUND) => {
                let subject = format!("CONSUMER.DURABLE.CREATE.{}.{CONSUMER}", names.stream());
                self.ask(&subject, &self.consumer_config(&names)).await
            }
            found => found,
        };
        let doing = "did not create the consumer of a queue";
        let found = found.map_err(|failure| failure.into_error(self.address(), doing))?;
        self.remember(queue, names, &found);
        Ok(())
    }

    fn known(&self, queue: &QueueName) -> Option<Arc<Queue>> {
        let queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        queues.get(queue).cloned()
    }

    fn remember(&self, queue: &QueueName, names: Names, consumer: &Value) -> Arc<Queue> {
        let ack_wait = Duration::from_nanos(number_in(consumer, "/config/ack_wait"));
        let found = Arc::new(Queue { names, ack_wait });
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        queues.insert(queue.clone(), Arc::clone(&found));
        found
    }

    /// Looks for a queue anew the next time.
    pub(crate) fn forget(&self, queue: &QueueName) {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        queues.remove(queue);
    }

    /// Makes sure that a stream is there. It is looked for first: a cluster without a meta leader shows a stream
    /// and creates none, as does a server to a user who may create none.
    async fn ensure_stream(&self, name: &str, config: &Value) -> Result<()> {
        match self.stream_info(name).await {
            // Without an answer another process may have just created it, and it has no leader yet to show it.
            Err(failure) if matches!(failure.code(), None | Some(code::STREAM_NOT_FOUND)) => {
                self.create_stream(name, config).await
            }
            found => self.check_stream(name, config, found),
        }
    }

    async fn create_stream(&self, name: &str, config: &Value) -> Result<()> {
        let created = self.ask(&format!("STREAM.CREATE.{name}"), config).await;
        match created {
            Ok(_) => Ok(()),
            // Another process has just created it, with other limits.
            Err(failure) if failure.code() == Some(code::STREAM_NAME_IN_USE) => {
                let found = self.stream_info(name).await;
                self.check_stream(name, config, found)
            }
            Err(failure) => {
                let doing = format!("did not create the stream `{name}`");
                Err(failure.into_error(self.address(), &doing))
            }
        }
    }

    async fn stream_info(&self, name: &str) -> Result<Value, Failure> {
        self.ask(&format!("STREAM.INFO.{name}"), &Value::Null).await
    }

    /// Takes a stream as it is, if messages in it can be leased, and can wait.
    fn check_stream(
        &self,
        name: &str,
        wanted: &Value,
        found: Result<Value, Failure>,
    ) -> Result<()> {
        let doing = format!("did not show the stream `{name}`");
        let found = found.map_err(|failure| failure.into_error(self.address(), &doing))?;

        for part in ["retention", "subjects", "allow_msg_schedules"] {
            let is = found.pointer(&format!("/config/{part}"));
            let should_be = wanted.get(part);
            if should_be.is_some() && is != should_be {
                let text = format!(
                    "the stream `{name}` is none of ezq's: its `{part}` is {}, and should be {}; \
                     choose another namespace",
                    is.unwrap_or(&Value::Null),
                    should_be.unwrap_or(&Value::Null)
                );
                return Err(Error::new(ErrorKind::Configuration, text));
            }
        }
        // A stream with schedules cannot refuse what is new, so at a limit it would drop what is old.
        for limit in ["max_msgs", "max_bytes", "max_age"] {
            if number_in(&found, &format!("/config/{limit}")) > 0 {
                let text = format!(
                    "the stream `{name}` has a `{limit}`, by which the server would drop events: \
                     remove it"
                );
                return Err(Error::new(ErrorKind::Configuration, text));
            }
        }
        Ok(())
    }

    fn stream_config(&self, names: &Names) -> Value {
        json!({
            "name": names.stream(),
            "subjects": [names.all()],
            "retention": "workqueue",
            "storage": "file",
            "num_replicas": self.settings.replicas,
            "duplicate_window": nanoseconds(self.settings.dedupe_window),
            "allow_msg_schedules": true,
            "allow_direct": true,
            // The server itself stores what falls due, so it has to wake who waits for it.
            "republish": {
                "src": names.due(),
                "dest": names.wake(),
                "headers_only": true,
            },
        })
    }

    fn dead_config(&self, names: &Names) -> Value {
        json!({
            "name": names.dead_stream(),
            "subjects": [names.dead()],
            "retention": "limits",
            "storage": "file",
            "discard": "new",
            "num_replicas": self.settings.replicas,
            "duplicate_window": nanoseconds(self.settings.dedupe_window),
            "allow_direct": true,
        })
    }

    fn consumer_config(&self, names: &Names) -> Value {
        json!({
            "stream_name": names.stream(),
            "config": {
                "durable_name": CONSUMER,
                "filter_subject": names.ready(),
                "ack_policy": "explicit",
                "ack_wait": nanoseconds(self.settings.ack_wait),
                // ezq itself bounds what a worker holds and how often a message is delivered.
                "max_deliver": -1,
                "max_ack_pending": -1,
            },
        })
    }
}

/// The request for what is known of a queue's consumer.
pub(crate) fn consumer_info(names: &Names) -> String {
    format!("CONSUMER.INFO.{}.{CONSUMER}", names.stream())
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
