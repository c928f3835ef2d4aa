//! What an engine asks JetStream.

use ezq_core::message::QueueName;
use ezq_core::{Error, ErrorKind, Result};
use serde_json::Value;
use tokio::time::Instant;

use super::state::State;
use crate::request::{Failure, code, request, time_in};

impl Failure {
    /// The error of ezq for a request about a queue, which may be missing.
    pub(crate) fn about(self, address: &str, queue: &QueueName, doing: &str) -> Error {
        match self.code() {
            Some(code::STREAM_NOT_FOUND | code::CONSUMER_NOT_FOUND) => missing(queue),
            _ => self.into_error(address, doing),
        }
    }
}

/// A queue that has no stream.
pub(crate) fn missing(queue: &QueueName) -> Error {
    let text = format!(
        "the queue `{queue}` has no stream on the NATS server: an application that consumes it, or \
         publishes to it, creates it"
    );
    Error::new(ErrorKind::QueueMissing, text)
}

impl State {
    /// Asks JetStream. What it says of its time is noted.
    pub(crate) async fn ask(&self, subject: &str, body: &Value) -> Result<Value, Failure> {
        let asked = Instant::now();
        let answer = request(&self.connection.client, subject, body).await?;
        if let Some(time) = time_in(&answer, "/ts") {
            self.clock.note(asked, Instant::now(), time);
        }
        Ok(answer)
    }

    pub(crate) fn address(&self) -> &str {
        self.connection.address()
    }
}
