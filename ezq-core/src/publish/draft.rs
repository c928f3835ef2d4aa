//! What an event is between the call that publishes it and the writing of its envelope.

use std::sync::Arc;

use serde_json::value::RawValue;

use crate::error::Result;
use crate::event::envelope::Envelope;
use crate::event::tick::Tick;
use crate::event::{Event, finite};
use crate::message::headers::Headers;

/// An event whose payload is serialized and whose envelope is not written yet.
///
/// A builder keeps a draft, so that it does not borrow the event. What a handler returns is a draft
/// until the handler has ended.
#[derive(Debug, Clone)]
pub struct Draft {
    pub(crate) content: Content,
    /// The queue that the event's type names.
    pub(crate) queue: Option<&'static str>,
    /// The event's own ordering key.
    pub(crate) key: Option<String>,
    /// The codec that the event's type names.
    pub(crate) codec: Option<&'static str>,
    /// The headers of the span that publishes it.
    pub(crate) trace: Option<Arc<Headers>>,
}

#[derive(Debug, Clone)]
pub(crate) enum Content {
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
            trace: None,
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
            trace: None,
        })
    }

    pub(crate) fn event_type(&self) -> &str {
        match &self.content {
            Content::Event { event_type, .. } => event_type,
            Content::Envelope(envelope) => envelope.event_type(),
        }
    }
}

/// An event whose type and data are known only at run time.
impl From<Envelope> for Draft {
    fn from(envelope: Envelope) -> Self {
        Self {
            content: Content::Envelope(Box::new(envelope)),
            queue: None,
            key: None,
            codec: None,
            trace: None,
        }
    }
}
