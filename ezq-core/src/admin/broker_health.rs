//! Whether the brokers of relays answer.

use std::time::Duration;

use tokio::time::timeout;

use crate::error::error_chain;
use crate::logging::warn;
use crate::message::queue_name::QueueName;
use crate::shared::Shared;

/// How long closing a sink may take.
const CLOSING: Duration = Duration::from_secs(5);

impl Shared {
    /// Why the broker does not answer to which the events of a queue are sent; `None` if it does, or the queue
    /// has no relay.
    pub(super) async fn broker_failure(&self, queue: Option<&QueueName>) -> Option<String> {
        let patience = self.config.connect_timeout;
        for handler in self.dispatcher.registry.of(queue?) {
            let Some(sink) = &handler.sink else {
                continue;
            };
            let name = sink.capabilities().name;
            match timeout(patience, sink.health_check()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    let error = error_chain(&error);
                    return Some(format!("the broker `{name}` does not answer: {error}"));
                }
                Err(_) => {
                    let text = format!("the broker `{name}` does not answer within {patience:?}");
                    return Some(text);
                }
            }
        }
        None
    }

    /// Closes the sinks of all relays.
    pub(crate) async fn close_sinks(&self) {
        for handler in self.dispatcher.registry.handlers() {
            let Some(sink) = &handler.sink else {
                continue;
            };
            // A broker that is away must not keep the program from ending.
            if timeout(CLOSING, sink.close()).await.is_err() {
                let sink = sink.capabilities().name;
                warn!(sink, "a sink did not close within {CLOSING:?}");
            }
        }
    }
}
