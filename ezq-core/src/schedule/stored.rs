//! What a schedule publishes, as the engine keeps it: so that a process fires the schedule by hand that
//! does not have it in its code, such as the command line.
//!
//! It is the message of a sample, in the form that the application writes. A firing gives it an id and a
//! time of its own. A body that a codec wrote cannot be changed so, and is not stored.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::to_raw_value;
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::codec::wire::{self, WireFormat};
use crate::engine::Outgoing;
use crate::error::{Error, ErrorKind, Result};
use crate::event::envelope::{Data, Envelope};
use crate::event::tick::Tick;
use crate::message::headers::{BODY, CODEC, Headers};
use crate::message::queue_name::QueueName;
use crate::observe::metrics::KnownType;
use crate::publish::prepared::Prepared;

/// The text that is stored. Later versions may add members, and change none.
#[derive(Serialize, Deserialize)]
pub(crate) struct StoredEvent<'a> {
    queue: Cow<'a, str>,
    event_type: Cow<'a, str>,
    /// Whether its data is a [`Tick`], which differs from firing to firing.
    is_tick: bool,
    headers: Cow<'a, Map<String, Value>>,
    body: Cow<'a, str>,
}

impl<'a> StoredEvent<'a> {
    /// The text for a sample of what the schedule publishes, if it can be stored.
    pub(super) fn of(sample: &'a Prepared, is_tick: bool) -> Option<String> {
        let Outgoing {
            queue,
            headers,
            body,
            ..
        } = &sample.outgoing;
        if headers.value(CODEC).is_some() || headers.value(BODY).is_some() {
            return None;
        }

        let stored = StoredEvent {
            queue: queue.as_str().into(),
            event_type: sample.event_type.as_str().into(),
            is_tick,
            headers: Cow::Borrowed(headers.as_object()),
            body: body.as_str().into(),
        };
        serde_json::to_string(&stored).ok()
    }

    /// Reads what is stored.
    pub(crate) fn read(text: &'a str) -> Result<Self> {
        serde_json::from_str(text).map_err(|error| unreadable().with_source(error))
    }

    /// The event of one firing.
    pub(crate) fn message(self, tick: &Tick) -> Result<Prepared> {
        let event_id = Uuid::now_v7().to_string();
        let body = match self.body.parse::<Envelope>() {
            Ok(envelope) => self.renewed(envelope, &event_id, tick)?,
            // The flat form: it has no id and no time.
            Err(_) if self.is_tick => flat_tick(&self.body, tick)?,
            Err(_) => self.body.into_owned(),
        };

        let headers = Headers::from_value(Value::Object(self.headers.into_owned()));
        Ok(Prepared {
            outgoing: Outgoing::new(QueueName::new(&self.queue)?, body, headers),
            event_id,
            event_type: self.event_type.into_owned(),
            known_type: KnownType::unknown(),
        })
    }

    fn renewed(&self, mut envelope: Envelope, event_id: &str, tick: &Tick) -> Result<String> {
        event_id.clone_into(&mut envelope.id);
        envelope.time = Some(tick.due.fixed_offset());
        if self.is_tick {
            let data = to_raw_value(tick).map_err(|error| unreadable().with_source(error))?;
            envelope.data = Data::Json(data);
        }
        wire::encode(&envelope, WireFormat::CloudEvents)
    }
}

/// A tick in the flat form, with the members of another tick.
fn flat_tick(body: &str, tick: &Tick) -> Result<String> {
    let read = |error| unreadable().with_source(error);
    let mut flat: Map<String, Value> = serde_json::from_str(body).map_err(read)?;
    if let Value::Object(members) = serde_json::to_value(tick).map_err(read)? {
        flat.extend(members);
    }
    Ok(Value::Object(flat).to_string())
}

fn unreadable() -> Error {
    let text = "what the schedule publishes is stored in a form that this version does not read: use \
                the version of its application";
    Error::new(ErrorKind::Decode, text)
}
