//! The flat form of Python ezq: `{"_type": "UserCreated", ...fields}`.
//!
//! It holds the type and the payload only. Whatever else ezq needs is in the message's headers, or is
//! the message's place in its queue.

use serde_json::value::RawValue;

use super::form::{Origin, WireFormat};
use super::members::{Members, quoted, undecodable};
use crate::error::{ErrorKind, Result};
use crate::event::envelope::{AttributeValue, Data, Envelope, VERSION_ATTRIBUTE};
use crate::event::{End, Event, Interrupt};
use crate::message::headers::{DATA, Headers, REPLAY};
use crate::message::message_id::MessageId;
use crate::message::queue_name::QueueName;

/// The header with the version of an event in the flat form. [`RawJson`](crate::codec::RawJson)
/// uses the same name.
const FLAT_VERSION: &str = "ce-eventversion";

/// Writes an event in the flat form, or says why it has none.
pub(super) fn flat(envelope: &Envelope, format: WireFormat) -> Result<String, String> {
    let name = match (envelope.event_type(), format) {
        (End::TYPE, WireFormat::Ezvent) => "EZEndEvent",
        (Interrupt::TYPE, WireFormat::Ezvent) => "EZInterruptEvent",
        (End::TYPE, _) => "EZQEndEvent",
        (Interrupt::TYPE, _) => "EZQInterruptEvent",
        (name, _) => name,
    };
    if envelope.data_base64().is_some() {
        return Err(format!("`{name}` has no flat form: its data is binary"));
    }

    let data = match envelope.data() {
        None | Some("null") => "{}",
        Some(data) => data,
    };
    let members: Members<'_> = serde_json::from_str(data)
        .map_err(|_| format!("`{name}` has no flat form: its data is not an object"))?;
    // A reader would take a field of either name for the one that shows the form.
    for field in ["_type", "specversion"] {
        if members.find(field).is_some() {
            return Err(format!(
                "`{name}` has no flat form: its data has a field `{field}`"
            ));
        }
    }

    let name = quoted(name).map_err(|error| error.to_string())?;
    // The type goes in front of the data's own members, whose text stays as it is.
    let rest = data.trim_start().trim_start_matches('{');
    let comma = if members.0.is_empty() { "" } else { "," };
    Ok(format!(r#"{{"_type":{name}{comma}{rest}"#))
}

/// Puts into headers what the flat form has no place for.
pub(crate) fn keep_beside_flat(envelope: &Envelope, headers: &mut Headers) {
    if let Some(version) = envelope.extensions.get(VERSION_ATTRIBUTE) {
        headers.insert(FLAT_VERSION, version.to_json());
    }
    keep_beside(envelope, headers);
}

/// Puts into a header whether the event has no data or `null`, which some forms cannot tell apart, or
/// from an empty object.
pub(crate) fn keep_beside(envelope: &Envelope, headers: &mut Headers) {
    match &envelope.data {
        Data::None => headers.insert(DATA, "none"),
        Data::Json(raw) if raw.get().trim() == "null" => headers.insert(DATA, "null"),
        Data::Json(_) | Data::Base64(_) => {}
    }
}

/// Reads an event in the flat form.
pub(super) fn from_flat(members: &Members<'_>, origin: Origin<'_>) -> Result<Envelope> {
    let event_type = members.text("_type")?.unwrap_or_default();
    if event_type.is_empty() {
        return Err(undecodable("`_type` is empty".into()));
    }

    let raw = |text: String| {
        RawValue::from_string(text)
            .map_err(|error| undecodable("the flat body cannot be read".into()).with_source(error))
    };
    let mut data = String::from("{");
    for (name, raw) in members.0.iter().filter(|(name, _)| name != "_type") {
        if data.len() > 1 {
            data.push(',');
        }
        data.push_str(&quoted(name)?);
        data.push(':');
        data.push_str(raw.get());
    }
    data.push('}');

    let is_empty = members.0.len() == 1;
    let data = match origin.headers.text(DATA) {
        Some("none") if is_empty => Data::None,
        Some("null") if is_empty => Data::Json(raw("null".into())?),
        _ => Data::Json(raw(data)?),
    };

    let version = origin
        .headers
        .value(FLAT_VERSION)
        .and_then(AttributeValue::from_json);
    let (queue, message_id) = replayed(origin.headers)
        .unwrap_or_else(|| (origin.queue.clone(), origin.message_id.clone()));
    Envelope {
        id: flat_id(&queue, &message_id),
        source: format!("/queues/{queue}").into(),
        event_type: event_type.into(),
        time: Some(origin.enqueued_at.fixed_offset()),
        subject: None,
        datacontenttype: None,
        dataschema: None,
        extensions: version
            .map(|version| (VERSION_ATTRIBUTE.to_owned(), version))
            .into_iter()
            .collect(),
        data,
    }
    .validated(ErrorKind::Decode)
}

/// Where the original was stored, if the message is a replayed copy. A copy keeps the event's id.
fn replayed(headers: &Headers) -> Option<(QueueName, MessageId)> {
    let original = headers.value(REPLAY)?;
    let queue = QueueName::new(original.get("queue")?.as_str()?).ok()?;
    Some((queue, MessageId::Number(original.get("id")?.as_i64()?)))
}

/// The queue and the message in the id of an event in the flat form, which has no other id. `None` for
/// any other id.
#[must_use]
pub fn flat_origin(event_id: &str) -> Option<(QueueName, MessageId)> {
    let (queue, number) = event_id.rsplit_once(':')?;
    Some((
        QueueName::new(queue).ok()?,
        MessageId::Number(number.parse().ok()?),
    ))
}

/// The id of an event in the flat form.
pub(crate) fn flat_id(queue: &QueueName, message_id: &MessageId) -> String {
    format!("{queue}:{message_id}")
}
