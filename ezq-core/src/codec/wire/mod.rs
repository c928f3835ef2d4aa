//! The plain forms of a body: CloudEvents in structured mode, and the flat form of Python ezq.
//!
//! A body with `specversion` is CloudEvents; otherwise a body with `_type` is flat. A CloudEvent is parsed
//! once, into members that borrow from it. No value of the payload is rebuilt from a parsed tree, so
//! each keeps its exact text.
//!
//! | to see | open |
//! |---|---|
//! | writing and reading a body | this file |
//! | how a CloudEvent is read | `cloud_event.rs` |
//! | the flat form, written and read | `flat.rs` |
//! | the forms, and where a body comes from | `form.rs` |
//! | an envelope outside of queues: `Deserialize` and `FromStr` | `structured.rs` |
//! | the members of a CloudEvent | `event_members.rs` |
//! | a JSON object whose values stay text | `members.rs` |

mod cloud_event;
mod event_members;
mod flat;
mod form;
mod members;
mod structured;

use crate::error::{Error, ErrorKind, Result};
use crate::event::envelope::Envelope;

pub use flat::flat_origin;
pub(crate) use flat::{flat_id, keep_beside, keep_beside_flat};
pub use form::{Origin, WireFormat};
pub(crate) use members::nesting;

use cloud_event::{cloud_event, member_count};
use event_members::{EventMembers, Value};
use flat::{flat, from_flat};
use members::{Members, undecodable};

/// The deepest nesting of a body. `serde_json` reads no deeper, so an event that is nested deeper could
/// be published but not handled.
pub const MAX_NESTING: usize = 127;

/// Writes an event as a message body.
///
/// # Errors
/// [`ErrorKind::InvalidEvent`] when the event is nested deeper than [`MAX_NESTING`]. The flat form also
/// demands data that is an object, without the fields `_type` and `specversion`.
pub fn encode(envelope: &Envelope, format: WireFormat) -> Result<String> {
    let invalid = |why: String| Error::new(ErrorKind::InvalidEvent, why);
    let body = match format {
        WireFormat::CloudEvents => serde_json::to_string(envelope).map_err(|error| {
            Error::new(ErrorKind::Encode, "the event cannot be written as JSON").with_source(error)
        })?,
        WireFormat::Flat | WireFormat::Ezvent => flat(envelope, format).map_err(invalid)?,
    };

    // Only the data can be nested; the attributes are flat.
    let depth = nesting(envelope.data().unwrap_or_default());
    if depth > MAX_NESTING {
        return Err(invalid(format!(
            "`{}` is nested {depth} levels deep; at most {MAX_NESTING} can be read back",
            envelope.event_type()
        )));
    }
    Ok(body)
}

/// Reads a message body.
///
/// # Errors
/// [`ErrorKind::Decode`] when it is not a valid event of either form.
pub fn decode(body: &str, origin: Origin<'_>) -> Result<Envelope> {
    read(body, origin).map(|read| read.envelope)
}

/// An event that was read, and whether its body says all of it.
#[derive(Debug)]
pub(crate) struct ReadEvent {
    pub(crate) envelope: Envelope,
    /// The body is the event as a CloudEvent in structured mode: every member is one that the event has.
    pub(crate) is_structured: bool,
}

/// As [`decode`], and tells whether the body can go out as it is.
pub(crate) fn read(body: &str, origin: Origin<'_>) -> Result<ReadEvent> {
    let no_object =
        |error| Error::new(ErrorKind::Decode, "the body is not a JSON object").with_source(error);
    // Filled in where they are: to move them takes 250 instructions (benchmark case `dispatch`).
    let mut members = EventMembers::default();
    members.fill(body).map_err(no_object)?;
    if members.specversion.is_some() {
        let count = members.count();
        let envelope = cloud_event(members)?;
        // A member that is `null`, or that no attribute may have as its name, is read as none.
        let is_structured = count == member_count(&envelope);
        Ok(ReadEvent {
            envelope,
            is_structured,
        })
    } else if members.flat_type.is_some() {
        let members: Members<'_> = serde_json::from_str(body).map_err(no_object)?;
        Ok(ReadEvent {
            envelope: from_flat(&members, origin)?,
            is_structured: false,
        })
    } else {
        Err(undecodable(
            "the body has neither `specversion` nor `_type`".into(),
        ))
    }
}

/// The event type of a body in a plain form; `None` for any other body. Empty if it names no type.
pub(crate) fn plain_type(body: &str) -> Option<String> {
    let members = EventMembers::parse(body).ok()?;
    // A CloudEvent that names no type is one all the same, and fails when it is read.
    let name = match members.specversion {
        Some(_) => members.event_type.unwrap_or(Value::Null),
        None => members.flat_type?,
    };
    match name {
        Value::Text(name) => Some(name.into_owned()),
        _ => Some(String::new()),
    }
}

#[cfg(test)]
mod tests;
