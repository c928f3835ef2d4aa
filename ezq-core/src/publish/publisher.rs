//! Publishing: an event becomes an envelope, the envelope a body, the body a stored message.

use crate::observe::notices::Notices;
use crate::publish::services::Services;
use std::sync::Arc;

use serde_json::value::RawValue;

use crate::delivery::received::Received;
use crate::engine::{Dedupe, Due, MessageId, Original, Outgoing, PublishOutcome};
use crate::error::{Error, ErrorKind, Result};
use crate::event::envelope::{AttributeValue, Data, Envelope, VERSION_ATTRIBUTE};
use crate::event::tick::Tick;
use crate::event::{Event, finite};
use crate::message::headers::{self, Headers};
use crate::message::queue_name::QueueName;
use crate::publish::all::PublishAll;
use crate::publish::builder::{Publish, PublishOptions};
use crate::publish::transaction::Transaction;

/// An event on its way to be published: its payload is written, its envelope is not.
#[derive(Debug, Clone)]
pub struct Draft {
    content: Content,
    queue: Option<&'static str>,
    key: Option<String>,
    codec: Option<&'static str>,
}

#[derive(Debug, Clone)]
enum Content {
    Event {
        event_type: &'static str,
        version: u32,
        data: Box<RawValue>,
    },
    Envelope(Box<Envelope>),
}

impl Draft {
    pub(crate) fn of<E: Event>(event: &E) -> Result<Self> {
        let data = finite::to_json(E::TYPE, event)?;
        let content = Content::Event {
            event_type: E::TYPE,
            version: E::VERSION,
            data,
        };
        Ok(Self {
            content,
            queue: E::QUEUE,
            key: event.key(),
            codec: E::CODEC,
        })
    }

    /// A schedule's tick, under the type name of the function that takes it.
    pub(crate) fn tick(event_type: &'static str, tick: &Tick) -> Result<Self> {
        let data = finite::to_json(event_type, tick)?;
        let content = Content::Event {
            event_type,
            version: 1,
            data,
        };
        Ok(Self {
            content,
            queue: None,
            key: None,
            codec: None,
        })
    }
}

impl Draft {
    fn event_type(&self) -> &str {
        match &self.content {
            Content::Event { event_type, .. } => event_type,
            Content::Envelope(envelope) => envelope.event_type(),
        }
    }
}

/// An event known only at run time.
impl From<Envelope> for Draft {
    fn from(envelope: Envelope) -> Self {
        let content = Content::Envelope(Box::new(envelope));
        Self {
            content,
            queue: None,
            key: None,
            codec: None,
        }
    }
}

/// An event as it is stored, wherever that is.
pub(crate) struct Written {
    pub(crate) body: String,
    pub(crate) headers: Headers,
    pub(crate) dedupe: Option<Dedupe>,
    pub(crate) event_id: String,
    pub(crate) event_type: String,
}

/// Publishes events. Also an extractor: inside a handler, what it publishes names the handled
/// event as its cause and shares its correlation id and trace; and where the handler takes a
/// transaction, it goes out with that and has no id before ([`MessageId::Pending`]).
#[derive(Debug, Clone)]
pub struct Publisher {
    pub(crate) services: Arc<Services>,
    cause: Option<Arc<Received>>,
    pub(crate) transaction: Option<Arc<Transaction>>,
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
    /// The event's type name.
    pub event_type: String,
    /// Whether an event with the same [dedupe key](Publish::dedupe_key) was published before. Then
    /// nothing was stored, and the ids are that event's.
    pub is_duplicate: bool,
}

impl Published {
    /// Under which id it is stored, and whether it was before.
    pub(crate) fn stored(&self) -> (&MessageId, bool) {
        (&self.id, self.is_duplicate)
    }

    /// What an engine's outcome says of a message.
    pub(crate) fn of(
        queue: QueueName,
        (event_id, event_type): (String, String),
        outcome: Option<PublishOutcome>,
    ) -> Result<Self> {
        match outcome {
            Some(PublishOutcome::Stored(id)) => Ok(Self {
                queue,
                id,
                event_id,
                event_type,
                is_duplicate: false,
            }),
            Some(PublishOutcome::Duplicate(Some(Original {
                message_id: id,
                event_id,
            }))) => Ok(Self {
                queue,
                id,
                event_id,
                event_type,
                is_duplicate: true,
            }),
            Some(PublishOutcome::Failed(error)) => Err(error),
            Some(PublishOutcome::Duplicate(None)) | None => Err(Error::new(
                ErrorKind::Engine,
                "the engine did not say where the event is stored",
            )),
        }
    }
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
    /// Says that it is about to be stored.
    pub(crate) fn tell(&self, notices: &Notices) {
        notices.publishing(&self.outgoing.queue, &self.event_id, &self.event_type);
    }

    /// What to answer once an engine said what became of it.
    ///
    /// # Errors
    /// What kept it from being stored.
    pub fn published(self, outcome: PublishOutcome) -> Result<Published> {
        Published::of(
            self.outgoing.queue,
            (self.event_id, self.event_type),
            Some(outcome),
        )
    }
}

impl Publisher {
    pub(crate) fn new(services: Arc<Services>) -> Self {
        Self {
            services,
            cause: None,
            transaction: None,
        }
    }

    pub(crate) fn caused_by(services: &Arc<Services>, received: &Arc<Received>) -> Self {
        Self {
            cause: Some(Arc::clone(received)),
            ..Self::new(Arc::clone(services))
        }
    }

    /// Keeps what it publishes until a handler's transaction commits.
    pub(crate) fn within(self, transaction: Option<&Arc<Transaction>>) -> Self {
        Self {
            transaction: transaction.cloned(),
            ..self
        }
    }

    /// Stores messages, one result each; in a handler that has a transaction, once that commits.
    pub(crate) async fn store(&self, messages: Vec<Prepared>) -> Result<Vec<Result<Published>>> {
        if let Some(transaction) = &self.transaction {
            let mut kept = Vec::with_capacity(messages.len());
            for message in messages {
                kept.push(transaction.publish(&self.services, message).await);
            }
            return Ok(kept);
        }
        let (outgoing, ids): (Vec<Outgoing>, Vec<_>) = messages
            .into_iter()
            .map(
                |Prepared {
                     outgoing,
                     event_id,
                     event_type,
                 }| {
                    let queue = outgoing.queue.clone();
                    (outgoing, (queue, (event_id, event_type)))
                },
            )
            .unzip();
        let notices = &self.services.notices;
        let outcomes = self
            .services
            .engines
            .publish(outgoing)
            .await
            .inspect_err(|error| {
                for (queue, (event_id, event_type)) in &ids {
                    notices.published(queue, (event_id, event_type), Err(error));
                }
            });
        let mut outcomes = outcomes?.into_iter();
        let stored = |(queue, names): (QueueName, (String, String))| {
            let names_here = notices.are_heard().then(|| (queue.clone(), names.clone()));
            let result = Published::of(queue, names, outcomes.next());
            if let Some((queue, (event_id, event_type))) = names_here {
                notices.published(
                    &queue,
                    (&event_id, &event_type),
                    result.as_ref().map(Published::stored),
                );
            }
            result
        };
        Ok(ids.into_iter().map(stored).collect())
    }

    /// Publishes an event: to where its type is [routed](crate::AppBuilder::route_events), else to its
    /// type's own queue, else to the application's.
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
        self.drafted(Ok(Draft::from(envelope)))
    }

    fn drafted(&self, draft: Result<Draft>) -> Publish {
        Publish {
            publisher: self.clone(),
            draft,
            options: Ok(PublishOptions::default()),
        }
    }

    /// Publishes events in one round trip. One that cannot be stored harms no other, and is an error
    /// that names it and holds what was stored; [`outcomes`](PublishAll::outcomes) gives one result
    /// for each instead.
    ///
    /// # Errors
    /// When awaited: [`PublishAllError`](crate::PublishAllError), when not all of them are published.
    ///
    /// # Cancel safety
    /// Once polled, dropping the future leaves it open which events are stored.
    pub fn publish_all<'e, E: Event>(&self, events: impl IntoIterator<Item = &'e E>) -> PublishAll {
        PublishAll {
            publisher: self.clone(),
            drafts: events.into_iter().map(Draft::of).collect(),
            options: Ok(PublishOptions::default()),
        }
    }

    /// Makes a message of a draft that a handler returned. What is published is refused by the
    /// engine itself; this goes out with a settlement, which a refusal would spoil.
    pub(crate) fn finish(&self, draft: Draft) -> Result<Outgoing> {
        let prepared = self.prepare(draft, &PublishOptions::default())?;
        prepared.tell(&self.services.notices);
        let Prepared {
            outgoing,
            event_id,
            event_type,
        } = prepared;
        let (queue, services) = (&outgoing.queue, &self.services);
        services
            .engines
            .of(queue)
            .check(&outgoing)
            .inspect_err(|error| {
                services
                    .notices
                    .published(queue, (&event_id, &event_type), Err(error));
            })?;
        Ok(outgoing)
    }

    pub(crate) fn prepare(&self, draft: Draft, options: &PublishOptions) -> Result<Prepared> {
        let queue = self.destination(&draft, options)?;
        let Written {
            body,
            headers,
            dedupe,
            event_id,
            event_type,
        } = self.write(draft, options, Some(&queue))?;
        let outgoing = Outgoing {
            queue,
            body,
            headers,
            due: options.due,
            dedupe,
        };
        Ok(Prepared {
            outgoing,
            event_id,
            event_type,
        })
    }

    /// The queue that an event goes to.
    pub(crate) fn destination(&self, draft: &Draft, options: &PublishOptions) -> Result<QueueName> {
        match &options.queue {
            Some(queue) => Ok(queue.clone()),
            None => self.services.queue_of(draft.event_type(), draft.queue),
        }
    }

    /// Writes an event for a queue, or for all that are subscribed.
    pub(crate) fn write(
        &self,
        draft: Draft,
        options: &PublishOptions,
        queue: Option<&QueueName>,
    ) -> Result<Written> {
        let services = &*self.services;
        let engine = queue.map_or(&services.engines.default, |queue| {
            services.engines.of(queue)
        });
        let capabilities = engine.capabilities();
        if options.due != Due::Now && !capabilities.delayed {
            let message = format!("the engine `{}` cannot delay an event", capabilities.name);
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        if options.dedupe_key.is_some() && !capabilities.dedupe {
            let message = format!("the engine `{}` knows no dedupe keys", capabilities.name);
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        let mut headers = self.headers(options, draft.key);
        if headers.key().is_some_and(|key| key.is_empty()) {
            let message = "the ordering key is empty: events without a key have none, by `None` or \
                           by not setting one; an empty one would order all of them";
            return Err(Error::new(ErrorKind::InvalidEvent, message));
        }
        if headers.key().is_some() && !capabilities.keys {
            let message = format!("the engine `{}` does not order by key", capabilities.name);
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        let mut envelope = match draft.content {
            Content::Envelope(envelope) => *envelope,
            Content::Event {
                event_type,
                version,
                data,
            } => {
                let mut envelope = Envelope::builder(event_type, &*services.source).0;
                envelope.data = Data::Json(data);
                if version != 1 {
                    let version = i32::try_from(version).unwrap_or(i32::MAX);
                    let value = AttributeValue::Integer(version);
                    envelope
                        .extensions
                        .insert(VERSION_ATTRIBUTE.to_owned(), value);
                }
                envelope
            }
        };
        if let Some(source) = &options.source {
            envelope.source.clone_from(source);
        }
        if let Some(subject) = &options.subject {
            envelope.subject = Some(subject.clone());
        }
        if let Some(time) = options.time {
            envelope.time = Some(time.fixed_offset());
        }
        let envelope = envelope.validated(ErrorKind::InvalidEvent)?;
        // No consumer could read another.
        if let Err(error) = envelope.version() {
            return Err(Error::new(ErrorKind::InvalidEvent, error.to_string()));
        }
        let body = services
            .codecs
            .write(&envelope, draft.codec, queue, &mut headers)?;
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
        let dedupe = match (&options.dedupe_key, options.dedupe_window) {
            (Some(key), window) => Some(Dedupe::new(
                key,
                window.unwrap_or(services.dedupe_window),
                &envelope.id,
            )?),
            (None, Some(_)) => {
                let message = "a dedupe window means nothing without a dedupe key";
                return Err(Error::new(ErrorKind::InvalidEvent, message));
            }
            (None, None) => None,
        };
        let Envelope {
            id: event_id,
            event_type,
            ..
        } = envelope;
        Ok(Written {
            body,
            headers,
            dedupe,
            event_id,
            event_type,
        })
    }

    fn headers(&self, options: &PublishOptions, key: Option<String>) -> Headers {
        let mut found = options.headers.clone().unwrap_or_default();
        if let Some(cause) = &self.cause {
            // What the publisher says itself counts. A trace's state belongs to its parent.
            if found.value(headers::TRACEPARENT).is_none() {
                for name in [headers::TRACEPARENT, headers::TRACESTATE] {
                    if let Some(text) = cause.headers.text(name) {
                        found.insert_absent(name, text);
                    }
                }
            }
            found.insert_absent(headers::CAUSATION_ID, cause.envelope.id());
            let correlation = cause
                .headers
                .text(headers::CORRELATION_ID)
                .unwrap_or(cause.envelope.id());
            found.insert_absent(headers::CORRELATION_ID, correlation);
        }
        if let Some(key) = options.key.clone().or(key) {
            found.insert(headers::KEY, key);
        }
        if let Some(attempts) = options.max_attempts {
            found.insert(headers::MAX_ATTEMPTS, attempts);
        }
        found
    }
}
