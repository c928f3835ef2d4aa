//! Binary content mode: the attributes of an event stand beside its data, as headers.
//!
//! Source: CloudEvents 1.0.2, the protocol bindings for HTTP, Kafka and NATS. They agree on everything but
//! the prefix of the headers, and that of Kafka ends with `_`.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::DateTime;
use serde_json::value::RawValue;

use crate::error::{Error, ErrorKind, Result};
use crate::event::attributes::is_json;
use crate::event::envelope::Data;
use crate::event::{AttributeValue, Envelope};

/// The prefixes of headers that are attributes.
const PREFIXES: [&str; 2] = ["ce-", "ce_"];

/// The attributes of an event by their names without a prefix; `datacontenttype` is among them.
pub(super) fn write(event: &Envelope) -> Vec<(String, String)> {
    let time = event.time().map(|time| time.to_rfc3339());
    let media_type = event.datacontenttype().unwrap_or("application/json");
    let named = [
        ("specversion", Some("1.0")),
        ("id", Some(event.id())),
        ("source", Some(event.source())),
        ("type", Some(event.event_type())),
        ("time", time.as_deref()),
        ("subject", event.subject()),
        ("datacontenttype", Some(media_type)),
        ("dataschema", event.dataschema()),
    ];
    let named = named
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())));

    let extensions = event.extensions().iter().map(|(name, value)| {
        let text = match value {
            AttributeValue::Boolean(value) => value.to_string(),
            AttributeValue::Integer(value) => value.to_string(),
            AttributeValue::Text(text) => text.clone(),
        };
        (name.clone(), text)
    });
    named.chain(extensions).collect()
}

/// The name of the attribute that a header holds.
pub(super) fn attribute_name(header: &str) -> Option<String> {
    let header = header.to_ascii_lowercase();
    let mut names = PREFIXES
        .iter()
        .filter_map(|prefix| header.strip_prefix(prefix));
    names.next().map(ToOwned::to_owned)
}

/// Whether a header belongs to the event in a message, and not beside it.
pub(crate) fn is_attribute(header: &str) -> bool {
    attribute_name(header).is_some() || header.eq_ignore_ascii_case("content-type")
}

/// Reads an event from its attributes, by their names without a prefix, and its data. `media_type` is that
/// of the data, where the attributes do not have it.
pub(super) fn read(
    mut attributes: BTreeMap<String, String>,
    media_type: Option<&str>,
    body: &[u8],
) -> Result<Envelope> {
    let version = attributes.remove("specversion").unwrap_or_default();
    if version != "1.0" {
        let version = version.escape_debug();
        return Err(unread(format!("specversion `{version}` is not 1.0")));
    }

    let time = attributes.remove("time").map(|text| {
        DateTime::parse_from_rfc3339(&text).map_err(|error| {
            let text = "the attribute `time` is not a timestamp of RFC 3339".to_owned();
            unread(text).with_source(error)
        })
    });
    let media_type = attributes
        .remove("datacontenttype")
        .or_else(|| media_type.map(ToOwned::to_owned));

    let envelope = Envelope {
        id: required(&mut attributes, "id")?,
        source: required(&mut attributes, "source")?.into(),
        event_type: required(&mut attributes, "type")?.into(),
        time: time.transpose()?,
        subject: attributes.remove("subject"),
        dataschema: attributes.remove("dataschema"),
        data: data(media_type.as_deref(), body)?,
        datacontenttype: media_type,
        // A header has no type, so every extension is text.
        extensions: attributes
            .into_iter()
            .map(|(name, text)| (name, AttributeValue::Text(text)))
            .collect(),
    };
    envelope.validated(ErrorKind::Decode)
}

fn required(attributes: &mut BTreeMap<String, String>, name: &str) -> Result<String> {
    attributes
        .remove(name)
        .ok_or_else(|| unread(format!("the attribute `{name}` is missing")))
}

/// The data of an event: JSON unless the media type says otherwise.
pub(super) fn data(media_type: Option<&str>, body: &[u8]) -> Result<Data> {
    if body.is_empty() {
        return Ok(Data::None);
    }
    if !media_type.is_none_or(is_json) {
        return Ok(Data::Base64(STANDARD.encode(body)));
    }

    let json = std::str::from_utf8(body)
        .map_err(|error| unread("the body is not UTF-8".to_owned()).with_source(error))?;
    // It stays the text that it was, so no number is rounded.
    let raw: &RawValue = serde_json::from_str(json)
        .map_err(|error| unread("the body is not JSON".to_owned()).with_source(error))?;
    Ok(Data::Json(raw.to_owned()))
}

pub(super) fn unread(text: String) -> Error {
    Error::new(ErrorKind::Decode, text)
}
