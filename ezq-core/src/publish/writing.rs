//! Writing: a draft and its options become an envelope, and the envelope a body with headers.
//!
//! Whatever can be refused without asking the store is refused here.

use std::time::Duration;

use crate::engine::{BroadcastMessage, Capabilities, Dedupe, Due};
use crate::error::{Error, ErrorKind, Result};
use crate::event::envelope::{AttributeValue, Data, Envelope, VERSION_ATTRIBUTE};
use crate::message::headers::{self, Headers};
use crate::message::queue_name::QueueName;
use crate::observe::metrics::KnownType;
use crate::publish::draft::{Content, Draft};
use crate::publish::options::PublishOptions;
use crate::publish::prepared::{Prepared, PreparedBroadcast};
use crate::publish::publisher::Publisher;

impl Publisher {
    /// Writes an event for the queue that it goes to.
    pub(crate) fn prepare(&self, draft: Draft, options: &PublishOptions) -> Result<Prepared> {
        let queue = self.queue_of(&draft, options)?;
        let written = self.write(draft, options, Some(&queue))?;
        Ok(written.addressed_to(queue))
    }

    /// The queue that an event goes to.
    pub(crate) fn queue_of(&self, draft: &Draft, options: &PublishOptions) -> Result<QueueName> {
        match &options.queue {
            Some(queue) => Ok(queue.clone()),
            None => self.services.queue_of(draft.event_type(), draft.queue),
        }
    }

    /// Writes an event for a queue, or, without one, for all that are subscribed.
    pub(crate) fn write(
        &self,
        draft: Draft,
        options: &PublishOptions,
        queue: Option<&QueueName>,
    ) -> Result<PreparedBroadcast> {
        let services = &*self.services;
        let engine = queue.map_or(&services.engines.default, |queue| {
            services.engines.of(queue)
        });
        let mut headers = self.headers(options, draft.key, draft.trace.as_deref());
        check_capabilities(engine.capabilities(), options, &headers)?;

        let known_type = known_type(&draft.content);
        let envelope = envelope(draft.content, options, &services.source)?;
        let body = services
            .codecs
            .write(&envelope, draft.codec, queue, &mut headers)?;
        check_size(&envelope.event_type, body.len(), services.message_limit)?;

        let dedupe = dedupe(options, &envelope.id, services.dedupe_window)?;
        let message = BroadcastMessage {
            event_type: envelope.event_type.into(),
            body,
            headers,
            due: options.due,
            dedupe,
        };
        Ok(PreparedBroadcast {
            message,
            event_id: envelope.id,
            known_type,
        })
    }

    /// The headers that the options set, and those that come from the handled event.
    fn headers(
        &self,
        options: &PublishOptions,
        key: Option<String>,
        trace: Option<&Headers>,
    ) -> Headers {
        let mut found = options.headers.clone().unwrap_or_default();
        // Headers that the options set take precedence, then those of the span that publishes. What
        // goes with a trace context comes from the same place as the context.
        if let Some(trace) = trace
            && found.value(headers::TRACEPARENT).is_none()
        {
            found = found.or(trace);
        }
        if let Some(cause) = &self.cause {
            if found.value(headers::TRACEPARENT).is_none() {
                for name in [headers::TRACEPARENT, headers::TRACESTATE, headers::BAGGAGE] {
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

/// The type of an event that the program's code names; an envelope may have any type.
fn known_type(content: &Content) -> KnownType {
    match content {
        Content::Event { event_type, .. } => KnownType::of(event_type),
        Content::Envelope(_) => KnownType::unknown(),
    }
}

/// Refuses options that the engine would ignore.
fn check_capabilities(
    capabilities: &Capabilities,
    options: &PublishOptions,
    headers: &Headers,
) -> Result<()> {
    let name = &capabilities.name;
    if options.due != Due::Now && !capabilities.delayed {
        let text = format!("the engine `{name}` cannot delay an event");
        return Err(Error::new(ErrorKind::Unsupported, text));
    }
    if options.dedupe_key.is_some() && !capabilities.dedupe {
        let text = format!("the engine `{name}` does not support dedupe keys");
        return Err(Error::new(ErrorKind::Unsupported, text));
    }

    if headers.key().is_some_and(|key| key.is_empty()) {
        let text = "the ordering key is empty, and would order all such events: leave it out, or \
                    return `None`, for an event without a key";
        return Err(Error::new(ErrorKind::InvalidEvent, text));
    }
    if headers.key().is_some() && !capabilities.keys {
        let text = format!("the engine `{name}` does not support ordering keys");
        return Err(Error::new(ErrorKind::Unsupported, text));
    }
    Ok(())
}

/// The envelope, checked against CloudEvents.
fn envelope(content: Content, options: &PublishOptions, source: &str) -> Result<Envelope> {
    let mut envelope = match content {
        Content::Envelope(envelope) => *envelope,
        Content::Event {
            event_type,
            version,
            data,
        } => {
            let mut envelope = Envelope::builder(event_type, source).0;
            envelope.data = Data::Json(data);
            // An event without the attribute has version 1.
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
        envelope.source = source.into();
    }
    if let Some(subject) = &options.subject {
        envelope.subject = Some(subject.clone());
    }
    if let Some(time) = options.time {
        envelope.time = Some(time.fixed_offset());
    }

    let envelope = envelope.validated(ErrorKind::InvalidEvent)?;
    // No consumer could read an event whose version is no number.
    if let Err(error) = envelope.version() {
        return Err(Error::new(ErrorKind::InvalidEvent, error.to_string()));
    }
    Ok(envelope)
}

pub(crate) fn check_size(event_type: &str, size: usize, limit: usize) -> Result<()> {
    if size <= limit {
        return Ok(());
    }
    let text = format!(
        "`{event_type}` takes {size} bytes, more than the limit of {limit}: raise `message_limit`, \
         or store the data elsewhere and publish a reference"
    );
    Err(Error::new(ErrorKind::TooLarge, text))
}

/// The dedupe key with its window, `default` unless the options set one.
fn dedupe(options: &PublishOptions, event_id: &str, default: Duration) -> Result<Option<Dedupe>> {
    match (&options.dedupe_key, options.dedupe_window) {
        (Some(key), window) => {
            let window = window.unwrap_or(default);
            Dedupe::new(key, window, event_id).map(Some)
        }
        (None, Some(_)) => Err(Error::new(
            ErrorKind::InvalidEvent,
            "a dedupe window needs a dedupe key",
        )),
        (None, None) => Ok(None),
    }
}
