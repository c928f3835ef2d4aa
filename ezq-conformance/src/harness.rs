//! What the suite needs to know about a store beyond its engine.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ezq_core::{Engine, QueueName};

/// Gives the suite an engine to examine, and a few things that the engine contract does not offer.
///
/// Only [`engine`](Self::engine) is required. What the defaults cannot do is skipped or examined
/// less closely, so implement all that the store allows.
#[async_trait]
pub trait Harness: Send + Sync {
    /// A client of the store; the suite asks once per case.
    async fn engine(&self) -> Arc<dyn Engine>;

    /// Another client of the same store, as a second process would be. Defaults to
    /// [`engine`](Self::engine).
    async fn second(&self) -> Arc<dyn Engine> {
        self.engine().await
    }

    /// What the suite calls a queue, from a name of small letters, digits and `_` that it has thought
    /// of: at most five characters longer. Defaults to that name.
    fn queue_name(&self, unique: String) -> String {
        unique
    }

    /// Stores a body and headers (JSON text; none as the store has it) the way a client that knows
    /// nothing of ezq would, readable at once; whether the store can hold them. Defaults to
    /// `false`: the cases on poison messages are skipped.
    async fn insert_raw(&self, queue: &QueueName, body: &str, headers: Option<&str>) -> bool {
        let _ = (queue, body, headers);
        false
    }

    /// Lets time pass on the engine's clock. Defaults to tokio's sleep, which is right for a real
    /// clock and for tokio's paused one.
    async fn advance(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    /// Loses the newest message of a queue, given by name (dead letters have one of their own), and
    /// lets the store issue its id again: as a fail-over to a replica that lags does. The body of
    /// what was lost. Defaults to `None`, which is right for a store that issues each id once: the
    /// cases on ids that are issued again are skipped.
    async fn lose_newest(&self, queue: &str) -> Option<String> {
        let _ = queue;
        None
    }

    /// Drops a queue of a case that passed; those of a case that failed are kept to be looked at.
    /// Defaults to nothing.
    async fn discard(&self, queue: &QueueName) {
        let _ = queue;
    }
}

/// An engine as it is: nothing but what the contract offers is examined.
#[async_trait]
impl<E: Engine> Harness for Arc<E> {
    async fn engine(&self) -> Arc<dyn Engine> {
        Arc::clone(self) as Arc<dyn Engine>
    }
}
