//! Reading CloudEvents in structured mode. They are written by serde; see
//! [`Envelope`](crate::event::Envelope).

use std::borrow::Cow;
use std::collections::BTreeMap;

use chrono::DateTime;

use super::event_members::{EventMembers, Value};
use super::members::undecodable;
use crate::error::{ErrorKind, Result};
use crate::event::envelope::{AttributeValue, Data, Envelope};

pub(super) fn cloud_event(members: EventMembers<'_>) -> Result<Envelope> {
    // Two readers could take different values, and so see different events.
    if let Some(name) = members.twice() {
        return Err(undecodable(
            format!("the body has `{}` twice", name.escape_debug()).into(),
        ));
    }
    let version = required("specversion", members.specversion)?;
    if version != "1.0" {
        return Err(undecodable(
            format!("specversion `{version}` is not 1.0").into(),
        ));
    }

    let time = text("time", members.time)?.map(|text| {
        DateTime::parse_from_rfc3339(&text).map_err(|error| {
            undecodable("the attribute `time` is not a timestamp of RFC 3339".into())
                .with_source(error)
        })
    });
    let data = match (members.data, text("data_base64", members.data_base64)?) {
        (Some(_), Some(_)) => {
            return Err(undecodable(
                "the body has both `data` and `data_base64`".into(),
            ));
        }
        (Some(raw), None) => Data::Json(raw),
        (None, Some(text)) => Data::Base64(text.into_owned()),
        (None, None) => Data::None,
    };

    let mut extensions = BTreeMap::new();
    for (name, value) in members.extensions {
        if let Some(value) = attribute(&name, value)? {
            extensions.insert(name.into_owned(), value);
        }
    }

    Envelope {
        id: required("id", members.id)?.into_owned(),
        source: required("source", members.source)?.into(),
        event_type: required("type", members.event_type)?.into(),
        time: time.transpose()?,
        subject: optional("subject", members.subject)?,
        datacontenttype: optional("datacontenttype", members.datacontenttype)?,
        dataschema: optional("dataschema", members.dataschema)?,
        extensions,
        data,
    }
    .validated(ErrorKind::Decode)
}

/// How many members an event has in structured mode.
pub(super) fn member_count(event: &Envelope) -> usize {
    let texts = [&event.subject, &event.datacontenttype, &event.dataschema];
    let optional = texts.iter().filter(|text| text.is_some()).count();
    let has_data = !matches!(event.data, Data::None);
    // Version, id, source and type are always there.
    4 + optional
        + usize::from(event.time.is_some())
        + usize::from(has_data)
        + event.extensions.len()
}

/// A member that must be there, as text.
fn required<'a>(name: &str, value: Option<Value<'a>>) -> Result<Cow<'a, str>> {
    text(name, value)?
        .ok_or_else(|| undecodable(format!("the attribute `{name}` is missing").into()))
}

fn optional(name: &str, value: Option<Value<'_>>) -> Result<Option<String>> {
    Ok(text(name, value)?.map(Cow::into_owned))
}

/// A member that is text. `null` counts as absent, as CloudEvents demands.
fn text<'a>(name: &str, value: Option<Value<'a>>) -> Result<Option<Cow<'a, str>>> {
    match value {
        Some(Value::Text(text)) => Ok(Some(text)),
        None | Some(Value::Null) => Ok(None),
        Some(Value::Boolean(_) | Value::Integer(_) | Value::Other) => {
            Err(undecodable(format!("`{name}` is not text").into()))
        }
    }
}

fn attribute(name: &str, value: Value<'_>) -> Result<Option<AttributeValue>> {
    match value {
        Value::Boolean(value) => Ok(Some(AttributeValue::Boolean(value))),
        Value::Integer(value) => Ok(Some(AttributeValue::Integer(value))),
        Value::Text(text) => Ok(Some(AttributeValue::Text(text.into_owned()))),
        Value::Null => Ok(None),
        Value::Other => Err(undecodable(
            format!("the attribute `{name}` is not a boolean, a 32-bit integer or text").into(),
        )),
    }
}
