//! The codecs of an application, and the choice of the codec that writes or reads a message.
//!
//! The rules are in the folder's `mod.rs`.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::codec::body::Body;
use crate::codec::raw_json::RawJson;
use crate::codec::wire::{
    self, MAX_NESTING, Origin, ReadEvent, WireFormat, decode, encode, keep_beside_flat, nesting,
    plain_type,
};
use crate::codec::{Codec, CodecError};
use crate::error::{Error, ErrorKind, Result};
use crate::event::attributes::check_type;
use crate::event::envelope::Envelope;
use crate::event::{EventDescriptor, is_control};
use crate::message::headers::{CE_ID, CE_TYPE, CODEC, Headers};
use crate::message::queue_name::QueueName;
use crate::text::panic_text;

impl Codec for WireFormat {
    fn name(&self) -> &str {
        match self {
            Self::CloudEvents => "cloudevents",
            Self::Flat => "flat",
            Self::Ezvent => "ezvent",
        }
    }

    fn encode(&self, event: &Envelope, headers: &mut Headers) -> Result<Body<'static>, CodecError> {
        Ok(Body::json(plainly(*self, event, headers)?))
    }

    fn decode(&self, body: Body<'_>, origin: Origin<'_>) -> Result<Envelope, CodecError> {
        Ok(decode(body.as_json()?, origin)?)
    }
}

/// The codecs of an application, and which queues and event types use which.
#[derive(Clone)]
pub(crate) struct Codecs {
    /// The form of events that have no codec by their type or their queue.
    pub(crate) wire: WireFormat,
    added: BTreeMap<String, Arc<dyn Codec>>,
    /// The codec of each queue, by name.
    pub(crate) queues: BTreeMap<QueueName, String>,
    /// The codec of each event type, by name.
    pub(crate) events: BTreeMap<String, String>,
    /// A name that two codecs have; refused when the application is built.
    twice: Option<String>,
}

/// A codec that was chosen.
enum Chosen<'a> {
    Plain(WireFormat),
    Other(&'a dyn Codec),
}

impl Chosen<'_> {
    fn name(&self) -> &str {
        match self {
            Self::Plain(format) => format.name(),
            Self::Other(codec) => codec.name(),
        }
    }
}

impl Default for Codecs {
    fn default() -> Self {
        let raw: Arc<dyn Codec> = Arc::new(RawJson::new());
        Self {
            wire: WireFormat::default(),
            added: [(raw.name().to_owned(), raw)].into(),
            queues: BTreeMap::new(),
            events: BTreeMap::new(),
            twice: None,
        }
    }
}

impl Codecs {
    pub(crate) fn add(&mut self, codec: impl Codec) {
        let name = codec.name().to_owned();
        if plain(&name).is_some() || self.added.insert(name.clone(), Arc::new(codec)).is_some() {
            self.twice = Some(name);
        }
    }

    /// Checks the codecs, and that each name by which a queue or an event chooses a codec has one.
    pub(crate) fn validate<'a>(
        &self,
        taken: impl Iterator<Item = &'a EventDescriptor>,
    ) -> Result<()> {
        let wrong = |why: String| Err(Error::new(ErrorKind::Configuration, why));
        if let Some(name) = &self.twice {
            return wrong(format!(
                "two codecs have the name `{name}`: messages are read by it"
            ));
        }
        if let Some(name) = self.added.keys().find(|name| !is_name(name)) {
            let name = name.escape_debug();
            return wrong(format!(
                "a codec has the name `{name}`: use 1 to 60 visible characters"
            ));
        }

        for (name, codec) in &self.added {
            if let Err(why) = guarded(|| codec.check()) {
                return wrong(format!("the codec `{name}` cannot work: {why}"));
            }
        }
        for name in self.events.keys() {
            if let Err(why) = check_type(name) {
                let name = name.escape_debug();
                return wrong(format!(
                    "a codec is set for `{name}`, which is no event type: {why}"
                ));
            }
        }

        for event in taken {
            if let Some(codec) = event.codec {
                self.named(codec, event.type_name)?;
            }
        }
        for (queue, codec) in &self.queues {
            self.named(codec, queue.as_str())?;
        }
        for (event, codec) in &self.events {
            self.named(codec, event)?;
        }
        Ok(())
    }

    fn find(&self, name: &str) -> Option<Chosen<'_>> {
        if let Some(codec) = plain(name) {
            return Some(Chosen::Plain(codec));
        }
        let codec = self.added.get(name)?;
        Some(Chosen::Other(&**codec))
    }

    /// The codec that a queue or an event type chose.
    fn named(&self, name: &str, whose: &str) -> Result<Chosen<'_>> {
        self.find(name).ok_or_else(|| {
            let name = name.escape_debug();
            let whose = whose.escape_debug();
            let text = format!(
                "`{whose}` has the codec `{name}`, which the application does not have: give it to \
                 the builder's `codec`"
            );
            Error::new(ErrorKind::Configuration, text)
        })
    }

    fn of_queue(&self, queue: &QueueName) -> Result<Chosen<'_>> {
        match self.queues.get(queue) {
            Some(name) => self.named(name, queue.as_str()),
            None => Ok(Chosen::Plain(self.wire)),
        }
    }

    /// Writes an event for a queue, or for any queue if none is given: as the text that its engine is
    /// to store.
    ///
    /// The codec is the first of these: the one that the application set for the type, the event's own,
    /// the queue's, the application's wire form.
    pub(crate) fn write(
        &self,
        envelope: &Envelope,
        own: Option<&str>,
        queue: Option<&QueueName>,
        headers: &mut Headers,
    ) -> Result<String> {
        let event_type = envelope.event_type();
        let of_event = self.events.get(event_type).map(String::as_str).or(own);
        let chosen = match of_event.filter(|_| !is_control(event_type)) {
            Some(name) => self.named(name, event_type)?,
            None => queue.map_or(Ok(Chosen::Plain(self.wire)), |queue| self.of_queue(queue))?,
        };

        match chosen {
            Chosen::Plain(format) => plainly(format, envelope, headers),
            Chosen::Other(_) if is_control(event_type) => encode(envelope, self.wire),
            Chosen::Other(codec) => {
                let body = guarded(|| codec.encode(envelope, headers))
                    .and_then(|body| storable(body, envelope));
                let body = body.map_err(|error| {
                    let name = codec.name();
                    let text = format!("the codec `{name}` cannot write `{event_type}`");
                    Error::new(ErrorKind::Encode, text).with_source(error)
                })?;

                // After the codec, which cannot overwrite what readers and operators rely on.
                headers.insert(CODEC, codec.name());
                headers.insert(CE_ID, envelope.id());
                headers.insert(CE_TYPE, event_type);
                Ok(body.into_stored(headers))
            }
        }
    }

    /// The error for a message that names a codec which the application does not have.
    pub(crate) fn unknown(&self, headers: &Headers) -> Option<Error> {
        let name = headers
            .text(CODEC)
            .filter(|name| self.find(name).is_none())?;
        let name = name.escape_debug();
        let text =
            format!("the codec `{name}` wrote the body, and the application does not have it");
        Some(Error::new(ErrorKind::UnknownCodec, text))
    }

    /// Reads a stored body: by the codec that the message names, or as the plain form that the body
    /// shows, or by the queue's codec.
    pub(crate) fn read(&self, stored: &str, origin: Origin<'_>) -> Result<Envelope> {
        self.read_event(stored, origin).map(|read| read.envelope)
    }

    /// As [`read`](Self::read), and tells whether the body can go out as it is.
    pub(crate) fn read_event(&self, stored: &str, origin: Origin<'_>) -> Result<ReadEvent> {
        let queue = self.of_queue(origin.queue)?;
        let codec = match (origin.headers.text(CODEC), &queue) {
            (Some(name), _) => match self.find(name) {
                Some(found) => found,
                None => return Err(self.unknown(origin.headers).unwrap_or_else(undecided)),
            },
            (None, Chosen::Plain(format)) => Chosen::Plain(*format),
            (None, Chosen::Other(codec)) => match plain_type(stored) {
                // Control events are read in any queue, or nothing could stop its consumers.
                Some(name) if is_control(&name) => return plain_event(stored, origin),
                Some(_) if !codec.is_exclusive() => Chosen::Plain(self.wire),
                _ => Chosen::Other(*codec),
            },
        };

        // Before the body is read: another codec must not see what this queue refuses.
        if let Chosen::Other(strict) = queue
            && strict.is_exclusive()
            && codec.name() != strict.name()
        {
            let text = format!(
                "the queue `{}` takes the codec `{}` only, not `{}`",
                origin.queue,
                strict.name(),
                codec.name()
            );
            return Err(Error::new(ErrorKind::Decode, text));
        }

        let unread = |error: CodecError| {
            let text = format!("the codec `{}` cannot read the body", codec.name());
            Error::new(ErrorKind::Decode, text).with_source(error)
        };
        match &codec {
            Chosen::Plain(_) => {
                plain_event(stored, origin).map_err(|error| unread(CodecError::from(error)))
            }
            Chosen::Other(codec) => Body::from_stored(stored, origin.headers)
                .map_err(CodecError::from)
                .and_then(|body| guarded(|| codec.decode(body, origin)))
                .map_err(unread)
                .map(|envelope| ReadEvent {
                    envelope,
                    is_structured: false,
                }),
        }
    }
}

/// Reads an event in a plain form, which is JSON text.
fn plain_event(stored: &str, origin: Origin<'_>) -> Result<ReadEvent> {
    let body = Body::from_stored(stored, origin.headers)?;
    wire::read(body.as_json()?, origin)
}

/// Writes a plain form, and puts into headers what the flat form has no place for.
fn plainly(format: WireFormat, event: &Envelope, headers: &mut Headers) -> Result<String> {
    if format != WireFormat::CloudEvents {
        keep_beside_flat(event, headers);
    }
    encode(event, format)
}

/// The plain form that has this name as a codec.
fn plain(name: &str) -> Option<WireFormat> {
    let formats = [
        WireFormat::CloudEvents,
        WireFormat::Flat,
        WireFormat::Ezvent,
    ];
    formats.into_iter().find(|format| format.name() == name)
}

fn is_name(name: &str) -> bool {
    (1..=60).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic())
}

fn undecided() -> Error {
    Error::new(ErrorKind::UnknownCodec, "the body's codec is unknown")
}

/// Checks that a body can be stored as `jsonb` and read back.
fn storable(body: Body<'static>, event: &Envelope) -> Result<Body<'static>, CodecError> {
    let depth = match &body {
        Body::Json(text) => {
            // `IgnoredAny` checks the whole text and keeps nothing of it.
            serde_json::from_str::<serde::de::IgnoredAny>(text)
                .map_err(|error| format!("what it wrote is not JSON: {error}"))?;
            nesting(text)
        }
        // Any bytes can be stored. The data that is read of them is JSON again.
        Body::Bytes(_) => nesting(event.data().unwrap_or_default()),
    };

    if depth > MAX_NESTING {
        let why =
            format!("it is nested {depth} levels deep; at most {MAX_NESTING} can be read back");
        return Err(why.into());
    }
    Ok(body)
}

/// Calls the user's code, and turns a panic into an error of that one message.
fn guarded<T>(call: impl FnOnce() -> Result<T, CodecError>) -> Result<T, CodecError> {
    catch_unwind(AssertUnwindSafe(call))
        .unwrap_or_else(|panic| Err(format!("it panicked: {}", panic_text(&*panic)).into()))
}

impl std::fmt::Debug for Codecs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Codecs")
            .field("wire", &self.wire)
            .field("added", &self.added.keys())
            .field("queues", &self.queues)
            .field("events", &self.events)
            .finish_non_exhaustive()
    }
}
