//! An envelope as the JSON of CloudEvents in structured mode, for code outside of queues: a webhook, a
//! file, a log. In a queue the codecs read and write it, by the same rules.

use std::str::FromStr;

use serde::de::{Deserialize, Deserializer, Error as _};

use super::cloud_event::cloud_event;
use super::event_members::EventMembers;
use crate::error::{Error, ErrorKind, Result, error_chain};
use crate::event::envelope::Envelope;

/// Reads a CloudEvent in structured mode, as an HTTP webhook posts it with the media type
/// `application/cloudevents+json`.
///
/// ```
/// use ezq_core::event::Envelope;
///
/// let body = r#"{"specversion": "1.0", "id": "7", "source": "/billing", "type": "invoice.paid",
///                "data": {"invoice": 7}}"#;
/// let envelope: Envelope = body.parse()?;
/// assert_eq!(envelope.data(), Some(r#"{"invoice": 7}"#));
/// # Ok::<(), ezq_core::Error>(())
/// ```
///
/// # Errors
/// [`ErrorKind::Decode`] if it is no valid CloudEvent.
impl FromStr for Envelope {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let members = EventMembers::parse(text).map_err(|error| {
            Error::new(ErrorKind::Decode, "a CloudEvent must be a JSON object").with_source(error)
        })?;
        cloud_event(members)
    }
}

/// Reads a CloudEvent in structured mode from JSON, and from no other format: `data` stays the JSON text
/// that it was, if it is read from text or bytes.
impl<'de> Deserialize<'de> for Envelope {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let members = EventMembers::read(from)?;
        cloud_event(members).map_err(|error| D::Error::custom(error_chain(&error)))
    }
}
