//! Relays: the events of a queue, sent on to a message broker.
//!
//! A [`Relay`] is a batch handler that has a queue to itself, so a relay starts, stops, pauses and is seen
//! as any consumer. The queue is an outbox: publish into it in your own transaction, and the event reaches
//! the broker if that commits.
//!
//! # What is promised
//!
//! - **At least once.** A row leaves the queue only after the broker has answered that it keeps the event.
//!   A relay that dies in between sends the event again, with the same id.
//! - **Order.** Events of one ordering key are sent in their order. To an
//!   [ordered](crate::broker::SinkCapabilities::ordered) sink several of them go in one batch. If one of
//!   them fails, those behind it go back to their places, and no attempt is counted. To any other sink one
//!   of a key goes at a time.
//! - **A broker that is away costs no attempts.** The events wait in their queue.
//! - **An event that the broker refuses** becomes a dead letter, and holds up no other. So does one whose
//!   data alone is larger than what the sink says that its broker takes.
//! - **A broker that does not answer** is seen in [`App::health`](crate::app::App::health): the consumer of
//!   the queue is not ready.

//! # Batches
//!
//! What one claim brings is one batch. A consumer holds up to three, and no more than its concurrency: the
//! next is claimed and read while others are sent. With a [rate](Relay::rate) it holds one. A handler that
//! shares the queue, or a limit of the relay's own, makes it an ordinary batch handler.

mod forward;
mod pace;
mod topics;

use std::sync::Arc;
use std::time::Duration;

use crate::broker::Sink;
use crate::error::Result;
use crate::event::Envelope;
use crate::handler::{Batch, Handler};
use crate::relay::forward::{Forward, Relayed};
use crate::relay::pace::Pace;
use crate::relay::topics::Topics;

/// Sends the events of a queue on to a [`Sink`]. Register it with
/// [`AppBuilder::register`](crate::app::AppBuilder::register), and run a consumer of the queue.
///
/// ```
/// use std::sync::{Arc, Mutex};
///
/// use ezq_core::async_trait;
/// use ezq_core::broker::{Outbound, SendOutcome, Sink, SinkCapabilities};
/// use ezq_core::event::Event;
/// use ezq_core::relay::Relay;
/// use ezq_core::testing::TestApp;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Paid { order: i64 }
/// impl Event for Paid { const TYPE: &'static str = "order.paid"; }
///
/// /// Keeps what it is sent.
/// #[derive(Clone, Default)]
/// struct Kept(Arc<Mutex<Vec<Outbound>>>);
///
/// #[async_trait]
/// impl Sink for Kept {
///     fn capabilities(&self) -> &SinkCapabilities {
///         const { &SinkCapabilities::new("kept").ordered() }
///     }
///
///     async fn send(&self, batch: &[Outbound]) -> ezq_core::Result<Vec<SendOutcome>> {
///         self.0.lock().unwrap().extend_from_slice(batch);
///         Ok(batch.iter().map(|_| SendOutcome::Sent).collect())
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> ezq_core::Result<()> {
/// let kept = Kept::default();
/// let relay = Relay::new("outbox", kept.clone()).route("order.*", "orders")?;
/// let app = TestApp::new(|app| app.queue("outbox").register(relay))?;
///
/// app.publish(&Paid { order: 7 }).await?;
/// app.drain().await?;
/// assert_eq!(kept.0.lock().unwrap()[0].topic(), "orders");
/// # Ok(()) }
/// ```
#[must_use = "register it with an application"]
pub struct Relay {
    name: String,
    queue: String,
    sink: Arc<dyn Sink>,
    topics: Topics,
    pace: Option<Pace>,
    send_timeout: Duration,
    batch_size: usize,
    batch_wait: Duration,
}

impl Relay {
    /// A relay of a queue to a sink. No other handler takes events of the queue.
    pub fn new(queue: impl Into<String>, sink: impl Sink) -> Self {
        let queue = queue.into();
        Self {
            name: format!("relay:{queue}"),
            topics: Topics::new(&queue),
            queue,
            sink: Arc::new(sink),
            pace: None,
            send_timeout: Duration::from_secs(30),
            batch_size: 500,
            batch_wait: Duration::from_millis(5),
        }
    }

    /// The name of its handler, under which messages keep what became of them. Defaults to `relay:` and
    /// the queue.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// The topic of events that match no [route](Self::route). Defaults to the name of the queue.
    pub fn topic(mut self, topic: impl Into<String>) -> Self {
        self.topics.otherwise(topic.into());
        self
    }

    /// The topic of events whose type matches a [pattern](crate::event::Pattern), such as `order.*`. The
    /// first route that matches counts.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidPattern`](crate::ErrorKind::InvalidPattern) if it is no pattern.
    pub fn route(mut self, pattern: &str, topic: impl Into<String>) -> Result<Self> {
        self.topics.route(pattern, topic.into())?;
        Ok(self)
    }

    /// The topic of each event, by a function of the event. With it the [topic](Self::topic) and
    /// [routes](Self::route) have no effect.
    ///
    /// ```
    /// # use ezq_core::relay::Relay;
    /// # fn example(relay: Relay) -> Relay {
    /// relay.topic_by(|event| event.event_type().replace('.', "-"))
    /// # }
    /// ```
    pub fn topic_by(mut self, topic: impl Fn(&Envelope) -> String + Send + Sync + 'static) -> Self {
        self.topics.by(topic);
        self
    }

    /// How many events a process sends in a second at most, at least 1. Defaults to no limit.
    pub fn rate(mut self, per_second: u32) -> Self {
        self.pace = Some(Pace::new(per_second));
        self
    }

    /// How many events go to the broker in one call at most. Defaults to 500.
    pub fn batch_size(mut self, size: usize) -> Self {
        self.batch_size = size;
        self
    }

    /// How long a batch that is not full waits for more events. One with several events of a key does not
    /// wait: others of the key cannot join it. Defaults to 5 ms.
    pub fn batch_wait(mut self, wait: Duration) -> Self {
        self.batch_wait = wait;
        self
    }

    /// How long the broker may take to answer. After that the batch is sent again. Defaults to 30 s.
    pub fn send_timeout(mut self, limit: Duration) -> Self {
        self.send_timeout = limit;
        self
    }
}

impl From<Relay> for Handler {
    fn from(relay: Relay) -> Self {
        let sink = Arc::clone(&relay.sink);
        let is_paced = relay.pace.is_some();
        let forward = Arc::new(Forward {
            queue: relay.queue.clone(),
            sink: relay.sink,
            topics: relay.topics,
            pace: relay.pace,
            send_timeout: relay.send_timeout,
            is_failing: Default::default(),
        });
        let mut handler = Self::on_batch(&relay.name, move |batch: Batch<Relayed>| {
            let forward = Arc::clone(&forward);
            async move { forward.run(&batch).await }
        })
        .queue(relay.queue)
        // The time of a call is limited by itself, and a broker may be away for longer.
        .timeout(None)
        .batch_size(relay.batch_size)
        .batch_wait(relay.batch_wait);
        handler.sink = Some(sink);
        handler.is_paced = is_paced;
        handler
    }
}

impl std::fmt::Debug for Relay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Relay")
            .field("name", &self.name)
            .field("queue", &self.queue)
            .field("sink", &self.sink.capabilities().name)
            .finish_non_exhaustive()
    }
}
