//! What a handler takes, made by a test that calls the handler itself.
//!
//! Nothing here has a queue behind it: a lease never ends, and nothing is settled.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::Instant;
use tracing::Span;

use crate::clock::EngineClock;
use crate::delivery::attempt::Attempt;
use crate::delivery::lease::Lease;
use crate::delivery::received::Received;
use crate::engine::{Receipt, Token};
use crate::error::Result;
use crate::event::Event;
use crate::event::envelope::Envelope;
use crate::event::tick::Tick;
use crate::handler::batch::{Batch, BatchItem};
use crate::handler::context::Context;
use crate::message::headers::Headers;
use crate::message::message_id::MessageId;
use crate::message::queue_name::{IntoQueueName, QueueName};
use crate::message::settlement::HandlerName;

/// Begins the [`Context`] of an event, for a test that calls a handler itself.
///
/// ```
/// # use ezq_core::event::Event;
/// # use ezq_core::handler::Context;
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Serialize, Deserialize)] struct Paid { order: i64 }
/// # impl Event for Paid { const TYPE: &'static str = "paid"; }
/// use ezq_core::testing;
///
/// async fn charge(event: Paid, context: Context) -> Result<i64, String> {
///     match context.attempt() {
///         1..=3 => Err(format!("the bank does not answer for order {}", event.order)),
///         _ => Ok(event.order),
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let event = Paid { order: 7 };
/// let context = testing::context(&event).attempt(4).queue("payments").build();
/// assert_eq!(charge(event, context).await, Ok(7));
/// # }
/// ```
pub fn context<E: Event>(event: &E) -> ContextBuilder {
    let envelope = Envelope::builder(E::TYPE, "test").data(event);
    ContextBuilder::new(envelope.and_then(|envelope| envelope.build()))
}

/// Begins the [`Context`] of an event in its envelope.
pub fn context_of(envelope: Envelope) -> ContextBuilder {
    ContextBuilder::new(Ok(envelope))
}

/// Builds a [`Context`]. It is that of the first attempt at an event that was stored just now in the
/// queue `ezq`, until something else is said.
#[derive(Debug)]
#[must_use]
pub struct ContextBuilder {
    envelope: Result<Envelope>,
    queue: Result<QueueName>,
    headers: Headers,
    handler: HandlerName,
    message_id: MessageId,
    attempt: u32,
    deliveries: Option<u32>,
    deadline: Option<Instant>,
}

impl ContextBuilder {
    fn new(envelope: Result<Envelope>) -> Self {
        Self {
            envelope,
            queue: Ok(QueueName::default()),
            headers: Headers::new(),
            handler: HandlerName::from("test"),
            message_id: MessageId::Number(1),
            attempt: 1,
            deliveries: None,
            deadline: None,
        }
    }

    /// Sets the number of the attempt. Defaults to 1.
    pub fn attempt(mut self, number: u32) -> Self {
        self.attempt = number;
        self
    }

    /// Sets how often the message was delivered. Defaults to the number of the attempt.
    pub fn deliveries(mut self, count: u32) -> Self {
        self.deliveries = Some(count);
        self
    }

    /// Sets the queue. Defaults to `ezq`.
    pub fn queue(mut self, queue: impl IntoQueueName) -> Self {
        self.queue = queue.into_queue_name();
        self
    }

    /// Adds a header of the message.
    pub fn header(mut self, name: &str, value: impl Into<serde_json::Value>) -> Self {
        self.headers.insert(name, value);
        self
    }

    /// Sets the name of the handler. Defaults to `test`.
    pub fn handler(mut self, name: &str) -> Self {
        self.handler = HandlerName::from(name);
        self
    }

    /// Sets the id of the message. Defaults to 1.
    pub fn message_id(mut self, id: MessageId) -> Self {
        self.message_id = id;
        self
    }

    /// Sets when the handler's timeout ends its run. Defaults to no timeout.
    pub fn deadline(mut self, deadline: Instant) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// The context.
    ///
    /// # Panics
    /// When the event cannot be written as JSON, or the queue's name is none.
    #[track_caller]
    #[must_use]
    pub fn build(self) -> Context {
        let enqueued_at = Utc::now();
        let received = Received {
            envelope: expect(self.envelope),
            body: None,
            queue: expect(self.queue),
            receipt: Receipt::new(self.message_id, Token::default()),
            headers: self.headers,
            deliveries: self.deliveries.unwrap_or(self.attempt),
            enqueued_at,
            due: enqueued_at,
            clock: EngineClock {
                at: enqueued_at,
                read: Instant::now(),
            },
            lease: Arc::new(Lease::new(Instant::now(), Duration::MAX)),
            parent: Span::none(),
        };
        Context {
            attempt: Attempt {
                received: Arc::new(received),
                number: self.attempt,
            },
            handler: self.handler,
            deadline: self.deadline,
        }
    }
}

#[track_caller]
fn expect<T>(result: Result<T>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("no context can be made: {error:?}"),
    }
}

/// A [`Batch`] of events, each with the context of a first attempt, in their order.
///
/// ```
/// # use ezq_core::event::Event;
/// # use ezq_core::handler::Batch;
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Serialize, Deserialize)] struct Reading { celsius: f64 }
/// # impl Event for Reading { const TYPE: &'static str = "reading"; }
/// use ezq_core::testing;
///
/// async fn warmest(batch: Batch<Reading>) -> Option<f64> {
///     batch.events().map(|reading| reading.celsius).reduce(f64::max)
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let readings = [Reading { celsius: 19.5 }, Reading { celsius: 23.0 }];
/// assert_eq!(warmest(testing::batch(readings)).await, Some(23.0));
/// # }
/// ```
///
/// # Panics
/// When an event cannot be written as JSON.
#[track_caller]
#[must_use]
pub fn batch<E: Event>(events: impl IntoIterator<Item = E>) -> Batch<E> {
    let mut items = Vec::new();
    for (number, event) in (1..).zip(events) {
        let context = context(&event).message_id(MessageId::Number(number));
        items.push(BatchItem {
            context: context.build(),
            event,
        });
    }
    Batch { items }
}

/// A [`Batch`] of events with contexts of your own, in their order.
#[must_use]
pub fn batch_of<E>(items: impl IntoIterator<Item = (E, Context)>) -> Batch<E> {
    let items = items.into_iter();
    Batch {
        items: items
            .map(|(event, context)| BatchItem { event, context })
            .collect(),
    }
}

/// A [`Tick`] of a schedule, without one before it. Set [`previous`](Tick::previous) where the function
/// reads it.
///
/// ```
/// use ezq_core::chrono::{TimeDelta, Utc};
/// use ezq_core::testing;
///
/// let now = Utc::now();
/// let mut tick = testing::tick("weekly", now);
/// tick.previous = Some(now - TimeDelta::days(7));
/// ```
#[must_use]
pub fn tick(schedule: &str, due: DateTime<Utc>) -> Tick {
    Tick {
        schedule: schedule.to_owned(),
        due,
        previous: None,
    }
}
