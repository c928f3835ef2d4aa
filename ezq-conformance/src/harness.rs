//! The means by which the suite reaches a store, beyond its engine.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ezq_core::engine::Engine;
use ezq_core::message::QueueName;

/// Gives the suite an engine to examine, and a few abilities that the engine contract does not offer.
///
/// Only [`engine`](Self::engine) is required. With the other methods' defaults some cases are skipped
/// or look less closely, so implement all that the store allows.
#[async_trait]
pub trait Harness: Send + Sync {
    /// A client of the store. The suite asks for one in each case.
    async fn engine(&self) -> Arc<dyn Engine>;

    /// Another client of the same store, as a second process would be. Defaults to
    /// [`engine`](Self::engine).
    async fn second(&self) -> Arc<dyn Engine> {
        self.engine().await
    }

    /// The name of a queue, made from a unique name of lower-case letters, digits and `_`. It may be
    /// at most five characters longer than that. Defaults to the unique name.
    fn queue_name(&self, unique: String) -> String {
        unique
    }

    /// Stores a message as a client would that knows nothing of ezq. It is readable at once. Returns
    /// whether the store can hold it.
    ///
    /// The headers are JSON text, or `None` for a message without any. Defaults to `false`, with which
    /// the cases on poison messages are skipped.
    async fn insert_raw(&self, queue: &QueueName, body: &str, headers: Option<&str>) -> bool {
        let _ = (queue, body, headers);
        false
    }

    /// Lets time pass on the engine's clock. Defaults to tokio's sleep, which suits a real clock and
    /// tokio's paused one.
    async fn advance(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    /// Loses the newest message of a queue and lets the store issue its id again, as a fail-over to a
    /// replica that lags does. Returns the body of the lost message.
    ///
    /// The queue is given by name, since dead letters have a queue of their own. Defaults to `None`,
    /// which suits a store that issues each id once: the cases on ids that are issued again are
    /// skipped.
    async fn lose_newest(&self, queue: &str) -> Option<String> {
        let _ = queue;
        None
    }

    /// Drops a queue of a case that passed. Those of a case that failed are kept to be looked at.
    /// Does nothing by default.
    async fn discard(&self, queue: &QueueName) {
        let _ = queue;
    }
}

/// An engine alone. Cases that need more than the contract offers are skipped.
#[async_trait]
impl<E: Engine> Harness for Arc<E> {
    async fn engine(&self) -> Arc<dyn Engine> {
        Arc::clone(self) as Arc<dyn Engine>
    }
}
