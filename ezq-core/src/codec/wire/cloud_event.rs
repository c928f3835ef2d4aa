//! Reading CloudEvents in structured mode. They are written by serde; see
//! [`Envelope`](crate::event::Envelope).

use std::collections::BTreeMap;

use chrono::DateTime;
use serde_json::value::RawValue;

use super::members::{Members, undecodable};
use crate::error::{ErrorKind, Result};
use crate::event::attributes::RESERVED;
use crate::event::envelope::{AttributeValue, Data, Envelope};

pub(super) fn cloud_event(members: &Members<'_>) -> Result<Envelope> {
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
            format!("the attribute `{name}` is not a boolean, a 32-bit integer or text").into(),
        )),
    }
}
