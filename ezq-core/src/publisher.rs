//! Publishing: an event becomes an envelope, the envelope a body, the body a stored message.

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::value::RawValue;
use tracing::{Instrument, debug_span};

use crate::codec::{WireFormat, encode};
use crate::context::Received;
use crate::engine::{Due, MessageId, Outgoing, PublishOutcome};
use crate::engines::Engines;
use crate::envelope::{AttributeValue, Data, Envelope, VERSION_ATTRIBUTE};
use crate::extract::States;
use crate::headers::{self, Headers};
use crate::{Error, ErrorKind, Event, QueueName, Result};

/// What all parts of an application share.
#[derive(Debug)]
pub(crate) struct Services {
    pub(crate) states: States,
    pub(crate) engines: Engines,
    pub(crate) source: String,
    pub(crate) default_queue: QueueName,
    pub(crate) format: WireFormat,
    pub(crate) message_limit: usize,
}

/// An event on its way to be published: its payload is written, its envelope is not.
#[derive(Debug, Clone)]
pub struct Draft {
    content: Content,
    queue: Option<&'static str>,
    key: Option<String>,
}

#[derive(Debug, Clone)]
enum Content {
    Event { event_type: &'static str, version: u32, data: Box<RawValue> },
    Envelope(Box<Envelope>),
}

impl Draft {
    pub(crate) fn of<E: Event>(event: &E) -> Result<Self> {
        let data = serde_json::value::to_raw_value(event).map_err(|error| {
            Error::new(ErrorKind::Encode, format!("`{}` cannot be written as JSON", E::TYPE))
                .with_source(error)
        })?;
        let content = Content::Event { event_type: E::TYPE, version: E::VERSION, data };
        Ok(Self { content, queue: E::QUEUE, key: event.key() })
    }
}

/// What a publisher may say of its events.
#[derive(Debug, Clone, Default)]
struct PublishOptions {
    queue: Option<QueueName>,
    due: Due,
    subject: Option<String>,
    key: Option<String>,
    correlation_id: Option<String>,
    max_attempts: Option<u32>,
    headers: Option<Headers>,
}

/// Publishes events. Also an extractor: inside a handler, what it publishes names the handled
/// event as its cause and shares its correlation id and trace.
#[derive(Debug, Clone)]
pub struct Publisher {
    services: Arc<Services>,
    cause: Option<Arc<Received>>,
}

/// Where a published event is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Published {
    /// The queue.
    pub queue: QueueName,
    /// The message's id there; with it a scheduled event can be cancelled or moved.
    pub id: MessageId,
    /// The event's id.
    pub event_id: String,
}

/// A message ready to be stored, for those who store it in a transaction of their own.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Prepared {
    /// The message.
    pub outgoing: Outgoing,
    /// The event's id.
    pub event_id: String,
    /// The event's type name.
    pub event_type: String,
}

impl Prepared {
    /// What to answer once it is stored under an id.
    #[must_use]
    pub fn stored(self, id: MessageId) -> Published {
        Published { queue: self.outgoing.queue, id, event_id: self.event_id }
    }
}

impl Publisher {
    pub(crate) fn new(services: Arc<Services>) -> Self {
        Self { services, cause: None }
    }

    pub(crate) fn caused_by(services: &Arc<Services>, received: &Arc<Received>) -> Self {
        Self { services: Arc::clone(services), cause: Some(Arc::clone(received)) }
    }

    /// Publishes an event: to its type's queue, or the application's.
    ///
    /// Await it at once, or say more first:
    ///
    /// ```
    /// # #[derive(serde::Serialize, serde::Deserialize)] struct Reminder;
    /// # impl ezq_core::Event for Reminder { const TYPE: &'static str = "reminder"; }
    /// # async fn example(publisher: ezq_core::Publisher) -> ezq_core::Result<()> {
    /// use std::time::Duration;
    ///
    /// publisher.publish(&Reminder).await?;
    /// publisher.publish(&Reminder).queue("mail").after(Duration::from_secs(60)).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When awaited: [`ErrorKind::Encode`], [`ErrorKind::InvalidEvent`] or [`ErrorKind::TooLarge`]
    /// for an event that cannot be stored as it is; else what kept the engine from storing it.
    ///
    /// # Cancel safety
    /// Once polled, dropping the future leaves it open whether the event is stored.
    pub fn publish<E: Event>(&self, event: &E) -> Publish {
        self.drafted(Draft::of(event))
    }

    /// Publishes an event whose type and data are known only at run time.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    pub fn publish_envelope(&self, envelope: Envelope) -> Publish {
        let content = Content::Envelope(Box::new(envelope));
        self.drafted(Ok(Draft { content, queue: None, key: None }))
    }

    fn drafted(&self, draft: Result<Draft>) -> Publish {
        Publish { publisher: self.clone(), draft, options: Ok(PublishOptions::default()) }
    }

    /// Publishes events in one round trip; one result each, in their order. One that cannot be
    /// stored harms no other.
    ///
    /// # Errors
    /// When awaited: when no event is known to be stored.
    pub fn publish_all<'e, E: Event>(&self, events: impl IntoIterator<Item = &'e E>) -> PublishAll {
        PublishAll {
            publisher: self.clone(),
            drafts: events.into_iter().map(Draft::of).collect(),
            options: Ok(PublishOptions::default()),
        }
    }

    /// Makes a message of a draft that a handler returned.
    pub(crate) fn finish(&self, draft: Draft) -> Result<Outgoing> {
        self.prepare(draft, &PublishOptions::default()).map(|prepared| prepared.outgoing)
    }

    fn prepare(&self, draft: Draft, options: &PublishOptions) -> Result<Prepared> {
        let services = &*self.services;
        let queue = match (&options.queue, draft.queue) {
            (Some(queue), _) => queue.clone(),
            (None, Some(name)) => QueueName::new(name)?,
            (None, None) => services.default_queue.clone(),
        };
        let capabilities = services.engines.of(&queue).capabilities();
        if options.due != Due::Now && !capabilities.delayed {
            let message = format!("the engine `{}` cannot delay an event", capabilities.name);
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        let mut envelope = match draft.content {
            Content::Envelope(envelope) => *envelope,
            Content::Event { event_type, version, data } => {
                let mut envelope = Envelope::builder(event_type, &*services.source).0;
                envelope.data = Data::Json(data);
                if version != 1 {
                    let version = i32::try_from(version).unwrap_or(i32::MAX);
                    let value = AttributeValue::Integer(version);
                    envelope.extensions.insert(VERSION_ATTRIBUTE.to_owned(), value);
                }
                envelope
            }
        };
        if let Some(subject) = &options.subject {
            envelope.subject = Some(subject.clone());
        }
        let envelope = envelope.validated(ErrorKind::InvalidEvent)?;
        let body = encode(&envelope, services.format)?;
        if body.len() > services.message_limit {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!(
                    "`{}` takes {} bytes, more than the limit of {}: raise `message_limit`, or store \
                     the data elsewhere and publish a reference",
                    envelope.event_type,
                    body.len(),
                    services.message_limit
                ),
            ));
        }
        let headers = self.headers(options, draft.key);
        let outgoing = Outgoing { queue, body, headers, due: options.due };
        Ok(Prepared { outgoing, event_id: envelope.id, event_type: envelope.event_type })
    }

    fn headers(&self, options: &PublishOptions, key: Option<String>) -> Headers {
        let mut found = options.headers.clone().unwrap_or_default();
        if let Some(cause) = &self.cause {
            for name in [headers::TRACEPARENT, headers::TRACESTATE] {
                if let Some(text) = cause.headers.text(name) {
                    found.insert(name, text);
                }
            }
            found.insert(headers::CAUSATION_ID, cause.envelope.id());
            let correlation =
                cause.headers.text(headers::CORRELATION_ID).unwrap_or(cause.envelope.id());
            found.insert(headers::CORRELATION_ID, correlation);
        }
        if let Some(key) = options.key.clone().or(key) {
            found.insert(headers::KEY, key);
        }
        if let Some(id) = &options.correlation_id {
            found.insert(headers::CORRELATION_ID, id.as_str());
        }
        if let Some(attempts) = options.max_attempts {
            found.insert(headers::MAX_ATTEMPTS, attempts);
        }
        found
    }
}

macro_rules! publish_options {
    () => {
        fn with(mut self, set: impl FnOnce(&mut PublishOptions) -> Result<()>) -> Self {
            self.options = self.options.and_then(|mut options| {
                set(&mut options)?;
                Ok(options)
            });
            self
        }

        /// To a queue, in place of the type's or the application's.
        pub fn queue(self, queue: impl TryInto<QueueName, Error = Error>) -> Self {
            self.with(|options| {
                options.queue = Some(queue.try_into()?);
                Ok(())
            })
        }

        /// Readable after a pause, counted on the engine's clock, to the millisecond or finer.
        pub fn after(self, pause: Duration) -> Self {
            self.with(|options| {
                options.due = Due::After(pause);
                Ok(())
            })
        }

        /// Readable from a time on; one in the past means at once.
        pub fn at(self, time: DateTime<Utc>) -> Self {
            self.with(|options| {
                options.due = Due::At(time);
                Ok(())
            })
        }

        /// What the event is about, within its source.
        pub fn subject(self, subject: impl Into<String>) -> Self {
            self.with(|options| {
                options.subject = Some(subject.into());
                Ok(())
            })
        }

        /// The ordering key, in place of the event's own.
        pub fn key(self, key: impl Into<String>) -> Self {
            self.with(|options| {
                options.key = Some(key.into());
                Ok(())
            })
        }

        /// The id that all events of one flow share.
        pub fn correlation_id(self, id: impl Into<String>) -> Self {
            self.with(|options| {
                options.correlation_id = Some(id.into());
                Ok(())
            })
        }

        /// Attempts in all, over the handlers' own policies.
        pub fn max_attempts(self, attempts: u32) -> Self {
            self.with(|options| {
                options.max_attempts = Some(attempts.max(1));
                Ok(())
            })
        }

        /// A header of your own; names that begin with `ezq-` are refused.
        pub fn header(self, name: &str, value: impl Into<serde_json::Value>) -> Self {
            self.with(|options| {
                if name.starts_with(headers::PREFIX) {
                    return Err(Error::new(
                        ErrorKind::InvalidEvent,
                        format!("the header `{}` is ezq's own", name.escape_debug()),
                    ));
                }
                options.headers.get_or_insert_default().insert(name, value);
                Ok(())
            })
        }
    };
}

/// One event about to be published; await it.
#[derive(Debug)]
#[must_use = "an event is published only when this is awaited"]
pub struct Publish {
    publisher: Publisher,
    draft: Result<Draft>,
    options: Result<PublishOptions>,
}

impl Publish {
    publish_options!();

    /// The message, for those who store it in a transaction of their own.
    ///
    /// # Errors
    /// When the event or an option is invalid.
    pub fn prepare(self) -> Result<Prepared> {
        self.publisher.prepare(self.draft?, &self.options?)
    }

    async fn store(self) -> Result<Published> {
        let services = Arc::clone(&self.publisher.services);
        let prepared = self.prepare()?;
        let span = debug_span!(
            "ezq.publish",
            queue = %prepared.outgoing.queue,
            event_id = %prepared.event_id,
            event_type = %prepared.event_type,
        );
        let Prepared { outgoing, event_id, .. } = prepared;
        let queue = outgoing.queue.clone();
        let outcome = services.engines.publish(vec![outgoing]).instrument(span).await?.pop();
        stored(queue, event_id, outcome)
    }
}

impl IntoFuture for Publish {
    type Output = Result<Published>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.store())
    }
}

/// Several events about to be published; await it.
#[derive(Debug)]
#[must_use = "events are published only when this is awaited"]
pub struct PublishAll {
    publisher: Publisher,
    drafts: Vec<Result<Draft>>,
    options: Result<PublishOptions>,
}

impl PublishAll {
    publish_options!();

    /// The messages, for those who store them in a transaction of their own.
    ///
    /// # Errors
    /// When an option is invalid; the inner ones when an event is.
    pub fn prepare(self) -> Result<Vec<Result<Prepared>>> {
        let options = self.options?;
        let prepare = |draft: Result<Draft>| self.publisher.prepare(draft?, &options);
        Ok(self.drafts.into_iter().map(prepare).collect())
    }

    async fn store(self) -> Result<Vec<Result<Published>>> {
        let services = Arc::clone(&self.publisher.services);
        let prepared = self.prepare()?;
        let mut messages = Vec::with_capacity(prepared.len());
        let mut places = Vec::with_capacity(prepared.len());
        for prepared in prepared {
            places.push(prepared.map(|Prepared { outgoing, event_id, .. }| {
                let queue = outgoing.queue.clone();
                messages.push(outgoing);
                (queue, event_id)
            }));
        }
        let mut outcomes = Vec::new();
        if !messages.is_empty() {
            let span = debug_span!("ezq.publish", count = messages.len());
            outcomes = services.engines.publish(messages).instrument(span).await?;
        }
        let mut outcomes = outcomes.into_iter();
        let result = |place: Result<(QueueName, String)>| {
            place.and_then(|(queue, event_id)| stored(queue, event_id, outcomes.next()))
        };
        Ok(places.into_iter().map(result).collect())
    }
}

impl IntoFuture for PublishAll {
    type Output = Result<Vec<Result<Published>>>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.store())
    }
}

fn stored(
    queue: QueueName,
    event_id: String,
    outcome: Option<PublishOutcome>,
) -> Result<Published> {
    match outcome {
        Some(PublishOutcome::Stored(id) | PublishOutcome::Duplicate(Some(id))) => {
            Ok(Published { queue, id, event_id })
        }
        Some(PublishOutcome::Failed(error)) => Err(error),
        Some(PublishOutcome::Duplicate(None)) | None => {
            Err(Error::new(ErrorKind::Engine, "the engine did not say where the event is stored"))
        }
    }
}
