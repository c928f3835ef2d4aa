//! A broker's message becomes a message of a queue, or a dead letter that keeps all of it.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use crate::broker::{Inbound, is_attribute};
use crate::codec::Body;
use crate::engine::{Engine, Ingested, Outgoing};
use crate::error::{Error, ErrorKind, Result, error_chain};
use crate::event::{AttributeValue, Envelope, is_control};
use crate::message::headers::{self, Headers};
use crate::message::queue_name::QueueName;
use crate::message::settlement::{Reason, ReasonKind};
use crate::publish::options::check_header_name;
use crate::publish::services::Services;
use crate::publish::writing::check_size;

/// The largest body that a dead letter keeps. In base64 it is a third longer, and `jsonb` takes texts of
/// 255 MB.
const KEPT_BODY: usize = 150 * 1024 * 1024;
/// Headers whose names mean the same in any case.
const CANONICAL: [&str; 5] = [
    headers::TRACEPARENT,
    headers::TRACESTATE,
    headers::BAGGAGE,
    headers::CORRELATION_ID,
    headers::CAUSATION_ID,
];

type TypeOf = Box<dyn Fn(&Inbound) -> Option<String> + Send + Sync>;

/// The type of messages that are no CloudEvents.
pub(super) enum PlainType {
    None,
    Fixed(String),
    By(TypeOf),
}

/// Converts the messages of one source for one queue.
pub(super) struct Converter {
    pub(super) services: Arc<Services>,
    pub(super) engine: Arc<dyn Engine>,
    pub(super) source: String,
    pub(super) queue: QueueName,
    pub(super) plain: PlainType,
}

impl Converter {
    /// What a message becomes; with the reason if it is a dead letter.
    pub(super) fn convert(&self, message: &Inbound) -> (Ingested, Option<Error>) {
        match self.event(message) {
            Ok(outgoing) => (Ingested::Message(outgoing), None),
            Err(error) => (self.dead_letter(message, &error), Some(error)),
        }
    }

    fn event(&self, message: &Inbound) -> Result<Outgoing> {
        let plain_type = match &self.plain {
            PlainType::None => None,
            PlainType::Fixed(event_type) => Some(event_type.clone()),
            PlainType::By(function) => function(message),
        };
        let envelope = message.to_envelope(&self.source, plain_type.as_deref())?;
        envelope.version()?;
        if is_control(envelope.event_type()) {
            // Whoever may write to the broker must not be able to stop consumers.
            let text = "the message is a control event, and a source gives none";
            return Err(Error::new(ErrorKind::InvalidEvent, text));
        }

        let mut headers = self.headers(message, &envelope);
        let codecs = &self.services.codecs;
        let body = codecs.write(&envelope, None, Some(&self.queue), &mut headers)?;
        check_size(
            envelope.event_type(),
            body.len(),
            self.services.message_limit,
        )?;
        let outgoing = Outgoing::new(self.queue.clone(), body, headers);
        // Found here, it costs its neighbours nothing; found by the store, all are stored one by one.
        self.engine.check(&outgoing)?;
        Ok(outgoing)
    }

    /// The headers of the event: those of the message that are its publisher's own, and its trace.
    fn headers(&self, message: &Inbound, envelope: &Envelope) -> Headers {
        let mut found = Headers::new();
        for (name, value) in message.headers() {
            let canonical = CANONICAL.iter().find(|one| one.eq_ignore_ascii_case(name));
            let name = canonical.map_or(name.as_str(), |canonical| *canonical);
            // A publisher elsewhere must not set marks of handlers or name a codec.
            let is_ours = is_attribute(name) || check_header_name(name).is_err();
            if !is_ours && let Ok(text) = std::str::from_utf8(value) {
                found.insert(name, text);
            }
        }

        if found.text(headers::TRACEPARENT).is_none() {
            for name in [headers::TRACEPARENT, headers::TRACESTATE] {
                if let Some(AttributeValue::Text(text)) = envelope.extensions().get(name) {
                    found.insert(name, text.as_str());
                }
            }
        }
        self.mark(&mut found, message);
        found
    }

    /// Notes where a message came from, and its key.
    fn mark(&self, headers: &mut Headers, message: &Inbound) {
        headers.insert(headers::INGEST, message.derived_id(&self.source));
        if let Some(key) = message.ordering_key().filter(|key| !key.is_empty()) {
            headers.insert(headers::KEY, key);
        }
    }

    /// A message that cannot be an event, with its body and headers as they are.
    pub(super) fn dead_letter(&self, message: &Inbound, error: &Error) -> Ingested {
        let mut headers = Headers::new();
        self.mark(&mut headers, message);
        let given: Map<String, Value> = message
            .headers()
            .iter()
            .map(|(name, value)| (name.clone(), shown(value)))
            .collect();
        if !given.is_empty() {
            headers.insert(headers::INGEST_HEADERS, given);
        }

        let mut why = error_chain(error);
        let body = message.body();
        let kept = body.get(..KEPT_BODY).unwrap_or(body);
        if kept.len() < body.len() {
            why = format!(
                "{why}; of its {} bytes the first {KEPT_BODY} are kept",
                body.len()
            );
        }
        Ingested::DeadLetter {
            queue: self.queue.clone(),
            body: Body::bytes(kept).into_stored(&mut headers),
            headers,
            reason: Reason::new(ReasonKind::Undecodable, why, 0),
        }
    }
}

/// The value of a header as JSON: text, or an object with its base64.
fn shown(value: &[u8]) -> Value {
    match std::str::from_utf8(value) {
        // A store may not take a NUL.
        Ok(text) if !text.contains('\0') => text.into(),
        _ => json!({ "base64": STANDARD.encode(value) }),
    }
}
