//! The plain forms of a body: CloudEvents in structured mode, and the flat form of Python ezq.
//!
//! A body with `specversion` is CloudEvents; otherwise a body with `_type` is flat. A body is parsed
//! once, into members that borrow from it. No value of the payload is rebuilt from a parsed tree, so
//! each keeps its exact text.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::hash::Hash;

use chrono::{DateTime, Utc};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::error::{Error, ErrorKind, Result};
use crate::event::attributes::RESERVED;
use crate::event::envelope::{AttributeValue, Data, Envelope, VERSION_ATTRIBUTE};
use crate::event::{End, Event, Interrupt};
use crate::message::headers::{DATA, Headers, REPLAY};
use crate::message::message_id::MessageId;
use crate::message::queue_name::QueueName;

/// The header with the version of an event in the flat form. [`RawJson`](crate::RawJson) uses the same
/// name.
const FLAT_VERSION: &str = "ce-eventversion";

/// The deepest nesting of a body. `serde_json` reads no deeper, so an event that is nested deeper could
/// be published but not handled.
pub const MAX_NESTING: usize = 127;

/// The plain form in which events are written. All forms are always read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum WireFormat {
    /// CloudEvents 1.0, JSON, structured mode.
    #[default]
    CloudEvents,
    /// `{"_type": "UserCreated", ...fields}`, the form of Python ezq. It holds the type and the payload
    /// only: id, source, time and extensions are lost. The version of the event is in the header
    /// `ce-eventversion`.
    Flat,
    /// As [`Flat`](Self::Flat), but `End` and `Interrupt` have their names in `ezvent`, the later package
    /// of Python ezq: `EZEndEvent` and `EZInterruptEvent`.
    Ezvent,
}

/// Where a body was read: the facts that the body itself may not hold.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    /// The queue of the message.
    pub queue: &'a QueueName,
    /// The id of the message.
    pub message_id: &'a MessageId,
    /// When the message was first stored.
    pub enqueued_at: DateTime<Utc>,
    /// The headers of the message.
    pub headers: &'a Headers,
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
    let members: Members<'_> = serde_json::from_str(body).map_err(|error| {
        Error::new(ErrorKind::Decode, "the body is not a JSON object").with_source(error)
    })?;
    if members.find("specversion").is_some() {
        cloud_event(&members)
    } else if members.find("_type").is_some() {
        from_flat(&members, origin)
    } else {
        Err(undecodable(
            "the body has neither `specversion` nor `_type`".into(),
        ))
    }
}

/// The event type of a body in a plain form; `None` for any other body. Empty if it names no type.
pub(crate) fn plain_type(body: &str) -> Option<String> {
    let members: Members<'_> = serde_json::from_str(body).ok()?;
    let name = if members.find("specversion").is_some() {
        "type"
    } else {
        "_type"
    };
    let said = members.find(name).is_some() || name == "type";
    said.then(|| members.text(name).ok().flatten().unwrap_or_default())
}

fn undecodable(why: Cow<'static, str>) -> Error {
    Error::new(ErrorKind::Decode, why)
}

fn cloud_event(members: &Members<'_>) -> Result<Envelope> {
    // Two readers could take different values, and so see different events.
    if let Some(name) = members.twice() {
        return Err(undecodable(
            format!("the body has `{}` twice", name.escape_debug()).into(),
        ));
    }
    let required = |name: &str| {
        members
            .text(name)?
            .ok_or_else(|| undecodable(format!("the attribute `{name}` is missing").into()))
    };
    let version = required("specversion")?;
    if version != "1.0" {
        return Err(undecodable(
            format!("specversion `{version}` is not 1.0").into(),
        ));
    }

    let time = members.text("time")?.map(|text| {
        DateTime::parse_from_rfc3339(&text).map_err(|error| {
            undecodable("the attribute `time` is not a timestamp of RFC 3339".into())
                .with_source(error)
        })
    });
    let data = match (members.find("data"), members.text("data_base64")?) {
        (Some(_), Some(_)) => {
            return Err(undecodable(
                "the body has both `data` and `data_base64`".into(),
            ));
        }
        (Some(raw), None) => Data::Json(raw.to_owned()),
        (None, Some(text)) => Data::Base64(text),
        (None, None) => Data::None,
    };

    let mut extensions = BTreeMap::new();
    for (name, raw) in &members.0 {
        let reserved = RESERVED.contains(&&**name) || name == "_type";
        if !reserved && let Some(value) = attribute(name, raw)? {
            extensions.insert(name.clone().into_owned(), value);
        }
    }

    Envelope {
        id: required("id")?,
        source: required("source")?,
        event_type: required("type")?,
        time: time.transpose()?,
        subject: members.text("subject")?,
        datacontenttype: members.text("datacontenttype")?,
        dataschema: members.text("dataschema")?,
        extensions,
        data,
    }
    .validated(ErrorKind::Decode)
}

fn attribute(name: &str, raw: &RawValue) -> Result<Option<AttributeValue>> {
    #[derive(serde::Deserialize)]
    #[serde(untagged)]
    enum Wire {
        Boolean(bool),
        Integer(i32),
        Text(String),
        Null(()),
    }

    match serde_json::from_str(raw.get()) {
        Ok(Wire::Boolean(value)) => Ok(Some(AttributeValue::Boolean(value))),
        Ok(Wire::Integer(value)) => Ok(Some(AttributeValue::Integer(value))),
        Ok(Wire::Text(value)) => Ok(Some(AttributeValue::Text(value))),
        Ok(Wire::Null(())) => Ok(None),
        Err(_) => Err(undecodable(
            format!("the attribute `{name}` is not a truth value, a 32-bit integer or text").into(),
        )),
    }
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

fn from_flat(members: &Members<'_>, origin: Origin<'_>) -> Result<Envelope> {
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
        source: format!("/queues/{queue}"),
        event_type,
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

fn quoted(text: &str) -> Result<String> {
    serde_json::to_string(text)
        .map_err(|error| Error::new(ErrorKind::Encode, "text cannot be quoted").with_source(error))
}

fn flat(envelope: &Envelope, format: WireFormat) -> Result<String, String> {
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

/// How deep JSON text is nested; 0 for a scalar.
pub(crate) fn nesting(json: &str) -> usize {
    let mut depth = 0_usize;
    let mut deepest = 0;
    let mut in_text = false;
    let mut escaped = false;

    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b'{' | b'[' if !in_text => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' if !in_text => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// Up to this many names are compared with each other, which allocates nothing.
const FEW: usize = 32;

/// The first name that occurs a second time. A hostile body may have a hundred thousand names, so they
/// are not all compared with each other.
fn repeated<N: Copy + Eq + Hash>(mut names: impl ExactSizeIterator<Item = N> + Clone) -> Option<N> {
    if names.len() > FEW {
        let mut before = HashSet::with_capacity(names.len());
        return names.find(|name| !before.insert(*name));
    }

    let all = names.clone();
    names
        .enumerate()
        .find(|(place, name)| all.clone().take(*place).any(|before| before == *name))
        .map(|(_, name)| name)
}

/// The members of a JSON object in their order, each value as its JSON text.
struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Members<'a> {
    /// The last member of a name, which is the one that other JSON readers take.
    fn find(&self, name: &str) -> Option<&'a RawValue> {
        self.0
            .iter()
            .rev()
            .find(|(found, _)| found == name)
            .map(|(_, raw)| *raw)
    }

    /// A name that occurs twice. Two readers could take different values for it.
    fn twice(&self) -> Option<&str> {
        repeated(self.0.iter().map(|(name, _)| &**name))
    }

    /// A member that is text. `null` counts as absent, as CloudEvents demands.
    fn text(&self, name: &str) -> Result<Option<String>> {
        let Some(raw) = self.find(name) else {
            return Ok(None);
        };
        serde_json::from_str(raw.get())
            .map_err(|error| undecodable(format!("`{name}` is not text").into()).with_source(error))
    }
}

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::with_capacity(8);
                while let Some(Name(name)) = map.next_key()? {
                    members.push((name, map.next_value()?));
                }
                Ok(Members(members))
            }
        }
        from.deserialize_map(Object)
    }
}

/// The name of a member, borrowed unless it has an escape.
struct Name<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = Name<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a member's name")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Owned(text.to_owned())))
            }
        }
        from.deserialize_str(Text)
    }
}

#[cfg(test)]
mod tests;
