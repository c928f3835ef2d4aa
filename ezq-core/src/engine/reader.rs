//! Reading what a store kept as the event that it is, with the codecs of the application that asks.

use std::fmt;
use std::sync::Arc;

use chrono::{DateTime, Utc};

use crate::codec::codecs::Codecs;
use crate::codec::wire::Origin;
use crate::error::{Error, ErrorKind, Result};
use crate::event::envelope::Envelope;
use crate::event::{Event, means};
use crate::message::headers::Headers;
use crate::message::message_id::MessageId;
use crate::message::queue_name::QueueName;

/// The codecs of the application through which a stored message was asked for. An engine knows none, so
/// what it hands out has none until the application adds them.
#[derive(Clone, Default)]
pub(crate) struct Reader(Option<Arc<Codecs>>);

impl Reader {
    pub(crate) fn new(codecs: &Arc<Codecs>) -> Self {
        Self(Some(Arc::clone(codecs)))
    }

    pub(super) fn read(
        &self,
        queue: &QueueName,
        message_id: &MessageId,
        enqueued_at: DateTime<Utc>,
        (body, headers): (&str, &Headers),
    ) -> Result<Envelope> {
        let Some(codecs) = &self.0 else {
            let text =
                "an engine has no codecs: ask an application for its dead letters and histories";
            return Err(Error::new(ErrorKind::Unsupported, text));
        };
        let origin = Origin {
            queue,
            message_id,
            enqueued_at,
            headers,
        };
        codecs.read(body, origin)
    }
}

/// The event in an envelope, if it is one of this type.
pub(super) fn event<E: Event>(envelope: &Envelope) -> Result<E> {
    let found = envelope.event_type();
    if !means::<E>(found) {
        let text = format!(
            "the event is a `{}`, not a `{}`",
            found.escape_debug(),
            E::TYPE
        );
        return Err(Error::new(ErrorKind::Decode, text));
    }
    envelope.decode()
}

/// Codecs are no part of what was stored.
impl PartialEq for Reader {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "codecs" } else { "none" })
    }
}
