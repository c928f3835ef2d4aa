//! The means by which the suites reach a broker, beyond the sink or the source.

use std::sync::Arc;

use async_trait::async_trait;
use ezq_core::broker::{Inbound, Outbound, Sink, Source};

/// What a test does to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ServerStep {
    /// Ends it as `kill -9` does.
    Kill,
    /// Starts it again on the same port, with what it had written to disk, and waits until it answers.
    Start,
    /// Stops its process where it is, as `kill -STOP` does: connections stay open and are not answered.
    Pause,
    /// Lets it go on, as `kill -CONT` does.
    Resume,
}

/// Gives the suite of sinks a sink to examine, and a look at what its broker holds.
///
/// [`sink`](Self::sink) and [`read`](Self::read) are required. With the other methods' defaults some cases
/// are skipped, so implement all that the broker allows. The server should be one that the test has started.
#[async_trait]
pub trait SinkHarness: Send + Sync {
    /// A sink, with connections of its own.
    async fn sink(&self) -> Arc<dyn Sink>;

    /// What the broker holds of a topic, in its order. No messages of a topic that does not exist.
    async fn read(&self, topic: &str) -> Vec<Inbound>;

    /// Makes sure of a topic and returns its name, which is made of a unique one of lower-case letters,
    /// digits and `_`. Defaults to the unique name, for a broker or sink that makes topics by itself.
    async fn topic(&self, unique: String) -> String {
        unique
    }

    /// The name of a topic that the broker does not have, and that the sink does not make. Defaults to `None`.
    fn missing_topic(&self) -> Option<String> {
        None
    }

    /// How many bytes of data the broker certainly refuses in one message. Defaults to none: the case is then
    /// run only for a sink that says how much its broker takes.
    fn too_large(&self) -> Option<usize> {
        None
    }

    /// Does something to the server. Returns false, the default, if it cannot be done.
    async fn step(&self, step: ServerStep) -> bool {
        let _ = step;
        false
    }
}

/// Gives the suite of sources a source to examine, and a way to put messages into its broker.
///
/// [`source`](Self::source) and [`put`](Self::put) are required. With the other methods' defaults some cases
/// are skipped.
#[async_trait]
pub trait SourceHarness: Send + Sync {
    /// A source of a topic, which begins at the beginning. Every call returns one of the same name, and of
    /// the same group if the broker has groups.
    async fn source(&self, topic: &str) -> Box<dyn Source>;

    /// Puts messages into a topic, in their order, each with its event. Those of one key go to one partition.
    async fn put(&self, topic: &str, messages: &[Outbound]);

    /// Makes sure of a topic and returns its name, which is made of a unique one of lower-case letters,
    /// digits and `_`. Defaults to the unique name, for a broker that makes topics by itself.
    async fn topic(&self, unique: String) -> String {
        unique
    }

    /// Does something to the server. Returns false, the default, if it cannot be done.
    async fn step(&self, step: ServerStep) -> bool {
        let _ = step;
        false
    }
}
